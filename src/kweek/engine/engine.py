"""Generation and scoring with a network in this process: continuous batches, shared prefixes, one native call per step.

The computing is done by the native library where the network is on the CPU in fp32 and the library can be had, else by
torch. Both give the tokens of the network, and both are exact enough to train on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache

from kweek.engine.backend import MAX_ROWS, Backend, Fed
from kweek.engine.eager import EagerBackend
from kweek.engine.generation import OnToken
from kweek.engine.native import library
from kweek.engine.native.decoder import KVFormat, NativeBackend
from kweek.engine.native.pack import WeightFormat
from kweek.engine.scheduler import Scheduler
from kweek.engine.speculation import Speculation
from kweek.engine.suspended import Suspended, identity
from kweek.errors import KweekError
from kweek.model.network import Network
from kweek.protocols import Completion, Constraint, Request, ShouldStop, TokenInterceptor, never

SCORE_SLOTS = 16  # sequences scored in one call; their slots lie behind those of generations
Version = tuple[tuple[int, int], ...]  # of every tensor, where it is and how often it has been written to
NUM_SLOTS = 64  # sequences at once: beyond it the native products gain nothing more per row


class Engine:
    """A `LanguageModel` over a network in this process.

    Changed weights are seen: what was computed with the old ones is forgotten before the next generation begins.

    Args:
        network: on the CPU, in fp32.
        should_stop: asked between calls of the network; when true, all generations end as "cancelled".
        token_bytes: the bytes of every token; needed by requests with stop texts.
        weights: how the native library holds the matrices. "f32" is exact; "q4" and "q8" are two to five times as fast
            and as exact as 4 and 8 bits are.
        kv: how it holds keys and values.
        num_slots: generations that run at once; the rest wait.
        threads: of the native library; see `NativeBackend`.
        speculation: guesses tokens ahead, with the same result.
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
    ) -> None:
        self.network, self.should_stop, self.speculation = network, should_stop, speculation
        self._token_bytes, self._weights, self._kv = token_bytes, weights, kv
        self._num_slots, self._threads = num_slots, threads
        self._version: Version = ()
        self._identified: tuple[Version, str] | None = None
        self._scheduler: Scheduler | None = None

    @property
    def num_active(self) -> int:
        """Generations queued or running."""
        return self._scheduler.num_active if self._scheduler is not None else 0

    def submit(self, request: Request, on_token: OnToken | None = None) -> int:
        """Queue a request, which joins at the next step; returns its ticket.

        Args:
            on_token: told every new token with its log-probability.

        Raises:
            KweekError: an empty prompt, more positions than the network has, or stop texts without `token_bytes`.
        """
        self._check(request)
        return self._current().submit(request, on_token)

    def _check(self, request: Request) -> None:
        if request.stop_texts and self._token_bytes is None:
            raise KweekError("stop texts need the bytes of every token", fix="give the engine token_bytes")

    def cancel(self, ticket: int) -> None:
        """End a generation with what it has at the next step."""
        if self._scheduler is not None:
            self._scheduler.cancel(ticket)

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

    def step(self) -> list[tuple[int, Completion]]:
        """One call of the network over all rows; (ticket, completion) of the generations that ended."""
        return self._scheduler.step() if self._scheduler is not None else []

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete every request; see `LanguageModel.generate`. Raises KweekError as `submit` does."""
        tickets: dict[int, int] = {}
        done: dict[int, Completion] = {}
        cancelled = False
        try:
            for index, request in enumerate(requests):
                told = None if on_token is None else _Told(on_token, index)
                tickets[self.submit(request, told)] = index
            while len(done) < len(tickets):
                done |= {tickets[ticket]: completion for ticket, completion in self.step()}
                if not cancelled and self.should_stop():
                    cancelled = True
                    for ticket in tickets:
                        self.cancel(ticket)
        except BaseException:
            self._scheduler = None  # a tool or a listener failed: nothing of this call may run on
            raise
        return [done[index] for index in range(len(requests))]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token given those before it; the first has 0.0."""
        backend = self._current().backend
        result: list[list[float]] = [[0.0] if sequence else [] for sequence in sequences]
        for group in _calls([len(sequence) - 1 for sequence in sequences]):
            fed = [
                Fed(self._num_slots + place, start, sequences[index][start:end])
                for place, (index, start, end) in enumerate(group)
            ]
            backend.forward(fed, range(sum(end - start for _, start, end in group)))
            found = backend.logprobs(
                [token for index, start, end in group for token in sequences[index][start + 1 : end + 1]]
            )
            for index, start, end in group:
                result[index] += found[: end - start]
                del found[: end - start]
        return result

    def _current(self) -> Scheduler:
        """The scheduler over the present weights; a new one where they changed and nothing is running."""
        version = self._present()
        if self._scheduler is None or (version != self._version and not self.num_active):
            self._version = version
            self._scheduler = Scheduler(self._make(), self._num_slots, self._token_bytes, self.speculation)
        return self._scheduler

    def _present(self) -> Version:
        """The weights' version: later writes to them show in it."""
        return tuple((p.data_ptr(), p._version) for p in self.network.parameters())

    def _identity(self) -> str:
        """That of the present weights, looked at once."""
        version = self._present()
        if self._identified is None or self._identified[0] != version:
            self._identified = version, identity(self.network, self._weights, self._kv)
        return self._identified[1]

    def _make(self) -> Backend:
        num_slots = self._num_slots + SCORE_SLOTS
        try:
            library.load()
        except KweekError as error:
            _say_once(f"{error}; generating with torch in fp32, several times slower")
            return EagerBackend(self.network, num_slots=num_slots)
        return NativeBackend(
            self.network, self._weights, kv=self._kv, num_slots=num_slots, threads=self._threads
        )


class _Told:
    """Passes the tokens of one request of `generate` on, with its index."""

    def __init__(self, on_token: Callable[[int, int], None], index: int) -> None:
        self._on_token, self._index = on_token, index

    def __call__(self, token: int, logprob: float) -> None:
        self._on_token(self._index, token)


@lru_cache
def _say_once(words: str) -> None:
    warnings.warn(words, RuntimeWarning, stacklevel=4)


def _calls(lengths: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """Pieces (index, start, end) of sequences, in calls of at most `MAX_ROWS` tokens and `SCORE_SLOTS` sequences.

    A sequence's pieces follow one another in the same slot: a piece that is not its last fills a call alone.
    """
    calls: list[list[tuple[int, int, int]]] = []
    room = 0
    for index, length in enumerate(lengths):
        for start in range(0, length, MAX_ROWS):
            end = min(start + MAX_ROWS, length)
            if start or end - start > room or len(calls[-1]) == SCORE_SLOTS:
                calls.append([])
                room = MAX_ROWS
            calls[-1].append((index, start, end))
            room = 0 if length > MAX_ROWS else room - (end - start)
    return calls
