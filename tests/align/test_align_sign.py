"""The guard of the sign: silent where better answers win, heard wherever on the way a sign is turned."""

import json
from dataclasses import replace

import pytest
from policy_world import a_rollout, small_policy, small_tokenizer, small_trainer

from kweek.align.algorithms import named
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.dpo import DPO
from kweek.align.guards.direction import Probe
from kweek.align.guards.guard import Step
from kweek.align.guards.known import FEWEST, another_gold, known_pairs
from kweek.align.guards.pair_path import answer_margins, pair_sign
from kweek.align.guards.policy_path import policy_sign
from kweek.align.guards.sign import SignGuard, gap, misranked
from kweek.align.learner import Learner
from kweek.align.pairs import Pair, answered, pair_segments, with_reference
from kweek.align.reference import Reference
from kweek.align.sequences import micro_batches
from kweek.align.word_problems import WordProblems
from kweek.engine.engine import Engine
from kweek.errors import ConfigError, GuardError
from kweek.model.scorer import scorer_from
from kweek.protocols import Score
from kweek.train.objective import Loss

WORDS = WordProblems()
ITEMS = WORDS.items("sign", FEWEST, "train")


class Inverted:
    """An environment whose judge has the wrong sign."""

    max_new_tokens, max_turns, name = WORDS.max_new_tokens, 1, "inverted"

    def items(self, key, count, split):
        return WORDS.items(key, count, split)

    def begin(self, item):
        episode = WORDS.begin(item)
        score = episode.score
        episode.score = lambda: replace(score(), value=1 - score().value)
        return episode

    def interceptor(self, tokenizer):
        return WORDS.interceptor(tokenizer)


class Negated(Learner):
    """A learner that turns every advantage, as a slip of a sign would."""

    def prepare(self, groups):
        prepared = super().prepare(groups)
        turned = [replace(lesson, advantages=-lesson.advantages) for lesson in prepared.lessons]
        return replace(prepared, lessons=turned)


def setting(algorithm="reinforce", environment=WORDS, kind=Learner, weight=None, rate=1e-3):
    """A learner, and its guard."""
    network, policy = small_policy(), named(algorithm)
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(small_trainer(scorer_from(network, per_token=True)))
    learner = kind(
        small_trainer(network, rate), policy, limit=WORDS.max_new_tokens, critic=critic,
        reference=Reference(small_policy()),
        control=DivergenceControl(policy.kl_weight if weight is None else weight),
    )  # fmt: skip
    engine = Engine(network)
    pairs = lambda: known_pairs(engine, small_tokenizer(), environment, ITEMS)  # noqa: E731
    return learner, policy_sign(learner, engine, pairs)


@pytest.mark.parametrize("algorithm", ["reinforce", "grpo", "gspo", "rloo", "reinforce_plus_plus", "ppo"])
def test_every_algorithm_passes_as_it_is(algorithm):
    learner, guard = setting(algorithm)
    verdict = guard.before()
    assert verdict.kind == "ok" and verdict.figures["ranked"] == verdict.figures["pairs"] == FEWEST
    assert verdict.figures["margin_after"] > verdict.figures["margin_before"]
    assert learner.control.weight == named(algorithm).kl_weight, "it is put back"


@pytest.mark.parametrize("rate", [1e-5, 0.3])
def test_the_learning_rate_does_not_decide(rate):
    assert setting(rate=rate)[1].before().kind == "ok"
    with pytest.raises(GuardError, match="margin of better over worse"):
        setting(rate=rate, kind=Negated)[1].before()


@pytest.mark.parametrize("algorithm", ["reinforce", "grpo", "ppo"])
def test_an_inverted_judge_is_refused(algorithm):
    with pytest.raises(GuardError, match=f"ranks only 0 of {FEWEST}"):
        setting(algorithm, Inverted())[1].before()


@pytest.mark.parametrize("algorithm", ["reinforce", "grpo", "ppo"])
def test_an_inverted_update_is_refused(algorithm):
    with pytest.raises(GuardError, match="takes the margin of better over worse answers"):
        setting(algorithm, kind=Negated)[1].before()


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_an_inverted_divergence_is_refused(algorithm):
    with pytest.raises(GuardError, match="further from the reference cost no more"):
        setting(algorithm, weight=-0.03)[1].before()


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_reward_and_divergence_inverted_together_are_refused(algorithm):
    """The case of 2019: what comes out is fluent, and as bad as can be."""
    with pytest.raises(GuardError, match="ranks only 0"):
        setting(algorithm, Inverted(), weight=-0.03)[1].before()


