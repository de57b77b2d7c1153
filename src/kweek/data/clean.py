"""What is done to every document before it is used, and for which reasons one is left out.

Rewriting is kept to what changes nothing for a reader: normal form C, line ends, characters that are not
text, trailing blanks, long gaps. The rules for leaving out are few and coarse, as each loses something:
thresholds of published filters are made for English web pages, not for the documents of whoever runs this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kweek.data.document import Document, normal_form

MIN_CHARS = 80  # a shorter text is a label or a stub; several packed together teach nothing about continuing
MIN_TEXT_SHARE = 0.6  # letters, digits and blanks; programs have 0.75 and more, tables of numbers 0.5
MAX_REPEATED_SHARE = 0.5  # characters in lines that stand in the text before; logs and broken extractions
MAX_ENCODED_SHARE = 0.3  # characters in words of over 100 ASCII characters: base64, keys, minified programs
BOILERPLATE_CHARS = 40  # a shorter line may well be written often ("Returns:", "Yes, of course.")
BOILERPLATE_FILES = 20  # a line in fewer files than this is a coincidence or a quotation
BOILERPLATE_SHARE = 0.01  # ... and it must stand in this share of all files: footers do, quotations do not

_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\u2029\f\v]")
_TRAILING = re.compile(r"[ \t\u00a0\u3000]+$", re.MULTILINE)
_GAPS = re.compile(r"\n{4,}")
_LONG_WORD = re.compile(r"(?<!\S)(?!\S{0,20}://)[!-~]{101,}")  # an address on the web may be long
#: Control characters (less tab and line feed), byte order marks, lone surrogates and non-characters.
_NOT_TEXT = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffd\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)
_NOT_PLAIN = bytes(
    set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \t\n")
)


def clean_text(text: str) -> str:
    """The same text, tidied; cleaning twice changes nothing."""
    text = _LINE_ENDS.sub("\n", text) if not _is_simple(text) else text
    text = _NOT_TEXT.sub("", text)
    text = _TRAILING.sub("", normal_form(text))
    return _GAPS.sub("\n\n\n", text).strip("\n")


def _is_simple(text: str) -> bool:
    """Whether no line end but "\\n" can be in it; most texts, and the substitution is the slowest step."""
    return text.isascii() and not ("\r" in text or "\f" in text or "\v" in text)


def fault(text: str) -> str | None:
    """Why a cleaned text should not be used, or None when it should."""
    if len(text) < MIN_CHARS:
        return "too short"
    if _text_share(text) < MIN_TEXT_SHARE:
        return "mostly not text"
    if sum(map(len, _LONG_WORD.findall(text))) > MAX_ENCODED_SHARE * len(text):
        return "encoded or minified"
    if _repeated_share(text) > MAX_REPEATED_SHARE:
        return "repeats itself"
    return None


def _text_share(text: str) -> float:
    """Share of letters, marks, digits and blanks, in any script."""
    if text.isascii():
        return len(text.encode().translate(None, _NOT_PLAIN)) / len(text)
    # Marks of scripts that need them (Thai, Hindi) are not alphanumeric but belong to letters: all characters
    # beyond Latin punctuation count as text.
    return sum(1 for char in text if char.isalnum() or char.isspace() or char > "\u02ff") / len(text)


def _repeated_share(text: str) -> float:
    """Share of characters in lines that have occurred before; lines of under 10 characters do not count."""
    lines = [line for line in map(str.strip, text.split("\n")) if len(line) >= 10]
    once = set(lines)
    if len(once) == len(lines):
        return 0.0
    return (sum(map(len, lines)) - sum(map(len, once))) / len(text)


@dataclass(frozen=True)
class Boilerplate:
    """Lines that stand in so many files that they belong to none: notices, footers, generated remarks."""

    hashes: frozenset[int]

    @classmethod
    def find(cls, documents: Sequence[Document]) -> Boilerplate:
        """The boilerplate of a collection: long lines found in many different files (origins)."""
        origins: dict[str, int] = {}
        parts = []
        for document in documents:
            number = origins.setdefault(document.origin, len(origins))
            lines = {hash(line) for line in _candidates(document)}
            if lines:
                hashes = np.fromiter(lines, np.int64, len(lines))
                parts.append(np.stack([hashes, np.full(len(hashes), number)], axis=1))
        if not parts:
            return cls(frozenset())
        pairs = np.unique(np.concatenate(parts), axis=0)  # one per line and file
        values, counts = np.unique(pairs[:, 0], return_counts=True)
        least = max(BOILERPLATE_FILES, BOILERPLATE_SHARE * len(origins))
        return cls(frozenset(values[counts >= least].tolist()))

    def remove(self, document: Document) -> Document:
        """The document without those lines."""
        if not self.hashes or not any(hash(line) in self.hashes for line in _candidates(document)):
            return document
        kept = (line for line in document.text.split("\n") if hash(line.strip()) not in self.hashes)
        return document.with_text(clean_text("\n".join(kept)))


def _candidates(document: Document) -> Iterable[str]:
    """The lines that may be boilerplate; none of a program, which needs all of its lines."""
    if document.is_code:
        return ()
    return (line for raw in document.text.split("\n") if len(line := raw.strip()) >= BOILERPLATE_CHARS)
