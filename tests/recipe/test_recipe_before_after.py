"""Stages as they run: what they leave about answers before and after them, also when one is killed on its way."""

from __future__ import annotations

from typing import Any

import pytest
import small_stage

from kweek.errors import Interrupted
from kweek.recipe.before_after import ASKED, MOVED

CHATS = {
    "demonstrations": 32,
    "validation_problems": 16,
    "replay_tokens": 128,
    "settings": [{"learning_rate": 2e-3, "epochs": 1}, {"learning_rate": 1e-3, "epochs": 2}],
}
POLICY = {
    "steps": 4,
    "prompts": 3,
    "samples": 4,
    "gold_every": 2,
    "tolerance": dict.fromkeys(("bits", "solved", "trust")),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    return {"model": small_stage.model(folder / "m"), "corpus": small_stage.corpus(folder / "c")}


@pytest.fixture(scope="module")
def taught(inputs, tmp_path_factory):
    return small_stage.run("sft", tmp_path_factory.mktemp("sft"), inputs, **CHATS)


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "time"} for record in records if record["kind"] == kind]


def test_chats_change_a_model_that_continued_documents(taught):
    _, records = taught
    (change,) = of(records, "change")
    assert change["n"] == ASKED and change["reward"]["before"] == 0.0
    assert 0 < len(of(records, "beside")) <= 8
    assert [row["quantity"] for row in of(records, "distribution")] == ["reward", "length"]
    (moved,) = of(records, "divergence")
    chosen = next(row for row in of(records, "setting") if row["chosen"])
    assert moved["n"] == MOVED and moved["step"] == chosen["updates"]
    assert moved["kl"] > 0.02, "a few updates on chats have moved it"


def test_reinforcement_looks_at_how_far_it_went(taught, inputs, tmp_path):
    _, records = small_stage.run("reinforce", tmp_path, inputs | {"model": taught[0]}, **POLICY)
    looks = of(records, "divergence")
    assert [look["step"] for look in looks] == [1, 2, 4]
    assert abs(looks[0]["kl"]) < 1e-3, "the first samples are those of the start itself"
    assert all(look["lo"] <= look["kl"] <= look["hi"] and look["n"] == 12 for look in looks)
    updates = of(records, "update")
    assert all(len(update["group_rewards"]) == 3 for update in updates)
    assert all(a <= b <= c for a, b, c in (update["lengths"] for update in updates))
    quantities = [row["quantity"] for row in of(records, "distribution")]
    assert quantities == ["reward of a prompt's samples", "reward", "length"]


def test_a_killed_run_says_the_same_once(taught, inputs, tmp_path):
    given = inputs | {"model": taught[0]}
    _, whole = small_stage.run("reinforce", tmp_path / "whole", given, **POLICY)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        small_stage.run(
            "reinforce", tmp_path / "killed", given, should_stop=lambda: next(asked, False), **POLICY
        )
    _, killed = small_stage.run("reinforce", tmp_path / "killed", given, **POLICY)
    for kind in ("change", "beside", "distribution", "divergence", "panel"):
        assert of(killed, kind) == of(whole, kind), kind


def test_a_policy_with_a_reference_has_its_distance_in_its_figures(taught, inputs, tmp_path):
    given = inputs | {"model": taught[0]}
    _, records = small_stage.run("reinforce", tmp_path, given, **POLICY, algorithm="rloo")
    assert not of(records, "divergence")
    assert all(update["kl"] is not None for update in of(records, "update"))
