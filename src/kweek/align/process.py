"""Process reward model: which step of a chain of reasoning is the first wrong one (Lightman et al. 2023,
arXiv 2305.20050; Uesato et al. 2022, arXiv 2211.14275).

A scorer per token gives one logit at the end of every step: that this step is right, given that all before it are.
The loss is the cross-entropy of that logistic, over the steps up to and including the first wrong one:

    L = -sum_k log sigmoid(l_k) - log sigmoid(-l_first)

One logit rather than two: a softmax over "right" and "wrong" has the same distributions with a redundant direction,
and one number per step is at once what a search or a policy gradient takes as reward. Steps after the first wrong
one carry no loss, since nobody can say whether they are right. Then the probability that step k is the first wrong
one follows from the chain rule, p_1 ... p_(k-1) (1 - p_k), and that of a chain without one is the product of all;
the prediction is the likeliest of these, which needs no threshold.

Known bias. The share of faulty chains in training is the prior of the prediction: where chains are wrong less
often, it cries wolf. Labels that come from the success of continuations (Wang et al. 2023, arXiv 2312.08935)
instead of from inspection call a step wrong that the model recovers from. And a model trained on injected errors
knows those.

Legend: B rows, T positions, D width, N = B T, C ends of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.data.batches import Batch, Segment
from kweek.errors import DataError
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scores
from kweek.train.objective import Loss

#: Stream: 1 at the end of a right step, 0 elsewhere.
RIGHT = "right"


@dataclass(frozen=True)
class Chain:
    """A question with a solution in steps.

    Attributes:
        token_ids: question and steps.
        ends: place of the last token of every step, ascending.
        first_wrong: number of the first wrong step, from 0; None where all are right.
    """

    token_ids: Sequence[int]
    ends: Sequence[int]
    first_wrong: int | None = None


def chain_segments(chains: Sequence[Chain]) -> list[Segment]:
    """The chains of one update; the steps that count weigh one over their number in the update.

    Raises:
        DataError: a chain without steps, or whose steps or first wrong one lie outside it.
    """
    made = [_segment(chain, f"chains[{number}]") for number, chain in enumerate(chains)]
    total = np.float32(sum(float(part.weights.sum()) for part in made))
    return [replace(part, weights=part.weights / total) for part in made]


def _segment(chain: Chain, where: str) -> Segment:
    ends, wrong = list(chain.ends), chain.first_wrong
    if not ends or ends != sorted(set(ends)) or not 0 <= ends[0] <= ends[-1] < len(chain.token_ids):
        raise DataError(f"steps that end at {ends} of {len(chain.token_ids)} tokens", where=where)
    if wrong is not None and not 0 <= wrong < len(ends):
        raise DataError(f"step {wrong} of {len(ends)} is said to be wrong", where=where)
    counted = ends if wrong is None else ends[: wrong + 1]
    right = counted if wrong is None else counted[:-1]
    ids = np.asarray(chain.token_ids, np.int64)
    weights, labels = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)
    weights[counted], labels[right] = 1.0, 1.0
    return Segment(ids, np.zeros_like(ids), weights, {RIGHT: labels})


class StepCorrectness:
    """The objective of a scorer per token with one label: the weighted sum over the ends of steps.

    Parts, as means over the steps that count: `step_accuracy`, the share judged rightly at one half.
    """

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no labels of steps.
        """
        if RIGHT not in batch.streams:
            raise DataError("the batch holds no labelled steps", fix="make it with chain_segments")
        weights_N = batch.weights_BT.flatten()
        counted_C = weights_N.nonzero()[:, 0]
        logit_C = network.logits(hidden_BTD.flatten(0, 1)[counted_C])[:, 0]
        weights_C = weights_N[counted_C].to(logit_C.dtype)
        right_C = batch.streams[RIGHT].flatten()[counted_C].to(logit_C.dtype)
        loss_C = F.binary_cross_entropy_with_logits(logit_C, right_C, reduction="none")
        agreed_C = ((logit_C.detach() > 0) == (right_C > 0)).to(logit_C.dtype)
        return Loss(weights_C @ loss_C, None, {"step_accuracy": float(weights_C @ agreed_C)})


def step_probabilities(scorer: Scorer, chains: Sequence[Chain]) -> list[list[float]]:
    """Of every step of every chain, the probability that it is right, given that those before it are."""
    found = scores(scorer, [chain.token_ids for chain in chains])
    return [
        torch.sigmoid(logits_TL[list(chain.ends), 0]).tolist()
        for chain, logits_TL in zip(chains, found, strict=True)
    ]


def first_wrong(probabilities: Sequence[float]) -> int | None:
    """The likeliest first wrong step, from 0, or None where a chain without one is likelier.

    >>> first_wrong([0.9, 0.2, 0.9])
    1
    >>> first_wrong([0.9, 0.8]) is None
    True
    """
    best, likeliest, so_far = None, math.prod(probabilities), 1.0
    for number, right in enumerate(probabilities):
        if so_far * (1 - right) > likeliest:
            best, likeliest = number, so_far * (1 - right)
        so_far *= right
    return best
