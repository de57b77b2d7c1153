"""A text in passages, and passages in sentences: what extraction keeps or leaves out as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kweek.system.compression.english import ABBREVIATIONS
from kweek.system.compression.spans import Span, words

_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)[^\n]*$", re.MULTILINE)
_EMPTY_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_INDENTED = re.compile(r"^(?:(?: {4}|\t)[^\n]*(?:\n|\Z))+", re.MULTILINE)
#: A sentence's last word, and what may follow its mark.
_ENDED = re.compile(r"[.!?…]+[\"'”’»)\]*_]*\Z|[。！？]+[」』）]*\Z")
#: A line that begins something of its own: item, heading, quotation, row of a table, number of a list.
_OWN_LINE = re.compile(r"[-*+•#>|]|\d{1,3}[.)]\s|[A-Za-z][.)]\s")


@dataclass(frozen=True)
class Segment:
    """A sentence, heading, item or row, or a block of code.

    Attributes:
        span: without the blanks around it.
        passage: number of the passage that it is in.
        code: a block of code, which is one segment whatever its length.
    """

    span: Span
    passage: int
    code: bool = False


def code_blocks(text: str) -> list[Span]:
    """Fenced blocks with their fences, one that is never closed to the end of the text; and indented blocks after an
    empty line. Ascending, not overlapping."""
    found: list[Span] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[1].startswith(opening[1]):
            found.append(Span(opening.start(), fence.end()))
            opening = None
    if opening is not None:
        found.append(Span(opening.start(), len(text.rstrip())))
    for match in _INDENTED.finditer(text):
        span = Span(match.start(), match.start() + len(match[0].rstrip()))
        before = text[: match.start()].rstrip(" \t")
        alone = not before or before.endswith("\n\n")
        if alone and span.start < span.end and not any(span.meets(other) for other in found):
            found.append(span)
    return sorted(found)


def segments(text: str) -> list[Segment]:
    """The text in order; every character outside the segments is blank."""
    found: list[Segment] = []
    passage, at = 0, 0
    for block in [*code_blocks(text), Span(len(text), len(text))]:
        for part in _passages(text, Span(at, block.start)):
            found += [Segment(span, passage) for span in _sentences(text, part)]
            passage += 1
        if block.start < block.end:
            found.append(Segment(block, passage, code=True))
            passage += 1
        at = block.end
    return found


def _passages(text: str, within: Span) -> Iterator[Span]:
    """Blocks between empty lines, without the blanks around them."""
    start = within.start
    for match in [*_EMPTY_LINE.finditer(text, within.start, within.end), None]:
        end = within.end if match is None else match.start()
        if text[start:end].strip():
            yield Span(start, end)
        start = end if match is None else match.end()


def _sentences(text: str, passage: Span) -> Iterator[Span]:
    found = words(text, passage)
    first = found[0].start if found else passage.end
    for word, after in zip(found, [*found[1:], None], strict=True):
        if after is None or _ends(text, word, after):
            yield Span(first, word.end)
            first = word.end if after is None else after.start


def _ends(text: str, word: Span, after: Span) -> bool:
    """Whether a sentence ends between two words."""
    gap, said = text[word.end : after.start], text[word.start : word.end]
    ended = _ENDED.search(said) is not None
    if "\n" in gap and (ended or said.endswith(":") or _OWN_LINE.match(text, after.start)):
        return True
    if not ended:
        return False
    following = text[after.start : after.end].lstrip("\"'“‘«([*_")
    if following[:1].islower():
        return False
    bare = said.rstrip("\"'”’»)]*_").rstrip(".").lstrip("\"'“‘«([*_").lower()
    is_stop = said.rstrip("\"'”’»)]*_").endswith(".")
    return not (is_stop and (bare in ABBREVIATIONS or _is_initial(bare)))


def _is_initial(word: str) -> bool:
    """A letter of a name, or letters with full stops between them: J., U.S."""
    return all(len(part) == 1 and part.isalpha() for part in word.split("."))
