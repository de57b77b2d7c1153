"""Reproduction: the commands that lead here again, and the machine and software they ran on."""

from __future__ import annotations

import shlex

from kweek.report.history import Fields, History
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import pairs

TITLE = "Do it again"


def section(history: History) -> Section | Missing:
    """Commands to reproduce and to go on with, then the environment."""
    blocks: list[Child] = [
        tag("h3", "Reproduce this run"),
        _commands(reproduce(history)),
    ]
    following = history.summary.texts("next")
    if following:
        blocks += [tag("h3", "Go on from here"), _commands(following)]
    blocks += _environments(history)
    if history.faults:
        blocks.append(tag("h3", "Could not be read"))
        blocks.append(tag("ul", [tag("li", fault) for fault in history.faults]))
    lede = join(
        "On the same machine with the same number of threads the same seed gives the same weights to the bit; "
        "elsewhere the same within the intervals shown."
    )
    return Section("reproduce", TITLE, lede, blocks)


def reproduce(history: History) -> list[str]:
    """The command that makes this run: as recorded, else put together from the recipe."""
    recorded = history.run.text("command")
    if recorded:
        return [recorded]
    if words := history.run.texts("command"):
        return [shlex.join(words)]
    words = ["kweek", "run", history.recipe_name]
    if history.seed is not None:
        words += ["--seed", f"{history.seed:.0f}"]
    budget = history.recipe.text("budget") or history.run.text("budget")
    if budget:
        words += ["--budget", budget]
    return [shlex.join([*words, "--out", history.path.name or "run"])]


def _commands(lines: list[str]) -> Markup:
    return tag("div", [tag("pre", tag("code", line), tabindex=0) for line in lines], class_="commands")


def _environments(history: History) -> list[Child]:
    """One list where all stages agree, else one for each environment with its stages."""
    found: dict[str, tuple[Fields, list[str]]] = {}
    for stage in history.stages:
        environment = stage.artifact.inner("environment")
        if environment.values:
            key = repr(sorted((str(k), repr(v)) for k, v in environment.values.items()))
            found.setdefault(key, (environment, []))[1].append(stage.name)
    blocks: list[Child] = []
    for environment, names in found.values():
        heading = "Environment" if len(found) == 1 else f"Environment of {', '.join(names)}"
        blocks += [tag("h3", heading), pairs(_lines(environment))]
    if history.machine.values:
        blocks += [tag("h3", "This machine, measured"), pairs(_lines(history.machine))]
    return blocks


def _lines(environment: Fields, prefix: str = "") -> list[tuple[Child, Child]]:
    lines: list[tuple[Child, Child]] = []
    for key, value in environment.values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict):
            lines += _lines(Fields(value), f"{name}: ") if not prefix else [(name, str(value))]
        elif isinstance(value, list):
            lines.append((name, ", ".join(str(item) for item in value) or "none"))
        else:
            lines.append(
                (name, "none" if value is None else environment.name(str(key)) if value != "" else "none")
            )
    return lines
