"""The guard against collapse: deaf to success, quick with what is none."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from policy_world import a_rollout

from kweek.align.guards.collapse import (
    KEEP,
    LATELY,
    START,
    CollapseGuard,
    common,
    error_of,
    figures_of,
    symptoms,
    twins,
)
from kweek.align.guards.guard import Step
from kweek.protocols import Score

GROUPS, SAMPLES = 12, 6


def update(number, right, *, variety=6, entropy=0.4, shared=False, key=0, **metrics):
    """An update: the share of right answers, different answers per item, whether all items get the same one."""
    draw = np.random.default_rng([number, key])
    groups = []
    for item in range(GROUPS):
        group = []
        for attempt in range(SAMPLES):
            said = 40 + (0 if shared else 10 * item) + attempt % variety
            rollout = a_rollout([item, said, 99], 1, 0.0)
            group.append(replace(rollout, score=Score(float(draw.random() < right), True)))
        groups.append(group)
    figures = {"entropy": entropy, "gradient_norm": 0.5, "loss": 0.0, "ratio": 1e-5} | metrics
    return Step(number, figures, groups)


def verdicts(make, count=40, guard=None):
    """What the guard says to updates that `make` makes of their numbers."""
    guard = guard or CollapseGuard()
    guard.before()
    return [guard.after(make(number)) for number in range(1, count + 1)]


def ended(found):
    """The first update that ends the run, None where none does."""
    return next((n for n, verdict in enumerate(found, start=1) if verdict.kind == "stop"), None)


def rise(number, start=0.4, end=0.95, count=40):
    return start + (end - start) * number / count


def test_success_looks_like_collapse_and_is_none():
    """Sure, all alike, no signal left: and right."""
    found = verdicts(
        lambda n: update(n, rise(n, end=1.0), variety=max(1, 6 - n // 6), entropy=0.4 * math.exp(-n / 8))
    )
    assert ended(found) is None


def test_a_run_that_was_good_from_the_start_may_become_surer():
    assert ended(verdicts(lambda n: update(n, 0.97, variety=1, entropy=0.05 * math.exp(-n / 8)))) is None


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_a_run_in_which_nothing_happens_is_left_alone(level):
    for key in range(20):
        assert ended(verdicts(lambda n, key=key: update(n, level, key=key))) is None


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({"entropy": 0.01}, "entropy fell"),
        ({"entropy": 4.0}, "entropy rose"),
        ({"variety": 1}, "100% of attempts have a twin"),
        ({"shared": True}, "100% of items get the very same answer"),
        ({"gradient_norm": 50.0}, "gradients grew"),
        ({"ratio": 8.0}, "probabilities differ by 8 nats"),
    ],
)
def test_every_symptom_counts_while_the_reward_is_no_better(late, said):
    found = verdicts(lambda n: update(n, 0.4, **({} if n <= 15 else late)))
    assert 16 < ended(found) <= 16 + LATELY
    assert said in found[ended(found) - 1].text
    assert ended(verdicts(lambda n: update(n, 0.4 if n <= 10 else 0.8, **({} if n <= 15 else late)))) is None


def test_groups_without_a_signal_at_a_low_reward():
    start, lately = ([figures_of(update(1, 0.2), [[0.0, value], [0.0, 1.0]])] * 5 for value in (1.0, 0.0))
    assert not symptoms(start, start) and not symptoms(start, lately)
    nothing = [figures_of(update(1, 0.2), [[0.0, 0.0]] * 2)] * 5
    assert symptoms(start, nothing) == ["100% of groups are of equal reward, 0% at the start"]


def test_a_reward_that_is_lost_needs_no_symptom():
    found = verdicts(lambda n: update(n, 0.4 if n <= 5 else 0.8 if n <= 20 else 0.3))
    assert 20 < ended(found) <= 20 + LATELY
    assert "the reward fell from 0.8" in found[ended(found) - 1].text
    assert found[ended(found) - 1].keep in (15, 20)


def test_it_goes_back_to_weights_that_it_asked_to_keep():
    asked = set()
    for number, verdict in enumerate(verdicts(lambda n: update(n, rise(n) if n <= 30 else 0.1)), start=1):
        if verdict.keep == number:
            asked.add(number)
        if verdict.kind == "stop":
            assert verdict.keep in asked and verdict.keep % KEEP == 0
            return
    pytest.fail("it never ended")


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "ratio", "reward", "entropy", "kl"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_end_any_run_at_once(name, value):
    verdict = CollapseGuard().after(Step(1, {name: value}))
    assert verdict.kind == "stop" and name in verdict.text


def test_one_strange_update_is_none():
    strange = {"entropy": 9.0, "gradient_norm": 500.0, "variety": 1}
    assert ended(verdicts(lambda n: update(n, 0.4, **(strange if n == 20 else {})))) is None


def test_a_run_without_rollouts_has_only_its_numbers():
    assert ended(verdicts(lambda n: Step(n, {"loss": 5.0 / n, "gradient_norm": 1.0}))) is None


def test_figures_that_nobody_measured_are_no_symptom():
    found = verdicts(lambda n: replace(update(n, 0.4), metrics={}))
    assert ended(found) is None


def test_it_goes_on_after_a_kill_as_if_nothing_had_been():
    make = lambda n: update(n, 0.6 if n <= 20 else 0.1)  # noqa: E731
    whole = verdicts(make)
    first, second = CollapseGuard(), CollapseGuard()
    verdicts(make, START + LATELY + 2, first)
    second.restore(json.loads(json.dumps(first.state())))
    second.before()
    later = [second.after(make(n)) for n in range(START + LATELY + 3, 41)]
    assert later == whole[START + LATELY + 2 :]


def test_figures_are_what_they_say():
    groups = [
        [a_rollout([1, *said], 1, 0.0) for said in ([5, 6], [5, 6], [7])],
        [a_rollout([2, *said], 1, 0.0) for said in ([5, 6], [8], [9])],
    ]
    assert twins(groups) == pytest.approx(2 / 6)
    assert common(groups) == 1.0
    assert error_of([0.0, 1.0]) == pytest.approx(0.5) and error_of([0.3]) == 0.0


def test_figures_are_shown_now_and_then_and_when_it_ends():
    found = verdicts(lambda n: update(n, 0.6 if n <= 20 else 0.1, loss=math.nan if n == 40 else 0.0))
    assert [n for n, v in enumerate(found[:10], start=1) if v.figures] == [5, 10]
    assert {"reward", "entropy", "twins"} <= set(found[4].figures)
    assert found[ended(found) - 1].figures["reward"] < 0.4


def test_what_figures_are_held_against_is_told_with_them():
    found = verdicts(lambda n: update(n, 0.6 if n <= 20 else 0.1))
    end = ended(found)
    assert [n for n, v in enumerate(found[:20], start=1) if v.limits] == [10, 15, 20], (
        "known after ten updates"
    )
    for verdict in (found[9], found[end - 1]):
        assert verdict.limits.keys() - {"wild"} <= verdict.figures.keys()
    before, last = found[19].limits, found[end - 1].limits
    assert 0.2 < before["reward"] < 0.6 and last["entropy"] == pytest.approx(0.2 * 0.4)
    assert last["gradient"] == pytest.approx(20 * 0.5) and last["ratio"] == pytest.approx(3, abs=0.01)
    assert last["reward"] > found[end - 1].figures["reward"]


def test_what_was_not_measured_has_no_limit():
    found = verdicts(lambda n: replace(update(n, 0.4), metrics={}), 15)
    assert {"entropy", "wild", "gradient", "ratio"}.isdisjoint(found[14].limits) and "reward" in found[
        14
    ].limits


def test_figures_that_are_no_numbers_are_not_shown():
    shown = figures_of(replace(update(1, 0.4), metrics={"entropy": 0.3}), [[0.0, 1.0]] * 2).shown()
    assert shown["entropy"] == 0.3 and "gradient" not in shown