def test_an_inverted_critic_is_refused():
    learner, guard = setting("ppo")
    right = learner.critic.trainer.objective

    def turned(network, hidden_BTD, batch):
        found = right(network, hidden_BTD, batch)
        return Loss(-found.value, None, found.parts)

    learner.critic.trainer.objective = turned
    with pytest.raises(GuardError, match="by the critic's errors"):
        guard.before()


def test_a_sign_that_turns_later_ends_the_run_at_the_next_look():
    learner, guard = setting()
    guard.before()
    assert [guard.after(Step(number)).kind for number in range(1, 11)] == ["ok"] * 10
    learner.__class__ = Negated  # somebody saves a file
    verdicts = [guard.after(Step(number)) for number in range(11, 21)]
    assert [verdict.kind for verdict in verdicts] == ["ok"] * 9 + ["stop"]
    assert verdicts[-1].keep == 10 and "last seen right after update 10" in verdicts[-1].text


def _groups(count, values, better):
    """Groups of four attempts whose judge's values are given; gold likes those numbered `better`."""
    group = [replace(a_rollout([1, 2, 3], 1, v), flop=float(i in better)) for i, v in enumerate(values)]
    return [group] * count


@pytest.mark.parametrize(
    ("values", "shaped", "kind"),
    [
        ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], "ok"),
        ([0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], "stop"),
        ([1.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], "stop"),
    ],
)
def test_rewards_that_contradict_gold_end_the_run_at_once(values, shaped, kind):
    guard = SignGuard([], ranking=lambda: [(1.0, 0.0)] * FEWEST, gold=lambda rollout: rollout.flop)
    guard.before()
    assert guard.after(Step(1, groups=_groups(12, values, {0}), rewards=[shaped] * 12)).kind == kind


def test_a_divergence_in_the_reward_is_not_taken_for_a_contradiction():
    guard = SignGuard(
        [], ranking=lambda: [(1.0, 0.0)] * FEWEST, gold=lambda rollout: rollout.flop, shaped=False
    )
    groups = _groups(12, [1.0, 0.0, 0.0, 0.0], {0})
    assert guard.after(Step(1, groups=groups, rewards=[[0.1, 0.2, 0.2, 0.2]] * 12)).kind == "ok"


def test_a_few_contradictions_are_no_proof():
    guard = SignGuard([], ranking=lambda: [(1.0, 0.0)] * FEWEST, gold=lambda rollout: rollout.flop)
    mixed = _groups(5, [0.0, 1.0, 1.0, 1.0], {0}) + _groups(7, [1.0, 0.0, 0.0, 0.0], {0})
    assert all(guard.after(Step(number, groups=mixed)).kind == "ok" for number in range(1, 9))


def test_gaps_are_between_what_gold_tells_apart():
    def gold(rollout):
        return rollout.flop

    group = _groups(1, [0.0] * 4, {1})[0]
    assert gap(group, [0.0, 1.0, 0.0, 0.0], gold) == 1.0
    assert gap(group, [1.0, 0.0, 1.0, 1.0], gold) == -1.0
    assert gap(_groups(1, [0.0] * 4, set())[0], [1.0, 0.0, 1.0, 1.0], gold) == 0.0


def test_a_learnt_reward_may_err_but_not_against_the_odds():
    assert misranked(20, 24, exact=True)[0] and misranked(24, 24, exact=True) == ("", "")
    assert misranked(20, 24, exact=False) == ("", "")
    wrong, doubt = misranked(13, 24, exact=False)
    assert not wrong and "by chance" in doubt
    assert misranked(2, 24, exact=False)[0]


def test_worse_answers_have_the_form_of_right_ones():
    worse = another_gold(ITEMS)
    assert all(worse(item) != item.gold and worse(item).lstrip("-").isdigit() for item in ITEMS)
    with pytest.raises(ConfigError, match="known and differ"):
        another_gold([replace(item, gold="7") for item in ITEMS])


def test_a_guard_with_nothing_to_look_at_is_refused():
    with pytest.raises(ConfigError, match="a probe or a ranking"):
        SignGuard([])


def test_what_it_remembers_survives_a_kill():
    def guard():
        return SignGuard(
            [Probe("x", [], lambda: None, lambda: [0.0, 1.0], own=False)],
            gold=lambda rollout: rollout.flop,
            watched=lambda: [0.0, 1.0],
        )

    first, second = guard(), guard()
    first.before()
    bad = _groups(6, [0.0, 1.0, 1.0, 1.0], {0})
    assert first.after(Step(10, groups=bad)).kind == "ok"
    second.restore(json.loads(json.dumps(first.state())))
    second.before()
    assert second.after(Step(11, groups=bad)).kind == first.after(Step(11, groups=bad)).kind == "stop"
    assert second.after(Step(12)).keep == 10


