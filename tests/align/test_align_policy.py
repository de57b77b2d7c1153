"""Declarations of algorithms: each is consistent, contradictions are refused before anything is sampled."""

import pytest
from policy_world import small_policy, small_trainer

from kweek.align.algorithms import ALGORITHMS, dapo, grpo, named, ppo, reinforce, rloo
from kweek.align.collecting import Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.learner import Learner
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.sampling import Drawing
from kweek.errors import ConfigError
from kweek.model.scorer import scorer_from


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_is_described_and_can_be_named(name):
    policy = named(name)
    assert policy == ALGORITHMS[name]()
    assert "arXiv" in (ALGORITHMS[name].__doc__ or "") or "19" in (ALGORITHMS[name].__doc__ or "")
    assert named(name, {"dual_clip": 3.0}).dual_clip == 3.0 if policy.ratio == "token" else True


@pytest.mark.parametrize(
    ("switches", "key"),
    [
        ({"ratio": "token"}, "clip"),
        ({"clip": (0.2, 0.2)}, "clip"),
        ({"ratio": "token", "clip": (1.0, 0.2)}, "clip"),
        ({"ratio": "token", "clip": (0.2, 0.0)}, "clip"),
        ({"dual_clip": 3.0}, "dual_clip"),
        ({"ratio": "token", "clip": (0.2, 0.2), "dual_clip": 1.0}, "dual_clip"),
        ({"kl": "loss"}, "kl_weight"),
        ({"kl_weight": 0.1}, "kl_weight"),
        ({"kl": "reward", "kl_weight": -0.1}, "kl_weight"),
        ({"overlong": "penalise"}, "overlong_tokens"),
        ({"overlong_tokens": 4}, "overlong_tokens"),
        ({"advantage": "generalised", "ratio": "sequence", "clip": (0.1, 0.1)}, "ratio"),
        ({"gamma": 0.9}, "gamma"),
        ({"advantage": "generalised", "decay": 1.5}, "gamma"),
    ],
)
def test_switches_that_contradict_each_other_are_refused(switches, key):
    with pytest.raises(ConfigError) as refused:
        Policy(**switches)
    assert refused.value.where == key


def test_plain_data_is_checked_with_a_helpful_word():
    assert named("rloo", {"kl": "none", "kl_weight": 0}).kl == "none"
    with pytest.raises(ConfigError, match="Did you mean kl_weight"):
        named("grpo", {"kl_wieght": 0.1})
    with pytest.raises(ConfigError, match=r"policy\.normaliser"):
        named("grpo", {"normaliser": "words"})
    with pytest.raises(ConfigError, match="clip"):
        named("reinforce", {"clip": [0.2, 0.2]})


def learner(policy, **options):
    network = small_policy()
    return Learner(small_trainer(network), policy, **({"limit": 32} | options))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: learner(ppo(kl="none", kl_weight=0.0)), "critic"),
        (lambda: learner(rloo()), "kl"),
        (lambda: learner(reinforce(), epochs=2), "ratio"),
        (lambda: learner(reinforce(), minibatches=2), "ratio"),
        (lambda: learner(reinforce(), drawing=Drawing(top_k=5)), "truncation"),
        (lambda: learner(dapo(), limit=16), "overlong_tokens"),
        (
            lambda: learner(grpo(), drawing=Drawing(temperature=0.7), reference=Reference(small_policy())),
            "temperature",
        ),
        (
            lambda: learner(
                reinforce(), critic=Critic(small_trainer(scorer_from(small_policy(), per_token=True)))
            ),
            "critic",
        ),
        (lambda: Drawing(temperature=0.0), "temperature"),
        (lambda: Critic(small_trainer(small_policy())), "critic"),
        (lambda: Course(1, samples=1).require_sense(reinforce()), "samples"),
        (lambda: Course(1, rounds=1).require_sense(ppo()), "rounds"),
        (lambda: Course(1, staleness=1).require_sense(reinforce()), "staleness"),
        (lambda: Course(0).require_sense(reinforce()), "course"),
        (lambda: DivergenceControl(0.0, target=1.0), "kl_target"),
        (lambda: DivergenceControl(0.1, target=2.0, budget=1.0), "kl_budget"),
        (lambda: DivergenceControl(0.1, budget=0.0), "kl_budget"),
    ],
)
def test_degenerate_combinations_are_refused_before_anything_runs(make, key):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.where == key


def test_a_divergence_is_steered_towards_its_target_within_its_budget():
    control = DivergenceControl(0.1, target=2.0, budget=5.0)
    control.measured(2.2)
    assert control.weight == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    control.measured(100.0)
    assert control.weight == pytest.approx(0.101 * 1.02), "one noisy batch moves it by 2% at most"
    control.measured(0.0)
    assert control.weight == pytest.approx(0.101 * 1.02 * 0.98)
    assert control.spent(5.1) and not control.spent(4.9)
    still = DivergenceControl(0.1)
    still.measured(50.0)
    assert still.weight == 0.1 and not still.spent(50.0)
