"""Learning from rollouts: right weights on the right tokens, and probabilities that agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_world import Letters, a_rollout, small_policy, small_tokenizer, small_trainer

from kweek.align.algorithms import dr_grpo, gspo, ppo, reinforce, reinforce_plus_plus, rloo
from kweek.align.critic import Critic
from kweek.align.learner import Learner
from kweek.align.lessons import Lesson, chosen, divisors, policy_segments
from kweek.align.reference import Reference
from kweek.align.sampling import Drawing, sample
from kweek.align.shaping import overlong_penalty, rewards
from kweek.data.batches import segment
from kweek.engine.engine import Engine
from kweek.errors import GuardError
from kweek.model.scorer import scorer_from
from kweek.protocols import Score

LIMIT = 32


def learner(policy=None, network=None, rate=1e-3, **options):
    return Learner(
        small_trainer(network or small_policy(), rate), policy or reinforce(), limit=LIMIT, **options
    )


def drawn(network, count=3, samples=4, values=None, drawing=None, key="k"):
    """Groups sampled from the network, with scores of our own where `values` gives them by attempt."""
    groups = sample(
        Engine(network), small_tokenizer(), Letters(), Letters().items("a", count, ""), samples=samples, key=key,
        drawing=drawing or Drawing(),
    )  # fmt: skip
    if values is None:
        return groups
    return [
        [replace(r, score=Score(v, True)) for r, v in zip(group, values, strict=True)] for group in groups
    ]


def state_of(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def same(before, trainer):
    return all(torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())


def test_only_sampled_tokens_carry_weight():
    rollout = a_rollout([1, 2, 3, 4, 5, 6], 2, 1.0, sampled=[False, False, True, True, False, True])
    part = policy_segments(
        [Lesson(rollout, chosen(rollout) * np.float32(0.5))], reinforce(), LIMIT, as_weights=True
    )[0]
    assert part.weights.tolist() == pytest.approx([0.0, 0.5 / 3, 0.5 / 3, 0.0, 0.5 / 3])
    assert part.streams["share"].tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 0.0, 1 / 3])


def test_divisors_count_what_was_sampled_over_the_whole_update():
    short, long = a_rollout(range(4), 2, 1.0), a_rollout(range(9), 3, 0.0)
    lessons = [Lesson(r, chosen(r)) for r in (short, long)]
    assert divisors(lessons, "tokens", LIMIT, 5) == [8, 8]
    assert divisors(lessons, "sequence", LIMIT, 5) == [5 * 2, 5 * 6], "answers without a signal count too"
    assert divisors(lessons, "constant", LIMIT, 5) == [5 * 32, 5 * 32]


def test_groups_without_a_signal_count_where_the_papers_count_them():
    """Dr. GRPO divides by the answers of the batch; half of them without a signal make the update half as large."""
    network = small_policy()
    told, none = drawn(network, 1, values=[1.0, 0.0, 0.0, 0.0]), drawn(network, 2)[1:]
    none = [[replace(r, score=Score(0.5, True)) for r in none[0]]]
    norms = []
    for groups in (told, [*told, *none]):
        one = learner(dr_grpo(), small_policy())
        norms.append(one.learn(groups, step=0, factor=1.0).steps[0].gradient_norm)
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-4)


@pytest.mark.parametrize("policy", [reinforce(), dr_grpo(), gspo()])
def test_engine_and_trainer_agree_on_what_was_sampled(policy):
    network = small_policy()
    learned = learner(policy, network).learn(drawn(network), step=0, factor=1.0)
    assert 0 <= learned.gap < 1e-4
    assert learned.ratios.largest < 1e-4 and learned.ratios.count > 0


def test_a_tempered_policy_agrees_with_its_engine_too():
    network, drawing = small_policy(), Drawing(temperature=0.5)
    groups = drawn(network, drawing=drawing)
    assert learner(reinforce(), network, drawing=drawing).learn(groups, step=0, factor=1.0).gap < 1e-4
    with pytest.raises(GuardError, match="disagree"):
        learner(reinforce(), small_policy()).learn(groups, step=0, factor=1.0)


def test_a_disagreement_of_engine_and_trainer_stops_training():
    network = small_policy()
    groups = drawn(network)
    with torch.no_grad():
        network.lm_head.weight.mul_(3.0)  # as if the engine had sampled from other weights
    with pytest.raises(GuardError, match="engine and trainer disagree"):
        learner(reinforce(), network).learn(groups, step=0, factor=1.0)
    assert learner(dr_grpo(), network).learn(groups, step=0, factor=1.0, current=False).gap is None


def test_an_optimiser_step_is_seen_by_an_engine_that_lives_on():
    """The fused optimiser writes weights without raising their version; the engine must not sample from old ones."""
    network = small_policy()
    engine, one = Engine(network), learner(reinforce(), network, rate=0.05)
    before = engine.score([[1, 2, 3, 4]])
    one.learn(drawn(network), step=0, factor=1.0)
    assert engine.score([[1, 2, 3, 4]]) != before
    assert engine.score([[1, 2, 3, 4]]) == Engine(network).score([[1, 2, 3, 4]])


def test_groups_of_equal_reward_change_nothing():
    network = small_policy()
    one = learner(reinforce(), network)
    before = state_of(one.trainer)
    learned = one.learn(drawn(network, values=[0.3] * 4), step=0, factor=1.0)
    assert learned.prepared.skipped == 3 and not learned.steps and learned.gap is None
    assert same(before, one.trainer)


@pytest.mark.parametrize(
    "policy", [reinforce(), dr_grpo(), gspo(clip=(0.2, 0.2)), reinforce(normaliser="sequence")]
)
def test_a_rewarded_answer_becomes_likelier(policy):
    network = small_policy()
    groups = drawn(network, 2, values=[0.0, 1.0, 0.0, 0.0])
    sequences = [r.token_ids for group in groups for r in group]
    before = np.array([sum(s) for s in Engine(network).score(sequences)])
    learner(policy, network).learn(groups, step=0, factor=1.0)
    change = (np.array([sum(s) for s in Engine(network).score(sequences)]) - before).reshape(2, 4)
    assert (change[:, 1] > change[:, [0, 2, 3]].max(1)).all()


def test_opposite_rewards_move_an_answer_in_opposite_directions():
    moves = []
    for values in ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]):
        network = small_policy()
        groups = drawn(network, 2, values=values)
        ids = [groups[0][0].token_ids]
        before = sum(Engine(network).score(ids)[0])
        learner(reinforce(), network).learn(groups, step=0, factor=1.0)
        moves.append(sum(Engine(network).score(ids)[0]) - before)
    assert moves[0] > 0 > moves[1]


def test_replayed_text_is_learnt_beside_the_policy():
    network = small_policy()
    text = segment([9, 8, 7, 6, 5], [0.0, 0.5, 0.5, 0.5, 0.5])
    before = sum(Engine(network).score([[9, 8, 7, 6, 5]])[0])
    learner(dr_grpo(), network).learn(drawn(network), step=0, factor=1.0, replay=[text])
    assert sum(Engine(network).score([[9, 8, 7, 6, 5]])[0]) > before + 0.05


def test_every_rollout_is_in_one_minibatch_of_every_epoch_and_ratios_move():
    network = small_policy()
    one = learner(dr_grpo(), network, rate=2e-2, epochs=2, minibatches=3)
    groups = drawn(network, 4)
    parts = list(one._parts(one.prepare(groups).lessons, step=5))
    assert len(parts) == 6
    every = {id(r) for group in groups for r in group}
    for epoch in (parts[:3], parts[3:]):
        assert sorted(id(lesson.rollout) for part in epoch for lesson in part) == sorted(every)
    assert [id(x.rollout) for x in parts[0]] != [id(x.rollout) for x in parts[3]]
    learned = one.learn(groups, step=5, factor=1.0)
    assert len(learned.steps) == 6 and learned.gap < 1e-4
    assert learned.ratios.lowest < 0.99 and learned.ratios.highest > 1.01
    assert 0 < learned.ratios.clip_share < 1


def test_overlong_answers_are_masked_out_of_gradient_and_baseline():
    network = small_policy()
    groups = drawn(network, 1, values=[1.0, 0.0, 0.0, 1.0])
    groups = [[replace(r, stop_reason="length" if i == 3 else "stop") for i, r in enumerate(groups[0])]]
    found = learner(reinforce(overlong="mask"), network).prepare(groups)
    assert found.masked == 1 and len(found.lessons) == 3
    assert [
        float(lesson.advantages.max() + lesson.advantages.min()) for lesson in found.lessons
    ] == pytest.approx([2 / 3, -1 / 3, -1 / 3])


def test_the_penalty_on_length_is_a_ramp_before_the_limit():
    def penalty(new):
        return overlong_penalty(a_rollout(range(2 + new), 2, 1.0), 16, 4)

    assert [penalty(n) for n in (5, 12, 13, 14, 16)] == [0.0, 0.0, 0.25, 0.5, 1.0]
    policy = reinforce(overlong="penalise", overlong_tokens=4)
    assert rewards([a_rollout(range(16), 2, 1.0)], policy, 16, 0.0, None)[0].total == 0.5


def test_the_divergence_is_charged_where_the_policy_says():
    network, other = small_policy(), small_policy(seed=5)
    groups = drawn(network)
    one = learner(rloo(kl_weight=0.1), network, reference=Reference(other))
    found = one.prepare(groups)
    engine = Engine(other)
    for group, earned in zip(groups, found.rewards, strict=True):
        for rollout, total in zip(group, earned, strict=True):
            theirs = np.asarray(engine.score([rollout.token_ids])[0])
            own = np.asarray(rollout.sampled)
            gap = (np.asarray(rollout.logprobs) - theirs)[own].sum()
            assert total == pytest.approx(rollout.score.value - 0.1 * gap, abs=1e-4)
    assert found.kl > 0.1, "two random networks differ"
    itself = learner(rloo(), network, reference=Reference(network)).prepare(groups)
    assert itself.kl == pytest.approx(0.0, abs=1e-4)


def test_with_a_divergence_in_the_loss_groups_of_equal_reward_still_pull_back():
    network = small_policy()
    groups = drawn(network, values=[0.5] * 4)
    one = learner(dr_grpo(kl="loss", kl_weight=1.0), network, 3e-3, reference=Reference(small_policy(seed=5)))
    found = [one.learn(groups, step=step, factor=1.0, current=False) for step in range(15)]
    assert all(learned.prepared.skipped == 0 and len(learned.steps) == 1 for learned in found)
    divergences = [learned.steps[0].parts["kl"] for learned in found]
    assert divergences[-1] < 0.7 * divergences[0]


def test_whitened_rewards_need_no_groups():
    network = small_policy()
    policy = reinforce_plus_plus(kl="none", kl_weight=0.0)
    groups = [[group[0]] for group in drawn(network, 4)]
    groups = [
        [replace(g[0], score=Score(v, True))] for g, v in zip(groups, (1.0, 0.0, 0.0, 1.0), strict=True)
    ]
    found = learner(policy, network).prepare(groups)
    signs = [float(np.sign(lesson.advantages.sum())) for lesson in found.lessons]
    assert signs == [1.0, -1.0, -1.0, 1.0] and found.skipped == 0


def test_a_whitened_token_pays_for_itself_and_those_after_it():
    network, reference = small_policy(), Reference(small_policy(seed=5))
    one = learner(reinforce_plus_plus(kl_weight=0.2), network, reference=reference)
    groups = drawn(network)
    found = one.prepare(groups)
    rollouts = [rollout for group in groups for rollout in group]
    raw = []
    for rollout, theirs in zip(rollouts, reference.logprobs(rollouts), strict=True):
        gaps = (np.asarray(rollout.logprobs) - theirs)[np.asarray(rollout.sampled)]
        raw.append([rollout.score.value - 0.2 * gaps[i:].sum() for i in range(len(gaps))])
    together = np.concatenate(raw)
    for lesson, expected in zip(found.lessons, raw, strict=True):
        own = np.asarray(lesson.rollout.sampled)
        white = (np.asarray(expected) - together.mean()) / (together.std() + 1e-4)
        assert lesson.advantages[own] == pytest.approx(white, abs=1e-4)
        assert not lesson.advantages[~own].any()


def test_a_critic_learns_what_is_still_to_be_earned():
    network = small_policy()
    critic = Critic(small_trainer(scorer_from(network, per_token=True), 2e-2))
    one = learner(ppo(kl="none", kl_weight=0.0), network, rate=1e-9, critic=critic)
    groups = drawn(network, 4, values=[1.0, 1.0, 0.0, 0.0])
    rollouts = [r for group in groups for r in group]
    assert not any(values.any() for values in critic.values(rollouts)), "at first it expects nothing"
    errors = [one.learn(groups, step=i, factor=1.0).value_errors[0] for i in range(40)]
    assert errors[0] == pytest.approx(0.5, abs=0.05) and errors[-1] < 0.05
    for rollout, values in zip(rollouts, critic.values(rollouts), strict=True):
        assert len(values) == rollout.num_sampled
        assert values[-1] == pytest.approx(rollout.score.value, abs=0.3)


def test_advantages_of_a_critic_are_on_tokens_and_whitened():
    network = small_policy()
    critic = Critic(small_trainer(scorer_from(network, per_token=True)))
    with torch.no_grad():
        critic.trainer.network.score.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    one = learner(ppo(), network, critic=critic, reference=Reference(small_policy(seed=5)))
    lessons = one.prepare(drawn(network)).lessons
    together = np.concatenate([x.advantages[np.asarray(x.rollout.sampled)] for x in lessons])
    assert together.mean() == pytest.approx(0, abs=1e-5) and together.std() == pytest.approx(1, abs=1e-2)
    assert len(set(np.round(lessons[0].advantages, 6))) > 3
    assert not any(x.advantages[~np.asarray(x.rollout.sampled)].any() for x in lessons)
