"""The stage `expert`: what is right is learnt, what is wrong is not, and a killed run ends in the same bits."""

import json
import re
from functools import partial

import pytest
import small_stage
from small_tasks import LIMITS

from kweek.align.environments.single_turn import answer_of
from kweek.errors import GuardError, Interrupted
from kweek.recipe import panel as panels
from kweek.recipe.changes import KINDS
from kweek.store.artifact import Artifact
from kweek.store.records import Records

TASKS = {
    "environment": "small_tasks:Letters",
    # What to begin with is the same for all, so that it is soon learnt; an untrained model seldom ends an answer.
    "options": {"judge": "common", "max_new_tokens": 64},
    "audit_limits": {**LIMITS, **dict.fromkeys(("best constant", "lists of all answers", "very long"), 1.0)},
}
SIZES = {
    "prompts": 40,
    "samples": 4,
    "epochs": 2,
    "batch_size": 8,
    "replay_tokens": 64,
    "learning_rate": 3e-3,
    "tolerance": dict.fromkeys(("bits", "solved", "trust")),
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Panels of a second are not needed to see that they are read."""
    monkeypatch.setattr(panels, "SOLVED", 8)
    monkeypatch.setattr(panels, "TRUSTED", 4)
    monkeypatch.setattr(panels, "TEXT_BYTES", 4000)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expert")
    return {"model": small_stage.model(folder / "model"), "corpus": small_stage.corpus(folder / "corpus")}


def test_rounds_keep_right_answers_and_raise_their_share(inputs, tmp_path):
    fast = {**SIZES, "samples": 8, "epochs": 6, "learning_rate": 2e-2}
    made, records = small_stage.run("expert", tmp_path, inputs, rounds=3, **TASKS, **fast)
    shares = [r["right"] for r in records if r["kind"] == "traces" and r["level"] == "all"]
    assert len(shares) == 3 and shares[2] > shares[0] + 0.1
    chats = [json.loads(line) for line in made.file("traces.jsonl").read_text().splitlines()]
    last = [r for r in records if r["kind"] == "traces" and r["round"] == 2]
    assert len(chats) == last[0]["kept"] == made.metrics["traces"] <= 2 * SIZES["prompts"]
    for chat in chats:
        assert answer_of(chat["messages"][-1])[0] in "abcdefghijklm"
        assert chat["level"] == str(int(re.search(r"\d+", chat["messages"][0]["content"])[0]) % 2)
    assert {r["level"] for r in last} == {"all", "0", "1"}
    changed = {kind: [r for r in records if r["kind"] == kind] for kind in ("change", "beside", "divergence")}
    (change,), (moved,) = changed["change"], changed["divergence"]
    assert change["reward"]["after"] > change["reward"]["before"] and change["up"] > 0
    assert 0 < len(changed["beside"]) <= 8 and moved["kl"] > 0.1
    taught = [r for r in records if r["kind"] == "train"]
    assert moved["step"] >= sum(max(r["step"] for r in taught if r["round"] == n) for n in range(3))
    assert {r["quantity"] for r in records if r["kind"] == "distribution"} == {"reward", "length"}
    names = ["bits per byte, docs", "bits per byte, tasks", "solved, letters", "calibration, letters"]
    (panel,) = json.loads(made.file("guards.json").read_text())["guards"]
    assert panel["name"] == "panel" and [row["name"] for row in panel["changes"]] == names
    assert list(json.loads(made.file("panel.json").read_text())["measures"]) == names


def test_a_stage_that_costs_too_much_is_refused_and_says_what(inputs, tmp_path):
    costly = {**SIZES, "epochs": 6, "replay_tokens": 0, "learning_rate": 0.1, "tolerance": {"bits": 0.2}}
    with pytest.raises(GuardError, match=r"bits per byte, docs lost .* where 0.2 may be lost"):
        small_stage.run("expert", tmp_path, inputs, **TASKS, **costly)
    rows = [r for r in Records.read(tmp_path / "records.jsonl") if r["kind"] == "panel"]
    assert {row["name"]: row["verdict"] for row in rows}["bits per byte, docs"] == "fail"


def test_nothing_right_is_no_reason_to_learn(inputs, tmp_path):
    with pytest.raises(GuardError, match="nothing to learn"):
        small_stage.run("expert", tmp_path, inputs, **{**TASKS, "options": {"judge": "never"}}, **SIZES)


def test_a_stop_between_updates_changes_nothing(inputs, tmp_path):
    keys = {"rounds": 2, **TASKS, **SIZES, "batch_size": 2}
    whole, unbroken = small_stage.run("expert", tmp_path / "whole", inputs, **keys)
    stops, parts, records = 0, None, []
    while parts is None:  # stopped again and again, each time a little later
        patience = iter([False] * (2 + stops))
        try:
            parts, records = small_stage.run(
                "expert", tmp_path / "parts", inputs, should_stop=partial(next, patience, True), **keys
            )
        except Interrupted:
            stops += 1
    assert stops >= 2
    assert parts.file("model.safetensors").read_bytes() == whole.file("model.safetensors").read_bytes()
    assert parts.file("traces.jsonl").read_bytes() == whole.file("traces.jsonl").read_bytes()
    assert sum(record["kind"] == "audit" for record in records) == len(
        {r["attack"] for r in records if r["kind"] == "audit"}
    )
    for kind in KINDS | {"divergence"}:
        assert _of(records, kind) == _of(unbroken, kind), kind


def test_records_of_an_end_that_was_not_reached_are_told_once(inputs, tmp_path):
    """Killed when all was learnt and written down, before the artifact was whole."""
    keys = {**TASKS, **SIZES}
    _, once = small_stage.run("expert", tmp_path, inputs, **keys)
    _, twice = small_stage.run("expert", tmp_path, inputs, **keys)
    for kind in KINDS | {"divergence", "traces", "audit"}:
        assert _of(once, kind) == _of(twice, kind), kind


def test_another_model_may_learn_from_the_traces(inputs, tmp_path):
    start = small_stage.model(tmp_path / "start", seed=5)
    keys = {**TASKS, **SIZES, "learning_rate": 1e-9, "replay_tokens": 0}
    made, records = small_stage.run("expert", tmp_path / "run", {**inputs, "start": start}, **keys)
    learnt, begun, sampler = (_head(artifact) for artifact in (made, start, inputs["model"]))
    assert (learnt - begun).abs().max() < 1e-4 < (begun - sampler).abs().max()
    (moved,) = _of(records, "divergence")
    rows = _of(records, "panel")
    assert abs(moved["kl"]) < 1e-3 and len(rows) == 4, "held against the model that learns"
    assert all(abs(row["lost"]) < 1e-3 for row in rows if row["name"].startswith("bits"))


def _of(records, kind):
    return [{k: v for k, v in record.items() if k != "time"} for record in records if record["kind"] == kind]


def _head(model: Artifact):
    from safetensors.torch import load_file

    return load_file(model.file("model.safetensors"))["lm_head.weight"]
