"""Files of a folder as documents: formats, compression, encodings, and all that can be wrong with a file.

No file can stop the reading, fill the memory or be read halfway. Text passes through in blocks, twice: the
first pass finds the encoding and whatever speaks against the file (damage, binary content, a line without
end), the second yields documents. So nothing of a damaged archive is used, and a file of any size costs a few
megabytes. A file or record that is not used is reported with its reason.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kweek.data.containers import BadRecord, json_records, parquet_records
from kweek.data.document import Document
from kweek.data.encodings import Encoding, candidates, num_strange
from kweek.data.markup import html_text
from kweek.data.streams import BadFile, blocks
from kweek.errors import DataError
from kweek.protocols import Progress, silent

MAX_FILE_CHARS = 4 << 30  # unpacked; larger is a bomb, or data that wants a pipeline of its own
MAX_LINE_CHARS = 1 << 20  # nobody writes a paragraph of a million characters; machines write such lines
MAX_HTML_CHARS = 8 << 20  # a page is parsed as a whole
MAX_STRANGE = 0.02  # share of control characters: prose has none, a log with colour codes stays below
LONG_DOCUMENT_CHARS = 16 << 10  # a longer text is cut ...
PIECE_CHARS = 8 << 10  # ... into pieces of about this size, so that a single book can be mixed and split

_TEXT = {".txt": "und", ".md": "und", ".rst": "und", ".py": "python", ".html": "und", ".htm": "und"}
_CONTAINERS = (".jsonl", ".parquet")
_PACKED = (".gz", ".zst")
EXTENSIONS = (*_TEXT, *_CONTAINERS)


@dataclass(frozen=True)
class Rejection:
    """A file, folder or record that was not used, and why. `path` is relative to the folder read."""

    path: str
    reason: str


Reject = Callable[[Rejection], None]


def printable(path: str | Path) -> str:
    """A path as text that every format can hold; bytes of a file name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_folder(
    folder: Path, *, source: str = "folder", reject: Reject, progress: Progress = silent
) -> Iterator[Document]:
    """All documents below a folder, files in order of their names, whatever order the disk lists them in.

    Args:
        folder: a folder, or one file.
        source: name given to the documents' source.
        reject: called for everything that is not used.
        progress: told the bytes read so far, on disk.

    Raises:
        DataError: there is no such folder, it may not be read, or it holds no file at all.
    """
    files = list_files(folder, reject)
    total = sum(size for _, size, _ in files)
    done = 0
    for path, size, _ in files:
        origin = printable(path.relative_to(folder)) if path != folder else printable(path.name)
        try:
            yield from read_file(path, origin=origin, source=source, reject=reject)
        except BadFile as error:
            reject(Rejection(origin, str(error)))
        except OSError as error:
            reject(Rejection(origin, f"cannot be read ({error.strerror or error})"))
        except UnicodeError:
            reject(Rejection(origin, "changed while it was read"))
        done += size
        progress(done, total, "reading documents")


def list_files(
    folder: Path, reject: Reject = lambda rejection: None, extensions: Sequence[str] = EXTENSIONS
) -> list[tuple[Path, int, int]]:
    """The files below a folder that will be read, as (path, bytes, time of change in ns), sorted by path.

    Args:
        reject: called for everything else that lies there.
        extensions: of the files wanted, each also packed.

    Raises:
        DataError: there is no such folder, or no file in it that can be read.
    """
    if not folder.exists():
        raise DataError("no such folder", where=printable(folder), fix="check the path")
    files = list(_files(folder, reject, extensions))
    if not files:
        raise DataError(
            "the folder holds no file that can be read",
            where=printable(folder),
            fix=f"put documents in it ({', '.join(extensions)}, each also as .gz or .zst)",
        )
    return files


def _files(folder: Path, reject: Reject, extensions: Sequence[str]) -> Iterator[tuple[Path, int, int]]:
    """Regular files with a known extension; whatever else is met is rejected unopened."""
    waiting = [folder]  # no recursion: folders may be nested deeper than Python's stack
    while waiting:
        path = waiting.pop()
        name = printable(path.relative_to(folder))
        try:
            kind = path.stat()
        except OSError as error:
            circle = "a symbolic link that leads nowhere or in a circle"
            reject(Rejection(name, circle if path.is_symlink() else f"cannot be read ({error.strerror})"))
            continue
        if stat.S_ISDIR(kind.st_mode):
            if path.is_symlink() and path != folder:
                reject(Rejection(name, "a symbolic link to a folder, not followed; name the folder itself"))
            elif path.name.startswith(".") and path != folder:
                reject(Rejection(name, "a hidden folder"))
            else:
                try:
                    waiting.extend(sorted(path.iterdir(), key=os.fsencode, reverse=True))
                except OSError as error:
                    reject(Rejection(name, f"the folder cannot be listed ({error.strerror})"))
        elif not stat.S_ISREG(kind.st_mode):
            reject(Rejection(name, "not a file (a pipe, socket or device)"))
        elif suffix_of(path)[0] not in extensions:
            reject(Rejection(name, f"extension {path.suffix or 'missing'!r} is not one that is read"))
        else:
            yield path, kind.st_size, kind.st_mtime_ns


