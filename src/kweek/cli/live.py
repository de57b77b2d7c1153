"""What a run looks like while it runs: a live view in a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kweek.compute.flops import format_seconds
from kweek.compute.hardware import Peak
from kweek.recipe.plan import Plan
from kweek.recipe.schedule import simulate
from kweek.recipe.schema import Recipe

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*#@"
#: Values of a sparkline; older ones are thinned out by halves.
_SPARKS = 32
#: Seconds between two plain lines of one stage.
_LINE_EVERY = 10.0


def sparkline(values: list[float], blocks: str = _BLOCKS) -> str:
    """A curve of the values in one line of text, the lowest as the lowest block."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in values)


@dataclass
class StageView:
    """What is known of one stage: status, how far it is, its latest figures."""

    name: str
    kind: str
    planned: float
    status: str = "waiting"
    fraction: float = 0.0
    note: str = ""
    values: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    started: float = 0.0
    first: tuple[float, float] | None = None  # time and fraction of the first progress
    seconds: float | None = None
    _skip: int = 1
    _count: int = 0

    def progress(self, event: dict[str, Any], now: float) -> None:
        """Take in one progress event."""
        total = event["total"]
        self.fraction = min(1.0, event["done"] / total) if total > 0 else 0.0
        self.first = self.first or (now, self.fraction)
        self.note, self.values = event["note"], event["values"]
        if "loss" in self.values:
            self._count += 1
            if self._count % self._skip == 0:
                self.losses.append(self.values["loss"])
            if len(self.losses) > _SPARKS:
                self.losses, self._skip = self.losses[1::2], self._skip * 2

    def remaining(self, now: float) -> float:
        """Seconds this stage still needs: by its own pace once it has one, before that as planned."""
        if self.status == "waiting":
            return self.planned
        if self.status != "running":
            return 0.0
        began, before = self.first or (self.started, 0.0)
        if self.fraction - before > 0.02 and now - began > 2.0:
            return (now - began) / (self.fraction - before) * (1.0 - self.fraction)
        if before:  # resumed, and has not shown its pace yet
            return self.planned * (1.0 - self.fraction)
        return max(self.planned - (now - self.started), 0.0)


