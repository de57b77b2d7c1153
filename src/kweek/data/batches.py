"""Rows of packed documents as tensors: what the training loop consumes.

Legend: B rows, T positions, S segments. A row holds one or more segments; attention never crosses a segment's border
and positions restart at each, so a packed loss equals the unpacked one. Every token carries a weight; the
loss is the weighted sum of the negative log-likelihoods, hence whoever builds a batch normalises it, over all
micro-batches of the update. What else an objective must know of a token (its advantage, what a reference model says
of it) travels beside the weights as streams, what it must know of a sequence as labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """Inputs, the token that follows each, and the weight of predicting it; three arrays of equal length.

    `streams` holds further figures for every target, by name, and `labels` figures for the segment as a whole.
    """

    ids: Ids
    targets: Ids
    weights: Weights
    streams: Mapping[str, Weights] = field(default_factory=dict)
    labels: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def segment(
    token_ids: Sequence[int] | Ids,
    weights: Sequence[float] | Weights | None = None,
    streams: Mapping[str, Sequence[float] | Weights] | None = None,
    labels: Mapping[str, float] | None = None,
) -> Segment:
    """A segment that predicts `token_ids[1:]`; entry i of weights and streams is of token i (the first is unused)."""
    tokens = np.asarray(token_ids, dtype=np.int64)
    per_token = np.ones(len(tokens), np.float32) if weights is None else np.asarray(weights, np.float32)
    shifted = {name: np.asarray(values, np.float32)[1:] for name, values in (streams or {}).items()}
    return Segment(tokens[:-1], tokens[1:], per_token[1:], shifted, dict(labels or {}))


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    `ids_BT`, `targets_BT`, `positions_BT`: int64. `weights_BT`: float32, 0 where no loss is taken.
    `mask_B1TT`: bool, true where a query may attend, or None when plain causal attention says the same.
    `num_tokens` counts the real tokens, padding excluded. `sequence_BT`: int64, the number of the segment that a
    position belongs to, from 0 in the order of the rows, -1 for padding; None where nobody asked for segments.
    `streams`: by name, float32 (B, T), 0 where a segment has no such stream. `labels`: by name, float32 (S,), nan where
    a segment has none.
    """

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor
    weights_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor | None
    num_tokens: int
    sequence_BT: torch.Tensor | None = None
    streams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    labels: Mapping[str, torch.Tensor] = field(default_factory=dict)


def collate(rows: Sequence[Sequence[Segment]], length: int | None = None) -> Batch:
    """Lay segments end to end in each row and pad to `length` (default: the longest row)."""
    width = length or max(sum(map(len, row)) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    targets = np.zeros((len(rows), width), np.int64)
    weights = np.zeros((len(rows), width), np.float32)
    positions = np.zeros((len(rows), width), np.int64)
    owner = np.full((len(rows), width), -1, np.int64)  # which segment a position belongs to; -1 is padding
    parts = [part for row in rows for part in row]
    streams = {name: np.zeros((len(rows), width), np.float32) for name in _names(p.streams for p in parts)}
    num_tokens = number = 0
    for b, row in enumerate(rows):
        start = 0
        for part in row:
            end = start + len(part)
            ids[b, start:end], targets[b, start:end] = part.ids, part.targets
            weights[b, start:end] = part.weights
            positions[b, start:end] = np.arange(len(part))
            for name, values in part.streams.items():
                streams[name][b, start:end] = values
            owner[b, start:end] = number
            number += 1
            start = end
        num_tokens += start
    mask = None
    if any(len(row) > 1 for row in rows):
        same = owner[:, :, None] == owner[:, None, :]
        mask = torch.from_numpy(np.tril(same)[:, None])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(targets),
        torch.from_numpy(weights),
        torch.from_numpy(positions),
        mask,
        num_tokens,
        torch.from_numpy(owner),
        {name: torch.from_numpy(values) for name, values in streams.items()},
        {
            name: torch.tensor([part.labels.get(name, math.nan) for part in parts])
            for name in _names(part.labels for part in parts)
        },
    )


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """All names that occur, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def pack(segments: Sequence[Segment], length: int) -> list[list[Segment]]:
    """First-fit decreasing: whole segments into rows of at most `length`; a longer one gets a row of its own."""
    rows: list[list[Segment]] = []
    space: list[int] = []
    for part in sorted(segments, key=len, reverse=True):
        for index, free in enumerate(space):
            if len(part) <= free:
                rows[index].append(part)
                space[index] -= len(part)
                break
        else:
            rows.append([part])
            space.append(max(0, length - len(part)))
    return rows
