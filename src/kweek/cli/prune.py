"""`kweek prune`: a smaller model out of a larger one, taught by the larger one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kweek.cli.stopping import stopping

if TYPE_CHECKING:
    from rich.console import Console

    from kweek.compress.prune_distil import Schedule
    from kweek.protocols import Progress

#: Key of a row in the comparison, what it is called, digits after the point.
_MEASURES = (
    ("bits_per_byte", "bits per byte", 4),
    ("difference", "above original", 4),
    ("divergence", "KL, nats/token", 4),
    ("same_choice", "same 1st choice", 3),
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("prune")(prune)


def prune(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    ffn: Annotated[float, typer.Option("--ffn", help="Share of the feed-forward channels to keep.")] = 1.0,
    kv_heads: Annotated[
        int | None, typer.Option("--kv-heads", help="Key heads to keep, each with the queries that read it.")
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="Layers to keep.")] = None,
    sparsity: Annotated[
        Literal["2:4"] | None, typer.Option("--sparsity", help="2:4: two zeros in every four weights.")
    ] = None,
    distil: Annotated[
        str | None, typer.Option("--distil", help="Tokens to distil on, such as 500k or 10M.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Distil from this model instead of the unpruned one.")
    ] = None,
    text_share: Annotated[
        float | None,
        typer.Option("--text-share", help="Weight of the text's own loss beside the teacher's: 0 to 1; 0.3."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Folder or file of documents; Python's documentation if left out."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the text.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Make a model smaller: fewer channels, key heads or layers, then distillation from the whole one.

    The result is a folder of the same layout, which loads wherever the model did. Stopped, the same command goes on
    where it was.

    Examples: kweek prune models/smollm2-135m --ffn 0.5 --distil 300k --text notes --out models/half ·
    kweek prune runs/laptop/artifacts/rl --layers 3 --distil 500k --out shallow
    """
    from rich.console import Console

    from kweek.compress.prune import Cuts
    from kweek.compress.prune_folder import prune_folder
    from kweek.errors import Interrupted

    schedule = _schedule(distil, text_share, seed)
    cuts = Cuts(ffn, kv_heads, layers, sparse=sparsity is not None)
    try:
        with _progress(as_json) as progress, stopping() as should_stop:
            artifact = prune_folder(
                model, out, cuts, schedule=schedule, teacher=teacher, text=text, progress=progress,
                should_stop=should_stop,
            )  # fmt: skip
    except Interrupted:
        print("Stopped. The same command goes on where it was.", file=sys.stderr)
        raise
    if as_json:
        print(json.dumps({"path": str(out), **artifact.metrics, "ledger": artifact.ledger}))
    else:
        _draw(artifact.metrics, artifact.ledger, out, Console(highlight=False))


def _schedule(distil: str | None, text_share: float | None, seed: int) -> Schedule | None:
    """How to distil, None for not at all. Raises ConfigError."""
    from kweek.compress.prune_distil import Schedule
    from kweek.errors import ConfigError

    if distil is None:
        if text_share is not None:
            raise ConfigError(
                "it weighs losses, but nothing is to be distilled",
                where="--text-share",
                fix="say on how many tokens: --distil 1M",
            )
        return None
    schedule = Schedule(_tokens(distil), seed=seed)
    return schedule if text_share is None else replace(schedule, text_share=text_share)


def _tokens(written: str) -> int:
    """A number of tokens such as 500k or 10M. Raises ConfigError."""
    from kweek.errors import ConfigError

    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
    number = written.rstrip("kKmMgGbB")
    try:
        count = float(number.replace("_", "")) * units[written[len(number) :].lower()]
    except (ValueError, KeyError):
        count = 0
    if not 1 <= count < 1e15:
        raise ConfigError(f"{written!r} is not a number of tokens", where="--distil", fix="write 500k or 10M")
    return int(count)


@contextmanager
def _progress(silent: bool) -> Iterator[Progress]:
    """A bar on the error stream with the note and figures of the moment."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=silent) as bar:
        task = bar.add_task("", total=None, said="")

        def show(done: float, total: float, note: str = "", **values: float) -> None:
            said = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
            bar.update(task, completed=done, total=total, description=note or "distilling", said=said)

        yield show


def _draw(metrics: dict[str, Any], ledger: dict[str, Any], out: Path, console: Console) -> None:
    from rich.table import Table

    from kweek.compute.flops import format_bytes, format_flop

    rows = metrics["rows"]
    table = Table("", *(row["name"] for row in rows), box=None)
    table.add_row("parameters", *(f"{row['num_parameters']:,}" for row in rows))
    table.add_row("size", *(format_bytes(row["num_bytes"]) for row in rows))
    table.add_row("per token read", *(format_flop(row["flop_per_token"]) for row in rows))
    for key, label, digits in _MEASURES:
        table.add_row(label, *(_interval(row[key], digits) for row in rows))
    console.print(table)
    if metrics["layers_left_out"]:
        console.print(
            "layers left out:", ", ".join(str(cost["layer"]) for cost in metrics["layers_left_out"])
        )
    spent = ", ".join(f"{kind} {format_flop(sum(flop.values()))}" for kind, flop in ledger["flop"].items())
    console.print(f"spent: {spent} in {ledger['seconds']:.0f} s\n{out}")


def _interval(found: list[float | None] | None, digits: int) -> str:
    """The value with its 95% interval; the first model of a comparison has none."""
    if found is None or found[0] is None:
        return "-"
    if found[1] is None or found[2] is None:
        return f"{found[0]:.{digits}f}"
    return f"{found[0]:.{digits}f} ({found[1]:.{digits}f}–{found[2]:.{digits}f})"
