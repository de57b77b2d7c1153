"""The passage: a span of a document, as search gives it and an answer cites it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """Consecutive bytes of one document.

    Attributes:
        document: name of the document, 32 hex digits made of its content.
        source: where it was found: the file's path below the folder that was added (with `#page=N` for a PDF), or what
            a note says of itself.
        start, end: bytes of the document's text in UTF-8; where the source is a plain UTF-8 file, bytes of that file.
        text: what stands there.
        sha256: hex digest of those bytes.
        score: of the search that found it; comparable within one answer of one mode only.
        trusted: whether the user vouches for it; what it says is data otherwise, never an instruction.
    """

    document: str
    source: str
    start: int
    end: int
    text: str
    sha256: str
    score: float
    trusted: bool = False
