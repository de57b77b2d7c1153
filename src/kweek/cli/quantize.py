"""`kweek quantize`: a model in few bits, and what that saved and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kweek.compress.quantize_folder import Outcome
    from kweek.model.network import Network
    from kweek.protocols import Progress
    from kweek.tokenize.tokenizer import Tokenizer

_ROW_LENGTH = 256  # what small networks are trained on; a longer one sees no other inputs
#: Which stage's model of a run is quantised, best first: the last one that is not quantised already.
_PREFERRED = ("reinforce", "sft", "pretrain")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("quantize")(quantize)


def quantize(
    where: Annotated[
        Path, typer.Argument(metavar="MODEL|RUN", help="A model folder, GGUF file or run folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    bits: Annotated[
        int | None, typer.Option("--bits", help="8, 6, 5, 4, 3 or 2 bits for every matrix; 4 if left out.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Instead: size of the weights, such as 80MB, bits dealt out by what they save."
        ),
    ] = None,
    embedding_bits: Annotated[
        int | None,
        typer.Option(
            "--embedding-bits", help="Bits of the embedding too; 16 if left out, which all readers take."
        ),
    ] = None,
    method: Annotated[
        Literal["gptq", "rtn"],
        typer.Option("--method", help="gptq compensates and tunes; rtn rounds, in seconds."),
    ] = "gptq",
    finish: Annotated[
        int,
        typer.Option(
            "--finish", help="Steps of quantisation-aware training afterwards, 4,096 tokens each.", min=0
        ),
    ] = 0,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            help="Folder or file of documents to calibrate and measure on; if left out, the corpus of the run that "
            "the model lies in, else Python's documentation.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of calibration text.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Store a model in few bits, then say what that saved and cost: size, bits per byte, agreement, speed, energy.

    Examples: kweek quantize runs/laptop --out small · kweek quantize models/smollm2-135m --size 80MB --out small ·
    kweek quantize runs/laptop --bits 3 --embedding-bits 4 --finish 40 --out tiny
    """
    from rich.console import Console

    from kweek.compress.order import Order, parse_size
    from kweek.compress.quantize_folder import quantize_folder
    from kweek.errors import ConfigError
    from kweek.recipe.compression_text import material

    if size is not None and (bits is not None or embedding_bits is not None):
        raise ConfigError(
            "--size decides the bits itself", where="--size", fix="leave --bits and --embedding-bits out"
        )
    order = Order(
        num_bits=4 if bits is None else bits,
        max_bytes=None if size is None else parse_size(size),
        embedding_bits=16 if embedding_bits is None else embedding_bits,
        method=method,
        finish_steps=finish,
        seed=seed,
    )
    network, tokenizer, folder, origin = _load(where)
    row_length = min(_ROW_LENGTH, network.config.max_positions)
    with _progress(as_json) as progress:
        chosen = material(network, tokenizer, folder, order, row_length, text, progress)
        outcome = quantize_folder(
            network, tokenizer, chosen, order, out, origin=origin, row_length=row_length, progress=progress
        )
    if as_json:
        print(json.dumps({"path": str(out), **outcome.metrics}))
    else:
        _draw(outcome, chosen.about, out, Console(highlight=False))


def _load(where: Path) -> tuple[Network, Tokenizer, Path, dict[str, str]]:
    """The model meant, the folder it lies in, and the fingerprints of what it is."""
    from kweek.cli.chat import find_model
    from kweek.errors import StoreError
    from kweek.model.checkpoint import load_model
    from kweek.model.gguf import load_gguf
    from kweek.store.artifact import Artifact
    from kweek.tokenize.tokenizer import Tokenizer

    if where.is_file():
        network, tokenizer = load_gguf(where)
        return network, tokenizer, where.parent, {"model": f"{where.name} {where.stat().st_size}"}
    folder, _ = find_model(where, None, _PREFERRED)
    try:
        mark = Artifact.open(folder).fingerprint
    except StoreError:
        mark = folder.resolve().name  # a folder of somebody else, without a manifest
    return load_model(folder), Tokenizer.load(folder), folder, {"model": mark}


@contextmanager
def _progress(silent: bool) -> Iterator[Progress]:
    """A bar on the error stream with the phase and figures of the moment."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=silent) as bar:
        task = bar.add_task("reading", total=None, said="")

        def show(done: float, total: float, note: str = "", **values: float) -> None:
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            bar.update(task, completed=done, total=total, description=note or "reading", said=said)

        yield show


def _draw(outcome: Outcome, about: str, out: Path, console: Console) -> None:
    from rich.table import Table

    from kweek.compute.flops import format_bytes

    before, after = outcome.rows
    share = 1 - after["num_bytes"] / before["num_bytes"]
    table = Table("", "32-bit", "quantised", "difference (95%)", box=None)
    table.add_row(
        "weights", format_bytes(before["num_bytes"]), format_bytes(after["num_bytes"]), f"-{share:.1%}"
    )
    table.add_row(
        "bits per byte", f"{before['bits_per_byte'][0]:.4f}", f"{after['bits_per_byte'][0]:.4f}",
        _interval(after["bits_lost"], "+.4f"),
    )  # fmt: skip
    table.add_row("KL, nats per token", "", _interval(after["divergence"], ".4f"), "")
    table.add_row("same first choice", "", _interval(after["agreement"], ".1%"), "")
    if "accuracy" in after:
        values = [f"{row['accuracy']:.1%} of {row['problems']}" for row in outcome.rows]
        table.add_row("its tasks", *values, _interval(after["accuracy_change"], "+.1%"))
    for key, label in (("prefill", "prefill, tokens/s"), ("decode", "decode, tokens/s")):
        table.add_row(label, *(f"{row['speed'][key]:,.0f} ({row['engine']})" for row in outcome.rows), "")
    source = after["speed"]["joules_source"]
    energy = (f"{1e3 * row['speed']['joules_per_token']:.3g}" for row in outcome.rows)
    table.add_row("energy, mJ per token", *energy, source)
    console.print(table)
    if outcome.dealt.checked:
        console.print("bits:", _tally(outcome.dealt.widths))
        said = ", ".join(f"{name} {value:.4f}" for name, value in outcome.dealt.checked.items())
        console.print(f"KL before tuning, at this size: {said}")
    console.print(f"calibrated on {about}; measured on what was held out of it\n{out}")


def _interval(found: list[float], form: str) -> str:
    """A value with its interval, in a format of one number."""
    middle, low, high = (format(value, form) for value in found)
    return f"{middle} ({low} to {high})"


def _tally(widths: dict[str, int]) -> str:
    """How many matrices have how many bits."""
    counts: dict[int, int] = {}
    for bits in widths.values():
        counts[bits] = counts.get(bits, 0) + 1
    return ", ".join(f"{counts[bits]} matrices of {bits}" for bits in sorted(counts))
