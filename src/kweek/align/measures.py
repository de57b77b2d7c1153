"""What an update saw of the policy: ratios, clipping, agreement with the engine that sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kweek.align.lessons import full_logprobs
from kweek.align.policy import Policy
from kweek.align.rollout import Rollout
from kweek.align.surrogate import mean_by_sequence
from kweek.data.batches import Batch
from kweek.errors import GuardError
from kweek.model.network import Network

MAX_LOG = 700.0  # a float's exponential overflows above 709
MAX_LOGPROB_GAP = 1e-2  # nats; engine and trainer both compute in fp32 and agree to about 1e-5


@dataclass(frozen=True)
class Ratios:
    """Importance ratios of the chosen tokens of some updates, as logarithms, nats.

    Attributes:
        low, high: the extremes.
        clipped: chosen tokens whose gradient the clipping took away.
        count: chosen tokens.
    """

    low: float = 0.0
    high: float = 0.0
    clipped: int = 0
    count: int = 0

    def __add__(self, other: Ratios) -> Ratios:
        return Ratios(
            min(self.low, other.low),
            max(self.high, other.high),
            self.clipped + other.clipped,
            self.count + other.count,
        )

    @property
    def clip_share(self) -> float:
        """Share of the chosen tokens that were clipped."""
        return self.clipped / self.count if self.count else 0.0

    @property
    def lowest(self) -> float:
        """The smallest ratio."""
        return _exp(self.low)

    @property
    def highest(self) -> float:
        """The largest ratio."""
        return _exp(self.high)

    @property
    def largest(self) -> float:
        """The largest absolute logarithm; infinite where a ratio is no number."""
        worst = max(-self.low, self.high)
        return worst if worst == worst else float("inf")


def _exp(log: float) -> float:
    """e to the power, as large as a float can be."""
    return math.exp(min(log, MAX_LOG))


def ratios(batches: Sequence[Batch], nll: Sequence[Tensor], policy: Policy) -> Ratios:
    """What an update saw, before it changed the weights."""
    found = Ratios()
    for batch, nll_N in zip(batches, nll, strict=True):
        chosen_N = _chosen(batch)
        if not chosen_N.any():
            continue
        log_N = (-nll_N - batch.streams["old"].flatten()) * chosen_N
        if policy.ratio == "sequence":
            log_N = mean_by_sequence(log_N, chosen_N, batch)
        clipped = 0
        if policy.clip is not None:
            advantage_N, ratio_N = batch.streams["advantage"].flatten(), log_N.exp()
            above_N = (advantage_N > 0) & (ratio_N > 1 + policy.clip[1])
            below_N = (advantage_N < 0) & (ratio_N < 1 - policy.clip[0])
            clipped = int(((above_N | below_N) & chosen_N).sum())
        seen = log_N[chosen_N]
        found += Ratios(float(seen.min()), float(seen.max()), clipped, len(seen))
    return found


def logprob_gap(batches: Sequence[Batch], nll: Sequence[Tensor]) -> float:
    """Largest difference, nats, between what the engine and the trainer say of a token that was sampled.

    It is meant for rollouts of the very weights that the trainer holds.
    """
    worst = 0.0
    for batch, nll_N in zip(batches, nll, strict=True):
        chosen_N = _chosen(batch)
        if chosen_N.any():
            gap = (nll_N + batch.streams["old"].flatten()).abs()[chosen_N].max()
            worst = max(worst, float(torch.nan_to_num(gap, nan=torch.inf)))
    return worst


@torch.no_grad()
def network_gap(network: Network, rollouts: Sequence[Rollout], temperature: float) -> float:
    """The same for a network that sampled and is not about to be trained: its own forward pass on a few rollouts."""
    worst = 0.0
    for rollout in rollouts:
        ids_BT = torch.as_tensor(rollout.token_ids)[None]
        logits_TV = network.logits(network(ids_BT))[0, :-1].float() / temperature
        said_T = logits_TV.log_softmax(-1).gather(-1, ids_BT[0, 1:, None])[:, 0]
        own_T = torch.as_tensor(rollout.sampled[1:])
        gap_T = (said_T - torch.from_numpy(full_logprobs(rollout)[1:])).abs()[own_T]
        worst = max(worst, float(torch.nan_to_num(gap_T, nan=torch.inf).max()))
    return worst


def _chosen(batch: Batch) -> Tensor:
    """(N,) which tokens the model chose; none in a batch of supervised text alone."""
    share_BT = batch.streams.get("share")
    return torch.zeros(batch.ids_BT.numel(), dtype=torch.bool) if share_BT is None else share_BT.flatten() > 0


def require_agreement(gap: float) -> None:
    """Raises GuardError where engine and trainer are of different minds about what was sampled."""
    if not gap <= MAX_LOGPROB_GAP:
        raise GuardError(
            f"engine and trainer disagree by {gap:.3g} nats on a sampled token, over {MAX_LOGPROB_GAP}",
            fix="sample and train in the same precision and from the same distribution",
        )
