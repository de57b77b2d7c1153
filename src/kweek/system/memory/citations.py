"""Answers that cite: which document and which span, checked to the letter; what fails is not shown as if it stood.

An answer quotes a passage by its number, `"…" [2]`, or names it after a sentence of its own, `… [2]`. A quotation
counts when it stands in that passage word for word, runs of blanks aside (a line break in a PDF is not the
author's). A quotation of two passages at once, with something left out, or from a passage that was not shown does
not. Of a sentence without a quotation nobody can say to the letter whether the passage bears it out: it is flagged
as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kweek.system.memory.passage import Passage

Unchecked = Literal["flag", "remove"]

#: A shorter quotation stands somewhere by chance.
MIN_CHARS = 4
UNCHECKED, WRONG = "unchecked", "not found in the source"
_MARK = re.compile(r"(?:[\"“](?P<quotation>[^\"“”\[\]]{1,2000})[\"”]\s{0,3})?\[(?P<number>\d{1,3})\]")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Citation:
    """A span of a document that bears out an answer.

    Attributes:
        document, source: see Passage.
        start, end: bytes of the document's text.
        quotation: what stands there.
        sha256: of the passage that was shown.
    """

    document: str
    source: str
    start: int
    end: int
    quotation: str
    sha256: str


@dataclass(frozen=True)
class Checked:
    """An answer after the check.

    Attributes:
        text: with every mark that failed flagged or removed.
        citations: what stands where the answer says, in the order of the answer, each once.
        refused: what failed and why.
    """

    text: str
    citations: tuple[Citation, ...]
    refused: tuple[str, ...]

    @property
    def precision(self) -> float | None:
        """Share of citations that hold; None where nothing is cited."""
        total = len(self.citations) + len(self.refused)
        return len(self.citations) / total if total else None


def numbered(passages: Sequence[Passage]) -> str:
    """Passages as a model is shown them: number, source, text. What they say is marked as data.

    >>> print(numbered([Passage("ab", "a.txt", 0, 3, "Hi.", "", 1.0)]))
    [1] a.txt
    Hi.
    """
    return "\n\n".join(
        f"[{n}] {passage.source}\n{passage.text}" for n, passage in enumerate(passages, start=1)
    )


def check(answer: str, passages: Sequence[Passage], unchecked: Unchecked = "flag") -> Checked:
    """Hold an answer's citations against the passages that it was shown.

    Args:
        passages: in the order of their numbers.
        unchecked: "flag" writes why beside a mark that failed; "remove" takes the mark away, and the quotation's signs
            with it, so that nothing looks like a quotation that is none.
    """
    citations: list[Citation] = []
    refused: list[str] = []

    def judge(match: re.Match[str]) -> str:
        quotation, number = match["quotation"], int(match["number"])
        passage = passages[number - 1] if 1 <= number <= len(passages) else None
        found = locate(quotation, passage) if quotation is not None and passage is not None else None
        if found is not None:
            if found not in citations:
                citations.append(found)
            return match[0]
        reason = UNCHECKED if quotation is None and passage is not None else WRONG
        refused.append(f"{match[0]}: {reason}")
        if unchecked == "remove":
            return quotation or ""
        return f"{match[0][:-1]}, {reason}]"

    text = _MARK.sub(judge, answer)
    if unchecked == "remove":
        text = re.sub(r"[ \t]+([.,;:!?])", r"\1", text)
    return Checked(text, tuple(citations), tuple(refused))


def locate(quotation: str, passage: Passage) -> Citation | None:
    """The span of a passage in which a quotation stands, None where it does not."""
    words = _BLANKS.split(quotation.strip())
    if len("".join(words)) < MIN_CHARS:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), passage.text)
    return None if match is None else _citation(passage, match.start(), match.end())


def attribute(answer: str, passages: Sequence[Passage]) -> Citation | None:
    """The first passage in which a short answer stands word for word, in any case: for models that quote without marks.

    The words have to stand there whole: "art" is not found in "party".
    """
    words = _BLANKS.split(answer.strip().strip(".").strip())
    if not any(words):
        return None
    sought = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
    for passage in passages:
        if (match := sought.search(passage.text)) is not None:
            return _citation(passage, match.start(), match.end())
    return None


def _citation(passage: Passage, first: int, last: int) -> Citation:
    """The citation of characters of a passage."""
    start = passage.start + len(passage.text[:first].encode("utf-8"))
    quotation = passage.text[first:last]
    end = start + len(quotation.encode("utf-8"))
    return Citation(passage.document, passage.source, start, end, quotation, passage.sha256)
