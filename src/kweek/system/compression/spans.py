"""Stretches of a text, in characters, and the text that is left of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

#: A run without blanks; scripts that write none between words are cut after their own marks only, so that what is
#: dropped there is a clause and never a part of a word.
_WORD = re.compile(r"[^\s、。，！？；：]+[、。，！？；：]*|[、。，！？；：]+")


class Span(NamedTuple):
    """`text[start:end]`."""

    start: int
    end: int

    def holds(self, other: Span) -> bool:
        """Whether the other lies in this one."""
        return self.start <= other.start and other.end <= self.end

    def meets(self, other: Span) -> bool:
        """Whether the two have a character in common."""
        return self.start < other.end and other.start < self.end


def words(text: str, within: Span | None = None) -> list[Span]:
    """The words of a text, with the punctuation that touches them; everything between them is blank."""
    start, end = within or Span(0, len(text))
    return [Span(*match.span()) for match in _WORD.finditer(text, start, end)]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same characters in ascending spans that neither overlap nor touch; empty ones are left out."""
    result: list[Span] = []
    for span in sorted(spans):
        if span.start >= span.end:
            continue
        if result and span.start <= result[-1].end:
            result[-1] = Span(result[-1].start, max(result[-1].end, span.end))
        else:
            result.append(span)
    return result


def meeting(span: Span, ascending: Sequence[Span]) -> Iterator[Span]:
    """Those of some ascending spans that have a character in common with one."""
    for other in ascending:
        if other.start >= span.end:
            return
        if other.end > span.start:
            yield other


def joined(text: str, spans: Sequence[Span]) -> str:
    """What ascending spans hold, each to the letter; where something is left out between two, the widest blank that
    stood there stands for it: an empty line, a line break, or a space."""
    result: list[str] = []
    before: Span | None = None
    for span in spans:
        if before is not None:
            result.append(_blank(text, before, span))
        result.append(text[span.start : span.end])
        before = span
    return "".join(result)


def _blank(text: str, left: Span, right: Span) -> str:
    gap = text[left.end : right.start]
    if not gap.strip():
        return gap
    if re.search(r"\n[^\S\n]*\n", gap):
        return "\n\n"
    if "\n" in gap:
        return "\n"
    apart = any(letter.isspace() for letter in gap)
    touching = text[left.end - 1].isalnum() and text[right.start].isalnum()
    return " " if apart or touching else ""
