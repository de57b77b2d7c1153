"""One engine for many runs at once: what they ask for is generated together, in one continuous batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from kweek.engine.open import SteppingModel
from kweek.protocols import Completion, Request
from kweek.system.system import Solved, System
from kweek.system.task import Task

WORKERS = 32  # runs at once: with two samples each, rows beyond which products gain little


class Together:
    """A `LanguageModel` for several threads over an engine that one thread at a time may use.

    Whoever waits for an answer makes the next step for all.
    """

    def __init__(self, model: SteppingModel) -> None:
        self._model, self._lock = model, threading.Lock()
        self._done: dict[int, Completion] = {}
        self._unwanted: set[int] = set()

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """See `LanguageModel`; tokens are told in the thread of whoever makes the step."""
        tickets: list[int] = []
        try:
            with self._lock:
                for at, request in enumerate(requests):
                    tickets.append(self._model.submit(request, _told(on_token, at)))
            while not self._all_done(tickets):
                pass
        except BaseException:
            self._let_go(tickets)
            raise
        with self._lock:
            return [self._done.pop(ticket) for ticket in tickets]

    def _all_done(self, tickets: Sequence[int]) -> bool:
        """Whether these have ended; where not, one step is made."""
        with self._lock:
            if all(ticket in self._done for ticket in tickets):
                return True
            for ticket, completion in self._model.step():
                if ticket in self._unwanted:
                    self._unwanted.discard(ticket)
                else:
                    self._done[ticket] = completion
            return False

    def _let_go(self, tickets: Sequence[int]) -> None:
        """End what nobody waits for any more."""
        with self._lock:
            for ticket in tickets:
                if self._done.pop(ticket, None) is None:
                    self._unwanted.add(ticket)
                    self._model.cancel(ticket)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `LanguageModel`."""
        with self._lock:
            return self._model.score(sequences)


def answer_all(
    system: System, tasks: Sequence[Task], *, seed: int = 0, workers: int = WORKERS
) -> Iterator[Solved]:
    """Answers to many tasks in their order, several at a time; the models of the system must bear that.

    Raises as `System.answer`, for the first task that fails.
    """
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda task: system.answer(task, seed=seed), tasks)


def _told(on_token: Callable[[int, int], None] | None, at: int) -> Callable[[int, float], None] | None:
    return None if on_token is None else lambda token, _: on_token(at, token)
