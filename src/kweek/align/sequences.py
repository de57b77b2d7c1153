"""Log-probabilities of answers: sums over the counted tokens of every segment, with and without a gradient.

Legend: B rows, T positions, N = B T, S segments, C counted positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kweek.data.batches import Batch, Segment, collate, pack, segment
from kweek.model.head import token_nll, token_nll_flop
from kweek.model.network import Network

#: Name of the stream that holds what the reference model says of every target, natural logs.
REFERENCE = "reference"
#: Tokens read at once without a gradient: some 100 MB of activations for a small network.
MAX_TOKENS = 8192

#: Natural-log probability of every token of every sequence, the first 0.0: `LanguageModel.score` of any backend.
ScoreTokens = Callable[[Sequence[Sequence[int]]], list[list[float]]]


@dataclass(frozen=True)
class Answers:
    """What a network and its reference say of the segments of a batch.

    Attributes:
        logprob_S: sum over a segment's counted tokens of weight times log-probability, nats, with its graph.
        reference_S: the same by the batch's stream `reference`; None where it has none.
        length_S: sum of the weights: the number of counted tokens, where every weight is 1.
        flop: what the head cost more (or, below zero, less) than the forward and backward pass over all positions
            that the loop counts: only counted positions have logits, and these are formed twice.
    """

    logprob_S: Tensor
    reference_S: Tensor | None
    length_S: Tensor
    flop: float

    @property
    def gain_S(self) -> Tensor:
        """How much likelier than to the reference the segments are, log pi - log pi_ref; needs a reference."""
        assert self.reference_S is not None
        return self.logprob_S - self.reference_S


def answers(network: Network, hidden_BTD: Tensor, batch: Batch) -> Answers:
    """The log-probability of every segment of a batch; tokens of weight 0 (prompts, results of tools) do not count."""
    assert batch.sequence_BT is not None
    weights_N = batch.weights_BT.flatten()
    counted_C = weights_N.nonzero()[:, 0]
    nll_C = token_nll(
        hidden_BTD.flatten(0, 1)[counted_C], network.head_weight, batch.targets_BT.flatten()[counted_C]
    )
    owner_C = batch.sequence_BT.flatten()[counted_C]
    weights_C = weights_N[counted_C].to(nll_C.dtype)
    num_segments = int(batch.sequence_BT.max()) + 1

    def per_segment(values_C: Tensor) -> Tensor:
        return values_C.new_zeros(num_segments).index_add(0, owner_C, values_C)

    stream = batch.streams.get(REFERENCE)
    reference_S = None
    if stream is not None:
        reference_S = per_segment(weights_C * stream.flatten()[counted_C].to(nll_C.dtype))
    # Rows that do not count have no logits at all, and `token_nll_flop` would grant them one product each.
    counted, num_rows = len(counted_C), weights_N.numel()
    spared = 2.0 * network.head_weight.numel() * (num_rows - counted)
    flop = token_nll_flop(network.head_weight, counted, num_rows) - spared
    return Answers(per_segment(-weights_C * nll_C), reference_S, per_segment(weights_C), flop)


def micro_batches(
    units: Sequence[Sequence[Segment]], row_length: int, max_tokens: int = MAX_TOKENS
) -> list[Batch]:
    """Cut an update into batches of at most `max_tokens` tokens; the segments of a unit (a pair) stay in one.

    Args:
        units: segments that a loss needs together. Their weights are already divided by a count over the update.
        row_length: segments are packed into rows of this length; a longer one has a row of its own.
    """
    cuts: list[list[Segment]] = []
    room = 0
    for unit in units:
        size = sum(map(len, unit))
        if not cuts or size > room:
            cuts.append([])
            room = max_tokens
        cuts[-1] += unit
        room -= size
    return [collate(pack(segments, row_length)) for segments in cuts]


@torch.no_grad()
def network_logprobs(network: Network, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """A `ScoreTokens` by the arithmetic of training: at the first update a policy equals its reference to rounding."""
    result = [[0.0][: len(sequence)] for sequence in sequences]
    numbers = [index for index, sequence in enumerate(sequences) if len(sequence) > 1]
    parts = [segment(sequences[index]) for index in numbers]
    places = {id(part): index for part, index in zip(parts, numbers, strict=True)}
    longest = max(map(len, parts), default=1)
    rows, at_once = pack(parts, longest), max(1, MAX_TOKENS // longest)
    for first in range(0, len(rows), at_once):
        batch = collate(rows[first : first + at_once])
        hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        nll_N = token_nll(hidden_BTD.flatten(0, 1), network.head_weight, batch.targets_BT.flatten())
        for row, nll_T in zip(rows[first:], nll_N.view(batch.ids_BT.shape), strict=False):
            start = 0
            for part in row:
                result[places[id(part)]] += (-nll_T[start : start + len(part)]).tolist()
                start += len(part)
    return result
