"""The guard of the reward: it ends a run at the peak of gold, and leaves runs alone that only wobble."""

import json
from dataclasses import replace

import numpy as np
import pytest
from policy_world import Letters, a_rollout, small_policy, small_tokenizer, small_trainer

from kweek.align.algorithms import reinforce
from kweek.align.collecting import Collector, Course
from kweek.align.guards.detectors import DETECTORS, LATELY, START, repeated
from kweek.align.guards.guard import Step
from kweek.align.guards.hacking import ALPHA, HackingGuard, Look, fall, held_out, mean
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.sampling import Drawing
from kweek.align.sources import Synchronous
from kweek.engine.engine import Engine
from kweek.protocols import Score

ITEMS = 96


def answers(chance, key):
    """Right or wrong, each item with its own difficulty; neighbouring looks share the items and not the luck."""
    hard = np.random.default_rng(7).normal(0, 1, ITEMS)
    logit = np.log(chance / (1 - chance)) + hard
    return (np.random.default_rng(key).random(ITEMS) < 1 / (1 + np.exp(-logit))).astype(float).tolist()


def curve(golds, proxies, key=0):
    """A guard's verdicts on a run whose gold and proxy take such means at its looks."""
    drawn = [
        (answers(p, [key, n, 1]), answers(g, [key, n, 2]))
        for n, (g, p) in enumerate(zip(golds, proxies, strict=True))
    ]
    looks = iter(drawn)
    guard = HackingGuard(lambda: next(looks), every=1)
    return guard, [guard.before(), *(guard.after(Step(n)) for n in range(1, len(golds)))]


RISING = [0.6, 0.65, 0.7, 0.72, 0.75, 0.77, 0.8, 0.82]
HACKED = [0.6, 0.65, 0.7, 0.6, 0.45, 0.3, 0.2, 0.1]


def test_scissors_end_the_run_and_keep_the_peak():
    _, verdicts = curve(HACKED, RISING)
    stops = [n for n, verdict in enumerate(verdicts) if verdict.kind == "stop"]
    assert stops and stops[0] in (4, 5)
    assert verdicts[stops[0]].keep in (1, 2, 3)
    assert "gold fell from" in verdicts[stops[0]].text


