"""The one thread that owns the engine, and the queues between it and the event loop.

Everything that touches the engine happens on that thread, between two steps: requests join, leave when their client
has gone. What the engine says in a step crosses to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kweek.errors import KweekError, is_out_of_memory
from kweek.protocols import Completion, Request
from kweek.serve.refusal import Refusal

RETRY_AFTER_SECONDS = 1  # a place becomes free whenever any generation ends
MAX_EMPTYING_STEPS = 3  # a cancelled row leaves within one step; more means that the engine is broken


class SteppingEngine(Protocol):
    """What the thread needs of an engine; see `kweek.engine.engine.Engine`."""

    def submit(self, request: Request, on_token: Callable[[int, float], None] | None = None) -> int: ...

    def cancel(self, ticket: int) -> None: ...

    def step(self) -> list[tuple[int, Completion]]: ...

    @property
    def num_active(self) -> int: ...


@dataclass(frozen=True)
class NewToken:
    """A token of one generation, with its natural-log probability."""

    token_id: int
    logprob: float


Event = NewToken | Completion | Refusal


@dataclass
class Batch:
    """The generations of one HTTP request, as the event loop sees them."""

    worker: Worker
    num_open: int
    arrived: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)
    tickets: set[int] = field(default_factory=set)  # the engine's thread alone touches these
    cancelled: bool = False

    async def events(self) -> AsyncIterator[list[tuple[int, NewToken | Completion]]]:
        """What has been said since the last time, as (index of the generation, event), until all have ended.

        Raises:
            Refusal: the engine does not take a request, or has failed.
        """
        while self.num_open:
            arrived = [await self.arrived.get()]
            while not self.arrived.empty():
                arrived.append(self.arrived.get_nowait())
            events: list[tuple[int, NewToken | Completion]] = []
            for index, event in arrived:
                if isinstance(event, Refusal):
                    raise event
                self.num_open -= isinstance(event, Completion)
                events.append((index, event))
            yield events

    def cancel(self) -> None:
        """Let go of whatever has not ended; for a client that has gone away."""
        if not self.cancelled and self.num_open:
            self.cancelled = True
            self.worker.cancel(self)


class Worker:
    """Runs an engine on a thread of its own.

    Args:
        engine: used by that thread alone from `start` to `stop`.
        max_active: generations queued and running at once; one more is refused with "try again".
    """

    def __init__(self, engine: SteppingEngine, *, max_active: int) -> None:
        self.max_active = max_active
        self.num_active = 0  # generations not ended yet; the event loop's count
        self.failure: str | None = None  # why the engine can no longer be used
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._owners: dict[int, tuple[Batch, int]] = {}
        self._said: list[tuple[Batch, int, Event]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # -- on the event loop

    def start(self) -> None:
        """Start the thread; call it on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread after its current step; what has not ended is dropped."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, requests: Sequence[Request]) -> Batch:
        """Queue requests as one batch.

        Raises:
            Refusal: no room for all of them now (503 with Retry-After) or ever, or the engine has failed.
        """
        self._take_room(len(requests))
        batch = Batch(self, len(requests))
        self._commands.put(lambda: self._submit(batch, requests))
        return batch

    def cancel(self, batch: Batch) -> None:
        """Let go of a batch; its places become free after the engine's current step."""
        self._commands.put(lambda: self._cancel(batch))

    def _take_room(self, count: int) -> None:
        if self.failure is not None:
            raise Refusal(self.failure, status=503, code="engine_failed")
        if count > self.max_active:
            raise Refusal(
                f"This request asks for {count} generations; the server takes at most {self.max_active} at once.",
                code="too_many_generations",
            )
        if self.num_active + count > self.max_active:
            raise Refusal(
                f"{self.num_active} generations are queued or running and this request asks for {count}; "
                f"at most {self.max_active} are taken at once. Try again in a moment.",
                status=503,
                code="queue_full",
                retry_after=RETRY_AFTER_SECONDS,
            )
        self.num_active += count

    def _deliver(self, said: Sequence[tuple[Batch, int, Event]]) -> None:
        for batch, index, event in said:
            self.num_active -= not isinstance(event, NewToken)
            batch.arrived.put_nowait((index, event))

    # -- on the engine's thread

    def _run(self) -> None:
        while self._take_commands():
            if self._engine.num_active:
                try:
                    self._finish(self._engine.step())
                except Exception as error:
                    self._recover(error)
            self._tell()

    def _take_commands(self) -> bool:
        """Do what has been asked for, waiting when there is nothing else to do; false at the end."""
        idle = not (self._engine.num_active or self._said)
        while True:
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            idle = False

    def _submit(self, batch: Batch, requests: Sequence[Request]) -> None:
        for index, request in enumerate(requests):
            if batch.cancelled:
                self._said.append((batch, index, Refusal("The client has gone away.")))
                continue
            try:
                ticket = self._engine.submit(request, self._listener(batch, index))
            except KweekError as error:
                self._said.append((batch, index, Refusal.of(error)))
                continue
            except (
                Exception
            ) as error:  # the first request makes the engine's backend; this thread must outlive it
                what = _cause(error)
                refusal = Refusal(f"The engine cannot begin ({what}).", status=500, code="generation_failed")
                self._said.append((batch, index, refusal))
                continue
            self._owners[ticket] = batch, index
            batch.tickets.add(ticket)

    def _listener(self, batch: Batch, index: int) -> Callable[[int, float], None]:
        def listen(token_id: int, logprob: float) -> None:
            self._said.append((batch, index, NewToken(token_id, logprob)))

        return listen

    def _cancel(self, batch: Batch) -> None:
        for ticket in list(batch.tickets):
            self._engine.cancel(ticket)

    def _finish(self, done: Sequence[tuple[int, Completion]]) -> None:
        for ticket, completion in done:
            batch, index = self._owners.pop(ticket)
            batch.tickets.discard(ticket)
            self._said.append((batch, index, completion))

    def _recover(self, error: Exception) -> None:
        """Tell everyone whose generation a failed step has cost, and empty the engine for those to come."""
        what = _cause(error)
        refusal = Refusal(f"The engine failed in a step ({what}); the generation is lost.", status=500)
        lost, self._owners = self._owners, {}
        for batch, index in lost.values():
            batch.tickets.clear()
            self._said.append((batch, index, refusal))
        try:
            for ticket in lost:
                self._engine.cancel(ticket)
            for _ in range(MAX_EMPTYING_STEPS):
                if self._engine.num_active:
                    self._engine.step()
            if self._engine.num_active:
                raise RuntimeError("cancelled generations stay")
        except Exception:
            self.failure = f"The engine has failed ({what}) and must be started again."
            self._engine = _Broken(self.failure)

    def _tell(self) -> None:
        if self._said:
            said, self._said = self._said, []
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, said)


def _cause(error: Exception) -> str:
    return "not enough memory" if is_out_of_memory(error) else type(error).__name__


class _Broken:
    """Stands where an engine was that failed and could not be emptied."""

    num_active = 0

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def submit(self, request: Request, on_token: Callable[[int, float], None] | None = None) -> int:
        raise KweekError(self._reason.rstrip("."))

    def cancel(self, ticket: int) -> None:
        """Nothing is running."""

    def step(self) -> list[tuple[int, Completion]]:
        return []
