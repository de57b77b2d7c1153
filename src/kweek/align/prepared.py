"""From judged rollouts to lessons: rewards, baselines, advantages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kweek.align import advantages as advantage
from kweek.align.critic import Critic
from kweek.align.lessons import Lesson, chosen, spread
from kweek.align.policy import Policy
from kweek.align.reference import Reference, divergence
from kweek.align.rollout import Group, Rollout
from kweek.align.shaping import Reward, paid, rewards

_GROUPED: Mapping[str, Callable[[Sequence[float]], list[float]]] = {
    "group_mean": advantage.group_mean,
    "group_scaled": advantage.group_scaled,
    "leave_one_out": advantage.leave_one_out,
}


@dataclass(frozen=True)
class Prepared:
    """Rollouts on their way to an update.

    Attributes:
        lessons: those with a signal.
        rewards: after all shaping, parallel to the groups.
        num_answers: those with a signal and those without, but for the masked.
        skipped: groups without a signal.
        masked: answers left out for their length.
        kl: to the reference, nats per answer; None without one.
        flop: of reference and critic.
    """

    lessons: list[Lesson]
    rewards: list[list[float]]
    num_answers: int = 0
    skipped: int = 0
    masked: int = 0
    kl: float | None = None
    flop: float = 0.0


def prepare(
    groups: Sequence[Group],
    policy: Policy,
    limit: int,
    kl_weight: float,
    reference: Reference | None = None,
    critic: Critic | None = None,
) -> Prepared:
    """Lessons of some groups.

    Args:
        limit: the most tokens that an episode may take.
        kl_weight: present weight of the divergence.
    """
    rollouts = [rollout for group in groups for rollout in group]
    if not rollouts:
        return Prepared([], [[] for _ in groups])
    references, kl, flop = None, None, 0.0
    if reference is not None:
        references = reference.logprobs(rollouts)
        flop += reference.num_flops(rollouts)
        pairs = zip(rollouts, references, strict=True)
        kl = float(np.mean([divergence(rollout, known).sum() for rollout, known in pairs]))
    earned = rewards(rollouts, policy, limit, kl_weight, references)
    rest = iter(earned)
    by_group = [[next(rest) for _ in group] for group in groups]
    if critic is not None:
        lessons = _valued(rollouts, earned, policy, critic)
        flop += critic.num_flops(rollouts)
    elif policy.advantage == "whitened":
        lessons = _whitened(rollouts, earned)
    else:
        lessons = _compared(groups, by_group, policy)
    if references is not None:
        known = {id(rollout): values for rollout, values in zip(rollouts, references, strict=True)}
        lessons = [replace(lesson, reference=known[id(lesson.rollout)]) for lesson in lessons]
    taught = {id(lesson.rollout) for lesson in lessons}
    return Prepared(
        lessons,
        [[reward.total for reward in group] for group in by_group],
        sum(not reward.masked for reward in earned),
        sum(not any(id(rollout) in taught for rollout in group) for group in groups),
        sum(reward.masked for reward in earned),
        kl,
        flop,
    )


def _compared(groups: Sequence[Group], earned: Sequence[Sequence[Reward]], policy: Policy) -> list[Lesson]:
    """Lessons whose answers carry one advantage each."""
    kept = [
        [(rollout, reward.total) for rollout, reward in zip(group, found, strict=True) if not reward.masked]
        for group, found in zip(groups, earned, strict=True)
    ]
    lessons = []
    for group in kept:
        found = _GROUPED[policy.advantage]([total for _, total in group]) if group else []
        if any(found) or policy.kl == "loss":  # the divergence pulls on every answer
            lessons += [_lesson(rollout, value) for (rollout, _), value in zip(group, found, strict=True)]
    return lessons


def _whitened(rollouts: Sequence[Rollout], earned: Sequence[Reward]) -> list[Lesson]:
    """Lessons whose tokens carry what is still to be earned from them on, beside all other tokens of the batch."""
    rest = [(rollout, reward) for rollout, reward in zip(rollouts, earned, strict=True) if not reward.masked]
    to_come = [paid(rollout, reward)[::-1].cumsum()[::-1] for rollout, reward in rest]
    return [
        Lesson(rollout, spread(rollout, white))
        for (rollout, _), white in zip(rest, advantage.whitened(to_come), strict=True)
    ]


def _valued(
    rollouts: Sequence[Rollout], earned: Sequence[Reward], policy: Policy, critic: Critic
) -> list[Lesson]:
    """Lessons whose tokens carry advantages of their own, from a critic."""
    rest = [(rollout, reward) for rollout, reward in zip(rollouts, earned, strict=True) if not reward.masked]
    values = critic.values([rollout for rollout, _ in rest])
    gains, returns = [], []
    for (rollout, reward), expected in zip(rest, values, strict=True):
        gained, returned = advantage.generalised(paid(rollout, reward), expected, policy.gamma, policy.decay)
        gains.append(gained)
        returns.append(returned)
    return [
        Lesson(rollout, spread(rollout, white), returns=spread(rollout, returned))
        for (rollout, _), white, returned in zip(rest, advantage.whitened(gains), returns, strict=True)
    ]


def _lesson(rollout: Rollout, value: float) -> Lesson:
    return Lesson(rollout, chosen(rollout) * np.float32(value))
