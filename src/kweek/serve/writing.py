"""Token ids to the text that a client sees, as it grows: whole characters, no stop text, thought and answer apart.

What is shown in pieces is, joined, what `kweek.tokenize.chat.parse_completion` reads in the whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kweek.serve.stops import StopFilter
from kweek.tokenize.chat import END_THINK, THINK
from kweek.tokenize.tokenizer import Tokenizer

Part = Literal["reasoning_content", "content"]


@dataclass(frozen=True)
class Piece:
    """Text of one part of a message."""

    part: Part
    text: str


def token_bytes(tokenizer: Tokenizer, index: int) -> bytes:
    """The bytes of a token; none for an id that only pads the network's vocabulary."""
    return tokenizer.token_bytes(index) if index < tokenizer.vocab_size else b""


class Writing:
    """The text of one generation.

    Args:
        tokenizer: that of the model.
        stop_texts: texts that end the writing and are not shown.
        chat: whether a thought at the beginning is told apart from the answer.
        thinking: whether the prompt has already opened the thought.

    Attributes:
        num_thought_tokens: tokens of the thought so far, with its tags.
        stopped: whether a stop text has been found.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_texts: Sequence[bytes] = (),
        *,
        chat: bool = False,
        thinking: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._stops: StopFilter[Part] = StopFilter(stop_texts)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._opening, self._closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
        by_token = chat and self._opening is not None and self._closing is not None
        self._sections: _Sections = (
            _TaggedSections(thinking) if chat and not by_token else _Sections(thinking and chat)
        )
        self._by_token, self._thinking, self._first = by_token, thinking and chat, True
        self.num_thought_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text has been found."""
        return self._stops.stopped

    def feed(self, token_id: int) -> list[Piece]:
        """Take one token; returns what it lets be shown."""
        if token_id in self._tokenizer.stop_ids:
            return []
        mark: Part | None = None
        if self._by_token:
            if self._first and token_id == self._opening:
                mark, self._thinking = "reasoning_content", True
            elif self._thinking and token_id == self._closing:
                mark = "content"
            self.num_thought_tokens += self._thinking
            self._thinking = self._thinking and mark != "content"
        self._first = False
        return list(self._show(self._stops.feed(token_bytes(self._tokenizer, token_id), mark)))

    def finish(self) -> list[Piece]:
        """What was held back, once nothing more comes; a character that never became whole is U+FFFD."""
        pieces = list(self._show(self._stops.finish()))
        pieces += self._sections.take(self._decoder.decode(b"", final=True))
        return [*pieces, *self._sections.finish()]

    def _show(self, released: Sequence[bytes | Part]) -> Iterator[Piece]:
        for entry in released:
            if isinstance(entry, bytes):
                yield from self._sections.take(self._decoder.decode(entry))
            else:
                yield from self._sections.take(self._decoder.decode(b"", final=True))
                self._sections.turn(entry)


class _Sections:
    """Says which part a text belongs to; an answer after a thought loses the blanks around it."""

    def __init__(self, thinking: bool) -> None:
        self._part: Part = "reasoning_content" if thinking else "content"
        self._strip = False
        self._begun = False  # whether the part has shown anything
        self._blanks = ""  # held back, because they may be the last ones

    def turn(self, part: Part) -> None:
        """What follows belongs to `part`."""
        self._part, self._begun, self._blanks = part, False, ""
        self._strip = part == "content"

    def take(self, text: str) -> list[Piece]:
        """Pieces of a text that may be shown."""
        if self._strip:
            text = self._blanks + text if self._begun else text.lstrip()
            kept = text.rstrip()
            self._blanks, text = text[len(kept) :], kept
        self._begun = self._begun or bool(text)
        return [Piece(self._part, text)] if text else []

    def finish(self) -> list[Piece]:
        """Pieces that were still held back."""
        return []


class _TaggedSections(_Sections):
    """The same where the tags of thinking are ordinary text, split over tokens as it happens."""

    def __init__(self, thinking: bool) -> None:
        super().__init__(thinking)
        self._undecided, self._held = True, ""

    def take(self, text: str) -> list[Piece]:
        """Pieces of a text that may be shown; what may be a part of a tag waits."""
        self._held += text
        if self._undecided:
            begun = self._held.lstrip()
            if THINK.startswith(begun) and begun != THINK:
                return []
            self._undecided = False
            if begun.startswith(THINK):
                self._held = begun.removeprefix(THINK)
                self._part = "reasoning_content"
            self._strip = self._part == "reasoning_content"
        pieces: list[Piece] = []
        if self._part == "reasoning_content":
            before, tag, after = self._held.partition(END_THINK)
            if not tag:
                return self._pass(len(before) - _num_begun(before, END_THINK))
            pieces, self._held = super().take(before), after
            self.turn("content")
        return pieces + self._pass(len(self._held))

    def finish(self) -> list[Piece]:
        """What was held back turned out to be no tag."""
        self._undecided = False
        self._strip = self._strip or self._part == "reasoning_content"
        return self._pass(len(self._held))

    def _pass(self, end: int) -> list[Piece]:
        text, self._held = self._held[:end], self._held[end:]
        return super().take(text)


def _num_begun(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)


def is_thinking(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt has opened a thought and not closed it."""
    opening, closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
    if opening is not None and closing is not None:
        return next((i for i in reversed(prompt_ids) if i in (opening, closing)), closing) == opening
    tail = tokenizer.decode(
        list(prompt_ids[-16:])
    )  # the tag of a template that ends with it, in a few tokens
    return tail.rstrip().endswith(THINK)
