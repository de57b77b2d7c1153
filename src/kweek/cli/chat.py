"""`kweek chat`: talk to a model that a run grew, or to any model folder."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

if TYPE_CHECKING:
    from kweek.store.records import Records
    from kweek.system.blind import BlindTrial
    from kweek.system.familiarity import Familiarity
    from kweek.system.session import PieceKind, Reply, Session

#: Which stage's model is the last word of a run, best first.
_PREFERRED = ("quantize", "reinforce", "prefer", "specialise", "sft", "pretrain")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("chat")(chat)


def chat(
    where: Annotated[
        Path | None, typer.Argument(metavar="RUN|MODEL", help="A run folder, model folder or GGUF file.")
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Ask this once and leave.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Stage of the run whose model to use.")] = None,
    temperature: Annotated[
        float, typer.Option(help="0: the most likely answer, the same every time.", min=0)
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    blind: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--blind", help="Two models instead of one: choose between answers without knowing whose."
        ),
    ] = None,
    record: Annotated[Path, typer.Option("--record", help="File for the pairs of --blind.")] = Path(
        "blind.jsonl"
    ),
    backend: Annotated[
        str, typer.Option("--backend", help="What computes: auto, native, torch, llama.cpp or vllm.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON (with -m).")] = False,
) -> None:
    """Talk to a model; its thinking and its tool calls are shown as they happen.

    Examples: kweek chat runs/laptop · kweek chat runs/laptop -m "What is 12+7?" --json · kweek chat
    models/smollm2-135m · kweek chat model.gguf --backend llama.cpp · kweek chat --blind runs/laptop/artifacts/rl
    runs/laptop/artifacts/quantized
    """
    from kweek.cli.blind import hold
    from kweek.errors import ConfigError
    from kweek.store.records import Records

    if blind is not None:
        if where is not None or message is not None or as_json:
            raise ConfigError(
                "--blind takes two models and asks you", where="--blind", fix="kweek chat --blind A B"
            )
        hold(blind_trial(blind, Records(record), temperature, max_tokens, seed, backend), record)
        return
    if where is None:
        raise ConfigError(
            "no model is named", fix="kweek chat RUN, kweek chat MODEL, or kweek chat --blind A B"
        )
    if as_json and message is None:
        raise ConfigError("--json needs a message", fix='add -m "your question"')
    folder, grown = find_model(where, model)
    session, familiar = _open(folder, grown, temperature, max_tokens, seed, backend)
    if message is not None:
        _once(session, familiar, message, as_json)
        return
    _converse(session, familiar, folder)


def blind_trial(
    pair: tuple[Path, Path], records: Records, temperature: float, max_tokens: int, seed: int, backend: str
) -> BlindTrial:
    """A blind trial of two models, named by their paths."""
    from kweek.errors import ConfigError
    from kweek.system.blind import BlindTrial

    if pair[0].resolve() == pair[1].resolve():
        raise ConfigError("both are the same model", where=str(pair[0]), fix="name two")
    sessions = {str(path): open_session(path, temperature, max_tokens, seed, backend) for path in pair}
    return BlindTrial(sessions, records)


def open_session(where: Path, temperature: float, max_tokens: int, seed: int, backend: str) -> Session:
    """A conversation with a run's or a folder's model, whoever grew it."""
    return _open(find_model(where, None)[0], False, temperature, max_tokens, seed, backend)[0]


def find_model(where: Path, stage: str | None, preferred: tuple[str, ...] = _PREFERRED) -> tuple[Path, bool]:
    """The model folder meant, and whether a recipe grew it from nothing; of a run's stages the first of the preferred.

    A folder that Kweek made is compared with its manifest, content and all, so that no changed bit goes unnoticed.
    """
    from kweek.errors import ConfigError
    from kweek.recipe.folder import RunFolder
    from kweek.recipe.registry import nearest
    from kweek.store.files import read_json

    if not where.exists():
        raise ConfigError("no such folder", where=str(where), fix="name a run folder or a model folder")
    run = RunFolder(where)
    if not run.summary_json.exists():
        if stage is not None:
            raise ConfigError(
                "--model is for run folders", where=str(where), fix="name the model folder itself"
            )
        return _unchanged(where), False
    done = {
        s["name"]: s["kind"]
        for s in read_json(run.summary_json)["stages"]
        if s["status"] in ("done", "cached")
    }
    models = [name for name in done if done[name] in (*preferred, "compact")]
    grown = "pretrain" in done.values()
    if stage is None:
        for kind in preferred:
            found = [name for name in models if done[name] == kind]
            if found:
                return _unchanged(run.artifact(found[0])), grown
        raise ConfigError(
            "this run has no finished model yet", where=str(where), fix=f"kweek run --out {where}"
        )
    if stage not in models:
        raise ConfigError(
            f"no finished model {stage!r} in this run", where=str(where), fix=nearest(stage, models)
        )
    return _unchanged(run.artifact(stage)), grown


def _unchanged(folder: Path) -> Path:
    from kweek.errors import CheckpointError, StoreError
    from kweek.store.artifact import MANIFEST, Artifact

    if (folder / MANIFEST).exists():
        try:
            Artifact.open(folder, verify="hash")
        except StoreError as error:
            fix = f"make or fetch the model again, or remove {MANIFEST} if you changed it on purpose"
            raise CheckpointError(error.what, where=error.where, fix=fix) from None
    return folder


def _open(
    folder: Path, grown: bool, temperature: float, max_tokens: int, seed: int, backend: str
) -> tuple[Session, Familiarity | None]:
    from kweek.data import stories
    from kweek.engine.open import open_model
    from kweek.system.familiarity import Familiarity
    from kweek.system.interceptors import interceptor_of
    from kweek.system.session import Session

    opened = open_model(folder, backend)
    print(opened.said, file=sys.stderr)
    engine, tokenizer = opened.model, opened.tokenizer
    tool = interceptor_of(folder, tokenizer)
    session = Session(engine, tokenizer, opened.max_positions, tool, temperature, max_tokens, seed)
    familiar = None
    if grown:
        known = [item.question for item in stories.problems("familiar", 96, "validation")]
        phrases = [question for question, _ in stories.SMALL_TALK]
        phrases += [form.format(e="1+1") for form in stories.SUM_FORMS]
        familiar = Familiarity.of(engine, tokenizer, known, phrases)
    return session, familiar


def _outside(session: Session, familiar: Familiarity | None, text: str) -> str | None:
    if familiar is None:
        return None
    ratio = familiar.outside(session.model, session.tokenizer, text)
    if ratio is None:
        return None
    return (
        f"This lies outside what the model was taught (it is {ratio:.1f} times as surprised as by the strangest "
        "question of the kind it knows): do not trust the answer."
    )


def _once(session: Session, familiar: Familiarity | None, message: str, as_json: bool) -> None:
    warning = _outside(session, familiar, message)
    if not as_json:
        if warning:
            print(warning, file=sys.stderr)
        session.ask(message, _Printer())
        print()
        return
    reply = session.ask(message)
    print(json.dumps(_as_json(reply, warning), ensure_ascii=False))


def _as_json(reply: Reply, warning: str | None) -> dict[str, object]:
    return {
        "content": reply.content,
        "reasoning_content": reply.reasoning,
        "stop_reason": reply.stop_reason,
        "outside": warning is not None,
        "usage": {
            "prompt_tokens": reply.num_prompt_tokens,
            "completion_tokens": reply.num_new_tokens,
            "flop": None if math.isnan(reply.flop) else reply.flop,
            "seconds": reply.seconds,
        },
    }


class _Printer:
    """Writes pieces as they come; thinking is dim and tool calls stand out on a terminal, marked in words elsewhere."""

    _STYLES: ClassVar = {"thinking": "\033[2m", "tool": "\033[36m", "result": "\033[36;1m", "answer": ""}
    _WORDS: ClassVar = {"thinking": "", "tool": " [calculator: ", "result": " = ", "answer": "\n"}

    def __init__(self) -> None:
        self._kind: PieceKind | None = None
        self._colour = sys.stdout.isatty()

    def __call__(self, kind: PieceKind, text: str) -> None:
        if kind != self._kind:
            if self._kind == "result":
                sys.stdout.write("]")
            if self._kind is not None or kind == "tool":
                sys.stdout.write(self._WORDS[kind] if self._kind else self._WORDS[kind].lstrip())
            if self._colour:
                sys.stdout.write("\033[0m" + self._STYLES[kind])
            self._kind = kind
        sys.stdout.write(text)
        if self._colour and kind == "answer":
            sys.stdout.write("\033[0m")
        sys.stdout.flush()


def _converse(session: Session, familiar: Familiarity | None, folder: Path) -> None:
    """Ask and answer until the end of input."""
    from kweek.compute.flops import format_flop
    from kweek.data import stories
    from kweek.errors import KweekError

    print(f"Chatting with {folder}. An empty line or Ctrl-D leaves; /new starts afresh.")
    if familiar is not None:
        print("It was taught to count in short stories. For example:")
        examples = stories.problems("examples", 3, "test", levels=(1, 2, 3))
        for item in examples:
            print(f"  {item.question}")
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not text:
            return
        if text == "/new":
            session.messages.clear()
            continue
        if warning := _outside(session, familiar, text):
            print(f"({warning})")
        try:
            reply = session.ask(text, _Printer())
        except KweekError as error:
            print(error)
            continue
        note = f"{reply.num_new_tokens} tokens, {format_flop(reply.flop)}, {reply.seconds:.1f} s"
        if reply.forgotten:
            note += f"; {reply.forgotten} earlier messages no longer fit and were forgotten"
        print(f"\n[{note}]")
