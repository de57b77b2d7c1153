"""Cutting a document into chunks: consecutive spans of bytes that together are the document, cut where a reader would.

A chunk ends before a heading, else at the last paragraph, line, sentence or word that still fits. No byte belongs to
two chunks or to none, so the chunks are the document, and a span in one is a span in the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Some 170 English words: whole in an encoder of 256 tokens, and several fit into the context of a small model.
CHUNK_BYTES = 1000
#: A shorter piece stays with its neighbour: alone it would say too little to be found.
LEAST_BYTES = 200

#: A line of Markdown that is a heading.
HEADING = re.compile(rb"(?:\A|(?<=\n))#{1,6} [^\n]*\S")
#: Ends of paragraphs, lines, sentences and words: where to cut, the best first. What ends it stays with the chunk.
_ENDS = (
    re.compile(rb"\n[ \t\r\f]*\n\s*|\f\s*"),
    re.compile(rb"\n\s*"),
    re.compile(rb"[.!?][\"')\]]*\s+|\xe3\x80\x82"),
    re.compile(rb"\s+"),
)


def spans(text: bytes, *, headings: bool = False, size: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Start and end of every chunk of a text in UTF-8, in order, without gaps; none for an empty text.

    Args:
        headings: whether lines that begin with `#` are headings; in a program they are remarks.
        size: most bytes of a chunk, but for a short rest that is added to the last one of a section.
    """
    start = 0
    for match in HEADING.finditer(text) if headings else ():
        if match.start() - start >= LEAST_BYTES:
            yield from _section(text, start, match.start(), size)
            start = match.start()
    if start < len(text):
        yield from _section(text, start, len(text), size)


def _section(text: bytes, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """The chunks between two headings."""
    while end - start > size + min(LEAST_BYTES, size // 2):
        cut = _cut(text, start, start + size)
        yield start, cut
        start = cut
    yield start, end


def _cut(text: bytes, start: int, most: int) -> int:
    """The best place to cut in the second half of what fits, the last of its kind; else the most that fits."""
    middle = start + (most - start) // 2
    for ends in _ENDS:
        found = None
        for match in ends.finditer(text, middle, most):
            found = match.end()
        if found is not None:
            return found
    while text[most] & 0xC0 == 0x80:  # inside a character
        most -= 1
    return most
