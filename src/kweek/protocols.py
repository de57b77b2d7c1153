"""What the floors promise each other: the types that cross a floor's boundary, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

StopReason = Literal["stop", "length", "cancelled", "budget", "error"]


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

    Called with all token ids of the sequence so far (prompt included) after every sampled token that is one of
    `trigger_ids`. Returns the ids to append without sampling (empty when no tool call has just been closed).
    Forced tokens carry `sampled=False`, so no loss is ever taken on them.
    """

    @property
    def trigger_ids(self) -> frozenset[int] | None:
        """Tokens that can close a call, between which an engine need not ask; None asks after every token."""
        ...

    def __call__(self, token_ids: Sequence[int]) -> Sequence[int]: ...


class Constraint(Protocol):
    """What a generation may say next: the state of one grammar in one generation."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """(V,) which tokens may come next, end-of-text tokens among them where the text may end here.

        The array belongs to the constraint and may change with the next `advance`. Never all false.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Take a token that was allowed."""
        ...


@dataclass(frozen=True)
class Request:
    """One generation to make. `temperature` 0 is greedy; by default sampling uses the full softmax.

    A token is drawn thus: logits + `logit_bias`, the constraint's mask, division by the temperature, then of the
    probabilities the `top_k` largest, of these the fewest that hold `top_p`, of these those of at least `min_p` times
    the largest; what is left is renormalised.

    Args:
        stop_ids: tokens that end the generation; they are part of it.
        stop_texts: UTF-8 texts that end it wherever the bytes of its tokens first hold one, across tokens too.
        constraint: makes a fresh constraint for this generation.
        prompt_logprobs: also give the log-probability of every token of the prompt, and its rank. With nothing more to
            generate (`max_new_tokens` 0) the prompt is only scored.
        num_prompt_top: how many of the likeliest tokens to name at each place of a scored prompt.
        num_top: how many of the likeliest tokens to name beside each new token.
        max_flop: ends the generation, with what it has, before it costs more.
        tenant: requests of different tenants never share a cached prefix.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    interceptor: TokenInterceptor | None = None
    top_k: int = 0  # 0 is all
    top_p: float = 1.0
    min_p: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop_texts: tuple[bytes, ...] = ()
    constraint: Callable[[], Constraint] | None = None
    prompt_logprobs: bool = False
    num_prompt_top: int = 0
    num_top: int = 0
    max_flop: float = math.inf
    tenant: str = ""


@dataclass(frozen=True)
class Completion:
    """What came of a request. The lists are parallel, one entry per new token.

    `logprobs` are natural logs under the full softmax at temperature 1, before bias, mask and truncation; forced tokens
    have 0.0. `processed_logprobs` are those of the distribution that was drawn from, and `kept_mass` is the share of
    the biased, masked and tempered one that truncation kept: a policy gradient needs both to be right (for a greedy
    token 0.0 and 1.0).
    """

    token_ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    stop_reason: StopReason
    num_prompt_tokens: int
    flop: float
    processed_logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    #: natural logs of the prompt's tokens, the first 0.0; None unless asked for.
    prompt_logprobs: list[float] | None = None
    #: 1 where the prompt's token is the likeliest, the first 0; empty unless its log-probabilities are asked for.
    prompt_ranks: list[int] = field(default_factory=list)
    #: the likeliest (id, natural log) at each place of the prompt, best first, none at the first; likewise.
    prompt_top: list[list[tuple[int, float]]] = field(default_factory=list)
    #: for each new token the likeliest (id, natural log under the full softmax), best first.
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    #: the text or token of the request that ended it, when the reason is "stop".
    stopped_by: bytes | int | None = None
    #: what went wrong with this generation alone, when the reason is "error".
    error: str | None = None


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
    """A verifier's judgement. `value` in [0, 1]; `error` is set when the verifier itself failed.

    `parts` names what the value is made of, where it is made of several things.
    """

    value: float
    parsed: bool
    error: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


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
