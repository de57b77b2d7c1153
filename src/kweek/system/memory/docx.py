"""The text of a Word document (.docx), from its zip and XML, with limits; runs in a process of its own.

A part is unpacked and parsed in blocks, so that a bomb is met at the limit and not in the memory. A document type,
which is what attacks on XML are made of (entities that multiply or fetch), is refused: Word writes none.
"""

from __future__ import annotations

import zipfile
import zlib
from typing import Any
from xml.parsers import expat

MAX_XML_BYTES = 64 << 20  # unpacked; a book of a thousand pages takes some ten
MAX_DEPTH = 256  # elements inside elements; Word stays below a hundred
_BLOCK_BYTES = 1 << 16
_PARTS = ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml")
_SPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
#: What a second time says the same in an older way.
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
#: Names of heading styles as Word writes them in the languages that change them.
_HEADINGS = ("heading", "berschrift", "titre", "ttulo", "kop", "overskrift", "rubrik", "otsikko")
_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


class _Refused(Exception):
    """The document is not read; the message is the reason."""


def read_docx(path: str) -> dict[str, Any]:
    """`{"text"}`: paragraphs, one per line, headings with `#` before them. Or `{"bad": reason}`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if _PARTS[0] not in names:
                return {"bad": "a zip archive, but no .docx"}
            left = MAX_XML_BYTES
            texts = []
            for part in _PARTS:
                if part in names:
                    reader = _Reader(left)
                    texts.append(reader.read(archive, part))
                    left = reader.left
    except zipfile.BadZipFile:
        return {"bad": "no .docx (one protected by a password is none either)"}
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, expat.ExpatError) as error:
        return {"bad": f"damaged ({error})"}
    except _Refused as refusal:
        return {"bad": str(refusal)}
    text = "\n".join(text for text in texts if text.strip())
    return {"text": text} if text.strip() else {"bad": "holds no text"}


class _Reader:
    """One part of a document: what its elements say, in order."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._depth = self._skipped = 0
        self._texts: list[str] = []
        self._paragraph: list[str] = []
        self._inside_text = False
        self._level = 0

    def read(self, archive: zipfile.ZipFile, part: str) -> str:
        """The text of a part. Raises _Refused beyond the limits."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = _refuse
        parser.EntityDeclHandler = _refuse
        with archive.open(part) as stream:
            while block := stream.read(_BLOCK_BYTES):
                self.left -= len(block)
                if self.left < 0:
                    raise _Refused(f"unpacks to over {MAX_XML_BYTES >> 20} MB")
                parser.Parse(block, False)
        parser.Parse(b"", True)
        return "".join(self._texts)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"nests deeper than {MAX_DEPTH}")
        if name == _FALLBACK or self._skipped:
            self._skipped += 1
            return
        space, _, local = name.rpartition(" ")
        if space != _SPACE:
            return
        if local == "t":
            self._inside_text = True
        elif local == "pStyle":
            self._level = _heading_level(attributes.get(f"{_SPACE} val", ""))
        elif (
            local in _SIGNS and self._paragraph
        ):  # a tab stop, which is declared in a paragraph's head, is no tab
            self._paragraph.append(_SIGNS[local])

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._skipped:
            self._skipped -= 1
            return
        space, _, local = name.rpartition(" ")
        if space != _SPACE:
            return
        if local == "t":
            self._inside_text = False
        elif local == "p":
            self._end_paragraph()
        elif local == "tbl":
            self._texts.append("\n")

    def _end_paragraph(self) -> None:
        text = "".join(self._paragraph).strip()
        if text:
            mark = "#" * self._level + " " if self._level else ""
            self._texts.append(f"{mark}{' '.join(text.split()) if mark else text}\n\n")
        self._paragraph, self._level = [], 0

    def _characters(self, text: str) -> None:
        if self._inside_text and not self._skipped:
            self._paragraph.append(text)


def _heading_level(style: str) -> int:
    """1 to 6 for the style of a heading, 0 for any other."""
    name = style.lower()
    digits = name[-1:]
    if name == "title":
        return 1
    return int(digits) if name[:-1].endswith(_HEADINGS) and digits in tuple("123456") else 0


def _refuse(*_: object) -> None:
    raise _Refused("declares a document type or entities, as only attacks do")
