"""Answers that quote their sources: every quotation stands, to the letter, where the answer says it does.

A quotation is written `"…" [id]`, or `"…" [id:start-end]` with the span in characters of the document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kweek.align.verifiers.text import normalised
from kweek.align.verifiers.verdict import UNREADABLE, failed
from kweek.errors import ConfigError
from kweek.protocols import Score

MAX_CHARS = 20_000  # of an answer
MAX_QUOTATIONS = 20  # more is a copy of the source
_QUOTATION = re.compile(
    r"[\"“](?P<text>[^\"“”]{1,2000})[\"”]\s{0,3}\[(?P<id>[^\[\]:\s]{1,80})(?::(?P<start>\d{1,9})-(?P<end>\d{1,9}))?\]"
)


@dataclass(frozen=True)
class Quotation:
    """What an answer says stands in a document, and where; None where it names no span."""

    text: str
    document: str
    span: tuple[int, int] | None


@dataclass(frozen=True)
class Citation:
    """1 when every quotation is verbatim and one of them holds the gold text.

    Verbatim quotations alone would be a constant: the first words of the document. A quotation of the whole document
    would hold every gold: so quotations have a greatest length.

    Parts: "quotations" (how many), "verbatim" (share that stands where it should), "holds gold" (0 or 1).

    Attributes:
        documents: texts by their ids.
        min_chars: of a quotation; 8 by default, because shorter ones stand anywhere. The gold may be shorter.
        max_chars: of all quotations together; 300 by default, some three sentences.
    """

    documents: Mapping[str, str] = field(hash=False)
    min_chars: int = 8
    max_chars: int = 300

    def __post_init__(self) -> None:
        if not self.documents or not all(isinstance(text, str) and text for text in self.documents.values()):
            raise ConfigError("there is no text to cite", where="documents", fix="give texts by their ids")

    def __call__(self, answer: str, gold: str) -> Score:
        wanted = normalised(gold)
        if not wanted or not any(
            f" {wanted} " in f" {normalised(text)} " for text in self.documents.values()
        ):
            return failed(f"the gold answer {gold[:40]!r} stands in no document")
        found = quotations(answer)
        if not found or len(found) > MAX_QUOTATIONS:
            return UNREADABLE
        verbatim = [self._stands(quotation) for quotation in found]
        told = any(
            f" {wanted} " in f" {normalised(quotation.text)} "
            for quotation, true in zip(found, verbatim, strict=True)
            if true
        )
        short = sum(len(quotation.text) for quotation in found) <= self.max_chars
        parts = {
            "quotations": float(len(found)),
            "verbatim": sum(verbatim) / len(found),
            "holds gold": float(told),
        }
        return Score(float(all(verbatim) and told and short), parsed=True, parts=parts)

    def _stands(self, quotation: Quotation) -> bool:
        document = self.documents.get(quotation.document)
        if document is None or len(quotation.text) < min(self.min_chars, len(document)):
            return False
        if quotation.span is None:
            return quotation.text in document
        start, end = quotation.span
        return document[start:end] == quotation.text


def quotations(answer: str) -> list[Quotation]:
    """The quotations of an answer, none where it is longer than answers are.

    >>> quotations('It is "as blue as the sea" [4:10-28].')
    [Quotation(text='as blue as the sea', document='4', span=(10, 28))]
    """
    found = []
    for match in _QUOTATION.finditer(answer[: MAX_CHARS + 1] if len(answer) <= MAX_CHARS else ""):
        span = (int(match["start"]), int(match["end"])) if match["start"] else None
        found.append(Quotation(match["text"], match["id"], span))
    return found
