"""How far a policy has gone from where it began, nats per answer on answers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kweek.align.reference import Reference, divergence
from kweek.align.rollout import Rollout
from kweek.model.network import Network
from kweek.stats.intervals import mean_interval


class Moved(NamedTuple):
    """KL(policy || start) in nats per answer, estimated on `n` answers, with its 95% interval.

    It is the mean of log p - log p_start over sampled answers: unbiased, and so, for few of them, at times below 0.
    """

    kl: float
    lo: float
    hi: float
    n: int


class Distance:
    """Measures it for a stage that keeps no reference model of its own.

    Args:
        start: the network as the stage began with it. It must not be trained.
    """

    def __init__(self, start: Network) -> None:
        self._reference = Reference(start)

    def of(self, rollouts: Sequence[Rollout]) -> Moved:
        """Of rollouts that the policy sampled. Raises ValueError for fewer than two."""
        scored = self._reference.logprobs(rollouts)
        found = mean_interval(
            [
                float(divergence(rollout, known).sum(dtype=float))
                for rollout, known in zip(rollouts, scored, strict=True)
            ]
        )
        return Moved(*found, len(rollouts))

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What measuring costs."""
        return self._reference.num_flops(rollouts)
