"""The keys of the stage `reinforce`: what cannot be meant is refused with the recipe, in one line."""

import json

import pytest
import small_stage
from small_tasks import LIMITS

from kweek.errors import ConfigError, DataError, GuardError
from kweek.recipe.identity import stage_fingerprint
from kweek.recipe.schema import parse_stage
from kweek.recipe.text import Source


def stage(**keys):
    return parse_stage(
        "rl",
        {"kind": "reinforce", "inputs": {"model": "sft", "corpus": "corpus"}, **keys},
        Source({}, "my.yaml"),
    )


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"algorithm": "trpo"}, "algorithm"),
        ({"policy": {"klweight": 1}}, "klweight"),
        ({"algorithm": "grpo", "policy": {"kl": "none"}}, "kl_weight"),
        ({"minibatches": 2}, "ratio"),
        ({"staleness": 1}, "staleness"),
        ({"algorithm": "ppo", "rounds": 1}, "rounds"),
        ({"kl_target": 1.0}, "kl_target"),
        ({"algorithm": "rloo", "kl_target": 2.0, "kl_budget": 1.0}, "kl_budget"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_recipe(keys, said):
    with pytest.raises(ConfigError, match=said) as refused:
        stage(**keys)
    assert "my.yaml" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"algorithm": "ppo", "minibatches": 4},
        {"algorithm": "dr_grpo", "staleness": 1, "rounds": 2, "pool": 3},
        {"algorithm": "rloo", "kl_target": 2.0, "kl_budget": 8.0},
        {"algorithm": "grpo", "policy": {"kl": "none", "kl_weight": 0.0}, "epochs": 2},
    ],
)
def test_settings_that_can_be_meant_are_taken(keys):
    config = stage(**keys).config
    assert config.course().steps == 60 and config.algorithm_policy() is not None


def mark(**keys):
    return stage_fingerprint(stage(**keys), 0, None, {"model": "m", "corpus": "c"})


def test_what_is_attempted_is_found_before_anything_runs(tmp_path, monkeypatch):
    for name, said in (
        ("storys", "Write 'stories'"),
        ("nothing.jsonl", "No such file"),
        ("nowhere:Errands", "no module 'nowhere'"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            mark(environment=name)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x", "gold": "1"}')
    with pytest.raises(DataError, match=r"bad\.jsonl:1.*no verifier"):
        mark(environment=str(bad))
    assert mark(environment=str(bad), verifier="number") != mark(environment="guessing")


def test_a_stage_is_another_when_what_it_attempts_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    found = []
    for gold in ("2", "3"):
        path.write_text(json.dumps({"prompt": "What is 1+1?", "gold": gold, "verifier": "number"}))
        found.append(mark(environment=str(path)))
    monkeypatch.chdir(tmp_path)
    for text in ("Mine = None", "raise SystemExit('this is not run')"):
        (tmp_path / "mine.py").write_text(text)
        found.append(mark(environment="mine:Mine"))
    assert len(set(found)) == 4 and found[-1] == mark(environment="mine:Mine")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {"model": small_stage.model(folder / "model"), "corpus": small_stage.corpus(folder / "corpus")}


def test_an_own_environment_is_audited_and_then_trains(inputs, tmp_path):
    sizes = {"steps": 2, "prompts": 6, "samples": 4, "gold_every": 1, "environment": "small_tasks:Letters"}
    made, records = small_stage.run(
        "reinforce", tmp_path / "fair", inputs, audit_limits=LIMITS, algorithm="dr_grpo", **sizes
    )
    kinds = [record["kind"] for record in records]
    assert kinds.count("update") == 2 and "audit" in kinds and "sign" in kinds
    assert all(record["gold"] is not None for record in records if record["kind"] == "update")
    assert (
        made.file("model.safetensors").read_bytes() != inputs["model"].file("model.safetensors").read_bytes()
    )
    with pytest.raises(GuardError, match="the verifier scores"):
        small_stage.run(
            "reinforce", tmp_path / "unfair", inputs, audit_limits=LIMITS, options={"judge": "any"}, **sizes
        )
