"""Lessons: rollouts with what an algorithm makes of them, and the segments that a trainer reads.

Everything per token is parallel to the rollout's tokens, float32, and 0 where the model did not choose the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kweek.align.policy import Normaliser, Policy
from kweek.align.rollout import Rollout
from kweek.data.batches import Segment, segment

PerToken = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lesson:
    """One rollout to learn from.

    Attributes:
        rollout: what was sampled.
        advantages: of every token.
        reference: log-probabilities under the reference model, nats, where one is asked.
        returns: what the critic should expect before every token, where there is one.
    """

    rollout: Rollout
    advantages: PerToken
    reference: PerToken | None = None
    returns: PerToken | None = None


def chosen(rollout: Rollout) -> PerToken:
    """1.0 where the model chose the token."""
    return np.asarray(rollout.sampled, np.float32)


def spread(rollout: Rollout, values: npt.NDArray[np.float64]) -> PerToken:
    """Values of the chosen tokens, one each, put at their places among all tokens."""
    everywhere = np.zeros(len(rollout.token_ids), np.float32)
    everywhere[np.asarray(rollout.sampled, np.bool_)] = values
    return everywhere


def full_logprobs(rollout: Rollout) -> PerToken:
    """Log-probability of every chosen token under the whole (tempered) softmax: what training differentiates."""
    drawn = np.asarray(rollout.logprobs, np.float64)
    return np.asarray(drawn + np.log(rollout.kept_mass) if rollout.kept_mass else drawn, np.float32)


def divisors(
    lessons: Sequence[Lesson], normaliser: Normaliser, limit: int, num_answers: float
) -> list[np.float32]:
    """What the terms of each lesson are divided by: a count over the whole update, see `Policy.normaliser`.

    Args:
        limit: the most tokens that an episode may take.
        num_answers: answers of the update, those without a signal among them.
    """
    lengths = [lesson.rollout.num_sampled for lesson in lessons]
    if normaliser == "tokens":
        return [np.float32(max(1, sum(lengths)))] * len(lessons)
    if normaliser == "constant":
        return [np.float32(num_answers * limit)] * len(lessons)
    return [np.float32(num_answers * max(1, length)) for length in lengths]


def policy_segments(
    lessons: Sequence[Lesson],
    policy: Policy,
    limit: int,
    *,
    as_weights: bool,
    num_answers: float | None = None,
) -> list[Segment]:
    """The segments of one update on all these lessons.

    Args:
        limit: the most tokens that an episode may take.
        as_weights: the weights are the whole objective (`weights_suffice`); else they are 0 and the streams are.
        num_answers: see `divisors`; by default the lessons are all there is.
    """
    counts = divisors(lessons, policy.normaliser, limit, num_answers or len(lessons))
    segments = []
    for lesson, divisor in zip(lessons, counts, strict=True):
        rollout = lesson.rollout
        share = chosen(rollout) / divisor
        weights = lesson.advantages / divisor
        if rollout.kept_mass:  # p / q of each token
            kept = np.asarray(rollout.kept_mass, np.float32)
            share, weights = share * kept, weights * kept
        streams = {"share": share, "advantage": lesson.advantages, "old": full_logprobs(rollout)}
        if lesson.reference is not None:
            streams["reference"] = lesson.reference
        segments.append(
            segment(rollout.token_ids, weights if as_weights else np.zeros_like(weights), streams)
        )
    return segments
