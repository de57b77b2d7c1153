"""Rows of packed documents as tensors: what the training loop consumes.

Legend: B rows, T positions. A row holds one or more segments; attention never crosses a segment's border
and positions restart at each, so a packed loss equals the unpacked one. Every token carries a weight; the
loss is the weighted sum of the negative log-likelihoods, hence whoever builds a batch normalises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """Inputs, the token that follows each, and the weight of predicting it; three arrays of equal length."""

    ids: Ids
    targets: Ids
    weights: Weights

    def __len__(self) -> int:
        return len(self.ids)


def segment(token_ids: Sequence[int] | Ids, weights: Sequence[float] | Weights | None = None) -> Segment:
    """A segment that predicts `token_ids[1:]`; `weights[i]` weighs predicting token i (the first is unused)."""
    tokens = np.asarray(token_ids, dtype=np.int64)
    per_token = np.ones(len(tokens), np.float32) if weights is None else np.asarray(weights, np.float32)
    return Segment(tokens[:-1], tokens[1:], per_token[1:])


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    `ids_BT`, `targets_BT`, `positions_BT`: int64. `weights_BT`: float32, 0 where no loss is taken.
    `mask_B1TT`: bool, true where a query may attend, or None when plain causal attention says the same.
    `num_tokens` counts the real tokens, padding excluded.
    """

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor
    weights_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor | None
    num_tokens: int


def collate(rows: Sequence[Sequence[Segment]], length: int | None = None) -> Batch:
    """Lay segments end to end in each row and pad to `length` (default: the longest row)."""
    width = length or max(sum(map(len, row)) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    targets = np.zeros((len(rows), width), np.int64)
    weights = np.zeros((len(rows), width), np.float32)
    positions = np.zeros((len(rows), width), np.int64)
    owner = np.full((len(rows), width), -1, np.int64)  # which segment a position belongs to; -1 is padding
    num_tokens = 0
    for b, row in enumerate(rows):
        start = 0
        for number, part in enumerate(row):
            end = start + len(part)
            ids[b, start:end], targets[b, start:end] = part.ids, part.targets
            weights[b, start:end] = part.weights
            positions[b, start:end] = np.arange(len(part))
            owner[b, start:end] = number
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
    )


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
