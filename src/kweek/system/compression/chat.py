"""Chats: which of their texts are context, what is asked of it, and the same chat with less context.

Context is what stands in messages of users between what they ask, and what tools returned. Questions, instructions,
system messages and answers stay as they are, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.protocols import Message
from kweek.system.compression.compressor import Compressor
from kweek.system.compression.protected import Kind, protect
from kweek.system.compression.report import Compressed, unchanged
from kweek.system.compression.spans import Span, joined

LEFT_OUT = "[...]"  # stands for a text of which nothing is left, since a message has to have a content
MAX_QUESTION_WORDS = 120  # who asks in more has put the context into the same paragraph
_BLOCKS = re.compile(r"\n[^\S\n]*\n\s*")
_APART = "\n\n"
_INSTRUCTIONS: tuple[Kind, ...] = ("instructions",)


@dataclass(frozen=True)
class Place:
    """A stretch of context in a chat: of which message, of which text part (None where the content is a string)."""

    message: int
    part: int | None
    span: Span


@dataclass(frozen=True)
class CompressedChat:
    """A chat with less context.

    Attributes:
        messages: the chat.
        context: what became of its context, all of it as one text.
        num_tokens_before, num_tokens_after: of all text in the chat, without what a template adds.
    """

    messages: list[dict[str, Any]]
    context: Compressed
    num_tokens_before: int
    num_tokens_after: int

    @property
    def ratio(self) -> float:
        """How many times fewer tokens the chat has."""
        return self.num_tokens_before / max(1, self.num_tokens_after)


def compress_chat(compressor: Compressor, messages: Sequence[Message]) -> CompressedChat:
    """Compress the context of a chat by its last question; a chat without one stays as it is.

    Raises:
        KweekError: the compressor's model failed.
    """
    everything = sum(compressor.count(text) for message in messages for _, text in _texts(message))
    found = contexts(messages)
    texts = [_text(messages, place) for place in found]
    question = asked(messages)
    whole = _APART.join(texts)
    num_context = compressor.count(whole)
    if not texts or not question:
        why = "there is no context beside the question" if question else "no question was found"
        done = unchanged(whole, num_context, compressor.settings.ratio, why)
    else:
        done = compressor(whole, question, beside=max(0, everything - num_context))
    if done.method is None:
        return CompressedChat([dict(message) for message in messages], done, everything, everything)
    changed = _with(messages, found, _split(texts, done))
    after = sum(compressor.count(text) for message in changed for _, text in _texts(message))
    return CompressedChat(changed, done, everything, after)


def contexts(messages: Sequence[Message]) -> list[Place]:
    """The stretches of context, in order."""
    found: list[Place] = []
    for number, message in enumerate(messages):
        texts = list(_texts(message))
        if message.get("role") == "tool":
            found += [Place(number, part, Span(0, len(text))) for part, text in texts if text.strip()]
        elif message.get("role") == "user":
            is_last = all(other.get("role") != "user" for other in messages[number + 1 :])
            *others, last = texts or [(None, "")]
            found += [Place(number, part, Span(0, len(text))) for part, text in others if text.strip()]
            found += [Place(number, last[0], span) for span in _between(last[1], is_last)]
    return found


def asked(messages: Sequence[Message]) -> str:
    """What the last message of a user asks: the paragraphs of its last part that ask, else that part where it is short;
    "" where there is no such."""
    users = [message for message in messages if message.get("role") == "user"]
    texts = list(_texts(users[-1])) if users else []
    if not texts:
        return ""
    text = texts[-1][1]
    asking = "\n".join(text[slice(*block)] for block, asks in _asking(text) if asks)
    return asking or (text if len(text.split()) <= MAX_QUESTION_WORDS else "")


def _between(text: str, is_last: bool) -> list[Span]:
    """What stands beside the paragraphs that ask. Where none does there is nothing, or everything in a long message
    that others of the user follow."""
    found: list[Span] = []
    blocks = _asking(text)
    if not any(asks for _, asks in blocks):
        return [] if is_last or len(text.split()) <= MAX_QUESTION_WORDS else [Span(0, len(text))]
    for block, asks in blocks:
        if not asks:
            found = [Span(found[0].start if found else block.start, block.end)]
    return found


def _asking(text: str) -> list[tuple[Span, bool]]:
    """Paragraphs, and whether they ask: the first ones and the last ones may, those between are what is asked of."""
    blocks = list(_blocks(text))
    asks = [_asks(text, block) for block in blocks]
    first = next((n for n, does in enumerate(asks) if not does), len(asks))
    last = next((n for n, does in enumerate(reversed(asks)) if not does), len(asks))
    return [(block, n < first or n >= len(blocks) - last) for n, block in enumerate(blocks)]


def _asks(text: str, block: Span) -> bool:
    """Whether a paragraph asks or instructs: a short one with a line that ends in a question, or an instruction."""
    said = text[block.start : block.end]
    if len(said.split()) > MAX_QUESTION_WORDS:
        return False
    asked = any(line.rstrip("\"'”’»)*_ ").endswith(("?", "？", "؟")) for line in said.splitlines())
    return asked or bool(protect(said, _INSTRUCTIONS).needed)


def _blocks(text: str) -> Iterator[Span]:
    start = 0
    for match in [*_BLOCKS.finditer(text), None]:
        end = len(text) if match is None else match.start()
        if text[start:end].strip():
            yield Span(start, end)
        start = end if match is None else match.end()


def _texts(message: Message) -> Iterator[tuple[int | None, str]]:
    """The texts of a message, with the number of their part."""
    content = message.get("content")
    if isinstance(content, str):
        yield None, content
    elif isinstance(content, list):
        for number, part in enumerate(content):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                yield number, part["text"]


def _text(messages: Sequence[Message], place: Place) -> str:
    content = messages[place.message]["content"]
    text = content if place.part is None else content[place.part]["text"]
    return str(text[place.span.start : place.span.end])


def _split(texts: Sequence[str], done: Compressed) -> list[str]:
    """What is left of each of the texts that were compressed as one."""
    left, at = [], 0
    for text in texts:
        own = Span(at, at + len(text))
        inside = [
            Span(max(span.start, own.start) - at, min(span.end, own.end) - at)
            for span in done.kept
            if span.meets(own)
        ]
        left.append(joined(text, inside).strip("\n") or LEFT_OUT)
        at = own.end + len(_APART)
    return left


def _with(messages: Sequence[Message], places: Sequence[Place], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The chat with other texts at some places."""
    changed = [dict(message) for message in messages]
    for place, text in reversed(
        list(zip(places, texts, strict=True))
    ):  # from the end: places before stay valid
        message = changed[place.message]
        start, end = place.span
        if place.part is None:
            message["content"] = message["content"][:start] + text + message["content"][end:]
        else:
            parts = list(message["content"])
            old = parts[place.part]["text"]
            parts[place.part] = {**parts[place.part], "text": old[:start] + text + old[end:]}
            message["content"] = parts
    return changed
