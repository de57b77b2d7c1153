"""The path from a judgement to the update of a policy, walked by known pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from kweek.align.guards.direction import Probe
from kweek.align.guards.known import Known, log_margins
from kweek.align.guards.sign import EVERY, SignGuard
from kweek.align.learner import Learner
from kweek.align.lessons import chosen
from kweek.align.rollout import Group, Rollout
from kweek.align.surrogate import Surrogate
from kweek.protocols import LanguageModel

FURTHER = 0.5  # nats per token by which an answer is put further from the reference, to see what that costs


def policy_sign(
    learner: Learner,
    model: LanguageModel,
    pairs: Callable[[], Sequence[Known]],
    *,
    exact: bool = True,
    gold: Callable[[Rollout], float] | None = None,
    every: int = EVERY,
) -> SignGuard:
    """The guard of the sign for a run of reinforcement: rewards, divergence, update, and the critic's where one is.

    Known pairs are ranked and taught without the divergence, since what a policy has learnt is charged for, and at
    the optimum as much as it earns; that the divergence itself pulls back is looked at apart.

    Args:
        learner: that of the run.
        model: over the network that is trained.
        pairs: known pairs, judged and scored anew at every call (`known_pairs`).
        exact, gold, every: see `SignGuard`.
    """
    judged: list[
        Known
    ] = []  # of the present look, which begins with the ranking and leaves the weights alone

    def ranking() -> list[tuple[float, float]]:
        judged[:] = pairs()
        with _without_divergence(learner):
            return [(better, worse) for better, worse in learner.prepare(judged).rewards]

    def update() -> None:
        with _without_divergence(learner):
            learner.learn(judged, step=0, factor=1.0, current=False)

    name = "an update on known pairs"
    trainers = [learner.trainer, *([learner.critic.trainer] if learner.critic else [])]
    probes = [Probe(name, trainers, update, lambda: log_margins(model, judged))]
    if learner.critic is not None:
        wording = f"{name}, by the critic's errors,"
        probes.append(Probe(wording, trainers, update, lambda: _fit(learner, judged), "critic"))
    return SignGuard(
        probes,
        ranking=ranking,
        exact=exact,
        other=lambda: unanchored(learner, judged),
        gold=gold,
        shaped=learner.policy.kl != "reward",
        every=every,
    )


def unanchored(learner: Learner, pairs: Sequence[Known]) -> str:
    """What is wrong with a divergence that does not charge for distance from the reference; empty where nothing is."""
    if learner.control.weight == 0 or learner.policy.kl == "none":
        return ""
    if learner.policy.kl == "reward":
        near, far = (
            _total(learner, [[_moved(r, d) for r in pair] for pair in pairs]) for d in (0.0, FURTHER)
        )
        wrong = not far < near
    else:
        near, far = (_lost(learner, pairs, d) for d in (0.0, FURTHER))
        wrong = not far > near
    if not wrong:
        return ""
    return f"answers further from the reference cost no more (the divergence weighs {learner.control.weight:.3g})"


def _total(learner: Learner, groups: Sequence[Group]) -> float:
    return sum(reward for group in learner.prepare(groups).rewards for reward in group)


def _moved(rollout: Rollout, distance: float) -> Rollout:
    """The rollout, said to have been likelier by some nats per token."""
    return replace(
        rollout,
        logprobs=[lp + distance * own for lp, own in zip(rollout.logprobs, rollout.sampled, strict=True)],
    )


def _lost(learner: Learner, pairs: Sequence[Known], distance: float) -> float:
    """The policy's loss on known pairs whose reference is the policy itself, moved down by some nats per token."""
    objective = learner.trainer.objective
    if isinstance(objective, Surrogate):
        objective.kl_weight = learner.control.weight
    lessons = [
        replace(
            lesson,
            reference=np.asarray(lesson.rollout.logprobs, np.float32)
            - np.float32(distance) * chosen(lesson.rollout),
        )
        for lesson in learner.prepare(pairs).lessons
    ]
    return sum(float(learner.trainer.loss(batch).value.detach()) for batch in learner.batches(lessons))


def _fit(learner: Learner, pairs: Sequence[Known]) -> list[float]:
    """Less the squared error of the critic's last expectation, over both answers of each pair."""
    assert learner.critic is not None
    rollouts = [rollout for pair in pairs for rollout in pair]
    values = learner.critic.values(rollouts)
    errors = [(float(found[-1]) - r.score.value) ** 2 for found, r in zip(values, rollouts, strict=True)]
    return [-better - worse for better, worse in zip(errors[::2], errors[1::2], strict=True)]


@contextmanager
def _without_divergence(learner: Learner) -> Iterator[None]:
    """The weight of the divergence put to 0, and back to what it was."""
    weight, learner.control.weight = learner.control.weight, 0.0
    try:
        yield
    finally:
        learner.control.weight = weight
