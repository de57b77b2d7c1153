"""Generation and scoring with a network in this process: continuous batches, shared prefixes, one native call per step.

The computing is done by the native library where the network is on the CPU in fp32 and the library can be had, else by
torch. Both give the tokens of the network, and both are exact enough to train on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from kweek.engine.backend import Backend
from kweek.engine.batch import BatchEngine
from kweek.engine.device.backend import DeviceBackend
from kweek.engine.eager import EagerBackend
from kweek.engine.generation import OnToken
from kweek.engine.native import library
from kweek.engine.native.decoder import KVFormat, NativeBackend
from kweek.engine.native.pack import WeightFormat
from kweek.engine.scheduler import Scheduler
from kweek.engine.speculation import Speculation
from kweek.engine.suspended import Suspended, identity
from kweek.errors import KweekError
from kweek.model.adapter import merged_copy, refresh_copy
from kweek.model.network import Network
from kweek.protocols import Constraint, ShouldStop, TokenInterceptor, never

SCORE_SLOTS = 16  # sequences scored in one call; their slots lie behind those of generations
NUM_SLOTS = (
    96  # sequences at once: products gain little beyond 64 rows, and samples that say the same share a row
)


Version = tuple[tuple[int, int], ...]  # of every tensor, where it is and how often it has been written to
Computing = Literal["auto", "native", "torch"]


class Engine(BatchEngine):
    """A `LanguageModel` over a network in this process.

    Changed weights are seen: what was computed with the old ones is forgotten before the next generation begins. So are
    those of an adapter, which is part of the matrices that are packed: generation and training compute with the same.

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
            and goes on with torch, in fp32. What only the native library has is refused elsewhere.
        consume: for a network that nobody else uses: pack it now for the native library, and take its matrices away.
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
        consume: bool = False,
    ) -> None:
        super().__init__(num_slots, SCORE_SLOTS, should_stop=should_stop, token_bytes=token_bytes)
        self.network, self.speculation = network, speculation
        self._weights, self._kv, self._threads = weights, kv, threads
        self._computing = computing
        self._version: Version = ()
        self._identified: tuple[Version, str] | None = None
        self._consume = self._consumed = False
        if consume:
            self._consume_network()

    def suspend(self, tickets: Collection[int] | None = None) -> list[Suspended]:
        """Take generations that have not ended out of the engine, between two steps.

        Each can go on in an engine over the same weights, also in another process (`write_suspended`), and its tokens
        are then those of an undisturbed run.

        Args:
            tickets: which; None takes all. One that has ended, or is unknown, is passed over.

        Returns:
            Those taken, in the order of their tickets; no `step` returns them any more.

        Raises:
            KweekError: the weights have changed since the generations began.
        """
        if self._scheduler is None or not self.num_active:
            return []
        if self._version != self._present():
            raise KweekError("the weights have changed under running generations", fix="let them end first")
        return self._scheduler.suspend(tickets, self._identity())

    def resume(
        self,
        suspended: Suspended,
        on_token: OnToken | None = None,
        *,
        constraint: Callable[[], Constraint] | None = None,
        interceptor: TokenInterceptor | None = None,
    ) -> int:
        """Let a suspended generation go on; returns its new ticket.

        What it has said counts as said: `on_token` is told what comes now, and the completion holds all of it. Its cost
        holds the tokens that have to be computed again, its budget does not count them.

        Args:
            constraint, interceptor: what the request had, where it comes from a file.

        Raises:
            KweekError: other weights than before, a constraint or tool that is missing or not wanted, or as `submit`.
        """
        if suspended.model != self._identity():
            raise KweekError(
                "a generation was suspended with other weights, or in another format",
                fix="resume it with the same model, weights and kv, or generate anew",
            )
        request = replace(
            suspended.request,
            constraint=constraint or suspended.request.constraint,
            interceptor=interceptor or suspended.request.interceptor,
        )
        for name, there in (
            ("constraint", request.constraint is not None),
            ("interceptor", request.interceptor is not None),
        ):
            if there != (name in suspended.wants):
                what = "had none" if there else "does not go on without it"
                raise KweekError(
                    f"{name} of a suspended generation: it {what}", fix="give what it began with"
                )
        self._check(request)
        return self._current().resume(suspended, request, on_token)

    def _current(self) -> Scheduler:
        """The scheduler over the present weights; a new one where they changed and nothing is running."""
        version = self._present()
        if self._scheduler is None or (version != self._version and not self.num_active):
            self._scheduler = Scheduler(
                self._backend(version), self._num_slots, self._token_bytes, self.speculation
            )
            self._version = version
        return self._scheduler

    def _consume_network(self) -> None:
        """Make the only backend there will be; where that computes with the network itself, it stays as it is."""
        self._identity()  # while there is something to look at
        self._consume = True
        backend = self._make()
        self._consumed = isinstance(backend, NativeBackend)
        self._version = self._present()
        if self._identified is not None:
            self._identified = self._version, self._identified[1]
        self._scheduler = Scheduler(backend, self._num_slots, self._token_bytes, self.speculation)

    def _present(self) -> Version:
        """The weights' version: later writes to them show in it."""
        if self._consumed:
            return ()
        return tuple((p.data_ptr(), p._version) for p in self.network.parameters())

    def _identity(self) -> str:
        """That of the present weights, looked at once."""
        version = self._present()
        if self._identified is None or self._identified[0] != version:
            self._identified = version, identity(self.network, self._weights, self._kv)
        return self._identified[1]

    def _backend(self, version: Version) -> Backend:
        """A backend for these weights; one that has recorded graphs is kept while they lie where they lay.

        The native one keeps its memory.
        """
        before = None if self._scheduler is None else self._scheduler.backend
        if isinstance(before, NativeBackend) and before.config == self.network.config:
            self._check_form()
            before.repack(self.network)
            return before
        moved = [place for place, _ in version] != [place for place, _ in self._version]
        if not isinstance(before, DeviceBackend) or moved:
            return self._make()
        if self.network.adapter is not None:
            refresh_copy(before.network, self.network)
        return before

    def _whole(self) -> Network:
        """The network, with its adapter merged: as torch adds it, its thin products cost more than they compute."""
        return self.network if self.network.adapter is None else merged_copy(self.network)

    def _check_form(self) -> None:
        if self.network.adapter is not None and self._weights in ("q8", "q4"):
            raise KweekError(
                f"{self._weights} would round most of the adapter away without a word",
                fix="use f32 or f16, or merge, quantise and measure",
            )

    def _make(self) -> Backend:
        num_slots = self._num_slots + SCORE_SLOTS
        on_gpu = self.network.head_weight.is_cuda
        native_only = (self._weights, self._kv, self._threads) != ("f32", "f32", 1)
        if (on_gpu or self._computing == "torch") and (native_only or self._computing == "native"):
            raise KweekError(
                "weights, kv, threads and the native library are for networks on the CPU, and not for torch",
                fix="leave them out, or move the network to the CPU and compute natively",
            )
        self._check_form()
        if on_gpu:
            return DeviceBackend(self._whole(), num_slots=num_slots)
        if self._computing == "torch":
            return EagerBackend(self._whole(), num_slots=num_slots)
        try:
            library.load()
        except KweekError as error:
            if self._computing == "native":
                raise
            _say_once(f"{error}; generating with torch in fp32, several times slower")
            return EagerBackend(self._whole(), num_slots=num_slots)
        return NativeBackend(
            self.network, self._weights, kv=self._kv, num_slots=num_slots, threads=self._threads,
            consume=self._consume,
        )  # fmt: skip


@lru_cache
def _say_once(words: str) -> None:
    warnings.warn(words, RuntimeWarning, stacklevel=4)
