"""Generation and scoring with a network in this process: continuous batches, shared prefixes, one native call per step.

The computing is done by the native library where the network is on the CPU in fp32 and the library can be had, else by
torch. Both give the tokens of the network, and both are exact enough to train on.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from kweek.engine.backend import Backend
from kweek.engine.batch import BatchEngine
from kweek.engine.device.backend import DeviceBackend
from kweek.engine.eager import EagerBackend
from kweek.engine.native.decoder import KVFormat, NativeBackend
from kweek.engine.native.pack import WeightFormat
from kweek.engine.scheduler import Scheduler
from kweek.engine.speculation import Speculation
from kweek.errors import KweekError
from kweek.model.network import Network
from kweek.protocols import ShouldStop, never

SCORE_SLOTS = 16  # sequences scored in one call; their slots lie behind those of generations
NUM_SLOTS = 64  # sequences at once: beyond it the native products gain nothing more per row


Computing = Literal["auto", "native", "torch"]


class Engine(BatchEngine):
    """A `LanguageModel` over a network in this process.

    Changed weights are seen: what was computed with the old ones is forgotten before the next generation begins.

    Args:
        network: on the CPU in fp32, or on a CUDA device in any precision.
        should_stop: asked between calls of the network; when true, all generations end as "cancelled".
        token_bytes: the bytes of every token; needed by requests with stop texts.
        weights: how the native library holds the matrices. "f32" is exact; "q4" and "q8" are two to five times as fast
            and as exact as 4 and 8 bits are.
        kv: how it holds keys and values.
        num_slots: generations that run at once; the rest wait.
        threads: of the native library; see `NativeBackend`.
        speculation: guesses tokens ahead, with the same result.
        computing: "native" and "torch" insist; "auto" takes the native library where it can be had, else says so once
            and goes on with torch.
    """

    def __init__(
        self,
        network: Network,
        *,
        should_stop: ShouldStop = never,
        token_bytes: Sequence[bytes] | None = None,
        weights: WeightFormat = "f32",
        kv: KVFormat = "f32",
        num_slots: int = NUM_SLOTS,
        threads: int = 1,
        speculation: Speculation | None = None,
        computing: Computing = "auto",
    ) -> None:
        super().__init__(num_slots, SCORE_SLOTS, should_stop=should_stop, token_bytes=token_bytes)
        self.network, self.speculation = network, speculation
        self._weights, self._kv, self._threads = weights, kv, threads
        self._computing = computing
        self._version: tuple[tuple[int, int], ...] = ()

    def _current(self) -> Scheduler:
        """The scheduler over the present weights; a new one where they changed and nothing is running."""
        version = tuple((p.data_ptr(), p._version) for p in self.network.parameters())
        if self._scheduler is None or (version != self._version and not self.num_active):
            self._scheduler = Scheduler(
                self._backend(version), self._num_slots, self._token_bytes, self.speculation
            )
            self._version = version
        return self._scheduler

    def _backend(self, version: tuple[tuple[int, int], ...]) -> Backend:
        """A backend for these weights; one that has recorded graphs is kept while they lie where they lay."""
        before = None if self._scheduler is None else self._scheduler.backend
        moved = [place for place, _ in version] != [place for place, _ in self._version]
        return before if isinstance(before, DeviceBackend) and not moved else self._make()

    def _make(self) -> Backend:
        num_slots = self._num_slots + SCORE_SLOTS
        if self.network.head_weight.is_cuda:
            return DeviceBackend(self.network, num_slots=num_slots)
        if self._computing == "torch":
            return EagerBackend(self.network, num_slots=num_slots)
        try:
            return NativeBackend(
                self.network, self._weights, kv=self._kv, num_slots=num_slots, threads=self._threads
            )
        except KweekError as error:
            if self._computing == "native":
                raise
            _say_once(f"{error}; generating with torch, several times slower")
        return EagerBackend(self.network, num_slots=num_slots)


@lru_cache
def _say_once(words: str) -> None:
    warnings.warn(words, RuntimeWarning, stacklevel=4)
