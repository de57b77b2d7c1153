"""What a run looks like: pace and time left, lines, the live table, JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kweek.cli.live import JsonFace, LiveFace, PlainFace, RunView, StageView, figures, sparkline
from kweek.compute.hardware import Peak
from kweek.recipe.context import StageConfig
from kweek.recipe.plan import Plan, PlannedStage
from kweek.recipe.schema import Recipe, Stage

one = StageConfig(threads=1)
RECIPE = Recipe(
    name="r",
    stages={
        "a": Stage(kind="x.a", config=one),
        "b": Stage(kind="x.b", config=one, inputs={"a": "a"}),
        "c": Stage(kind="x.c", config=one, inputs={"a": "a"}),
    },
)


def planned(name: str, seconds: float) -> PlannedStage:
    return PlannedStage(name, f"x.{name}", 1, "f", False, False, 1e9, seconds, 1e6, {})


PLAN = Plan(
    "r", 2, (planned("a", 10), planned("b", 100), planned("c", 40)), 3e9, 110, 2e6, None, None,
    Peak(1e10, None, 1e9, 2),
)  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> RunView:
    return RunView(RECIPE, PLAN, clock)


def stage(name: str, status: str, **fields: Any) -> dict[str, Any]:
    return {"event": "stage", "stage": name, "kind": f"x.{name}", "status": status, **fields}


def progress(name: str, done: float, **values: float) -> dict[str, Any]:
    return {"event": "progress", "stage": name, "done": done, "total": 100, "note": "", "values": values}


def test_time_left_follows_the_plan_then_the_pace(view: RunView, clock: Clock) -> None:
    assert view.remaining() == 110
    view.take(stage("a", "running"))
    clock.now += 4
    assert view.remaining() == pytest.approx(106)
    view.take(stage("a", "done", seconds=4.0))
    view.take(stage("b", "running"))
    view.take(stage("c", "running"))
    view.take(progress("b", 0))
    clock.now += 10
    view.take(progress("b", 50))
    assert view.stages["b"].remaining(clock.now) == pytest.approx(10)
    assert view.remaining() == pytest.approx(30), "c still needs 30 of its planned 40 seconds"


def test_a_resumed_stage_is_judged_by_what_it_gained(view: RunView, clock: Clock) -> None:
    view.take(stage("b", "running"))
    view.take(progress("b", 80))
    clock.now += 10
    view.take(progress("b", 90))
    assert view.stages["b"].remaining(clock.now) == pytest.approx(10)


def test_zero_totals_and_overshoot_are_harmless(view: RunView, clock: Clock) -> None:
    view.take(stage("b", "running"))
    view.take({**progress("b", 3), "total": 0})
    assert view.stages["b"].fraction == 0.0
    view.take(progress("b", 130))
    assert view.stages["b"].fraction == 1.0


@given(st.lists(st.floats(-1e6, 1e6), max_size=50))
def test_sparklines_have_a_block_per_value(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == len(values)
    if len(set(values)) > 1 and max(values) - min(values) > 1e-6:
        assert line[values.index(min(values))] == "▁"
        assert line[values.index(max(values))] == "█"


def test_losses_are_thinned_not_cut() -> None:
    view = StageView("a", "x.a", 1.0)
    for step in range(1000):
        view.progress(progress("a", step / 10, loss=float(1000 - step)), 0.0)
    assert 16 <= len(view.losses) <= 32
    assert view.losses[0] > 900
    assert view.losses[-1] < 100
    assert view.losses == sorted(view.losses, reverse=True)


def test_plain_lines(view: RunView, clock: Clock) -> None:
    lines: list[str] = []
    face = PlainFace(view, lines.append)
    face({"event": "run"})
    face(stage("a", "cached"))
    face(stage("b", "running"))
    for _ in range(30):
        clock.now += 1
        face(progress("b", clock.now - 100, loss=2.31, tokens_per_second=9100.4, flop_per_second=4.2e9))
    face(stage("b", "done", seconds=30.0))
    face({"event": "stopping"})
    face.close()
    assert lines[:2] == ["a: cached", "b: started"]
    assert lines[2].startswith("b: 10%, loss 2.31, 9,100 tokens/s, 42% of peak, 1 min 30 s left (all:")
    assert len(lines) == 7, "two starts, one line per ten seconds, the end, the stop"
    assert lines[5] == "b: done in 30 s"


def test_figures() -> None:
    view = StageView("a", "x.a", 1.0, note="fitting", values={"reward": 0.51234})
    assert figures(view, 1e10) == "fitting, reward 0.5123"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_live_table_is_drawn_whole(view: RunView, clock: Clock, encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    face = LiveFace(view, Console(file=out, force_terminal=True, width=100, legacy_windows=False))
    face(stage("a", "done", seconds=4.0))
    face(stage("b", "running"))
    for step in range(20):
        face(progress("b", step, loss=3.0 - step / 10, tokens_per_second=9100))
    face({"event": "stopping"})
    face.close()
    text = raw.getvalue().decode(encoding)
    for word in ("a", "done", "running", "waiting", "tokens/s", "about 40 s", "Ctrl-C again"):
        assert word in text


def test_json_lines_end_with_the_summary() -> None:
    lines: list[str] = []
    face = JsonFace(lines.append)
    face({"event": "summary", "summary": {"status": "done"}})
    face({"event": "late"})
    face.close()
    assert [json.loads(line)["event"] for line in lines] == ["late", "summary"]
