"""The two sides of every pair in a batch, as objectives over pairs compare them.

Legend: B rows, T positions, D width, S segments, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kweek.align.sequences import answers
from kweek.data.batches import Batch
from kweek.errors import DataError
from kweek.model.network import Network


@dataclass(frozen=True)
class Sides:
    """Which segments of a batch are the two sides of a pair.

    Attributes:
        chosen_P, rejected_P: numbers of segments, in the order of the pairs.
        share_P: weight of each pair over the sum of the update.
        margin_P: the label of that name.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    share_P: Tensor
    margin_P: Tensor


def sides(batch: Batch) -> Sides:
    """The pairs of a batch; segments without the labels of a pair are passed over.

    Raises:
        DataError: a pair of which one side is missing, which then is in another micro-batch, or twice.
    """
    if "sign" not in batch.labels:
        raise DataError("the batch holds no pairs", fix="make it with pair_segments and micro_batches")
    sign_S, pair_S = batch.labels["sign"], batch.labels["pair"]

    def side(sign: int) -> Tensor:
        numbers = (sign_S == sign).nonzero()[:, 0]
        return numbers[pair_S[numbers].argsort()]

    chosen_P, rejected_P = side(1), side(-1)
    ours, theirs = pair_S[chosen_P], pair_S[rejected_P]
    if not torch.equal(ours, theirs) or len(set(ours.tolist())) < len(ours):
        raise DataError(
            f"a batch has {len(ours)} chosen and {len(theirs)} rejected answers that are no pairs",
            fix="keep both answers of a pair in one micro-batch, each once",
        )
    return Sides(chosen_P, rejected_P, batch.labels["share"][chosen_P], batch.labels["margin"][chosen_P])


@dataclass(frozen=True)
class Compared:
    """Both sides of P pairs: log-probabilities with their graph, references or None, numbers of counted tokens."""

    pairs: Sides
    chosen_P: Tensor
    rejected_P: Tensor
    chosen_reference_P: Tensor | None
    rejected_reference_P: Tensor | None
    chosen_length_P: Tensor
    rejected_length_P: Tensor
    flop: float

    @property
    def chosen_gain_P(self) -> Tensor:
        """log pi - log pi_ref of the chosen answers.

        Raises:
            DataError: nobody asked the reference model.
        """
        return self.chosen_P - _known(self.chosen_reference_P)

    @property
    def rejected_gain_P(self) -> Tensor:
        """The same of the rejected ones."""
        return self.rejected_P - _known(self.rejected_reference_P)

    def mean(self, values_P: Tensor) -> Tensor:
        """This batch's share of the mean over the update."""
        return (self.pairs.share_P.to(values_P.dtype) * values_P).sum()

    def parts(self, margin_P: Tensor) -> Mapping[str, float]:
        """Means over the pairs of an update, which add up over its micro-batches.

        `margin`, of the implied rewards; `ranked`, the share of pairs in which it is above 0 (a tie counts half);
        `chosen_logprob`, `rejected_logprob` in nats per answer; `chosen_length`, `rejected_length` in counted tokens;
        and with a reference `chosen_gain`, `rejected_gain`, what the answers gained on it in nats per answer.
        """
        named = {
            "margin": margin_P,
            "ranked": (margin_P.sign() + 1) / 2,
            "chosen_logprob": self.chosen_P,
            "rejected_logprob": self.rejected_P,
            "chosen_length": self.chosen_length_P,
            "rejected_length": self.rejected_length_P,
        }
        if self.chosen_reference_P is not None:
            named |= {"chosen_gain": self.chosen_gain_P, "rejected_gain": self.rejected_gain_P}
        return {name: float(self.mean(values_P.detach())) for name, values_P in named.items()}


def compared(network: Network, hidden_BTD: Tensor, batch: Batch) -> Compared:
    """Score both sides of every pair of a batch."""
    pairs, found = sides(batch), answers(network, hidden_BTD, batch)
    reference_S = found.reference_S
    return Compared(
        pairs,
        found.logprob_S[pairs.chosen_P],
        found.logprob_S[pairs.rejected_P],
        None if reference_S is None else reference_S[pairs.chosen_P],
        None if reference_S is None else reference_S[pairs.rejected_P],
        found.length_S[pairs.chosen_P],
        found.length_S[pairs.rejected_P],
        found.flop,
    )


def _known(reference_P: Tensor | None) -> Tensor:
    if reference_P is None:
        raise DataError(
            "this objective compares with a reference model, whose log-probabilities are missing",
            fix="call with_reference on the pairs first",
        )
    return reference_P
