"""The stage `reinforce`: keys that cannot be meant are refused in one line; any environment is audited and trains."""

import pytest
import small_stage

from kweek.errors import ConfigError, GuardError
from kweek.recipe.schema import parse_stage
from kweek.recipe.stages.reinforce import external
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {"model": small_stage.model(folder / "model"), "corpus": small_stage.corpus(folder / "corpus")}


SYLLABLES = """
from kweek.align.environments.single_turn import SingleTurn
from kweek.align.environment import Item


def fair(answer, gold):
    return answer[:1] != "" and answer[0] in gold


def any_answer(answer, gold):
    return len(answer) > 0


def made(judge="fair"):
    asked = [({"role": "user", "content": f"Which letters have number {n}?"},) for n in range(400)]
    items = [Item(messages, "abc def ghi jkl mno pqr stu vwx".split()[n % 8]) for n, messages in enumerate(asked)]
    return SingleTurn("letters", items, globals()[judge], max_new_tokens=6)
"""


def test_an_own_environment_is_audited_and_then_trains(inputs, tmp_path):
    (tmp_path / "syllables_of_a_test.py").write_text(SYLLABLES)
    name = f"{tmp_path}/syllables_of_a_test.py:made"
    sizes = {"steps": 2, "prompts": 4, "samples": 4, "gold_every": 1, "replay_weight": 0.1}
    limits = dict.fromkeys(("gold and an afterthought", "gold run on", "gold cut short"), 1.0)
    made, records = small_stage.run(
        "reinforce",
        tmp_path / "fair",
        inputs,
        environment=name,
        audit_limits=limits,
        algorithm="dr_grpo",
        **sizes,
    )
    kinds = [record["kind"] for record in records]
    assert kinds.count("update") == 2 and "audit" in kinds and "sign" in kinds
    assert all(record["gold"] is not None for record in records if record["kind"] == "update")
    assert (
        made.file("model.safetensors").read_bytes() != inputs["model"].file("model.safetensors").read_bytes()
    )
    with pytest.raises(GuardError, match="the verifier scores"):
        small_stage.run(
            "reinforce",
            tmp_path / "unfair",
            inputs,
            environment=name,
            options={"judge": "any_answer"},
            **sizes,
        )


def test_files_that_make_the_task_are_part_of_the_fingerprint(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is 1+1?", "gold": "2", "verifier": "number"}\n')
    before = external(stage(environment=str(prompts)).config)
    prompts.write_text('{"prompt": "What is 1+2?", "gold": "3", "verifier": "number"}\n')
    assert before and before != external(stage(environment=str(prompts)).config)
    assert external(stage().config) == ""
    with pytest.raises(ConfigError, match=r"cannot be read"):
        external(stage(environment=str(tmp_path / "none.jsonl")).config)


def test_the_exploitability_bounds_what_ignores_the_question(inputs, tmp_path):
    sizes = {"steps": 1, "prompts": 2, "samples": 2, "replay_weight": 0.0}
    with pytest.raises(GuardError, match="best constant"):
        small_stage.run("reinforce", tmp_path, inputs, exploitability=0.0, **sizes)