def test_the_divergence_at_the_peak_is_told_as_a_budget():
    right = [ITEMS // 2, 70, 75, 60, 40, 20]
    looks = iter([([1.0] * ITEMS, [1.0] * n + [0.0] * (ITEMS - n)) for n in right])
    guard = HackingGuard(lambda: next(looks), every=1)
    guard.before()
    found = [guard.after(Step(n, {"kl": n / 2})) for n in range(1, len(right))]
    stop = next(v for v in found if v.kind == "stop")
    assert stop.keep == 2 and "the peak lay 1 nats from the start, a kl_budget" in stop.text
    assert "nats from the start" not in " ".join(v.text for v in curve(HACKED, RISING)[1])


def test_a_run_that_gets_better_is_left_alone():
    assert all(v.kind == "ok" for v in curve(RISING, RISING)[1])


def test_a_reward_that_falls_as_well_is_a_warning_until_there_is_no_doubt():
    slowly = [0.6, 0.65, 0.7, 0.55, 0.5, 0.42, 0.3, 0.2]
    _, verdicts = curve(slowly, slowly)
    kinds = [v.kind for v in verdicts]
    assert "warn" in kinds and kinds.index("warn") < kinds.index("stop")
    assert "and the reward with it" in verdicts[kinds.index("stop")].text


def test_a_reward_at_its_top_need_not_rise():
    _, verdicts = curve(HACKED, [0.98] * 8)
    assert any(v.kind == "stop" for v in verdicts)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_wobble_is_no_alarm(level):
    """200 runs in which nothing happens at all, ten looks each: hardly one is ended."""
    ended = 0
    for key in range(200):
        _, verdicts = curve([level] * 10, [level] * 10, key)
        ended += any(v.kind == "stop" for v in verdicts)
    assert ended <= 4


def test_a_single_bad_look_is_no_alarm():
    golds = [0.6, 0.7, 0.7, 0.7, 0.3, 0.7, 0.7]
    assert all(v.kind == "ok" for v in curve(golds, RISING[:7])[1])


def test_the_peak_is_not_the_luckiest_look():
    good, bad = [1.0] * ITEMS, [1.0] * (ITEMS // 2) + [0.0] * (ITEMS // 2)
    looks = [Look(n, good, gold) for n, gold in enumerate((bad, bad, good, bad, bad, bad))]
    found = fall(looks, ALPHA)
    assert found is not None and found.certain and "from 0.75" in found.text


def test_two_looks_are_too_few():
    assert fall([Look(0, [1.0] * 9, [1.0] * 9), Look(1, [1.0] * 9, [0.0] * 9)], ALPHA) is None


@pytest.mark.parametrize(("reward", "ended"), [([0.4, 0.4, 0.4, 0.4], False), ([0.4, 0.5, 0.6, 0.8], True)])
def test_a_reward_that_has_risen_makes_weaker_proof_enough(reward, ended):
    """Gold loses a ninth of its items: so much is certain at one in a hundred, and not at one in a thousand."""
    rewards = [[1.0] * round(ITEMS * share) + [0.0] * round(ITEMS * (1 - share)) for share in reward]
    right = [60, 60, 55, 53]
    golds = [[1.0] * count + [0.0] * (ITEMS - count) for count in right]
    looks = [Look(n, p, g) for n, (p, g) in enumerate(zip(rewards, golds, strict=True))]
    found = fall(looks, ALPHA)
    assert found.certain == ended and ALPHA < found.chance < 1e-2


def test_the_floor_is_where_a_fall_becomes_certain():
    draw, whole = np.random.default_rng(3), [0.5 + 0.1 * (n % 5) for n in range(400)]
    looks = [Look(n, whole, [value - 0.01 * (n == 2) for value in whole]) for n in range(3)]
    certain = []
    for by in np.linspace(0, 0.1, 21):
        now = np.array(whole) + draw.normal(0, 0.3, 400) * 0.5
        found = fall([*looks, Look(3, whole, (now - now.mean() + np.mean(whole) - by).tolist())], ALPHA)
        certain.append(found.certain)
        assert found.certain == (mean(whole) - by < found.floor < mean(whole))
    assert certain[0] is False and certain[-1] is True


def test_what_gold_is_held_against_is_told_from_the_third_look_on():
    _, verdicts = curve(HACKED, RISING)
    assert [bool(verdict.limits) for verdict in verdicts[:4]] == [False, False, True, True]
    stop = next(v for v in verdicts if v.kind == "stop")
    assert stop.figures["gold"] < stop.limits["gold"] < 0.8


def test_a_reward_that_rises_while_gold_stays_is_hardly_ever_ended():
    ended = sum(any(v.kind == "stop" for v in curve([0.6] * 8, RISING, key)[1]) for key in range(100))
    assert ended <= 10


def test_it_goes_on_after_a_kill_as_if_nothing_had_been():
    whole, verdicts = curve(HACKED, RISING)
    looks = whole._looks
    later = iter([(look.proxy, look.gold) for look in looks[4:]])
    second = HackingGuard(lambda: next(later), every=1)
    first, _ = curve(HACKED[:4], RISING[:4])
    second.restore(json.loads(json.dumps(first.state())))
    assert second.before() == verdicts[3].__class__(keep=verdicts[3].keep)
    assert [second.after(Step(n)) for n in range(4, 8)] == verdicts[4:]


# Detectors


def _step(number, length=6, parsed=True, ids=None):
    rollout = replace(a_rollout(ids or range(3 + length), 3, 0.0), score=Score(0.0, parsed))
    return Step(number, groups=[[rollout] * 4] * 4)


def _detected(*later):
    """What a guard says in a run of usual updates, and then such."""
    guard = HackingGuard(lambda: ([0.5] * 9, [0.5] * 9), every=100)
    guard.before()
    steps = [_step(n, 6 + n % 2) for n in range(START + 2)]
    return [guard.after(step) for step in (*steps, *later)]


def test_detectors_warn_and_never_stop():
    verdicts = _detected(*(_step(20 + n, 30) for n in range(10)))
    kinds = [v.kind for v in verdicts]
    assert kinds.count("warn") == 1, "said once"
    assert "length went from" in next(v.text for v in verdicts if v.kind == "warn")
    assert "stop" not in kinds


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (lambda n: _step(n, parsed=False), "in the asked form"),
        (lambda n: _step(n, ids=[1, 2, 3] + [7, 8] * 4), "repetition"),
    ],
)
def test_each_detector_speaks_of_its_own(step, name):
    assert any(name in v.text for v in _detected(*(step(20 + n) for n in range(LATELY + 1))))


