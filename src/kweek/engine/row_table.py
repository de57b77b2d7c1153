"""The rows of one call, as backends read them: made from generations and what is guessed of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kweek.engine.generation import Generation
from kweek.engine.native.rows import ROW, Rows


class RowTable:
    """Makes tables, and keeps what the rows of the last one point at.

    Args:
        vocab_size: V of the logits.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._maps: dict[tuple[frozenset[int], frozenset[int]], npt.NDArray[np.uint8]] = {}
        self._held: list[npt.NDArray[np.generic]] = []

    def filled(self, generations: Sequence[Generation], drafts: Sequence[Sequence[int]]) -> Rows:
        """A row for each generation, behind it one for each of its guessed tokens; valid until the next is made."""
        table = np.zeros(len(generations) + sum(map(len, drafts)), ROW)
        self._held = []
        first = 0
        for generation, draft in zip(generations, drafts, strict=True):
            for ahead in range(len(draft) + 1):
                self._fill(table[first + ahead], generation, ahead, draft)
            first += len(draft) + 1
        return table

    def _fill(self, row: np.void, generation: Generation, ahead: int, draft: Sequence[int]) -> None:
        """The row of a generation, or of the position `ahead` of it, after that many guessed tokens."""
        request, slot = generation.request, generation.slot
        assert slot is not None
        row["slot"], row["position"] = slot.number, len(generation.ids) - 1 + ahead
        row["token"] = draft[ahead - 1] if ahead else generation.ids[-1]
        row["remaining"] = generation.limit - len(generation.token_ids) - ahead
        row["temperature"] = request.temperature
        row["top_k"] = min(request.top_k, self._vocab_size)  # 32 bits hold that
        row["top_p"], row["min_p"] = request.top_p, request.min_p
        if request.temperature > 0:
            row["uniforms"] = generation.uniforms.ctypes.data + 8 * (len(generation.token_ids) + ahead)
        triggers = request.interceptor.trigger_ids if request.interceptor is not None else None
        if request.stop_ids or triggers:
            row["events"] = self._map(request.stop_ids, triggers or frozenset()).ctypes.data
        if generation.constraint is not None:
            row["allowed"] = self._hold(generation.mask)
        if request.logit_bias:
            bias = np.zeros(self._vocab_size, np.float32)
            for token, value in request.logit_bias.items():
                bias[token] = value
            row["bias"] = self._hold(bias)

    def _hold(self, values: npt.NDArray[np.generic]) -> int:
        self._held.append(values)
        return int(values.ctypes.data)

    def _map(self, stop_ids: frozenset[int], triggers: frozenset[int]) -> npt.NDArray[np.uint8]:
        """Which tokens make a row pause."""
        found = self._maps.get((stop_ids, triggers))
        if found is None:
            found = np.zeros(self._vocab_size, np.uint8)
            found[[token for token in stop_ids | triggers if 0 <= token < len(found)]] = 1
            self._maps[stop_ids, triggers] = found
        return found
