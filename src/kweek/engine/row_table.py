"""The rows of one call, as backends read them: made from generations and what is guessed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        self._maps: dict[tuple[frozenset[int], frozenset[int]], tuple[npt.NDArray[np.uint8], int]] = {}
        self._held: list[npt.NDArray[np.generic]] = []

    def filled(
        self, generations: Sequence[Generation], drafts: Sequence[Sequence[int]], riders: Sequence[int] = ()
    ) -> Rows:
        """A row for each generation, behind it one for each of its guessed tokens; valid until the next is made.

        Args:
            riders: the last generations ride on those of these indices; then nothing is guessed.
        """
        self._held = []
        rides_on = [0] * (len(generations) - len(riders)) + [index + 1 for index in riders]
        # One array of tuples: written to field by field, the rows of a small network took as long as its products.
        return np.array(
            [
                self._row(generation, ahead, draft, on)
                for generation, draft, on in zip(generations, drafts, rides_on, strict=True)
                for ahead in range(len(draft) + 1)
            ],
            ROW,
        )

    def _row(
        self, generation: Generation, ahead: int, draft: Sequence[int], rides_on: int
    ) -> tuple[float, ...]:
        """The fields of `ROW` for a generation, or for the position `ahead` of it, after that many guessed tokens."""
        request = generation.request
        slot = (generation.leader or generation).slot
        assert slot is not None
        said = len(generation.token_ids) + ahead
        triggers = request.interceptor.trigger_ids if request.interceptor is not None else None
        return (
            slot.number,
            len(generation.ids) - 1 + ahead,
            draft[ahead - 1] if ahead else generation.ids[-1],
            generation.limit - said,
            min(request.top_k, self._vocab_size),  # 32 bits hold that
            request.temperature, request.top_p, request.min_p,
            0, 0,  # produced, done: what comes back
            rides_on, 0,
            generation.uniforms_address + 8 * said if request.temperature > 0 else 0,
            self._map(request.stop_ids, triggers or frozenset()) if request.stop_ids or triggers else 0,
            self._hold(generation.mask) if generation.constraint is not None else 0,
            self._bias(request.logit_bias) if request.logit_bias else 0,
        )  # fmt: skip

    def _bias(self, values: Mapping[int, float]) -> int:
        bias = np.zeros(self._vocab_size, np.float32)
        for token, value in values.items():
            bias[token] = value
        return self._hold(bias)

    def _hold(self, values: npt.NDArray[np.generic]) -> int:
        self._held.append(values)
        return int(values.ctypes.data)

    def _map(self, stop_ids: frozenset[int], triggers: frozenset[int]) -> int:
        """Where it says which tokens make a row pause."""
        found = self._maps.get((stop_ids, triggers))
        if found is None:
            marks = np.zeros(self._vocab_size, np.uint8)
            marks[[token for token in stop_ids | triggers if 0 <= token < len(marks)]] = 1
            found = self._maps[stop_ids, triggers] = marks, int(marks.ctypes.data)
        return found[1]
