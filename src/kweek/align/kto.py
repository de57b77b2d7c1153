"""Kahneman-Tversky optimisation: answers judged good or bad, without pairs (Ethayarajh et al. 2024, arXiv 2402.01306,
section 4.1).

    r = log pi(y|x) / pi_ref(y|x)
    L = lambda_good (1 - sigmoid(beta (r - z)))   for a good answer
        lambda_bad  (1 - sigmoid(beta (z - r)))   for a bad one

z is how far the policy has moved from its reference on the whole, no gradient is taken to it. As in the paper it is
estimated on mismatched answers, those of other prompts: z = max(0, mean of log pi(y'|x) / pi_ref(y'|x)). It belongs
to the update: it is estimated once with the weights that the update begins with, and the cut into micro-batches
does not show.

Known bias. Mismatched answers are not drawn from the policy, so z is no estimate of KL(pi || pi_ref): it tells
whether all answers alike became likelier (the paper says the same of its own), and the maximum with 0 raises it.
Partners are drawn once for the whole of the data instead of within each batch, so that the reference scores them
once. The loss saturates on both sides: answers far from z, hard and mislabelled ones alike, are let go. Where good
and bad answers are not equally many, the paper advises weights with lambda_good n_good / (lambda_bad n_bad) in [1,
4/3].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kweek.align.pairs import SCORED_AT_ONCE, answer_segment
from kweek.align.sequences import MAX_TOKENS, ScoreTokens, answers, micro_batches
from kweek.data.batches import Batch, Segment
from kweek.data.packing import keyed_generator
from kweek.errors import ConfigError, DataError
from kweek.model.network import Network
from kweek.tokenize.chat import Chat
from kweek.train.objective import Loss


@dataclass(frozen=True)
class Judged:
    """One answer and whether it is good.

    Attributes:
        answer: all tokens of prompt and answer, and which of them count.
        good: the judgement.
        reference: the reference model's natural-log probability of every token; empty until `prepared`.
        stranger: the same prompt with somebody else's answer, which z is estimated on.
        stranger_reference: likewise of its tokens.
    """

    answer: Chat
    good: bool
    reference: Sequence[float] = ()
    stranger: Chat | None = None
    stranger_reference: Sequence[float] = ()


def prepared(items: Sequence[Judged], score: ScoreTokens, seed: int) -> list[Judged]:
    """Give every item the answer of another one beside its own, and the reference's log-probabilities of both.

    Raises:
        DataError: fewer than two items, or only good or only bad ones.
    """
    if len(items) < 2 or len({item.good for item in items}) < 2:
        raise DataError(
            f"{len(items)} judged answers, {sum(item.good for item in items)} of them good, teach nothing",
            fix="give good and bad answers",
        )
    order = keyed_generator("strangers", seed).permutation(len(items))
    paired = list(items)
    for place, index in enumerate(order):  # one cycle through all: nobody is paired with itself
        other = items[int(order[place - 1])]
        paired[int(index)] = replace(
            items[int(index)], stranger=_exchanged(items[int(index)].answer, other.answer)
        )
    made: list[Judged] = []
    per_call = SCORED_AT_ONCE // 2
    for start in range(0, len(paired), per_call):
        part = paired[start : start + per_call]
        scores = iter(
            score([ids for item in part for ids in (item.answer.token_ids, _stranger(item).token_ids)])
        )
        made += [replace(item, reference=next(scores), stranger_reference=next(scores)) for item in part]
    return made


def _exchanged(own: Chat, other: Chat) -> Chat:
    """The prompt of one with what follows the prompt of the other; a prompt ends with the first counted token."""
    start, begin = own.loss_mask.index(True), other.loss_mask.index(True)
    return Chat(
        [*own.token_ids[:start], *other.token_ids[begin:]],
        [*own.turns[:start], *other.turns[begin:]],
    )


def _stranger(item: Judged) -> Chat:
    if item.stranger is None:
        raise DataError("a judged answer has no mismatched one beside it", fix="call kto.prepared first")
    return item.stranger


def moved(items: Sequence[Judged], score: ScoreTokens) -> float:
    """z of an update: how much likelier the policy makes mismatched answers than the reference, nats, at least 0.

    Args:
        score: of the policy with its present weights.
    """
    strangers = [_stranger(item) for item in items]
    present = score([stranger.token_ids for stranger in strangers])
    gains = [
        np.dot(np.subtract(now, item.stranger_reference), stranger.loss_mask)
        for item, stranger, now in zip(items, strangers, present, strict=True)
    ]
    return max(0.0, float(np.mean(gains)))


def judged_segments(items: Sequence[Judged], z: float) -> list[Segment]:
    """One segment per answer of an update.

    Labels: `good`, 1 or 0; `share`, one over the number of answers; `class_share`, one over the number of those
    with the same judgement; `z`.

    Raises:
        DataError: no reference log-probabilities.
    """
    if not all(len(item.reference) for item in items):
        raise DataError("a judged answer has no reference log-probabilities", fix="call kto.prepared first")
    num_good = sum(item.good for item in items)
    same = {True: num_good, False: len(items) - num_good}
    return [
        answer_segment(
            item.answer,
            item.reference,
            {"good": float(item.good), "share": 1 / len(items), "class_share": 1 / same[item.good], "z": z},
        )
        for item in items
    ]


class JudgedBatches:
    """Updates of `batch_size` judged answers in keyed order for some epochs, each as micro-batches.

    Args:
        score: of the policy: asked at the beginning of every update, with the weights of that moment.
        row_length, max_tokens: as for `PairBatches`.
    """

    def __init__(
        self,
        items: Sequence[Judged],
        score: ScoreTokens,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        row_length: int | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.items, self.score, self.seed, self.max_tokens = items, score, seed, max_tokens
        self.row_length = row_length or max(len(item.answer.token_ids) for item in items)
        self.batch_size = min(batch_size, len(items))
        self.steps_per_epoch = len(items) // self.batch_size
        self.num_steps = self.steps_per_epoch * epochs

    def __call__(self, first_step: int = 0) -> Iterator[list[Batch]]:
        """Updates from `first_step` on, a function of seed, step and the policy's present weights."""
        for step in range(first_step, self.num_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            order = keyed_generator("judged", self.seed, epoch).permutation(len(self.items))
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            items = [self.items[int(i)] for i in chosen]
            segments = judged_segments(items, moved(items, self.score))
            yield micro_batches([[part] for part in segments], self.row_length, self.max_tokens)


class KTO:
    """The objective; an update's loss is the mean over its answers.

    Args:
        beta: how soon the loss saturates; 0.1 as in the paper.
        good_weight, bad_weight: lambda of good and of bad answers; 1 for balanced data.

    Raises:
        ConfigError: a value that is not positive.
    """

    def __init__(self, beta: float = 0.1, good_weight: float = 1.0, bad_weight: float = 1.0) -> None:
        for name, value in (("beta", beta), ("good_weight", good_weight), ("bad_weight", bad_weight)):
            if not value > 0:
                raise ConfigError(f"it is {value}, not above 0", where=name)
        self.beta, self.good_weight, self.bad_weight = beta, good_weight, bad_weight

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`. Parts are those of pairs, with means over the good answers for the chosen ones."""
        found = answers(network, hidden_BTD, batch)
        if "good" not in batch.labels or found.reference_S is None:
            raise DataError(
                "the batch holds no judged answers", fix="make it with judged_segments and micro_batches"
            )
        known_J = (~batch.labels["good"].isnan()).nonzero()[:, 0]
        dtype = found.logprob_S.dtype
        good_J, share_J, z_J = (batch.labels[name][known_J].to(dtype) for name in ("good", "share", "z"))
        gain_J = found.gain_S[known_J]
        side_J = 2 * good_J - 1
        weight_J = torch.where(good_J > 0, self.good_weight, self.bad_weight)
        loss_J = weight_J * torch.sigmoid(-side_J * self.beta * (gain_J - z_J))
        parts = self._parts(batch, known_J, found.logprob_S[known_J], gain_J, found.length_S[known_J])
        return Loss((share_J * loss_J).sum(), None, parts, found.flop)

    def _parts(
        self, batch: Batch, known_J: Tensor, logprob_J: Tensor, gain_J: Tensor, length_J: Tensor
    ) -> Mapping[str, float]:
        labels = {name: values[known_J].to(gain_J.dtype) for name, values in batch.labels.items()}
        good_J, mean_J = labels["good"], labels["class_share"]
        side_J = 2 * good_J - 1
        above_J = ((gain_J - labels["z"]) * side_J).sign()
        parts = {
            "margin": (self.beta * side_J * mean_J * gain_J).sum(),
            "ranked": (labels["share"] * (above_J + 1) / 2).sum(),
            "z": (labels["share"] * labels["z"]).sum(),
        }
        for name, share_J in (("chosen", good_J * mean_J), ("rejected", (1 - good_J) * mean_J)):
            parts[f"{name}_logprob"] = (share_J * logprob_J).sum()
            parts[f"{name}_gain"] = (share_J * gain_J).sum()
            parts[f"{name}_length"] = (share_J * length_J).sum()
        return {name: float(value.detach()) for name, value in parts.items()}
