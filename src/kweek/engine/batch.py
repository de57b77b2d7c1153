"""Generation and scoring over a backend with slots: what every engine in this process has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from kweek.engine.backend import MAX_ROWS, Fed
from kweek.engine.generation import OnToken
from kweek.engine.scheduler import Scheduler
from kweek.errors import KweekError
from kweek.protocols import Completion, Request, ShouldStop, never


class BatchEngine(ABC):
    """A `LanguageModel` that batches continuously.

    Args:
        num_slots: generations that run at once; the rest wait.
        score_slots: sequences scored in one call; their slots lie behind those of generations.
        should_stop: asked between calls of the network; when true, all generations end as "cancelled".
        token_bytes: the bytes of every token; needed by requests with stop texts.
    """

    def __init__(
        self,
        num_slots: int,
        score_slots: int,
        *,
        should_stop: ShouldStop = never,
        token_bytes: Sequence[bytes] | None = None,
    ) -> None:
        self.should_stop, self._token_bytes = should_stop, token_bytes
        self._num_slots, self._score_slots = num_slots, score_slots
        self._scheduler: Scheduler | None = None

    @abstractmethod
    def _current(self) -> Scheduler:
        """The scheduler to use now."""

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
            scheduler = (
                self._current()
            )  # once: looking whether weights have changed costs more than a request
            for index, request in enumerate(requests):
                self._check(request)
                told = None if on_token is None else Told(on_token, index)
                tickets[scheduler.submit(request, told)] = index
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
        """Natural-log probability of every token given those before it; the first has 0.0.

        Raises:
            KweekError: a token outside the vocabulary.
        """
        backend = self._current().backend
        size = backend.config.vocab_size
        if not all(0 <= min(sequence) <= max(sequence) < size for sequence in sequences if sequence):
            raise KweekError(
                f"a sequence has a token outside 0 .. {size - 1}", fix="use this model's own tokenizer"
            )
        result: list[list[float]] = [[0.0] if sequence else [] for sequence in sequences]
        lengths = [len(sequence) - 1 for sequence in sequences]
        for group in _calls(lengths, self._score_slots):
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


class Told:
    """Passes the tokens of one request of `generate` on, with its index."""

    def __init__(self, on_token: Callable[[int, int], None], index: int) -> None:
        self._on_token, self._index = on_token, index

    def __call__(self, token: int, logprob: float) -> None:
        self._on_token(self._index, token)


def _calls(lengths: Sequence[int], slots: int) -> list[list[tuple[int, int, int]]]:
    """Pieces (index, start, end) of sequences, in calls of at most `MAX_ROWS` tokens and `slots` sequences.

    A sequence's pieces follow one another in the same slot: a piece that is not its last fills a call alone.
    """
    calls: list[list[tuple[int, int, int]]] = []
    room = 0
    for index, length in enumerate(lengths):
        for start in range(0, length, MAX_ROWS):
            end = min(start + MAX_ROWS, length)
            if start or end - start > room or len(calls[-1]) == slots:
                calls.append([])
                room = MAX_ROWS
            calls[-1].append((index, start, end))
            room = 0 if length > MAX_ROWS else room - (end - start)
    return calls
