"""`kweek sandbox`: what is enforced on this machine, and running one file that nobody trusts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kweek.cli.screen import harmless
from kweek.errors import ConfigError

if TYPE_CHECKING:
    from kweek.sandbox.check import Check
    from kweek.sandbox.limits import Limits, Result

verbs = typer.Typer(no_args_is_help=True, help="Run programs that nobody trusts, and see what keeps them in.")
_MIB = 1 << 20
_TIERS = ("ns", "wasm")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(verbs, name="sandbox")


@verbs.command("check")
def check(
    tier: Annotated[
        str | None, typer.Option("--tier", help="ns or wasm; what `auto` means here if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try inside what a program must not be able to do, and show what is enforced.

    Examples: kweek sandbox check · kweek sandbox check --tier wasm --json
    """
    from kweek.sandbox import check as checking
    from kweek.sandbox.limits import SandboxError

    found = [checking.check(_tier(tier) if tier else "ns")]
    if tier is None and found[0].refusal is not None:
        if not as_json:
            print(f"ns: {found[0].refusal}", flush=True)
        found.append(checking.check("wasm"))
    if as_json:
        print(json.dumps([{**asdict(one), "works": one.works} for one in found], indent=1))
    elif found[-1].refusal is None:
        _draw(found[-1])
    if not found[-1].works:
        reason = found[-1].refusal or "a promise is not kept (see above)"
        raise SandboxError(reason.rstrip("."), where=f"tier {found[-1].tier}")


def _draw(one: Check) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in (f"tier {one.tier}", "", "kept by", "seen"):
        table.add_column(title)
    for row in one.rows:
        table.add_row(
            row.what, "kept" if row.kept else "[bold red]NOT KEPT[/bold red]", row.kept_by, row.seen
        )
    console = Console(highlight=False)
    console.print(table)
    for note in (f"A program starts and ends in {one.start_seconds * 1000:.0f} ms", *one.notes):
        console.print(f"{note}.", style="dim", soft_wrap=True)


@verbs.command("run")
def run(
    file: Annotated[Path, typer.Argument(help="Python source.")],
    files: Annotated[
        list[Path] | None, typer.Option("--file", help="A file to lay beside it; repeat.")
    ] = None,
    stdin: Annotated[Path | None, typer.Option("--stdin", help="What it reads.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files it makes.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="From its start to its end.")] = 10.0,
    cpu_seconds: Annotated[float, typer.Option("--cpu-seconds", help="Processor time in all.")] = 10.0,
    memory: Annotated[int, typer.Option("--memory", help="MiB in all.")] = 512,
    disk: Annotated[int, typer.Option("--disk", help="MiB of files.")] = 64,
    processes: Annotated[int, typer.Option("--processes", help="And threads, at once.")] = 16,
    tier: Annotated[str, typer.Option("--tier", help="ns, wasm or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a Python file that nobody trusts; the exit status is the program's, or 1 when it was ended for a limit.

    Examples: kweek sandbox run answer.py · kweek sandbox run test.py --file solution.py --seconds 2 --json
    """
    from kweek.sandbox import Limits
    from kweek.sandbox import run as run_program

    limits = Limits(seconds, cpu_seconds, memory * _MIB, disk * _MIB, processes)
    given = {path.name: _read(path) for path in files or ()}
    result = run_program(
        _read(file).decode("utf-8", "replace"),
        files=given,
        stdin=_read(stdin) if stdin else b"",
        limits=limits,
        tier="auto" if tier == "auto" else _tier(tier),
    )
    if out is not None:
        _keep(result, out)
    if as_json:
        print(json.dumps(_described(result), indent=1))
        return
    _show(result, limits)
    raise typer.Exit(1 if result.reason or result.exit < 0 else result.exit)


def _tier(name: str) -> Any:
    if name not in _TIERS:
        raise ConfigError(f"{name!r} is no tier", where="--tier", fix=f"use one of {', '.join(_TIERS)}")
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _keep(result: Result, folder: Path) -> None:
    """Write the files that the program made below a folder. Their names have been checked to lie in its own."""
    from kweek.store.files import write_bytes

    for name, content in result.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)


def _described(result: Result) -> dict[str, Any]:
    described = {**asdict(result), "files": {name: len(content) for name, content in result.files.items()}}
    for stream in ("stdout", "stderr"):
        described[stream] = described[stream].decode("utf-8", "replace")
    return described


def _show(result: Result, limits: Limits) -> None:
    """The program's output, and on standard error what it was ended for."""
    for stream, data in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
        text = data.decode("utf-8", "replace")
        stream.write(harmless(text) if stream.isatty() else text)
        stream.flush()
    if result.reason == "call":
        print("kweek: ended for a system call of another architecture", file=sys.stderr)
    elif result.reason:
        print(f"kweek: ended for {result.reason} (limit {getattr(limits, result.reason):,})", file=sys.stderr)
