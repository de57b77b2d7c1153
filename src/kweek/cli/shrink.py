"""`kweek shrink`: the smallest model that still does a task."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kweek.compress.shrink import Judged


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("shrink")(shrink)


def shrink(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Checkpoint folders to begin from.")
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task", help="stories, gym:NAME, a file of examples, or the artifact of a run's stage domain."
        ),
    ],
    target: Annotated[
        float, typer.Option("--target", help="Share of right answers that the lower bound must reach.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the model to.")],
    bits: Annotated[str, typer.Option("--bits", help="Bits to try.")] = "3,4,6,8",
    layers: Annotated[
        str, typer.Option("--layers", help="Shares of the layers to try; cuts are healed with an adapter.")
    ] = "0.67,0.83,1",
    heal: Annotated[int, typer.Option("--heal", min=1, help="Updates that heal a cut.")] = 250,
    questions: Annotated[int, typer.Option("--questions", min=20, help="To examine on, at most.")] = 800,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; all when left out.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of exercises and adapters.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the search as JSON.")] = False,
) -> None:
    """Search size and bits for the smallest model whose lower bound meets a target on a task, and write it.

    Candidates are made and examined from the smallest on, each no longer than until the matter is decided. All bounds
    together hold with 95%. Exit status 2 when none is good enough.

    Examples: kweek shrink runs/specialise/artifacts/special --task runs/specialise/artifacts/domain --target 0.8
    --out tiny · kweek shrink small large --task exam.jsonl --target 0.9 --layers 1 --out tiny
    """
    import torch

    from kweek.errors import ConfigError
    from kweek.recipe.machine import default_threads
    from kweek.recipe.shrinking import Wish
    from kweek.recipe.shrinking import shrink as search_for

    count = threads or default_threads()
    torch.set_num_threads(count)
    wish = Wish(
        models, task, target, [int(part) for part in _numbers(bits, "--bits")],
        [float(part) for part in _numbers(layers, "--layers")], heal, questions, seed, count,
    )  # fmt: skip
    search = search_for(wish, out, progress=_Lines(as_json))
    if as_json:
        rows = [asdict(one) for one in search.judged]
        print(json.dumps({"path": str(out) if search.found else None, "target": target, "judged": rows}))
    else:
        _draw(search.judged)
    if search.found is None:
        raise ConfigError(
            f"no candidate is shown to reach {target:g}",
            where="--target",
            fix="lower the target, ask more questions, or give more bits or a better model",
        )
    if not as_json:
        print(f"{out}\nTalk to it: kweek chat {out}")


def _numbers(written: str, option: str) -> list[str]:
    """The parts of a list such as 3,4,8. Raises ConfigError."""
    from kweek.errors import ConfigError

    parts = [part.strip() for part in written.split(",")]
    for part in parts:
        good = (
            part.isdigit()
            if option == "--bits"
            else part.replace(".", "", 1).isdigit() and 0 < float(part) <= 1
        )
        if not good:
            raise ConfigError(f"{part!r} is none", where=option, fix="write 3,4,8 or, for layers, 0.67,1")
    return parts


class _Lines:
    """A `Progress` that prints a line when the work changes its nature."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, ""

    def __call__(self, done: float, total: float, note: str = "", **values: float) -> None:
        if note and note != self._last and not self._quiet:
            print(f"{note} ...", flush=True)
        self._last = note or self._last


def _draw(judged: list[Judged]) -> None:
    from rich.console import Console
    from rich.table import Table

    from kweek.compute.flops import format_bytes

    table = Table("candidate", "size", "right", "bounds", "verdict", box=None)
    for one in judged:
        table.add_row(
            one.name, format_bytes(one.num_bytes), f"{one.right} of {one.asked}", f"{one.lo:.3f} to {one.hi:.3f}",
            one.verdict,
        )  # fmt: skip
    Console(highlight=False).print(table)