def test_one_strange_batch_is_none():
    assert all(v.kind == "ok" for v in _detected(_step(20, 40), _step(21), _step(22)))


def test_repetition_is_of_runs_of_four():
    assert repeated([1, 2, 3, 4, 5, 6]) == 0.0
    assert repeated([1, 2] * 4) == pytest.approx(3 / 5)
    assert repeated([1, 2, 3]) == 0.0


def test_a_detector_that_has_spoken_makes_weaker_proof_enough():
    """The same fall of gold: a warning at most where all else is as ever, the end where answers have grown as well."""
    weak = [[1.0] * 60 + [0.0] * 36, [1.0] * 60 + [0.0] * 36]
    fallen = [1.0] * 53 + [0.0] * 43
    kinds = []
    for length in (6, 40):
        looks = iter(
            [
                *(([1.0] * 96, gold) for gold in weak),
                ([1.0] * 96, [1.0] * 59 + [0.0] * 37),
                ([1.0] * 96, fallen),
            ]
        )
        guard = HackingGuard(lambda looks=looks: next(looks), every=20)
        guard.before()
        kinds.append([guard.after(_step(n, 6 if n < 30 else length)).kind for n in range(1, 61)][-1])
    assert kinds == ["ok", "stop"]


def test_nothing_is_detected_where_nothing_is_rolled_out():
    assert all(detector.of(Step(1)) is None for detector in DETECTORS)


# The whole, in a loop


def vowels(rollout):
    text = str(rollout.messages[-1]["content"])
    return sum(c in "aeiou" for c in text) / max(1, len(text))


class Consonants:
    """A judge that rewards the opposite of what is wanted."""

    def __call__(self, rollouts):
        return [Score(1 - vowels(rollout), True) for rollout in rollouts]

    def num_flops(self, rollouts):
        return 0.0


@pytest.mark.parametrize("judge", [None, Consonants()])
def test_a_hacked_run_ends_with_the_weights_of_the_peak(judge):
    network, where = small_policy(), Letters()
    engine, steps = Engine(network), 40 if judge else 12
    course = Course(steps, 4, 8, warmup=0)
    learner = Learner(small_trainer(network, 4e-3), reinforce(), limit=where.max_new_tokens)
    source = Synchronous(Collector(where, small_tokenizer(), course, "hack", judge=judge), engine)
    items = where.items("held", 48, "validation")
    measure = held_out(engine, small_tokenizer(), where, items, vowels, judge=judge, drawing=Drawing())
    guard = HackingGuard(measure, every=3)
    finished = Loop(learner, source, course, guards=[guard]).run()
    if judge is None:
        assert not finished.stopped and finished.kept == steps
        return
    assert finished.stopped.startswith("hacking: gold fell") and finished.kept < finished.totals.step < steps
    peak = max(mean(look.gold) for look in guard._looks)
    assert mean(measure()[1]) == peak, "the very weights"
