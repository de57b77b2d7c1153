"""Which encoding the bytes of a text file are in, decided from its beginning."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: What Western text holds besides letters: quotation marks, dashes, currency, degrees, fractions, bullets.
_TYPOGRAPHY = set("‘’‚“”„…–—•€£¥¢§©®°±²³·¹º«»¼½¾¿¡×÷ª\xa0\xad™†‡‹›¶´")
_LETTER = re.compile(r"[^\W\d_]")

#: Control characters, less tab, newline, form feed and return, which are usual in text.
_STRANGE_CODES = (*range(9), 11, *range(14, 32), *range(127, 160))
_STRANGE_ASCII = bytes(code for code in _STRANGE_CODES if code < 128)
_STRANGE = dict.fromkeys(_STRANGE_CODES)


@dataclass(frozen=True)
class Encoding:
    """A codec and what to do with bytes it has no character for."""

    name: str
    errors: Literal["strict", "replace"] = "strict"


def candidates(head: bytes) -> list[Encoding]:
    """The encodings to try on a file that begins with `head`, the likeliest first; none for binary content.

    A byte order mark decides. Without one UTF-8 comes first, as other texts are hardly ever valid UTF-8. A
    file that is UTF-8 but for a few damaged places is read with those places replaced; else it is taken for
    Western European, if it looks like that.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return [Encoding(name)]
    if b"\0" in head:
        return []
    found = [Encoding("utf-8")]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # as the head may end inside a character
    decoded = decoder.decode(head)
    num_damaged = decoded.count("\ufffd")
    num_wide = len(decoded) - len(head.translate(None, bytes(range(128, 256)))) - num_damaged
    if num_wide > num_damaged:
        return [*found, Encoding("utf-8", "replace")]
    western = (name for name in ("cp1252", "latin-1") if _is_western(head.decode(name, "replace")))
    return [*found, *map(Encoding, western)]


def _is_western(text: str) -> bool:
    """Whether text decoded as Western European makes sense: few accented letters, little else beyond ASCII.

    Cyrillic, Greek or Chinese in an encoding of its own decodes to accented letters nearly throughout.
    """
    if text.isascii():
        return True
    wide = [char for char in text[:65536] if ord(char) > 127]
    letters = sum(1 for char in wide if char.isalpha())
    typographic = sum(1 for char in wide if char in _TYPOGRAPHY)
    all_letters = len(_LETTER.findall(text[:65536]))
    return letters <= 0.3 * all_letters and letters + typographic >= 0.9 * len(wide)


def num_strange(text: str) -> int:
    """Number of control characters: many of them mean that this is no text, or not in this encoding."""
    if text.isascii():
        raw = text.encode()
        return len(raw) - len(raw.translate(None, _STRANGE_ASCII))
    return len(text) - len(text.translate(_STRANGE))
