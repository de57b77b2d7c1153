"""Expert iteration: sample, keep what is right, learn it as if it had been demonstrated, and again.

Rejection-sampled fine-tuning (Zelikman et al. 2022, arXiv 2203.14465, "STaR"; Yuan et al. 2023, arXiv 2308.01825): the
policy gradient with rewards 0 and 1 and no baseline, several updates late; nothing is ever pushed down. Easy items
would give the most answers, so at most some different ones of each item are kept. Biased twice: after the first update
the answers are no longer the policy's own, and an answer counts the same however often it was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from kweek.align.lessons import chosen
from kweek.align.rollout import Group, Rollout
from kweek.data.batches import Segment, segment


def select(groups: Sequence[Group], most: int = 2, right: float = 1.0) -> list[Rollout]:
    """Right answers, at most `most` different ones of each item, in the order in which they were sampled.

    Args:
        most: 2, as in the measured trial: a few ways to say it, and hard items still count.
        right: the score from which an answer counts as right.
    """
    kept: list[Rollout] = []
    for group in groups:
        different = {
            tuple(rollout.token_ids): rollout
            for rollout in reversed(group)
            if rollout.score.error is None and rollout.score.value >= right and rollout.stop_reason == "stop"
        }
        kept += list(reversed(different.values()))[:most]
    return kept


def demonstrations(rollouts: Sequence[Rollout]) -> list[Segment]:
    """Supervised segments with weight 1 on every token that the model chose; `ChatBatches` takes them."""
    return [segment(rollout.token_ids, chosen(rollout)) for rollout in rollouts]
