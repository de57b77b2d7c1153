"""The document: one immutable text, named by its content, with its source, licence and origin."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def normal_form(text: str) -> str:
    """`text` in Unicode normal form C, the form in which equal texts are equal strings."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text  # both tests are far cheaper than the copy that normalising makes
    return unicodedata.normalize("NFC", text)


def document_id(text: str) -> str:
    """The name of a text: 32 hex digits of the SHA-256 of its normal form in UTF-8.

    128 bits are enough to take equal ids for equal texts. Lone surrogates, which UTF-8 has no bytes for,
    are replaced first; `kweek.data.clean` removes them anyway.
    """
    return hashlib.sha256(normal_form(text).encode("utf-8", "replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it comes from.

    Attributes:
        id: content hash, `document_id(text)`.
        text: the text itself, in normal form C once cleaned.
        source: the name by which a recipe weighs it ("python-docs", "folder").
        language: "python" for program text, else a BCP 47 tag, or "und" when nobody said.
        licence: SPDX name, or "unknown".
        origin: the file it was found in, relative to its package or folder. Documents of one origin are
            kept on one side of a split.
        metadata: further facts, JSON values only.
    """

    id: str
    text: str
    source: str
    language: str = "und"
    licence: str = "unknown"
    origin: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        text: str,
        *,
        source: str,
        origin: str,
        language: str = "und",
        licence: str = "unknown",
        metadata: Mapping[str, Any] | None = None,
    ) -> Document:
        """A document named by its text."""
        return cls(document_id(text), text, source, language, licence, origin, metadata or {})

    def with_text(self, text: str) -> Document:
        """The same document with another text, and therefore another name."""
        if text == self.text:
            return self
        return Document(
            document_id(text), text, self.source, self.language, self.licence, self.origin, self.metadata
        )

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode("utf-8", "replace"))

    @property
    def is_code(self) -> bool:
        """Whether the text is a program, to which rules made for prose do not apply."""
        return self.language == "python"
