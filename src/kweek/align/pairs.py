"""Pairs of answers to one prompt, one preferred to the other, and the batches that are made of them.

Both answers of a pair are always in the same micro-batch. Their weight is divided by the sum over the whole update,
so neither packing nor the cut into micro-batches shows in a loss. What the reference model says of each token is
computed once, by an engine or by the network itself, and travels with the pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kweek.align.sequences import MAX_TOKENS, REFERENCE, ScoreTokens, micro_batches
from kweek.data.batches import Batch, Segment, segment
from kweek.data.packing import keyed_generator
from kweek.errors import DataError
from kweek.protocols import Message
from kweek.tokenize.chat import Chat, encode_turns
from kweek.tokenize.tokenizer import Tokenizer

#: Sequences that the reference model scores in one call: enough to fill an engine, few enough to show progress.
SCORED_AT_ONCE = 256


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, as whole sequences that begin with it.

    Attributes:
        chosen, rejected: all tokens, and which of them count: those of the answer that the model writes itself.
        margin: by how much the chosen one is better, in the units of a reward; 0 where nobody says.
        weight: of the pair in the mean, above 0; 1 for all unless some count more.
        chosen_reference, rejected_reference: the reference model's natural-log probability of every token, parallel to
            the tokens; empty until `with_reference`.
    """

    chosen: Chat
    rejected: Chat
    margin: float = 0.0
    weight: float = 1.0
    chosen_reference: Sequence[float] = ()
    rejected_reference: Sequence[float] = ()

    def __len__(self) -> int:
        """Tokens of both sequences."""
        return len(self.chosen.token_ids) + len(self.rejected.token_ids)


def answered(prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Chat:
    """A prompt and an answer as one sequence of which the answer counts."""
    return Chat([*prompt_ids, *answer_ids], [-1] * len(prompt_ids) + [0] * len(answer_ids))


def pair(
    prompt_ids: Sequence[int], chosen_ids: Sequence[int], rejected_ids: Sequence[int], margin: float = 0.0
) -> Pair:
    """A pair of plain token ids. An answer ends with the token that ends a turn, if the model is to learn to end."""
    return Pair(answered(prompt_ids, chosen_ids), answered(prompt_ids, rejected_ids), margin)


def chat_pair(
    tokenizer: Tokenizer, chosen: Sequence[Message], rejected: Sequence[Message], margin: float = 0.0
) -> Pair:
    """A pair of whole chats that begin alike. What they have in common, assistant's turns too, does not count.

    Raises:
        DataError: no common beginning, or nothing after it.
        GuardError: the template has no mask for the assistant's turns.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared or shared == min(len(chosen), len(rejected)):
        raise DataError(
            f"two chats of {len(chosen)} and {len(rejected)} messages have {shared} in common",
            fix="give chats with the same beginning and different ends",
        )
    sides = [encode_turns(tokenizer, side, first=shared) for side in (chosen, rejected)]
    if any(len(side) != 1 for side in sides):
        raise DataError(
            "an answer has no turn of the assistant, or several that the template rewrites once others follow",
            fix="end both chats with one turn of the assistant",
        )
    return Pair(sides[0][0], sides[1][0], margin)


def usable(pairs: Sequence[Pair], max_length: int) -> tuple[list[Pair], Mapping[str, int]]:
    """The pairs that can be learnt from, and how many were left out by reason.

    Args:
        max_length: tokens that one sequence may have.
    """
    kept: list[Pair] = []
    left: Counter[str] = Counter()
    for one in pairs:
        sides = (one.chosen, one.rejected)
        if any(len(side.token_ids) > max_length for side in sides):
            left[f"over {max_length} tokens"] += 1
        elif not all(any(side.loss_mask[1:]) for side in sides):
            left["an answer of no tokens"] += 1
        elif one.chosen.token_ids == one.rejected.token_ids:
            left["two equal answers"] += 1
        else:
            kept.append(one)
    return kept, left


def with_reference(pairs: Sequence[Pair], score: ScoreTokens) -> list[Pair]:
    """The same pairs with what the reference model says of every token; `score` is an engine's, or
    `network_logprobs` of the network before its first update."""
    found: list[Pair] = []
    per_call = SCORED_AT_ONCE // 2
    for start in range(0, len(pairs), per_call):
        part = pairs[start : start + per_call]
        scores = iter(score([side.token_ids for one in part for side in (one.chosen, one.rejected)]))
        found += [
            replace(one, chosen_reference=next(scores), rejected_reference=next(scores)) for one in part
        ]
    return found


def answer_segment(answer: Chat, reference: Sequence[float], labels: Mapping[str, float]) -> Segment:
    """A sequence that weighs 1 on every counted token, with the reference's log-probabilities where there are any."""
    streams = {REFERENCE: reference} if len(reference) else {}
    return segment(answer.token_ids, np.asarray(answer.loss_mask, np.float32), streams, labels)


def pair_segments(pairs: Sequence[Pair]) -> list[tuple[Segment, Segment]]:
    """The chosen and the rejected segment of every pair of one update.

    Labels: `pair`, its number in the update; `sign`, 1 for the chosen and -1 for the rejected; `share`, the pair's
    weight over the sum of all; `margin`.

    Raises:
        DataError: some pairs have a reference and some have not.
    """
    if len({(bool(len(one.chosen_reference)), bool(len(one.rejected_reference))) for one in pairs}) > 1:
        raise DataError(
            "some answers of an update have reference log-probabilities, others have not",
            fix="call with_reference on all pairs",
        )
    total = sum(one.weight for one in pairs)
    made = []
    for number, one in enumerate(pairs):
        labels: dict[str, Any] = {"pair": number, "share": one.weight / total, "margin": one.margin}
        made.append(
            (
                answer_segment(one.chosen, one.chosen_reference, labels | {"sign": 1.0}),
                answer_segment(one.rejected, one.rejected_reference, labels | {"sign": -1.0}),
            )
        )
    return made


class PairBatches:
    """Updates of `batch_size` pairs in keyed order for some epochs, each as micro-batches.

    Args:
        row_length: sequences are packed into rows of this many tokens; by default the longest sequence.
        max_tokens: of a micro-batch; only memory and speed depend on it.
        segments: makes both sides of all pairs of an update; for reward models `reward.reward_segments`.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        row_length: int | None = None,
        max_tokens: int = MAX_TOKENS,
        segments: Callable[[Sequence[Pair]], Sequence[tuple[Segment, Segment]]] = pair_segments,
    ) -> None:
        if not pairs:
            raise DataError("there are no pairs to learn from")
        sides = (side for one in pairs for side in (one.chosen, one.rejected))
        self.row_length = row_length or max(len(side.token_ids) for side in sides)
        self.pairs, self.seed, self.max_tokens, self.segments = pairs, seed, max_tokens, segments
        self.batch_size = min(batch_size, len(pairs))
        self.steps_per_epoch = len(pairs) // self.batch_size
        self.num_steps = self.steps_per_epoch * epochs

    def __call__(self, first_step: int = 0) -> Iterator[list[Batch]]:
        """Updates from `first_step` on, a pure function of seed and step."""
        for step in range(first_step, self.num_steps):
            yield micro_batches(self.segments(self.chosen(step)), self.row_length, self.max_tokens)

    def chosen(self, step: int) -> list[Pair]:
        """The pairs of one update."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = keyed_generator("pairs", self.seed, epoch).permutation(len(self.pairs))
        return [
            self.pairs[int(i)] for i in order[position * self.batch_size : (position + 1) * self.batch_size]
        ]
