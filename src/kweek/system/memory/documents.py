"""Files as documents of a memory: txt, md, rst, py, html, pdf and docx, whatever is wrong with them.

Text formats are read by `kweek.data.readers` (encodings, archives, limits). PDF and Word files are read in a process
of their own that is killed when it takes too long or too much memory. A file that is not used gets a reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kweek.compute.isolation import Failure, Isolated
from kweek.data.document import document_id
from kweek.data.readers import read_file, suffix_of
from kweek.data.streams import BadFile
from kweek.system.memory.docx import read_docx
from kweek.system.memory.pdf import read_pdf

#: Of one file, as it lies on the disk and as text; a larger one is data that wants to be cut into documents first.
MAX_BYTES = 64 << 20
#: Of processor time for one PDF or Word file: a thousand pages take some five.
SECONDS = 30.0
#: What reading one may add to the process; scanned books were seen to take a third of it.
MEMORY_BYTES = 1 << 30

_MARKDOWN = (".md",)
_PLAIN = (".txt", ".rst", ".py")
_MARKUP = (".html", ".htm")
_ISOLATED: dict[str, Callable[[str], dict[str, Any]]] = {".pdf": read_pdf, ".docx": read_docx}
EXTENSIONS = (*_PLAIN, *_MARKDOWN, *_MARKUP, *_ISOLATED)
#: Kinds whose lines that begin with `#` are headings.
WITH_HEADINGS = frozenset({"markdown", "docx"})


@dataclass(frozen=True)
class Read:
    """What a file holds.

    Attributes:
        name: content hash of the text.
        text: in UTF-8.
        kind: "text", "markdown", "html", "pdf" or "docx".
        sha256: hex digest of the file as it lies on the disk.
        about: further facts: `own_bytes`, whether offsets into the text are offsets into the file; `pages`, where the
            pages of a PDF begin.
    """

    name: str
    text: bytes
    kind: str
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads files; the processes that read PDF and Word files stay for the next one."""

    def __init__(self, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._apart = {
            suffix: Isolated(function, seconds=seconds, memory_bytes=memory_bytes)
            for suffix, function in _ISOLATED.items()
        }

    def close(self) -> None:
        """End the processes."""
        for apart in self._apart.values():
            apart.close()

    def read(self, path: Path, sha256: str) -> Read:
        """The document in a file.

        Args:
            sha256: of the file, from `file_hash`.

        Raises:
            BadFile: it cannot be used; the message is the reason.
            OSError: it cannot be read.
        """
        suffix = suffix_of(path)[0]
        if suffix in self._apart:
            found = self._read_apart(path, suffix)
            text, about = str(found["text"]), {key: found[key] for key in ("pages",) if key in found}
            kind = suffix[1:]
        else:
            text, about = _read_text(path), {}
            kind = "markdown" if suffix in _MARKDOWN else "html" if suffix in _MARKUP else "text"
        if not text.strip():
            raise BadFile("holds no text")
        encoded = text.encode("utf-8", "replace")
        if len(encoded) > MAX_BYTES:
            raise BadFile(f"{len(encoded) >> 20} MB of text; the limit is {MAX_BYTES >> 20} MB: split it")
        about["own_bytes"] = hashlib.sha256(encoded).hexdigest() == sha256
        return Read(document_id(text), encoded, kind, sha256, about)

    def _read_apart(self, path: Path, suffix: str) -> dict[str, Any]:
        if suffix_of(path)[1]:
            raise BadFile("a packed PDF or Word file; unpack it")
        try:
            found: dict[str, Any] = self._apart[suffix](str(path))
        except Failure as failure:
            raise BadFile(_reason(failure)) from failure
        if "bad" in found:
            raise BadFile(found["bad"])
        return found


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file. Raises BadFile where it is too large, OSError where it cannot be read."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BadFile(f"{size >> 20} MB; the limit is {MAX_BYTES >> 20} MB")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown_source(shown: str, about: str, at: int) -> str:
    """A source as a reader finds the place: of a PDF with the page on which a byte of its text stands."""
    pages = json.loads(about).get("pages") if '"pages"' in about else None
    return f"{shown}#page={sum(start <= at for start in pages)}" if pages else shown


def _read_text(path: Path) -> str:
    pieces = read_file(
        path, origin=path.name, source="", reject=lambda _: None
    )  # only records are rejected there
    return "".join(piece.text for piece in pieces)


def _reason(failure: Failure) -> str:
    """Why a process gave nothing, in a clause."""
    if failure.kind == "hung":
        return f"reading it does not end ({failure})"
    if "MemoryError" in str(failure) or failure.kind == "died":
        return f"reading it takes too much memory, or breaks the library ({failure})"
    return f"cannot be read ({failure})"
