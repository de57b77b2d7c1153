"""`kweek export`: a model for other engines: one GGUF file, a folder for a small machine, or a GGUF file back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from kweek.compress.export import Exported


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("export")(export)


def export(
    where: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, a model folder; with --hf a GGUF file.")
    ],
    gguf: Annotated[Path | None, typer.Option("--gguf", help="Write this GGUF file.")] = None,
    edge: Annotated[
        Path | None,
        typer.Option("--edge", help="Write this folder: GGUF, Modelfile, start script, model card."),
    ] = None,
    hf: Annotated[
        Path | None, typer.Option("--hf", help="Write this Hugging Face folder from a GGUF file.")
    ] = None,
    kind: Annotated[
        Literal["stored", "f32", "f16", "q8_0", "q4_0"] | None,
        typer.Option(
            "--type",
            help="Of the matrices. Left out: as stored, which changes no value (--edge: floats become q8_0).",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Stage of the run whose model to take.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of the model, for the card of --edge (apache-2.0).")
    ] = None,
    runner: Annotated[
        Literal["native", "aarch64"] | None,
        typer.Option(
            "--runner",
            help="With --edge: add a program that runs the model without Python, for this machine or 64-bit Arm.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a model for llama.cpp, Ollama and all built on them, or turn a GGUF file into a model folder.

    Examples: kweek export runs/laptop --gguf laptop.gguf · kweek export models/smollm2-135m --gguf s.gguf --type q8_0 ·
    kweek export runs/laptop --edge laptop-edge · kweek export runs/laptop --edge pi --runner aarch64 ·
    kweek export model.gguf --hf models/mine
    """
    from kweek.errors import ConfigError

    targets = [target for target in (gguf, edge, hf) if target is not None]
    if len(targets) != 1:
        raise ConfigError("give one of --gguf FILE, --edge DIR and --hf DIR")
    if licence is not None and edge is None:
        raise ConfigError("--licence is for the card of --edge")
    if runner is not None and edge is None:
        raise ConfigError("--runner is for --edge")
    if hf is not None:
        said = _to_folder(where, hf, kind)
    else:
        said = _to_gguf(where, model, gguf, edge, kind, licence, runner, as_json)
    print(json.dumps(said, ensure_ascii=False) if as_json else _words(said))


def _to_folder(path: Path, folder: Path, kind: str | None) -> dict[str, Any]:
    from kweek.compress.export import import_gguf
    from kweek.errors import ConfigError

    if path.is_dir():
        raise ConfigError("this is a folder already", where=str(path), fix="--hf turns a GGUF file into one")
    if kind is not None:
        raise ConfigError(
            "--type is for --gguf and --edge; --hf writes fp32, which holds every value exactly"
        )
    return {"path": str(folder), "files": import_gguf(path, folder)}


def _to_gguf(
    where: Path,
    stage: str | None,
    gguf: Path | None,
    edge: Path | None,
    kind: Any,
    licence: str | None,
    runner: Any,
    quiet: bool,
) -> dict[str, Any]:
    from kweek.cli.chat import find_model
    from kweek.compress.edge import export_edge
    from kweek.compress.export import export_gguf
    from kweek.errors import ConfigError
    from kweek.protocols import silent

    if where.is_file():
        raise ConfigError("this is a file", where=str(where), fix="make a folder of it first, with --hf DIR")
    folder, _ = find_model(where, stage)
    progress = silent if quiet else _Lines()
    if gguf is not None:
        return _facts(export_gguf(folder, gguf, kind or "stored", progress))
    assert edge is not None
    made = export_edge(folder, edge, kind, licence=licence, runner=runner, progress=progress)
    return _facts(made.exported) | {"path": str(made.path), "files": made.files}


class _Lines:
    """A `Progress` that prints a line when the work changes its nature."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, done: float, total: float, note: str = "", **values: float) -> None:
        if note != self._last:
            print(f"{note} {total:,.0f} parameters ...", flush=True)
        self._last = note


def _facts(exported: Exported) -> dict[str, Any]:
    return {
        "path": str(exported.path),
        "num_bytes": exported.num_bytes,
        "num_parameters": exported.num_parameters,
        "sha256": exported.sha256,
        "types": exported.types,
        "errors": exported.errors,
        "notes": exported.notes,
    }


def _words(said: dict[str, Any]) -> str:
    from kweek.compute.flops import format_bytes

    lines = [said["path"]]
    if "num_bytes" in said:
        bits = 8 * said["num_bytes"] / said["num_parameters"]
        lines.append(f"{format_bytes(said['num_bytes'])}, {bits:.2f} bits per parameter")
        for kind, number in sorted(said["types"].items()):
            error = said["errors"][kind]
            lines.append(f"{number} tensors in {kind}: " + (f"error {error:.2%}" if error else "exact"))
        lines += [f"Note: {note}" for note in said["notes"]]
    if "files" in said:
        lines.append("with " + ", ".join(said["files"]))
    return "\n".join(lines)
