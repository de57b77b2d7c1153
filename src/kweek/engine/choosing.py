"""How a token is drawn from logits, on the host: the rule of `Request`, row by row.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.engine.native.rows import Rows

GREEDY = 1e-4  # temperatures below it: only ties closer than rounding are not greedy, and fp32 would overflow


def take(
    rows: Rows,
    active: Iterable[int],
    logits_BV: npt.NDArray[np.float32],
    lse_B: npt.NDArray[np.float32],
    choices: npt.NDArray[np.void],
) -> None:
    """Draw a token for each active row and move the row on by it.

    Args:
        rows: of dtype `ROW`; says afterwards how many tokens came and whether a row paused (2: not a number).
        active: indices of rows, in the order of the logits.
        logits_BV: of the active rows.
        lse_B: logarithm of the sum of their exponentials.
        choices: (rows, steps) of dtype `CHOICE`, filled at each row's next place.
    """
    for place, index in enumerate(active):
        row = rows[index]
        if not np.isfinite(lse_B[place]):
            row["done"] = 2
            continue
        choice = choose(row, logits_BV[place], float(lse_B[place]))
        choices[index, row["produced"]] = choice
        events = pointed(row["events"], ctypes.c_uint8, logits_BV.shape[1])
        row["token"], row["position"] = choice[0], row["position"] + 1
        row["produced"] += 1
        row["remaining"] -= 1
        row["uniforms"] += np.uint64(8)
        row["done"] = row["remaining"] <= 0 or (events is not None and events[choice[0]] != 0)


def choose(row: np.void, logits_V: npt.NDArray[np.float32], lse: float) -> tuple[int, float, float, float]:
    """One token for a row: (token, log-probability, processed log-probability, kept mass). The rule is `Request`'s."""
    vocabulary = len(logits_V)
    shaped = logits_V.astype(np.float64)
    bias, allowed = (
        pointed(row["bias"], ctypes.c_float, vocabulary),
        pointed(row["allowed"], ctypes.c_uint8, vocabulary),
    )
    if bias is not None:
        shaped = shaped + bias
    if allowed is not None:
        shaped = np.where(allowed != 0, shaped, -math.inf)
    if row["temperature"] < GREEDY:
        token = int(shaped.argmax())
        return token, float(logits_V[token] - lse), 0.0, 1.0
    weights = np.exp((shaped - shaped.max()) / float(row["temperature"]))
    total = float(weights.sum())
    order = np.arange(vocabulary)
    if row["top_k"] or row["top_p"] < 1 or row["min_p"] > 0:
        order = np.lexsort((order, -weights))
        if row["top_k"]:
            order = order[: row["top_k"]]
        before = np.cumsum(weights[order]) - weights[order]
        order = order[
            (before < float(row["top_p"]) * total) & (weights[order] >= row["min_p"] * weights.max())
        ]
    cumulative = np.cumsum(weights[order])
    kept = float(cumulative[-1])
    uniform = ctypes.c_double.from_address(int(row["uniforms"])).value
    place = min(int(np.searchsorted(cumulative, uniform * kept)), len(order) - 1)
    token = int(order[place])
    processed = math.log(weights[token] / kept)
    return token, float(logits_V[token] - lse), processed, kept / total


def pointed(
    address: int, kind: type[ctypes.c_uint8] | type[ctypes.c_float] | type[ctypes.c_double], length: int
) -> npt.NDArray[Any] | None:
    """What a row points at."""
    return np.ctypeslib.as_array((kind * length).from_address(int(address))) if address else None
