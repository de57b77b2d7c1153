"""`kweek run`: grow a model by a recipe; what is done stays done, what was stopped goes on."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kweek.cli.plan import (
    BudgetOption,
    CorpusOption,
    JsonOption,
    OutOption,
    RecipeArgument,
    SeedOption,
    SetOption,
    ThreadsOption,
    draw_plan,
    make_console,
    run_folder,
)

if TYPE_CHECKING:
    from rich.console import Console

    from kweek.cli.live import Face
    from kweek.recipe.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("run")(run)


def run(
    recipe: RecipeArgument = "laptop",
    corpus: CorpusOption = None,
    out: OutOption = None,
    budget: BudgetOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Grow a model by a recipe, then write its report.

    Finished stages are not run again; a stopped run goes on where it was. Exit status: 0 done, 2 something to
    correct, 130 interrupted.

    Examples: kweek run · kweek run laptop --corpus notes --out runs/notes · kweek run --budget 20min --seed 1
    """
    from kweek.cli.live import make_face
    from kweek.errors import Interrupted
    from kweek.recipe.builtin import load_recipe
    from kweek.recipe.machine import default_threads
    from kweek.recipe.runner import run_recipe
    from kweek.report.render import render

    loaded = load_recipe(recipe, corpus=corpus, budget=budget, seed=seed, settings=set_ or ())
    folder = run_folder(loaded, out)
    command = _command(recipe, corpus, out, budget, seed, set_ or [], threads)
    faces: list[Face] = []

    def begin(made: Plan) -> None:
        if as_json:
            print(json.dumps({"event": "plan", "plan": made.to_dict()}), flush=True)
        else:
            draw_plan(made, folder, make_console())
        faces.append(make_face(loaded, made, as_json))

    try:
        summary = run_recipe(
            loaded,
            folder,
            threads=threads or default_threads(),
            listen=lambda event: faces[0](event),
            command=command,
            show_plan=begin,
        )
        report = render(folder)
    except (Interrupted, KeyboardInterrupt):
        _close(faces)
        print(f"Stopped. What was done is saved in {folder}; to go on: {as_typed(command)}", file=sys.stderr)
        raise Interrupted from None
    except BaseException:
        _close(faces)
        raise
    if as_json:
        print(json.dumps({"event": "report", "path": str(report)}), flush=True)
    _close(faces)
    if not as_json:
        _draw_summary(summary, report, make_console())


def as_typed(command: str) -> str:
    """A `kweek ...` command in the words that reach this installation from the present shell."""
    program = Path(sys.argv[0])
    if program.stem == "__main__":
        return f"python -m {command}"
    found = shutil.which("kweek")
    if program.stem != "kweek" or (found and Path(found).exists() and Path(found).samefile(program)):
        return command
    return f"{shlex.quote(str(program))}{command.removeprefix('kweek')}"


def _close(faces: list[Face]) -> None:
    for face in faces:
        face.close()
    faces.clear()


def _command(
    recipe: str,
    corpus: Path | None,
    out: Path | None,
    budget: str | None,
    seed: int | None,
    settings: list[str],
    threads: int | None,
) -> str:
    """The command that does the same again, to go on or to reproduce."""
    words = ["kweek", "run", recipe]
    for option, value in (
        ("--corpus", corpus),
        ("--out", out),
        ("--budget", budget),
        ("--seed", seed),
        ("--threads", threads),
    ):
        if value is not None:
            words += [option, str(value)]
    for assignment in settings:
        words += ["--set", assignment]
    return shlex.join(words)


def _draw_summary(summary: dict[str, Any], report: Path, console: Console) -> None:
    """Print what came of the run: stages, forecast beside outcome, accuracies, sizes, what to do next."""
    from rich.table import Table

    from kweek.compute.flops import format_bytes, format_flop, format_seconds

    table = Table(title=f"{summary['recipe']}, seed {summary['seed']}", title_justify="left")
    for heading in ("stage", "status", "time", "planned", "FLOP"):
        table.add_column(heading, justify="left" if heading in ("stage", "status") else "right", no_wrap=True)
    for stage in summary["stages"]:
        times = [
            format_seconds(t) if t is not None else "" for t in (stage["seconds"], stage["planned_seconds"])
        ]
        flop = format_flop(stage["flop"]) if stage["flop"] is not None else ""
        table.add_row(stage["name"], stage["status"], *times, flop)
    console.print(table)
    outcome = summary["outcome"].get("bits_per_byte")
    if outcome is not None:
        forecast = (summary["forecast"] or {}).get("bits_per_byte")
        said = (
            f", forecast {forecast['mid']:.3f} ({forecast['lo']:.3f} to {forecast['hi']:.3f})"
            if forecast
            else ""
        )
        console.print(f"Bits per byte: {outcome:.3f}{said}", highlight=False)
    for model, task in summary["tasks"].items():
        interval = f"({task['lo']:.1%} to {task['hi']:.1%}, n={task['n']})"
        console.print(f"Tasks solved by {model}: {task['accuracy']:.1%} {interval}", highlight=False)
    if summary["sizes"]:
        sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in summary["sizes"].items())
        console.print(f"Sizes: {sizes}", highlight=False)
    console.print(f"Report: {report}", highlight=False)
    for command in summary["next"]:
        console.print(f"Next: {as_typed(command)}", highlight=False)
