"""Samples: what a model said in one generation, and how a call for some is fitted into what may be spent."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.errors import Interrupted, KweekError
from kweek.protocols import Completion, Constraint, Request, StopReason
from kweek.store.files import encode_json
from kweek.system.budget import Budget, Ticket
from kweek.system.cost import Cost
from kweek.system.roles import Role
from kweek.tokenize.chat import parse_completion


@dataclass(frozen=True)
class Sample:
    """One generation. The lists are parallel, one entry per new token, as in `Completion`.

    Attributes:
        text: the answer, without thoughts.
        reasoning: the thoughts.
        prompt_ids: what it followed.
        token_ids: its tokens, that which ended it among them.
        sampled: false where a tool forced the token: the mask of a loss.
        logprobs: natural logs under the full softmax at temperature 1.
        processed_logprobs, kept_mass: as in `Completion`.
        stop_reason: why it ended; "stop" when it was done.
        flop: nan where nobody knows.
    """

    text: str
    reasoning: str
    prompt_ids: list[int]
    token_ids: list[int]
    sampled: list[bool]
    logprobs: list[float]
    processed_logprobs: list[float]
    kept_mass: list[float]
    stop_reason: StopReason
    flop: float

    @property
    def finished(self) -> bool:
        """Whether the model came to an end by itself."""
        return self.stop_reason == "stop"

    @property
    def mean_logprob(self) -> float:
        """Of the tokens that the model chose, so that length neither helps nor harms; minus infinity without any."""
        own = [value for value, sampled in zip(self.logprobs, self.sampled, strict=True) if sampled]
        return sum(own) / len(own) if own else -math.inf


@dataclass(frozen=True)
class Asking:
    """A call for samples of one prompt.

    Attributes:
        prompt_ids: where they begin.
        count: how many at most.
        max_new_tokens, temperature, stop_texts, constraint: as in `Request`.
        stop_ids: besides those that end a turn.
        seed: seeds of all samples are made of it and their numbers.
    """

    prompt_ids: Sequence[int]
    count: int
    max_new_tokens: int
    temperature: float
    seed: str
    stop_texts: tuple[bytes, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    constraint: Callable[[], Constraint] | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides what is sampled."""
        parts = [
            list(self.prompt_ids), self.count, self.max_new_tokens, self.temperature, self.seed,
            [text.hex() for text in self.stop_texts], sorted(self.stop_ids), self.constraint is not None,
        ]  # fmt: skip
        return hashlib.sha256(encode_json(parts).encode()).hexdigest()[:32]


def fitted(role: Role, asking: Asking, budget: Budget) -> tuple[list[Request], Ticket]:
    """Requests for as many samples as may be spent for, each in full; one that is cut short where even one is too many.

    Raises:
        BudgetExceeded: not even one token can be had.
        KweekError: the prompt leaves no room in the context.
    """
    num_prompt = len(asking.prompt_ids)
    room = role.max_positions - num_prompt
    if room < 1:
        raise KweekError(
            f"a prompt takes {num_prompt:,} tokens and the model has {role.max_positions:,} positions",
            fix="shorten it",
        )
    num_new, count = min(asking.max_new_tokens, room), asking.count
    ticket = budget.reserve(role.most(num_prompt, num_new, count), role.most(num_prompt, 1))
    while count > 1 and not _covers(ticket, role.most(num_prompt, num_new, count)):
        count -= 1
    if not _covers(ticket, role.most(num_prompt, num_new, count)):
        affordable = min(ticket.tokens - num_prompt, role.new_tokens_for(ticket.money, num_prompt))
        num_new = max(1, int(min(num_new, affordable)))
    # Engines end a generation by themselves before it costs more; a call of several is bounded by its length.
    limited = count == 1 and role.counts is not None and budget.left().flop < math.inf
    return [
        Request(
            list(asking.prompt_ids), num_new, asking.temperature, _seed(asking.seed, number),
            role.tokenizer.stop_ids | asking.stop_ids, None if asking.constraint else role.interceptor,
            stop_texts=asking.stop_texts, constraint=asking.constraint,
            max_flop=ticket.flop if limited else math.inf,
        )
        for number in range(count)
    ], ticket  # fmt: skip


def taken(role: Role, requests: Sequence[Request], completions: Sequence[Completion]) -> list[Sample]:
    """What came of requests.

    Raises:
        KweekError: a generation failed.
        Interrupted: it was cancelled.
    """
    samples = []
    for request, done in zip(requests, completions, strict=True):
        if done.error is not None:
            raise KweekError(done.error)
        if done.stop_reason == "cancelled":
            raise Interrupted
        said = parse_completion(role.tokenizer, done.token_ids, thinking=role.is_thinking(request.prompt_ids))
        samples.append(_sample(done, request, said))
    return samples


def _sample(done: Completion, request: Request, said: Mapping[str, str]) -> Sample:
    return Sample(
        said["content"], said["reasoning_content"], list(request.prompt_ids), done.token_ids, done.sampled,
        done.logprobs, done.processed_logprobs, done.kept_mass, done.stop_reason, done.flop,
    )  # fmt: skip


def cost_of(role: Role, completions: Sequence[Completion]) -> Cost:
    """What generations cost, without their time."""
    known = [done.flop for done in completions if not math.isnan(done.flop)]
    read = sum(done.num_prompt_tokens for done in completions)
    written = sum(len(done.token_ids) for done in completions)
    money = role.remote_money(read, written)
    return Cost(sum(known), len(completions) - len(known), read, 0, written, money=money)


def sample_data(sample: Sample) -> dict[str, Any]:
    """A sample as JSON data; the prompt, which samples of one call share, is left out."""
    data = {name: value for name, value in vars(sample).items() if name != "prompt_ids"}
    return {**data, "sampled": [int(one) for one in sample.sampled]}


def sample_from(data: Mapping[str, Any], prompt_ids: Sequence[int]) -> Sample:
    """The sample that `sample_data` described. FLOP that nobody knows are null in JSON."""
    flop = math.nan if data["flop"] is None else data["flop"]
    masks = [bool(one) for one in data["sampled"]]
    return Sample(**{**data, "sampled": masks, "flop": flop, "prompt_ids": list(prompt_ids)})


def _covers(ticket: Ticket, cost: Cost) -> bool:
    return ticket.tokens >= cost.tokens and ticket.flop >= cost.flop and ticket.money >= cost.money


def _seed(base: str, number: int) -> int:
    digest = hashlib.sha256(f"{base}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
