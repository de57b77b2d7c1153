"""The keys of the stage `reinforce`: what cannot be meant is refused with the recipe, in one line."""

import pytest

from kweek.errors import ConfigError
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
