"""Rollouts beside the trainer: the lag is what was said, and without one nothing differs from the plain loop."""

from dataclasses import replace

import pytest
import torch
from policy_world import Letters, small_policy, small_tokenizer, small_trainer

from kweek.align.algorithms import dr_grpo, reinforce
from kweek.align.asynchronous import Asynchronous
from kweek.align.collecting import Collector, Course
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.sources import Synchronous
from kweek.engine.engine import Engine
from kweek.errors import GuardError, KweekError

COURSE = Course(7, prompts=3, samples=3, warmup=2, pool=2)


def run(course, beside, policy=None, world=None, tokenizer=None, watch=None):
    network = small_policy()
    learner = Learner(small_trainer(network, 5e-3), policy or dr_grpo(), limit=8)
    collector = Collector(world or Letters(), small_tokenizer(), course, "key", max_positions=256)
    source = Asynchronous(collector, network) if beside else Synchronous(collector, Engine(network))
    seen = []

    def on_step(totals, metrics, batch):
        seen.append((metrics, batch))
        if watch is not None:
            watch(source)

    Loop(learner, source, course, on_step=on_step).run()
    return seen, dict(network.state_dict())


@pytest.mark.parametrize("policy", [reinforce(), dr_grpo()])
def test_without_a_lag_the_thread_gives_the_same_bits_as_the_plain_loop(policy):
    plain, weights = run(COURSE, beside=False, policy=policy)
    beside, others = run(COURSE, beside=True, policy=policy)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    for (ours, one), (theirs, two) in zip(plain, beside, strict=True):
        assert [[r.token_ids for r in g] for g in one.groups] == [
            [r.token_ids for r in g] for g in two.groups
        ]
        assert ours.reward == theirs.reward and ours.success == theirs.success


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_the_lag_is_what_was_said_and_never_more(lag):
    found, _ = run(replace(COURSE, staleness=lag), beside=True)
    assert [metrics.staleness for metrics, _ in found] == [min(step, lag) for step in range(7)]
    for metrics, batch in found:
        assert {r.version for group in batch.groups for r in group} == {batch.version}
        assert metrics.logprob_gap < 1e-4, "compared with the weights that sampled"
    ratios = [metrics.ratio for metrics, _ in found]
    assert ratios[0] < 1e-4 and max(ratios[lag + 1 :]) > 1e-2, (
        "rollouts are off policy, and the ratio says so"
    )


def test_a_run_behind_can_be_repeated_to_the_bit():
    first, weights = run(replace(COURSE, staleness=2), beside=True)
    second, others = run(replace(COURSE, staleness=2), beside=True)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert [m.reward for m, _ in first] == [m.reward for m, _ in second]


def test_only_as_many_weights_are_held_as_the_lag_needs():
    held = []
    run(replace(COURSE, staleness=2), beside=True, watch=lambda source: held.append(len(source._weights)))
    assert max(held) <= 3


def test_what_goes_wrong_while_sampling_is_raised_where_it_is_waited_for():
    with pytest.raises(KweekError, match="positions"):
        run(COURSE, beside=True, world=Letters(max_new_tokens=500))


def test_an_engine_that_disagrees_with_its_weights_stops_training(monkeypatch):
    import kweek.align.asynchronous as module

    monkeypatch.setattr(module, "network_gap", lambda *_: 0.3)
    with pytest.raises(GuardError, match=r"disagree by 0\.3"):
        run(replace(COURSE, staleness=1), beside=True)
