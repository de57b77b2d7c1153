"""The inputs of a captured batch: buffers at fixed addresses, filled anew, padding included, before every call.

A captured graph reads the same memory each time it is played. Whatever a call does not write is what the call before
left there, so rows beyond the last live one would go on writing into slots that are no longer theirs. Here every row of
the bucket is written every time, and rows that are padding point at a slot of their own that nobody reads.

Legend: B rows of the bucket, S steps, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kweek.engine.choosing import GREEDY, pointed
from kweek.engine.device.sampling import Controls
from kweek.engine.native.rows import ROW, Rows
from kweek.engine.scheduler import MAX_STEPS

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # rows; at most half of a batch is padding
FIRST_LENGTH = 256  # positions looked at in the shortest graph; doubled from there

_WHOLE = ("token", "slot", "position", "remaining", "top_k")
_REAL = ("temperature", "top_p", "min_p")


def bucket_of(number: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds so many rows."""
    return next(bucket for bucket in buckets if bucket >= number)


def length_of(positions: int, most: int) -> int:
    """The power of two, at least `FIRST_LENGTH` and at most `most`, that holds so many positions."""
    return min(most, max(FIRST_LENGTH, 1 << (positions - 1).bit_length()))


@dataclass(frozen=True)
class Shape:
    """What one captured graph is for.

    Attributes:
        rows: of the bucket.
        length: positions of a slot that attention looks at.
        direct: row i is slot i, so that keys are read where they lie; else they are gathered by slot first.
        sampled, truncated: see `draw`.
        shifted: whether any row has a bias or a constraint.
    """

    rows: int
    length: int
    direct: bool
    sampled: bool
    truncated: bool
    shifted: bool


class StaticBatch:
    """The buffers.

    Args:
        spare_slot: where padding reads and writes.
        vocab_size: V.
        device: of the network.
    """

    def __init__(self, spare_slot: int, vocab_size: int, device: torch.device) -> None:
        self._spare_slot, self._vocab_size, self._device = spare_slot, vocab_size, device
        most = BUCKETS[-1]
        on_gpu = device.type == "cuda"
        # A GPU sums in a tree, which is exact enough in fp32; its fp64 would take a third of a step.
        self.sums = torch.float32 if on_gpu else torch.float64
        self._host = {
            "whole": torch.zeros(len(_WHOLE), most, dtype=torch.int64, pin_memory=on_gpu),
            "real": torch.zeros(len(_REAL), most, dtype=torch.float64, pin_memory=on_gpu),
            "uniforms": torch.zeros(MAX_STEPS, most, dtype=torch.float64, pin_memory=on_gpu),
        }
        # Copies on the CPU too: the device moves its own on, and what the host has must not follow.
        self._there = {name: part.to(device, copy=True) for name, part in self._host.items()}
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        #: (S, 5, B) per step: token, log-probability, processed one, kept mass, lse.
        self.drawn = torch.zeros(MAX_STEPS, 5, most, dtype=torch.float64, device=device)
        self.shift_BV: torch.Tensor | None = None

    def whole(self, name: str, rows: int) -> torch.Tensor:
        """(B,) int64 on the device: token, slot, position, remaining or top_k."""
        return self._there["whole"][_WHOLE.index(name), :rows]

    def controls(self, rows: int) -> Controls:
        """What the rows ask for in the present step."""
        temperature_B, top_p_B, min_p_B = self._there["real"][:, :rows].to(self.sums)
        uniform_B = self._there["uniforms"].index_select(0, self.step)[0, :rows].to(self.sums)
        return Controls(temperature_B, self.whole("top_k", rows), top_p_B, min_p_B, uniform_B, self.sums)

    def shift(self, rows: int) -> torch.Tensor:
        """(B, V) what is added to logits."""
        if self.shift_BV is None:
            self.shift_BV = torch.zeros(BUCKETS[-1], self._vocab_size, device=self._device)
        return self.shift_BV[:rows]

    def fill(self, rows: Rows, places: npt.NDArray[np.intp], steps: int, shape: Shape) -> None:
        """Write every row of the bucket: `rows` at their places, padding everywhere else."""
        whole, real = self._host["whole"].numpy(), self._host["real"].numpy()
        whole[:, : shape.rows], real[:, : shape.rows] = 0, 0
        whole[_WHOLE.index("slot"), : shape.rows] = self._spare_slot
        for names, target in ((_WHOLE, whole), (_REAL, real)):
            for index, name in enumerate(names):
                target[index, places] = rows[name]
        uniforms = self._host["uniforms"].numpy()
        uniforms[:steps, : shape.rows] = 0
        for place, row in zip(places.tolist(), rows, strict=True):
            count = min(steps, int(row["remaining"]))
            if row["temperature"] >= GREEDY and count > 0:
                uniforms[:count, place] = pointed(row["uniforms"], ctypes.c_double, count)
        if shape.shifted:
            self._fill_shift(rows, places, shape.rows)
        for name, part in self._host.items():
            self._there[name].copy_(part, non_blocking=True)
        self.step.zero_()

    def clear(self, shape: Shape) -> None:
        """Padding in every row, for the calls that warm up and record a graph."""
        self.fill(np.zeros(0, ROW), np.zeros(0, np.intp), MAX_STEPS, shape)

    def _fill_shift(self, rows: Rows, places: npt.NDArray[np.intp], bucket: int) -> None:
        shift_BV = self.shift(bucket)
        shift_BV.zero_()
        for place, row in zip(places.tolist(), rows, strict=True):
            bias = pointed(row["bias"], ctypes.c_float, self._vocab_size)
            allowed = pointed(row["allowed"], ctypes.c_uint8, self._vocab_size)
            if bias is None and allowed is None:
                continue
            values = np.zeros(self._vocab_size, np.float32) if bias is None else bias.astype(np.float32)
            if allowed is not None:
                values = np.where(allowed != 0, values, np.float32(-math.inf))
            shift_BV[place].copy_(torch.from_numpy(values))
