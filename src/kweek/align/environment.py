"""Environments: sources of tasks and judges of what a model makes of them.

An environment gives items; every attempt at one is an episode, which takes what the model says, answers with what the
model is told next (the result of a tool, a correction, the other player's move) and judges the whole at its end.
Single-turn tasks are episodes that end with the first answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kweek.errors import DataError
from kweek.protocols import Message, Score, TokenInterceptor
from kweek.tokenize.tokenizer import Tokenizer

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Item:
    """One task.

    Attributes:
        messages: what the model is asked, as a chat.
        gold: the right answer; empty where only the environment's own function knows.
        level: how hard, for tables; empty where nobody says.
        data: what else the judge needs, as JSON.

    Raises:
        DataError: the messages are none, such as a bare text, which no chat template would ever see.
    """

    messages: tuple[Message, ...]
    gold: str = ""
    level: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.messages
        if isinstance(given, str) or not given or not all(isinstance(one, Mapping) for one in given):
            raise DataError(
                f"an item asks in messages, and {str(given)[:60]!r} is none",
                fix='write ({"role": "user", "content": "…"},)',
            )

    @property
    def id(self) -> str:
        """Hash of what is asked: the same question met under another seed is the same item, in the same split."""
        asked = json.dumps([dict(message) for message in self.messages], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


class Episode(Protocol):
    """One attempt at one item. Never raises outward for what a model says."""

    def step(self, message: Message) -> Sequence[Message]:
        """Take an assistant's message; what the model is told next, nothing once the episode has ended."""
        ...

    def score(self) -> Score:
        """The judgement of all that was said. A judge that failed says so in `error` and is no reward of 0."""
        ...


class Environment(Protocol):
    """A source of items and the rules by which they are attempted."""

    @property
    def name(self) -> str:
        """For records."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Of one answer."""
        ...

    @property
    def max_turns(self) -> int:
        """Answers in one episode; 1 for single-turn tasks."""
        ...

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Items as a pure function of the key. An item's split follows from its content, never from a seed."""
        ...

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        ...

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """The tool that answers in the middle of an answer, if there is one."""
        ...
