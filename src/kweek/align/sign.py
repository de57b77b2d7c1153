"""The check of the sign: the whole path from reward to gradient must prefer better answers, before the first update.

In 2019 a change turned the sign of reward and divergence at once, and the model was trained overnight to be as bad as
it could, in fluent language (Ziegler et al. 2019, arXiv 1909.08593, section 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kweek.align.learner import Learner
from kweek.align.lessons import chosen
from kweek.align.rollout import Rollout
from kweek.align.sft import ROW_LENGTH
from kweek.data.batches import collate, pack, segment
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.train.objective import Likelihood

PROBE_STEP = 1e-2  # length of the probing step: far below one training update, far above rounding


@dataclass(frozen=True)
class SignCheck:
    """Mean log-probability margin of right over wrong answers, in nats, before and after the probing step."""

    num_pairs: int
    margin_before: float
    margin_after: float


def check_sign(learner: Learner, pairs: Sequence[tuple[Rollout, Rollout]]) -> SignCheck:
    """Make sure that better answers are rewarded more, and that an update makes them likelier than worse ones.

    The pairs pass the very rewards, penalties, advantages, weights and loss that training uses; then a tiny step
    against the gradient must raise the log-probability of better answers relative to worse ones. The weights are put
    back afterwards.

    Args:
        pairs: (better, worse) answers to one item each, see `kweek.align.sampling.given`.

    Raises:
        GuardError: a worse answer is rewarded at least as much as a better one, or the step prefers worse answers.
    """
    prepared = learner.prepare(pairs)
    ranked = sum(better > worse for better, worse in prepared.rewards)
    if ranked < len(pairs):
        raise GuardError(
            f"the reward ranks only {ranked} of {len(pairs)} right answers above wrong ones",
            fix="look at the reward's sign and shaping: training would teach wrong answers",
        )
    network = learner.trainer.network
    before = _margin(network, pairs)
    for batch in learner.batches(prepared.lessons):
        learner.trainer.loss(batch).value.backward()  # type: ignore[no-untyped-call]
    moved = [(p, p.detach().clone(), p.grad) for p in network.parameters() if p.grad is not None]
    norm = float(torch.sqrt(sum(((g**2).sum() for _, _, g in moved), torch.zeros(()))))
    with torch.no_grad():
        for p, _, gradient in moved:
            p.sub_(gradient, alpha=PROBE_STEP / max(norm, 1e-12))
        after = _margin(network, pairs)
        for p, old, _ in moved:
            p.copy_(old)
            p.grad = None
    if not after > before:
        raise GuardError(
            f"an update would make right answers less likely than wrong ones (margin {before:.4f} to {after:.4f} nats)",
            fix="look at the sign of reward, weights and loss together",
        )
    return SignCheck(len(pairs), before, after)


@torch.no_grad()
def _margin(network: Network, pairs: Sequence[tuple[Rollout, Rollout]]) -> float:
    """Mean log-probability of better answers minus that of worse ones, over their sampled tokens."""
    segments = [
        segment(rollout.token_ids, chosen(rollout) * (sign / len(pairs)))
        for pair in pairs
        for rollout, sign in zip(pair, (1.0, -1.0), strict=True)
    ]
    batch = collate(pack(segments, ROW_LENGTH))
    hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
    return -float(Likelihood()(network, hidden_BTD, batch).value)
