"""Reproduction: the commands that lead here again, and the machine and software they ran on."""

from __future__ import annotations

import shlex

from kweek.report import figures
from kweek.report.glossary import term
from kweek.report.history import Fields, History
from kweek.report.markup import Child, Markup, join, tag
from kweek.report.section import Missing, Section
from kweek.report.tables import Column, number, pairs, table

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
    """One list where all stages agree but for their threads, else one for each environment with its stages."""
    found: dict[str, tuple[Fields, list[str], list[str]]] = {}
    for stage in history.stages:
        environment = stage.artifact.inner("environment")
        if environment.values:
            rest = Fields({key: value for key, value in environment.values.items() if key != "threads"})
            group = found.setdefault(repr(sorted(map(repr, rest.values.items()))), (rest, [], []))
            group[1].append(stage.name)
            group[2].append(environment.name("threads"))
    blocks: list[Child] = []
    for environment, names, threads in found.values():
        heading = "Environment" if len(found) == 1 else f"Environment of {', '.join(names)}"
        lines: list[tuple[Child, Child]] = [
            (str(key).replace("_", " "), _shown(environment, key)) for key in environment.values
        ]
        lines.append(("threads of a stage", " or ".join(dict.fromkeys(threads))))
        blocks += [tag("h3", heading), pairs(lines)]
    return [*blocks, *_machine(history.machine)]


def _shown(fields: Fields, key: str) -> str:
    listed = fields.texts(key)
    return ", ".join(listed) if listed else fields.name(key) if fields.values.get(key) is not None else "none"


def _machine(found: Fields) -> list[Child]:
    """What the machine is and what it reaches, as it was measured before the run."""
    machine, peaks = found.inner("machine"), found.inner("peaks")
    if not machine.values:
        return []
    lines: list[tuple[Child, Child]] = [
        ("cores", number(machine.number("num_cores"), figures.whole)),
        ("memory", number(machine.number("memory_bytes"), figures.num_bytes)),
        ("accelerator", _shown(machine, "accelerator")),
        ("features", _shown(machine, "features")),
    ]
    columns = [
        Column("Threads"),
        Column(join(term("flop"), " per second, 32-bit"), "number"),
        Column("16-bit (bf16)", "number"),
        Column("Bytes of memory per second", "number"),
    ]
    rows: list[list[Child]] = []
    for threads in peaks.values:
        peak = peaks.inner(threads)
        keys = ("fp32_flop_per_second", "bf16_flop_per_second", "memory_bytes_per_second")
        rows.append([threads, *(number(peak.number(key), figures.power) for key in keys)])
    measured = table("What it reaches, measured", columns, rows, name="Measured speed") if rows else None
    return [tag("h3", "This machine"), pairs(lines), measured]