def suffix_of(path: Path) -> tuple[str, str]:
    """The extension that tells the format, and that of the compression ("" when there is none)."""
    name = path.name.lower()
    packing = next((packed for packed in _PACKED if name.endswith(packed)), "")
    return Path(name[: len(name) - len(packing)]).suffix, packing


def read_file(path: Path, *, origin: str, source: str, reject: Reject) -> Iterator[Document]:
    """The documents of one file.

    Raises:
        BadFile: the file as a whole cannot be used; raised before its first document.
        OSError: it cannot be opened or read.
    """
    suffix, packing = suffix_of(path)
    if suffix == ".parquet":
        records = parquet_records(path, packing)
    else:
        encoding, num_chars = _examine(path, packing, any_line=suffix in (".jsonl", ".html", ".htm"))
        if suffix == ".jsonl":
            records = json_records(_decoded(path, packing, encoding))
        else:
            markup = suffix in (".html", ".htm")
            if markup and num_chars > MAX_HTML_CHARS:
                raise BadFile(f"a page of {num_chars:,} characters; the limit is {MAX_HTML_CHARS:,}")
            text = _decoded(path, packing, encoding)
            pieces = cut(iter([html_text("".join(text))]) if markup else text)
            language = _TEXT[suffix]
            for number, piece in enumerate(pieces):
                part = {"part": number} if num_chars > LONG_DOCUMENT_CHARS else None
                yield Document.of(piece, source=source, origin=origin, language=language, metadata=part)
            return
    for number, record in enumerate(records, 1):
        if isinstance(record, BadRecord):
            reject(Rejection(f"{origin}:{record.number}", record.reason))
            continue
        for piece in cut(iter([record.text])):
            yield Document.of(
                piece,
                source=source,
                origin=origin,
                language=record.language or "und",
                licence=record.licence or "unknown",
                metadata={"record": number},
            )


def _examine(path: Path, packing: str, *, any_line: bool) -> tuple[Encoding, int]:
    """First pass: the encoding and the number of characters.

    Args:
        any_line: whether lines may be of any length (a page without line breaks, a long record).

    Raises:
        BadFile: empty, damaged, binary, in no known encoding, too large, or with a line without end.
    """
    head = next(blocks(path, packing), b"")
    if not head:
        raise BadFile("the file is empty")
    encodings = candidates(head)
    if not encodings:
        raise BadFile("binary content")
    for encoding in encodings:
        try:
            return encoding, _try(path, packing, encoding, any_line=any_line)
        except UnicodeError:
            continue
    raise BadFile("in no known encoding (utf-8, utf-16 with a mark, cp1252, latin-1); convert it to utf-8")


def _try(path: Path, packing: str, encoding: Encoding, *, any_line: bool) -> int:
    """Read all of a file in one encoding and count its characters.

    Raises:
        UnicodeError: it is not in that encoding.
        BadFile: it is damaged, too large, binary, or has a line without end.
    """
    num_chars = strange = line = 0
    for text in _decoded(path, packing, encoding):
        num_chars += len(text)
        if num_chars > MAX_FILE_CHARS:
            raise BadFile(f"over {MAX_FILE_CHARS >> 30} Gi characters; split it into smaller files")
        strange += num_strange(text)
        if strange > num_chars * MAX_STRANGE and num_chars > 10_000:
            break  # a large binary file need not be read to its end
        newline = text.rfind("\n") if "\n" in text else text.rfind("\r")
        line = line + len(text) if newline < 0 else len(text) - newline - 1
        if line > MAX_LINE_CHARS and not any_line:
            raise BadFile(f"a line of over {MAX_LINE_CHARS:,} characters; break it into lines")
    if strange > num_chars * MAX_STRANGE:
        raise BadFile("binary content")
    return num_chars


def _decoded(path: Path, packing: str, encoding: Encoding) -> Iterator[str]:
    """The text of a file in blocks."""
    decoder = codecs.getincrementaldecoder(encoding.name)(encoding.errors)
    for block in blocks(path, packing):
        if text := decoder.decode(block):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def cut(text: Iterator[str]) -> Iterator[str]:
    """Join blocks of text and cut what is long at paragraph, else line, else word boundaries.

    A text of up to `LONG_DOCUMENT_CHARS` stays whole; of a longer one every piece has about `PIECE_CHARS`.
    """
    buffer = ""
    keep = LONG_DOCUMENT_CHARS  # what may stay in the buffer; less once the text is known to be long
    for block in text:
        buffer += block
        start = 0
        while len(buffer) - start > keep:
            keep = 2 * PIECE_CHARS
            end = _boundary(buffer, start)
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer.strip():
        yield buffer


def _boundary(text: str, start: int) -> int:
    """Where to cut: after the first paragraph, line or word that ends one to two pieces after `start`."""
    least, most = start + PIECE_CHARS, start + 2 * PIECE_CHARS
    for mark in ("\n\n", "\n", " "):
        at = text.find(mark, least, most)
        if at >= 0:
            return at + len(mark)
    return most
