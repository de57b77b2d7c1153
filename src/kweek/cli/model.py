"""`kweek model`: look into a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kweek.protocols import ModelSummary

commands = typer.Typer(help="Look into a checkpoint.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(commands, name="model")


@commands.callback()
def _group() -> None:
    """Look into a checkpoint."""


@commands.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A checkpoint folder or a GGUF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show tensors, shapes, stored types, norms, and size by part.

    Examples: kweek model show models/smollm2-135m · kweek model show model.gguf --json
    """
    from rich.console import Console

    from kweek.model.summary import summarise

    summary = summarise(path)
    if as_json:
        print(json.dumps(asdict(summary), indent=1))
    else:
        _draw(summary, Console())


def _draw(summary: ModelSummary, console: Console) -> None:
    from rich.table import Table

    from kweek.compute.flops import format_bytes

    config = summary.details["config"]
    sizes = ", ".join(
        f"{config[key]} {label}"
        for key, label in (
            ("num_layers", "layers"),
            ("hidden_size", "wide"),
            ("num_heads", "heads"),
            ("num_kv_heads", "key heads"),
            ("vocab_size", "tokens"),
        )
    )
    console.print(
        f"{summary.architecture}: {summary.num_parameters:,} parameters, {format_bytes(summary.num_bytes)}"
    )
    console.print(f"{sizes}, head {'tied' if config['tied_embeddings'] else 'untied'}\n")
    parts = Table("part", "parameters", "share", "stored", box=None)
    for name, part in summary.details["parts"].items():
        share = f"{part['num_parameters'] / summary.num_parameters:.1%}"
        parts.add_row(name, f"{part['num_parameters']:,}", share, format_bytes(part["num_bytes"]))
    console.print(parts, "")
    tensors = Table("tensor", "shape", "type", "norm", "rms", box=None)
    for tensor in summary.details["tensors"]:
        shape = " x ".join(str(size) for size in tensor["shape"])
        norms = f"{tensor['norm']:.4g}", f"{tensor['root_mean_square']:.3g}"
        tensors.add_row(tensor["name"], shape, tensor["stored_as"], *norms)
    console.print(tensors)
