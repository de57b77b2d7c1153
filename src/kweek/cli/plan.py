"""`kweek plan`: what a run would cost and reach, without running it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kweek.recipe.plan import Plan, PlannedStage
    from kweek.recipe.schema import Recipe

# The options that `run` and `plan` share.
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name or a YAML file.")]
CorpusOption = Annotated[Path | None, typer.Option("--corpus", help="Folder of your own documents.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/RECIPE when left out.")]
BudgetOption = Annotated[str | None, typer.Option("--budget", help="What to spend: 10min, 2h, 1e15FLOP.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="The one seed.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key, as stages.base.threads=1.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; all when left out.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("plan")(plan)


def run_folder(recipe: Recipe, out: Path | None) -> Path:
    """The run folder: as given, else runs/NAME_OF_THE_RECIPE."""
    return out if out is not None else Path("runs") / recipe.name


def plan(
    recipe: RecipeArgument = "laptop",
    corpus: CorpusOption = None,
    out: OutOption = None,
    budget: BudgetOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would cost and reach: FLOP, time on this machine, memory, forecast, what is cached.

    Examples: kweek plan · kweek plan laptop --budget 20min · kweek plan mine.yaml --set seed=3 --json
    """
    from kweek.recipe.builtin import load_recipe
    from kweek.recipe.folder import RunFolder
    from kweek.recipe.machine import default_threads
    from kweek.recipe.plan import make_plan

    loaded = load_recipe(recipe, corpus=corpus, budget=budget, seed=seed, settings=set_ or ())
    folder = RunFolder(run_folder(loaded, out))
    made = make_plan(loaded, folder, threads or default_threads())
    if as_json:
        print(json.dumps(made.to_dict(), indent=1))
    else:
        draw_plan(made, folder.path, make_console())


def make_console() -> Console:
    """Standard output; where it is no terminal, wide enough that no column is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110)


def _state(stage: PlannedStage) -> str:
    if stage.cached:
        return "cached"
    return "resumes" if stage.resumes else "runs"


def draw_plan(made: Plan, out: Path, console: Console) -> None:
    """Print the plan: a line per stage, then totals, forecast, machine and what will be downloaded."""
    from rich.table import Table

    from kweek.compute.flops import format_bytes, format_flop, format_seconds

    table = Table(title=f"Plan of {made.recipe} in {out}, {made.threads} threads", title_justify="left")
    for heading in ("stage", "kind", "state", "threads", "FLOP", "time", "memory"):
        right = heading in ("threads", "FLOP", "time", "memory")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for stage in made.stages:
        cost = (format_flop(stage.flop), format_seconds(stage.seconds), format_bytes(stage.memory_bytes))
        table.add_row(
            stage.name, stage.kind, _state(stage), str(stage.threads), *cost, style="dim" * stage.cached
        )
    console.print(table)
    total = f"{format_flop(made.flop)}, {format_seconds(made.seconds)}, {format_bytes(made.memory_bytes)}"
    console.print(f"To do: {total} of memory. Downloads: nothing.", highlight=False)
    peak = made.peak.fp32_flop_per_second
    console.print(f"This machine: {format_flop(peak)} per second in 32-bit, measured.", highlight=False)
    if made.forecast is not None:
        source = "fitted on this machine" if made.forecast_source == "scale" else "the recipe's prior"
        ends = f"{made.forecast['lo']:.3f} to {made.forecast['hi']:.3f}"
        console.print(
            f"Forecast: {made.forecast['mid']:.3f} bits per byte ({ends}; {source}).", highlight=False
        )
