"""Weak-to-strong: a weaker supervisor's answers train a stronger student (Burns et al. 2023, arXiv 2312.09390).

The question is that of people who will supervise models more able than they are: does the student repeat the
supervisor's mistakes, or do what the supervisor meant? Three ways to train on answers that are often wrong:

- naive: on all of them;
- filtered: on those that the supervisor is surest of (`surest`), or that its own samples agree on (`agreed`);
- with the auxiliary confidence loss (the paper's section 4.3.2 and appendix A.4), which lets the student disagree where
  it is sure itself: (1 - a) CE(f, weak label) + a CE(f, f's own hardened prediction), a rising over the first fifth.

The paper hardens a binary prediction at a threshold that keeps the classes balanced. An answer here is a sequence of
tokens: the hardened prediction is the student's own likeliest next token at every place of the supervisor's answer,
given what the supervisor wrote before it, and no gradient passes through the choice. Tokens have no balance to keep, so
there is no threshold. A student that is sure of another number than the supervisor's keeps its own.

How much is won is the performance gap recovered, PGR = (student - weak) / (ceiling - weak), whose ceiling is the same
student trained on right answers to the same tasks.
Shapes: B rows, T positions, N = B T tokens, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.align.rollout import Group, Rollout
from kweek.data.batches import Batch, Segment, segment
from kweek.errors import DataError, GuardError
from kweek.model.head import CHUNK_ROWS, fused_cross_entropy
from kweek.model.network import Network
from kweek.stats.intervals import Interval
from kweek.stats.paired import Paired, paired_difference
from kweek.train.objective import Loss

WEAK, OWN = (
    "weak_label",
    "own_prediction",
)  # streams: 1 on a supervisor's tokens; the weight of the student's own
#: a, where it has risen: the paper's for students much stronger than their supervisors (0.5 for the others).
CONFIDENCE = 0.75
WARMUP = (
    0.2  # share of the updates over which a rises, as in the paper: a student is sure of nothing at first
)


def labelled_segments(labels: Sequence[Rollout]) -> list[Segment]:
    """A supervisor's answers as segments with weight 1 on every token that it chose.

    Raises:
        DataError: nothing was chosen.
    """
    chosen = [np.asarray(one.sampled, np.float32) for one in labels]
    if not any(mask.any() for mask in chosen):
        raise DataError("the supervisor has said nothing", fix="let it answer, or filter less")
    return [segment(one.token_ids, mask, {WEAK: mask}) for one, mask in zip(labels, chosen, strict=True)]


def said(rollout: Rollout) -> str:
    """What the supervisor answers in the end: the content of its last message."""
    return str(rollout.messages[-1].get("content") or "") if rollout.messages else ""


def surest(labels: Sequence[Rollout], share: float) -> list[Rollout]:
    """The share of answers whose tokens were likeliest on average, in their order; at least one."""
    if not labels:
        return []
    means = [
        float(np.mean(np.asarray(one.logprobs)[np.asarray(one.sampled)])) if one.num_sampled else -np.inf
        for one in labels
    ]
    count = max(1, round(share * len(labels)))
    best = sorted(np.argsort(-np.asarray(means), kind="stable")[:count].tolist())
    return [labels[index] for index in best]


def agreed(groups: Sequence[Group], share: float, answer: Callable[[Rollout], str] = said) -> list[Rollout]:
    """From each item whose samples agree, one: the first sample with the answer that at least `share` of them give.

    Args:
        groups: several samples of the supervisor for each item.
        share: of the samples of an item.
        answer: what is compared; an empty answer agrees with none.
    """
    kept = []
    for group in groups:
        counts = Counter(found for one in group if (found := answer(one)))
        if counts and counts.most_common(1)[0][1] >= share * len(group):
            winner = counts.most_common(1)[0][0]
            kept.append(next(one for one in group if answer(one) == winner))
    return kept


def with_confidence(
    batches: Callable[[int], Iterator[Batch]], num_steps: int, *, confidence: float = CONFIDENCE
) -> Callable[[int], Iterator[Batch]]:
    """Batches whose weak labels share their weight with the student's own predictions, for `ConfidenceLoss`.

    Args:
        batches: of `labelled_segments`; what else is in them (replayed text) keeps its weight.
        num_steps: updates in all.
        confidence: a, once it has risen.
    """

    def shared(first_step: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first_step), first_step):
            risen = confidence * min(1.0, step / max(1.0, WARMUP * num_steps))
            own_BT = risen * batch.weights_BT * batch.streams[WEAK]
            yield replace(batch, weights_BT=batch.weights_BT - own_BT, streams={**batch.streams, OWN: own_BT})

    return shared


class ConfidenceLoss:
    """The likelihood of the labels and, by the stream `OWN`, that of the student's own likeliest tokens."""

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`. The part "disagreement" is the weight on own predictions that are not the label.

        Raises:
            DataError: a batch whose labels share no weight.
        """
        if OWN not in batch.streams:
            raise DataError("the batch leaves the student no say", fix="make batches by with_confidence")
        hidden_ND, targets_N = hidden_BTD.flatten(0, 1), batch.targets_BT.flatten()
        head_VD = network.head_weight
        value, nll_N = fused_cross_entropy(hidden_ND, head_VD, targets_N, batch.weights_BT.flatten())
        own_N = batch.streams[OWN].flatten()
        rows = own_N.nonzero()[:, 0]
        if not len(rows):
            return Loss(value, nll_N, {"disagreement": 0.0})
        likeliest_N = _likeliest(hidden_ND[rows].detach(), head_VD)
        own, _ = fused_cross_entropy(hidden_ND[rows], head_VD, likeliest_N, own_N[rows])
        differs_N = (likeliest_N != targets_N[rows]).to(own_N.dtype)
        head_flop = 2.0 * head_VD.numel() * len(rows) * 4  # to choose, and once more forward and backward
        return Loss(value + own, nll_N, {"disagreement": float(own_N[rows] @ differs_N)}, head_flop)


@torch.no_grad()
def _likeliest(hidden_ND: Tensor, head_VD: Tensor) -> Tensor:
    """The likeliest token of every row (N,)."""
    matrix_VD = head_VD.to(hidden_ND.dtype)
    return torch.cat(
        [F.linear(rows_CD, matrix_VD).argmax(-1) for rows_CD in torch.split(hidden_ND, CHUNK_ROWS)]
    )


@dataclass(frozen=True)
class Recovered:
    """How much of the gap between supervisor and ceiling a student has closed.

    Attributes:
        weak, student, ceiling: mean scores.
        gap: ceiling - weak, paired by item; above 0, or the rest would mean nothing.
        gain: student - weak, paired by item.
        pgr: gain over gap, with an interval over items, and over runs where there are several.
    """

    weak: float
    student: float
    ceiling: float
    gap: Paired
    gain: Paired
    pgr: Interval


def gap_recovered(
    weak: npt.ArrayLike,
    student: npt.ArrayLike,
    ceiling: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    num_samples: int = 4000,  # the ends of a 95% interval rest on 100 samples each
    seed: int = 0,
) -> Recovered:
    """The performance gap recovered, with a paired bootstrap interval.

    Items are drawn again with replacement, the same for all three models; of several runs (rows) first the runs. A
    ratio whose denominator may be 0 has no interval, so the gap must be above 0 with the same confidence; samples in
    which it is not (a few may be left) count as missing the interval on both sides, which widens it.

    Args:
        weak, student, ceiling: scores of the same items, (items,) or (runs, items).

    Raises:
        GuardError: supervisor and ceiling do not differ.
        ValueError: shapes that differ, or fewer than two items.
    """
    scores = [np.atleast_2d(np.asarray(one, np.float64)) for one in (weak, student, ceiling)]
    if len({one.shape for one in scores}) > 1 or scores[0].ndim != 2 or scores[0].shape[1] < 2:
        raise ValueError(f"not the same items: {[one.shape for one in scores]}")
    flat = [one.ravel() for one in scores]
    gap = paired_difference(flat[2], flat[0], confidence)
    if gap.lo <= 0:
        raise GuardError(
            f"supervisor and ceiling do not differ: {flat[0].mean():.3f} and {flat[2].mean():.3f}, "
            f"the gap is {gap.difference:.3f} (95% {gap.lo:.3f} to {gap.hi:.3f})",
            fix="take a weaker supervisor, a stronger student, or more items: there is no gap to recover",
        )
    gain = paired_difference(flat[1], flat[0], confidence)
    interval = _ratio(scores[1] - scores[0], scores[2] - scores[0], confidence, num_samples, seed)
    means = [float(one.mean()) for one in flat]
    return Recovered(means[0], means[1], means[2], gap, gain, interval)


def _ratio(
    gains: npt.NDArray[np.float64],
    gaps: npt.NDArray[np.float64],
    confidence: float,
    num_samples: int,
    seed: int,
) -> Interval:
    """sum(gains) / sum(gaps) of (runs, items), with its percentile interval."""
    generator = np.random.default_rng([seed, *gains.shape])
    runs, items = gains.shape
    found = []
    for _ in range(num_samples):
        rows = generator.integers(0, runs, (runs, 1))
        drawn = generator.integers(0, items, (runs, items))
        total = gaps[rows, drawn].sum()
        if total > 0:
            found.append(gains[rows, drawn].sum() / total)
    missed, tail = 1 - len(found) / num_samples, 0.5 - confidence / 2
    middle = float(gains.sum() / gaps.sum())
    if missed >= tail:
        return Interval(middle, -np.inf, np.inf)
    inner = (tail - missed) / (1 - missed)
    lo, hi = np.quantile(found, [inner, 1 - inner])
    return Interval(middle, float(lo), float(hi))