# Preferences


def _pairs(count, turned=False):
    """Even numbers are preferred to odd ones."""
    made = []
    for n in range(count):
        even, odd = (answered([3, 4 + n % 7], [20 + 2 * (n % 5) + k, 30 + (3 * n) % 11]) for k in (0, 1))
        made.append(Pair(*((odd, even) if turned else (even, odd))))
    return made


def _preferences(turned_data=False, turned_loss=False):
    network = small_policy()
    trainer = small_trainer(network)
    objective = DPO()
    trainer.objective = objective
    if turned_loss:

        def reverse(network, hidden_BTD, batch):
            found = objective(network, hidden_BTD, batch)
            return Loss(-found.value, None, found.parts)

        trainer.objective = reverse
    engine = Engine(network)
    known = with_reference(_pairs(24), engine.score)
    data = with_reference(_pairs(64, turned_data), engine.score)
    margins = lambda: answer_margins(known, engine.score)  # noqa: E731

    def updates(pairs):
        return lambda: micro_batches(pair_segments(pairs), 16)

    return trainer, updates(data), pair_sign(trainer, updates(known), updates(data), margins, every=5)


def test_preferences_pass_as_they_are_and_margins_grow():
    trainer, data, guard = _preferences()
    verdict = guard.before()
    assert verdict.kind == "ok" and verdict.figures["data_after"] > verdict.figures["data_before"]
    for number in range(1, 11):
        trainer.step(data(), 1.0)
        assert guard.after(Step(number)).kind == "ok"


def test_swapped_columns_are_refused():
    with pytest.raises(GuardError, match="an update on the data makes known better answers less likely"):
        _preferences(turned_data=True)[2].before()


def test_an_inverted_preference_loss_is_refused():
    with pytest.raises(GuardError, match="an update on known pairs takes the margin"):
        _preferences(turned_loss=True)[2].before()


def test_data_that_turns_is_looked_at_again_while_nothing_is_learnt():
    """The margins have hardly moved, which proves nothing; an update on what comes next tells."""
    trainer, data, _ = _preferences()
    _, turned, _ = _preferences(turned_data=True)
    coming = [data]
    engine = Engine(trainer.network)
    known = with_reference(_pairs(24), engine.score)
    guard = pair_sign(
        trainer, lambda: micro_batches(pair_segments(known), 16), lambda: coming[0](),
        lambda: answer_margins(known, engine.score), every=5,
    )  # fmt: skip
    guard.before()
    assert guard.after(Step(5)).kind == "ok"
    coming[0] = turned
    verdict = guard.after(Step(10))
    assert (
        verdict.kind == "stop"
        and "an update on the data makes known better answers less likely" in verdict.text
    )


def test_columns_swapped_from_some_point_on_end_the_run():
    trainer, _, guard = _preferences()
    guard.before()
    _, turned, _ = _preferences(turned_data=True)
    kinds = []
    for number in range(1, 11):
        trainer.step(turned(), 1.0)
        kinds.append(guard.after(Step(number)).kind)
    assert kinds[4] == "stop" and "lost" in guard._lowered()


def _labelled(guard, shares, pairs=32):
    """What the guard says to updates of which such shares were ranked as labelled."""
    return [guard.after(Step(n, {"ranked": s, "pairs": pairs})).kind for n, s in enumerate(shares, start=1)]


def _watching():
    return SignGuard([Probe("x", [], lambda: None, lambda: [0.0, 1.0], own=False)], every=100)


def test_pairs_that_turn_against_those_before_end_the_run_within_two_updates():
    assert _labelled(_watching(), [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.1, 0.1])[6:] == ["ok", "stop"]


@pytest.mark.parametrize(
    "shares", [[0.2] * 8, [0.5] * 8, [0.9] * 6 + [0.6] * 4, [0.9] * 6 + [0.2, 0.9, 0.3, 0.9]]
)
def test_pairs_that_were_never_ranked_rightly_or_only_wobble_are_no_turn(shares):
    assert set(_labelled(_watching(), shares)) == {"ok"}


def test_a_turn_is_seen_across_a_kill():
    first, second = _watching(), _watching()
    _labelled(first, [0.9] * 6 + [0.1])
    second.restore(json.loads(json.dumps(first.state())))
    assert _labelled(second, [0.1]) == ["stop"]


def test_scores_need_not_be_zero_or_one():
    rollouts = [a_rollout([1, 2], 1, 0.0) for _ in range(2)]
    graded = [replace(r, score=Score(v, True)) for r, v in zip(rollouts, (0.3, 0.7), strict=True)]
    assert gap(graded, [0.1, 0.2], lambda rollout: rollout.score.value) == pytest.approx(0.1)
