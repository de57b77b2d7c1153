"""`kweek flops`: what a network costs per token, and the yardsticks by which people picture compute."""

from __future__ import annotations

import difflib
import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kweek.errors import ConfigError

if TYPE_CHECKING:
    from kweek.model.config import ModelConfig


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("flops")(flops)


def flops(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="A checkpoint folder, a GGUF file, sizes as key=value, or `yardsticks`."),
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", metavar="KEY=VALUE", help="Sizes of a network.")
    ] = None,
    context: Annotated[int | None, typer.Option("--context", min=1, help="Tokens per sequence.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, FLOP per token and cache bytes; a multiply-add counts as two FLOP.

    Examples: kweek flops models/smollm2-135m · kweek flops --config hidden_size=512 num_layers=8
    vocab_size=8192 --context 1024 · kweek flops yardsticks
    """
    words = list(what or ())
    if words == ["yardsticks"]:
        _yardsticks(as_json)
        return
    settings = [*(config or ()), *(word for word in words if "=" in word)]
    paths = [word for word in words if "=" not in word]
    if len(paths) + bool(settings) != 1:
        raise ConfigError("give one checkpoint, or sizes as key=value", fix="see kweek flops --help")
    shape = _config_at(Path(paths[0])) if paths else _config_from(settings)
    length = context or shape.max_positions
    counts = _count(shape, length)
    if as_json:
        print(json.dumps(counts, indent=1))
    else:
        _draw(counts)


def _config_at(path: Path) -> ModelConfig:
    from kweek.model.checkpoint import load_config
    from kweek.model.gguf import open_gguf

    if path.is_file():
        with open_gguf(path) as (config, _file):
            return config
    return load_config(path)


def _config_from(settings: list[str]) -> ModelConfig:
    """Sizes from key=value; feed-forward size and heads follow from the width when left out."""
    from kweek.model.config import ModelConfig

    known = {field.name: field for field in fields(ModelConfig) if field.name != "rope_scaling"}
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or key not in known:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            raise ConfigError(f"{setting!r} is not a known key=value", where="--config", fix=fix)
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    if (width := values.get("hidden_size")) is not None:
        if not isinstance(width, int):
            raise ConfigError(f"{width!r} is not a whole number", where="hidden_size")
        values.setdefault("intermediate_size", max(1, round(width * 8 / 3 / 32)) * 32)
        values.setdefault("num_heads", max(1, width // (values.get("head_dim") or 64)))
    if "num_heads" in values:
        values.setdefault("num_kv_heads", values["num_heads"])
    if "architecture" in values:
        values.setdefault("qk_norm", values["architecture"] == "qwen3")
        values.setdefault("qkv_bias", values["architecture"] == "qwen2")
    if missing := [n for n, field in known.items() if field.default is MISSING and n not in values]:
        raise ConfigError(f"{missing[0]} is missing", where="--config", fix=f"add {missing[0]}=NUMBER")
    return ModelConfig(**values)


def _count(config: ModelConfig, context: int) -> dict[str, Any]:
    forward = config.num_flops_per_token(context)
    return {
        "architecture": config.architecture,
        "context": context,
        "num_parameters": config.num_parameters(),
        "flop_per_token": {
            "forward": forward,
            "training": config.num_flops_per_token(context, backward=True),
            "decode_first": config.num_flops_decode(0),
            "decode_last": config.num_flops_decode(context - 1),
        },
        "attention_share": 1 - config.num_flops_per_token(1) / forward,
        "kv_bytes_per_token": config.num_kv_bytes_per_token(),
        "kv_bytes_at_context": config.num_kv_bytes_per_token() * context,
        "convention": "a multiply-add is 2 FLOP; matrices, head and causal attention; training is 3 x forward",
    }


def _draw(counts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from kweek.compute.flops import format_bytes, format_flop

    console, flop = Console(), counts["flop_per_token"]
    parts = counts["num_parameters"]
    table = Table(box=None, show_header=False)
    for name, number in parts.items():
        table.add_row(f"{name} parameters", f"{number:,}")
    table.add_row(f"forward per token, {counts['context']} tokens", format_flop(flop["forward"]))
    table.add_row("training per token", format_flop(flop["training"]))
    table.add_row("one more token, at the start", format_flop(flop["decode_first"]))
    table.add_row("one more token, at the end", format_flop(flop["decode_last"]))
    table.add_row("keys and values per token", format_bytes(counts["kv_bytes_per_token"]))
    table.add_row("keys and values in all", format_bytes(counts["kv_bytes_at_context"]))
    console.print(table)
    console.print(counts["convention"], style="dim")


def _yardsticks(as_json: bool) -> None:
    from kweek.compute.yardsticks import YARDSTICKS

    if as_json:
        print(
            json.dumps([asdict(yardstick) | {"ratio": yardstick.ratio} for yardstick in YARDSTICKS], indent=1)
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "claimed", "computed", "ratio", "note and source", show_lines=True)
    for yardstick in YARDSTICKS:
        figures = (f"{x:.2g} {yardstick.unit}" for x in (yardstick.value, yardstick.computed))
        ratio = f"{yardstick.ratio:.2g}"
        table.add_row(yardstick.claim, *figures, ratio, f"{yardstick.note}\n[dim]{yardstick.source}[/dim]")
    Console().print(table)
