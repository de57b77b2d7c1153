"""The rows of a call as the native library reads them, kept between calls: C itself moves them on."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from kweek.engine.native.library import Row

_WORDS = ("slot", "position", "token", "remaining", "top_k")
ROW = np.dtype(
    [
        *((name, np.int32) for name in _WORDS),
        *((name, np.float32) for name in ("temperature", "top_p", "min_p")),
        *((name, np.int32) for name in ("produced", "done", "rides_on", "unused")),
        *((name, np.uint64) for name in ("uniforms", "events", "allowed", "bias")),
    ],
    align=True,
)
assert ROW.itemsize == ctypes.sizeof(Row)  # one layout, told twice
MOST_ROWS = 1024  # of one call, those that ride on others counted; as in sampling.h
#: What came of a step for one row; `kw_choice`.
CHOICE = np.dtype(
    [("token", np.int32), ("logprob", np.float32), ("processed", np.float32), ("kept", np.float32)]
)
#: Where a slot's keys and values are; `kw_slot`.
SLOT = np.dtype(
    [
        *(("data", np.uint64), ("capacity", np.int32), ("shared_length", np.int32)),
        *(("shared", np.uint64), ("shared_capacity", np.int32), ("unused", np.int32)),
    ]
)
Rows = npt.NDArray[np.void]
