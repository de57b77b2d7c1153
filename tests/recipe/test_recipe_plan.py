"""The plan: what is to be done, side by side, and where its figures come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_recipes import TOY, recipe_of

from kweek.recipe.folder import RunFolder
from kweek.recipe.machine import machine_peaks
from kweek.recipe.plan import make_plan
from kweek.recipe.runner import run_recipe
from kweek.recipe.schedule import pick, simulate, urgency
from kweek.recipe.schema import Recipe
from kweek.store.artifact import ArtifactWriter

SLOW = TOY.replace("steps: 7", "steps: 7\n    pause: 1.0").replace(
    "{numbers: numbers}\n  right", "{numbers: numbers}\n    pause: 0.2\n  right"
)


def test_plan_of_nothing_done(run_dir: Path) -> None:
    plan = make_plan(recipe_of(SLOW), RunFolder(run_dir), 2)
    assert [stage.name for stage in plan.stages] == ["numbers", "left", "right"]
    assert [stage.seconds for stage in plan.stages] == [0.2, 4.0, 7.0]
    assert not any(stage.cached or stage.resumes for stage in plan.stages)
    assert plan.seconds == pytest.approx(7.2)
    assert plan.memory_bytes == 4e6
    assert plan.flop == 4 + 20 + 7
    assert plan.forecast is None
    assert make_plan(recipe_of(SLOW), RunFolder(run_dir), 1).seconds == pytest.approx(11.2)
    plain = json.loads(json.dumps(plan.to_dict()))
    assert plain["download_bytes"] == 0
    assert plain["stages"][2]["name"] == "right"


def test_cached_stages_cost_nothing_more(toy: Recipe, run_dir: Path) -> None:
    run_recipe(toy, run_dir, threads=2)
    plan = make_plan(toy, RunFolder(run_dir), 2)
    assert all(stage.cached for stage in plan.stages)
    assert (plan.seconds, plan.flop, plan.memory_bytes) == (0.0, 0.0, 0.0)


def test_started_stages_resume(toy: Recipe, run_dir: Path) -> None:
    plan = make_plan(toy, RunFolder(run_dir), 2)
    state = run_dir / "state" / "numbers"
    state.mkdir(parents=True)
    (state / "stage.json").write_text(json.dumps({"fingerprint": plan.stages[0].fingerprint}))
    assert make_plan(toy, RunFolder(run_dir), 2).stages[0].resumes
    (state / "stage.json").write_text("{torn")
    assert not make_plan(toy, RunFolder(run_dir), 2).stages[0].resumes


def test_prior_until_scale_has_frozen_a_forecast(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kind `scale` is stood for by a toy, so that the test needs no network trained.
    monkeypatch.setattr("kweek.recipe.registry.module_of", lambda kind, where=None: "toy_stages.numbers")
    text = "name: t\nprior: {lo: 1.9, mid: 2.0, hi: 2.2, reason: trial}\nstages:\n  s: {kind: scale}\n"
    recipe = recipe_of(text)
    plan = make_plan(recipe, RunFolder(run_dir), 1)
    assert plan.forecast == {"lo": 1.9, "mid": 2.0, "hi": 2.2}
    assert plan.forecast_source == "recipe"
    folder = RunFolder(run_dir).artifact("s")
    with ArtifactWriter(folder, kind="scale", fingerprint=plan.stages[0].fingerprint) as out:
        out.metrics["forecast"] = {"lo": 1.94, "mid": 1.95, "hi": 1.99}
    plan = make_plan(recipe, RunFolder(run_dir), 1)
    assert plan.forecast == {"lo": 1.94, "mid": 1.95, "hi": 1.99}
    assert plan.forecast_source == "scale"


def test_machine_is_measured_once_a_day(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    first = machine_peaks(folder, 1)
    assert first[1].fp32_flop_per_second > 1e8
    assert machine_peaks(folder, 1) == first
    stored = json.loads(folder.machine_json.read_text())
    stored["peaks"]["1"]["fp32_flop_per_second"] = 1.0
    folder.machine_json.write_text(json.dumps(stored))
    assert machine_peaks(folder, 1)[1].fp32_flop_per_second == 1.0
    stored["time"] -= 90000
    folder.machine_json.write_text(json.dumps(stored))
    assert machine_peaks(folder, 1)[1].fp32_flop_per_second > 1e8
    folder.machine_json.write_text("{")
    assert machine_peaks(folder, 1)[1].fp32_flop_per_second > 1e8


def graph(edges: list[list[int]], alls: list[bool]) -> Recipe:
    """A recipe of toy stages: stage i reads those in `edges[i]`, and takes all threads where `alls[i]`."""
    lines = ["name: g", "stages:"]
    for number, upstream in enumerate(edges):
        inputs = ", ".join(f"r{u}: s{u}" for u in upstream)
        threads = "all" if alls[number] else "1"
        lines.append(f"  s{number}: {{kind: toy_stages.trouble, threads: {threads}, inputs: {{{inputs}}}}}")
    return recipe_of("\n".join(lines))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Recipe, dict[str, float]]:
    size = draw(st.integers(1, 7))
    edges = [sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(size)]
    recipe = graph(edges, draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    seconds = draw(st.lists(st.floats(0, 100), min_size=size, max_size=size))
    return recipe, {f"s{i}": s for i, s in enumerate(seconds)}


@given(graphs(), st.integers(1, 4))
def test_schedules_lie_between_the_longest_chain_and_the_sum(case, threads: int) -> None:
    recipe, seconds = case
    wall, memory = simulate(recipe, list(recipe.stages), seconds, dict.fromkeys(seconds, 1.0), threads)
    assert max(urgency(recipe, seconds).values()) <= wall + 1e-6
    assert wall <= sum(seconds.values()) + 1e-6
    assert 1 <= memory <= threads
    if threads == 1:
        assert wall == pytest.approx(sum(seconds.values()))


def test_the_longest_chain_goes_first() -> None:
    recipe = graph([[], [], [1]], [False, False, False])
    urgent = urgency(recipe, {"s0": 5.0, "s1": 1.0, "s2": 9.0})
    assert urgent == {"s0": 5.0, "s1": 10.0, "s2": 9.0}
    assert pick(recipe, ["s0", "s1", "s2"], [], 1, 1, urgent) == ["s1"]
    assert pick(recipe, ["s0", "s2"], ["s1"], 2, 2, urgent) == ["s2", "s0"]