class RunView:
    """The state of a run as told by its events (see `kweek.recipe.runner`)."""

    def __init__(self, recipe: Recipe, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.recipe, self.threads, self.clock = recipe, plan.threads, clock
        self.peak_rate = best_rate(plan.peak)
        self.stages = {s.name: StageView(s.name, s.kind, s.seconds) for s in plan.stages}
        self.began = clock()
        self.stopping = False

    def take(self, event: dict[str, Any]) -> StageView | None:
        """Take in an event; returns the stage it is about."""
        if event["event"] == "stopping":
            self.stopping = True
        view = self.stages.get(event.get("stage", ""))
        if view is None:
            return None
        if event["event"] == "progress":
            view.progress(event, self.clock())
        elif event["event"] == "stage":
            view.status = event["status"]
            if view.status == "running":
                view.started = self.clock()
            elif view.status in ("done", "cached"):
                view.fraction, view.seconds = 1.0, event.get("seconds")
        return view

    def remaining(self) -> float:
        """Seconds until the run ends, stages side by side as they will run."""
        now = self.clock()
        left = {name: view.remaining(now) for name, view in self.stages.items()}
        open_stages = [n for n, view in self.stages.items() if view.status in ("waiting", "running")]
        return simulate(self.recipe, open_stages, left, {}, self.threads)[0]


def best_rate(peak: Peak) -> float:
    """FLOP/s of the machine in the precision that it is fastest in: what a share of its peak refers to."""
    return max(peak.fp32_flop_per_second, peak.bf16_flop_per_second or 0.0)


def figures(view: StageView, peak_rate: float) -> str:
    """The figures of the moment in words: loss, tokens/s, share of the machine's peak, whatever else came."""
    parts = [view.note] if view.note else []
    for name, value in view.values.items():
        if name == "tokens_per_second":
            parts.append(f"{value:,.0f} tokens/s")
        elif name == "flop_per_second":
            parts.append(f"{value / peak_rate:.0%} of peak")
        else:
            parts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return ", ".join(parts)


class PlainFace:
    """One line per start and end of a stage, and one every ten seconds in between."""

    def __init__(self, view: RunView, write: Callable[[str], None]) -> None:
        self._view, self._write = view, write
        self._last: dict[str, float] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        """Take in an event and say what there is to say."""
        stage = self._view.take(event)
        now = self._view.clock()
        if event["event"] == "stopping":
            self._write("stopping at the next safe point; once more stops at once")
        if stage is None:
            return
        if event["event"] == "stage":
            self._last[stage.name] = now
            took = f" in {format_seconds(stage.seconds)}" if stage.status == "done" and stage.seconds else ""
            self._write(f"{stage.name}: {'started' if stage.status == 'running' else stage.status}{took}")
        elif now - self._last.get(stage.name, 0.0) >= _LINE_EVERY:
            self._last[stage.name] = now
            left = format_seconds(stage.remaining(now))
            whole = format_seconds(self._view.remaining())
            said = figures(stage, self._view.peak_rate)
            self._write(
                f"{stage.name}: {stage.fraction:.0%}{', ' + said if said else ''}, {left} left (all: {whole})"
            )

    def close(self) -> None:
        """Nothing to tidy."""


class JsonFace:
    """Every event as one JSON line; the summary is held back to be the last."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._summary: dict[str, Any] | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        """Write the event, or hold it back when it is the summary."""
        if event["event"] == "summary":
            self._summary = event
        else:
            self._write(json.dumps(event))

    def close(self) -> None:
        """Write the summary."""
        if self._summary is not None:
            self._write(json.dumps(self._summary))


class LiveFace:
    """One table that redraws itself: every stage with bar, time left, loss curve and figures."""

    def __init__(self, view: RunView, console: Console) -> None:
        self._view, self._console = view, console
        utf8 = (console.encoding or "").lower().replace("-", "") == "utf8"
        self._blocks = _BLOCKS if utf8 else _ASCII_BLOCKS
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take in an event; the redrawing goes by the clock."""
        self._view.take(event)

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        self._live.stop()

    def _row(self, stage: StageView, now: float) -> list[RenderableType]:
        styles = {"running": "bold cyan", "done": "green", "cached": "green", "failed": "bold red"}
        style = styles.get(stage.status, "dim")
        bar = ProgressBar(total=1.0, completed=stage.fraction, width=18)
        if stage.status == "running":
            left = f"{format_seconds(stage.remaining(now))} left"
        elif stage.status == "waiting":
            left = f"about {format_seconds(stage.planned)}"
        else:
            left = format_seconds(stage.seconds) if stage.seconds else ""
        curve = Text(sparkline(stage.losses[-16:], self._blocks), style="magenta")
        said = figures(stage, self._view.peak_rate) if stage.status in ("running", "done") else ""
        return [Text(stage.name, style), Text(stage.status, style), bar, Text(left), curve, Text(said)]

    def _draw(self) -> RenderableType:
        now = self._view.clock()
        table = Table.grid(padding=(0, 1))
        for column in range(6):
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if column == 5 else None)
        for stage in list(self._view.stages.values()):
            table.add_row(*self._row(stage, now))
        elapsed = format_seconds(now - self._view.began)
        foot = f"{elapsed} passed, about {format_seconds(self._view.remaining())} to go"
        if self._view.stopping:
            foot += " - stopping at the next safe point; Ctrl-C again stops at once"
        return Group(table, Text(foot, "bold"))


Face = PlainFace | JsonFace | LiveFace


def make_face(recipe: Recipe, plan: Plan, as_json: bool) -> Face:
    """The face that suits where standard output goes."""
    if as_json:
        return JsonFace(lambda line: print(line, flush=True))
    view = RunView(recipe, plan)
    console = Console()
    if console.is_terminal and sys.stdout.isatty():
        return LiveFace(view, console)
    return PlainFace(view, lambda line: print(line, flush=True))
