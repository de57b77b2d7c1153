"""What the floors promise each other: the types that cross a floor's boundary, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

StopReason = Literal["stop", "length", "cancelled"]


class Progress(Protocol):
    """Receives how far a piece of work is; a face draws it, nothing below the faces prints.

    `done` and `total` are in the work's own unit; `values` are the figures of the moment
    (`loss=1.93`, `tokens_per_second=9100.0`) and `note` a short phrase.
    """

    def __call__(self, done: float, total: float, note: str = "", **values: float) -> None: ...


def silent(done: float, total: float, note: str = "", **values: float) -> None:
    """A `Progress` that draws nothing."""


#: Asked between steps: true when the user wants to stop.
ShouldStop = Callable[[], bool]


def never() -> bool:
    """A `ShouldStop` that never stops."""
    return False


class TokenInterceptor(Protocol):
    """Gives the tokens that a tool forces into a generation.

    Called after every sampled token with all token ids of the sequence so far (prompt included).
    Returns the ids to append without sampling (empty when no tool call has just been closed).
    Forced tokens carry `sampled=False`, so no loss is ever taken on them.
    """

    def __call__(self, token_ids: Sequence[int]) -> Sequence[int]: ...


@dataclass(frozen=True)
class Request:
    """One generation to make. `temperature` 0 is greedy; sampling uses the full softmax."""

    prompt_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    interceptor: TokenInterceptor | None = None


@dataclass(frozen=True)
class Completion:
    """What came of a request. The three lists are parallel, one entry per new token.

    `logprobs` are natural logs under the full softmax at temperature 1; forced tokens have 0.0.
    """

    token_ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    stop_reason: StopReason
    num_prompt_tokens: int
    flop: float


@runtime_checkable
class LanguageModel(Protocol):
    """Anything that generates and scores, token ids in and out, batched and counted."""

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete every request; `on_token(request_index, token_id)` streams as tokens appear."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token given those before it; the first has 0.0."""
        ...


@dataclass(frozen=True)
class Score:
    """A verifier's judgement. `value` in [0, 1]; `error` is set when the verifier itself failed."""

    value: float
    parsed: bool
    error: str | None = None


class Verifier(Protocol):
    """Judges an answer's text against the gold answer. Pure, deterministic, never raises outward."""

    def __call__(self, answer: str, gold: str) -> Score: ...


Message = Mapping[str, Any]
"""An OpenAI chat message: `role`, `content`, and where it applies `reasoning_content`, `tool_calls`."""


@dataclass
class ModelSummary:
    """What a report or a plan needs to know of a network without loading it."""

    architecture: str
    num_parameters: int
    num_bytes: int
    details: dict[str, Any] = field(default_factory=dict)
