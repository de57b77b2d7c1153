"""What people have written down for a model to learn from: conversations, preferences, judgements, tasks.

Messages are those of `kweek.protocols.Message`, normalised: known roles, content as text, arguments of tool calls as
objects, nothing that is None. See `chats_reading` for where they come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kweek.protocols import Message

Messages = tuple[Message, ...]
Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Conversation:
    """A chat to imitate.

    Attributes:
        messages: ending with an answer; an assistant's may carry a `weight` of its own.
        tools: descriptions of the tools that were at hand, in OpenAI's form.
        weight: of the example in the loss.
        origin: file and line or row.
    """

    messages: Messages
    tools: Tools = ()
    weight: float = 1.0
    origin: str = ""

    @property
    def prompt(self) -> Messages:
        """What comes before the first answer."""
        first = next(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return self.messages[:first]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the first the better one.

    Attributes:
        prompt: ending with a question or a tool's result.
        chosen, rejected: each beginning and ending with an assistant's message.
        tools: as in `Conversation`.
        margin: how much better, where the source has scores; at least 0.
        weight: of the pair in the loss.
        origin: file and line or row.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    tools: Tools = ()
    margin: float | None = None
    weight: float = 1.0
    origin: str = ""


@dataclass(frozen=True)
class Judgement:
    """One answer that was found good or bad.

    Attributes:
        prompt: ending with a question or a tool's result.
        answer: beginning and ending with an assistant's message.
        good: the judgement.
        tools, weight, origin: as in `Conversation`.
    """

    prompt: Messages
    answer: Messages
    good: bool
    tools: Tools = ()
    weight: float = 1.0
    origin: str = ""


@dataclass(frozen=True)
class Task:
    """A prompt whose answers a program can judge.

    Attributes:
        prompt: ending with a question or a tool's result.
        gold: the right answer; empty where only the verifier knows.
        verifier: name of the judge; empty where the source names none.
        level: how hard, where the source says.
        data: what else the judge needs, as JSON.
        tools, origin: as in `Conversation`.
    """

    prompt: Messages
    gold: str = ""
    verifier: str = ""
    level: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools = ()
    origin: str = ""


Row = Conversation | Preference | Judgement | Task


def question(row: Row) -> str:
    """The words of the first question: what decides about splits and near duplicates.

    Not the system message, which often is the same throughout, nor later turns, which answer what came before.
    """
    return next((str(message["content"]) for message in row.prompt if message["role"] == "user"), "")


def row_id(row: Row) -> str:
    """Hash of everything that is learnt from a row; the same row met again, from whatever file, has the same id."""
    parts = {key: value for key, value in vars(row).items() if key not in ("origin", "weight")}
    whole = json.dumps([type(row).__name__, parts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]
