"""`kweek index`: a folder as a memory, search in it, forgetting with proof, and whether all is sound."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kweek.cli.screen import harmless
from kweek.cli.stopping import stopping

if TYPE_CHECKING:
    from kweek.engine.embed import Embedder
    from kweek.protocols import Progress
    from kweek.system.memory.adding import Added
    from kweek.system.memory.appraisal import Appraisal, Question
    from kweek.system.memory.memory import Memory

_SHOWN_REJECTIONS = 10
_SHOWN_CHARS = 600  # of a passage
_MODES = ("auto", "bm25", "dense", "hybrid")


class _FolderFirst(TyperGroup):
    """`kweek index FOLDER` is `kweek index add FOLDER`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the first word names; `add` where it names none."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["add", *args]
        return super().resolve_command(ctx, args)


verbs = typer.Typer(
    no_args_is_help=True,
    cls=_FolderFirst,
    help="Search a folder: kweek index FOLDER, then kweek index search 'a question'.",
)
_File = Annotated[
    Path, typer.Option("--memory", help="The memory: one file, and files derived from it beside it.")
]
_Encoder = Annotated[
    Path | None, typer.Option("--encoder", help="Folder of a sentence encoder: search by meaning too.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DEFAULT = Path("memory.db")  # in the folder where one works, so that the verbs find it without being told


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(verbs, name="index")


@verbs.command("add")
def add(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders or files: txt, md, rst, py, html, pdf, docx.")
    ],
    file: _File = _DEFAULT,
    encoder: _Encoder = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="You vouch for what these documents say; else it is only data.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Put a damaged memory aside and begin a new one.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Bring the memory up to date with folders: new files added, changed ones replaced, missing ones removed.

    Stopped or killed, the same command goes on where it was.

    Examples: kweek index notes · kweek index add notes report.pdf --memory work.db · kweek index notes --encoder
    models/all-minilm-l6-v2
    """
    from kweek.errors import Interrupted

    if rebuild:
        _put_aside(file, as_json)
    reports = []
    with _open(file, encoder, create=True) as memory:
        try:
            with _progress(as_json) as progress, stopping() as should_stop:
                for folder in folders:
                    reports.append(
                        memory.add(folder, trusted=trusted, progress=progress, should_stop=should_stop)
                    )
        except Interrupted:
            print("Stopped. The same command goes on where it was.", file=sys.stderr)
            raise
        count = memory.store.num_chunks
    if as_json:
        print(json.dumps({"memory": str(file), "chunks": count, "folders": [asdict(one) for one in reports]}))
        return
    for folder, one in zip(folders, reports, strict=True):
        _draw_added(folder, one)
    print(f"{file}: {count:,} passages. Ask it: kweek index search 'a question' --memory {file}")


@verbs.command("search")
def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    file: _File = _DEFAULT,
    count: Annotated[int, typer.Option("-k", help="Passages to show.", min=1, max=1000)] = 5,
    mode: Annotated[str, typer.Option("--mode", help="auto, bm25, dense or hybrid.")] = "auto",
    encoder: _Encoder = None,
    as_json: _Json = False,
) -> None:
    """Show the passages that answer best, with file and bytes.

    Examples: kweek index search "opening hours" · kweek index search "how long is the warranty?" -k 3 --json
    """
    from kweek.errors import ConfigError

    if mode not in _MODES:
        raise ConfigError(f"{mode!r} is no mode", where="--mode", fix=f"use one of {', '.join(_MODES)}")
    with _open(file, encoder) as memory:
        found = memory.search(question, count, mode)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps([asdict(passage) for passage in found], ensure_ascii=False))
        return
    for number, passage in enumerate(found, start=1):
        text = passage.text if len(passage.text) <= _SHOWN_CHARS else passage.text[:_SHOWN_CHARS] + " […]"
        print(harmless(f"[{number}] {passage.source}, bytes {passage.start}-{passage.end}\n{text}\n"))
    if not found:
        print("Nothing in the memory has to do with that.")


@verbs.command("forget")
def forget(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or documents; none purges what earlier updates left behind."),
    ] = None,
    file: _File = _DEFAULT,
    as_json: _Json = False,
) -> None:
    """Remove documents so that no byte of them is left in the memory's files, and prove it.

    The files themselves stay; indexing their folder again brings them back.

    Examples: kweek index forget notes/private.md · kweek index forget old-project --json · kweek index forget
    """
    from kweek.errors import StoreError

    with _open(file, None) as memory:
        proof = memory.forget(*(names or ()))
    if as_json:
        print(json.dumps({**asdict(proof), "holds": proof.holds}, ensure_ascii=False))
    else:
        for source in proof.sources:
            print(harmless(f"forgotten: {source}"))
        sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in proof.files.items())
        print(f"{len(proof.documents)} documents, {proof.chunks:,} passages; searched {harmless(sizes)}")
        print(f"for {proof.windows:,} stretches of them and {proof.terms:,} terms and names: ", end="")
        print("nothing is left." if proof.holds else "SOMETHING IS LEFT.")
    if not proof.holds:
        raise StoreError(
            "; ".join(proof.found), where=str(file), fix="remove the named files, or the memory itself"
        )


@verbs.command("check")
def check(
    file: _File = _DEFAULT,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make what is derived from the documents anew.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Name every source.")] = False,
    as_json: _Json = False,
) -> None:
    """Hold everything stored against its hash, and say what there is.

    Examples: kweek index check · kweek index check --list · kweek index check --repair --json
    """
    from kweek.errors import StoreError

    with _open(file, None) as memory:
        health = memory.check(repair=repair)
        sources = [shown for (shown,) in memory.store.all("select shown from sources order by shown")]
    if as_json:
        print(
            json.dumps({**asdict(health), "sound": health.sound, **({"listed": sources} if listed else {})})
        )
    else:
        if listed:
            print(harmless("\n".join(sources)))
        print(f"{health.documents:,} documents and {health.notes:,} notes from {health.sources:,} sources")
        print(
            f"{health.chunks:,} passages, {health.text_bytes:,} bytes of text, {health.vectors:,} with vectors"
        )
        print(f"search by {health.mode}; sidecar {health.sidecar}")
        if health.unpurged:
            print(
                f"{health.unpurged:,} documents changed or went: bytes of them may lie in the file until "
                "`kweek index forget` purges it"
            )
        print("sound" if health.sound else "DAMAGED:\n" + harmless("\n".join(health.faults)))
    if not health.sound:
        fix = "index the folder again with --rebuild; the damaged file is kept beside it"
        raise StoreError(f"{len(health.faults)} faults", where=str(file), fix=fix)


@verbs.command("evaluate")
def evaluate(
    file: _File = _DEFAULT,
    encoder: _Encoder = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help='JSON lines {"question", "answer", "source"}; made of the documents if left out.',
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure how well search finds things in this corpus; with an encoder, turn hybrid search on if it pays.

    Examples: kweek index evaluate · kweek index evaluate --encoder models/all-minilm-l6-v2 --questions asked.jsonl
    """
    given = _questions(questions) if questions is not None else []
    with _open(file, encoder) as memory, _progress(as_json) as progress:
        found = memory.evaluate(given, progress=progress)
    if as_json:
        print(json.dumps({**asdict(found), "hybrid_pays": found.hybrid_pays}))
    else:
        _draw_appraisal(found)


def _questions(path: Path) -> list[Question]:
    from kweek.errors import DataError
    from kweek.system.memory.appraisal import Question

    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(
                Question(str(row["question"]), str(row.get("answer", "")), str(row.get("source", "")))
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            fix = 'write {"question": "…", "answer": "…"} on each line'
            raise DataError("no question", where=f"{path}:{number}", fix=fix) from None
    return found


@contextlib.contextmanager
def _open(file: Path, encoder: Path | None, create: bool = False) -> Iterator[Memory]:
    from kweek.system.memory.memory import Memory

    loaded: Embedder | None = None
    if encoder is not None:
        from kweek.engine.embed import Embedder as Loading

        loaded = Loading.load(encoder)
    with Memory(file, encoder=loaded, create=create) as memory:
        yield memory


def _put_aside(file: Path, quiet: bool) -> None:
    """Give a memory and what lies beside it other names."""
    from kweek.store.files import file_ops

    number = 1
    while (kept := file.with_name(f"damaged-{number}-{file.name}")).exists():
        number += 1
    for ending in ("", "-wal", "-shm", ".bm25"):
        old = file.with_name(file.name + ending)
        if old.exists():
            file_ops().replace(old, kept.with_name(kept.name + ending))
    if kept.exists() and not quiet:
        print(f"the old memory is now {kept}")


def _draw_added(folder: Path, one: Added) -> None:
    told = {"new": one.new, "updated": one.updated, "unchanged": one.unchanged, "removed": one.removed}
    files = ", ".join(f"{count:,} {name}" for name, count in told.items() if count) or "no files"
    speed = one.text_bytes / one.seconds / 1e6 if one.seconds else 0.0
    print(
        f"{folder}: {files}; {one.chunks:,} passages of {one.text_bytes / 1e6:.1f} MB in {one.seconds:.1f} s",
        end="",
    )
    print(f" ({speed:.1f} MB/s)" if one.chunks else "")
    if one.rejected:
        reasons = Counter(rejection.reason for rejection in one.rejected)
        print(f"  not used: {len(one.rejected):,}")
        for reason, count in reasons.most_common(_SHOWN_REJECTIONS):
            example = next(rejection.path for rejection in one.rejected if rejection.reason == reason)
            print(harmless(f"    {count:,}: {reason} ({example})"))


def _draw_appraisal(found: Appraisal) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "first", "among ten", "mean reciprocal rank", "ms", box=None)
    for row in found.rows:
        shares = (row.first, row.among_ten, row.reciprocal)
        table.add_row(
            row.mode, *(f"{s.mid:.3f} ({s.lo:.3f}–{s.hi:.3f})" for s in shares), f"{row.milliseconds:.1f}"
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{found.questions} questions ({found.made_of}), {found.passages:,} passages")
    if found.difference is not None:
        d = found.difference
        verdict = "on: it finds more" if found.hybrid_pays else "off: no gain beyond chance"
        console.print(
            f"hybrid − bm25: {d.difference:+.3f} ({d.lo:+.3f} to {d.hi:+.3f}). Hybrid search is {verdict}."
        )


@contextlib.contextmanager
def _progress(silent: bool) -> Iterator[Progress]:
    """A bar on the error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=silent) as bar:
        task = bar.add_task("", total=None)

        def show(done: float, total: float, note: str = "", **values: float) -> None:
            bar.update(task, completed=done, total=total, description=note)

        yield show
