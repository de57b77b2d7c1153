"""What a system is asked, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.protocols import Message
from kweek.store.files import encode_json


@dataclass(frozen=True)
class Task:
    """Something to be answered.

    Attributes:
        messages: the chat so far, the last of it the question.
        gold: the right answer for whoever judges; no scaffold reads it.
        data: whatever checks need, such as the tests of a program; as JSON.
    """

    messages: Sequence[Message]
    gold: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, question: str, gold: str = "", **data: Any) -> Task:
        """A single question."""
        return cls(({"role": "user", "content": question},), gold, data)

    @property
    def question(self) -> str:
        """The last message as text."""
        return str(self.messages[-1].get("content") or "")

    @property
    def id(self) -> str:
        """A hash of what is asked, so that a task can be told from another."""
        return hashlib.sha256(encode_json(list(self.messages)).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"messages": [dict(one) for one in self.messages], "gold": self.gold, "data": dict(self.data)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """The task that `to_dict` described."""
        return cls(tuple(data["messages"]), str(data["gold"]), data["data"])


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        text: for whoever asked.
        citations: where it comes from.
        confidence: that it is right, 0 to 1, by the scaffold's own measure; None where it has none.
        finished: false where the scaffold was cut short and this is the best that it had.
        data: what the scaffold has to report of how it got there, as JSON.
    """

    text: str
    citations: tuple[Any, ...] = ()
    confidence: float | None = None
    finished: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)
