"""Records of files as they stand: JSON lines, JSON, Parquet, and folders that the library `datasets` saved.

One record at a time, so that a file of any size costs some megabytes. What is wrong with one record is said beside
it; what is wrong with a file as a whole is one error that names it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kweek.data.containers import MAX_RECORD_CHARS
from kweek.data.readers import printable, suffix_of
from kweek.data.streams import BadFile, blocks
from kweek.errors import DataError

LINES, VALUES, TABLES, ARROW = (".jsonl", ".ndjson"), (".json",), (".parquet",), (".arrow",)
EXTENSIONS = (*LINES, *VALUES, *TABLES, *ARROW)
_BATCH_ROWS = 64
_SAVED_ONE, _SAVED_MANY = "state.json", "dataset_dict.json"  # what `save_to_disk` leaves in a folder
_SPLIT = re.compile(
    r"(?:^|[\W_])(train|training|test|validation|valid|val|dev|eval)(?=$|[\W_\d])", re.IGNORECASE
)
_SPLIT_NAMES = {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "test",
}


@dataclass(frozen=True)
class Record:
    """One record: where it stands ("file:12"), and its value, or what is wrong with it."""

    where: str
    value: Any = None
    fault: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Source:
    """The files that will be read, of one split.

    Attributes:
        files: in the order of reading.
        split: the one they belong to; empty where the source has none.
        others: splits that are not read.
    """

    files: tuple[Path, ...]
    split: str = ""
    others: tuple[str, ...] = ()


def find_source(path: Path, split: str | None = None) -> Source:
    """The files of a path: itself, or those of a folder; of several splits the one named, else "train".

    Raises:
        DataError: there is no such file, nothing in it that is read, or no such split.
    """
    name = printable(path)
    if not path.exists():
        raise DataError("no such file or folder", where=name, fix="check the path")
    if path.is_file():
        if suffix_of(path)[0] not in EXTENSIONS:
            raise DataError(
                f"a file of the kind {path.suffix or 'without extension'!r} is not read",
                where=name,
                fix=f"give it as {', '.join(EXTENSIONS)} (the first three also as .gz or .zst)",
            )
        return Source((path,))
    if (path / _SAVED_MANY).is_file():
        names = [part.name for part in sorted(path.iterdir()) if (part / _SAVED_ONE).is_file()]
        chosen, others = _choose(names, split, name)
        return Source(_saved_files(path / chosen), chosen, others)
    if (path / _SAVED_ONE).is_file():
        return Source(_saved_files(path))
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and suffix_of(f)[0] in EXTENSIONS]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    if not files:
        raise DataError(
            "the folder holds no chats", where=name, fix=f"put {', '.join(EXTENSIONS)} files in it"
        )
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(path)), []).append(file)
    if list(by_split) == [""] and split is None:
        return Source(tuple(files))
    chosen, others = _choose(sorted(by_split), split, name)
    return Source(tuple(by_split[chosen]), chosen, others)


def read_records(path: Path, *, label: str | None = None) -> Iterator[Record]:
    """The records of one file.

    Args:
        path: a file of one of the known kinds.
        label: what places are called; by default the file's name.

    Raises:
        DataError: the file as a whole cannot be read, or cannot be read on.
    """
    label = label or printable(path.name)
    suffix, packing = suffix_of(path)
    try:
        if suffix in LINES:
            yield from _lines(_in_utf8(blocks(path, packing)), label)
        elif suffix in VALUES:
            yield from _values(path, packing, label)
        elif suffix in TABLES:
            yield from _table(path, label)
        else:
            yield from _arrow(path, label)
    except BadFile as error:
        raise DataError(str(error), where=printable(path), fix="fetch or write the file again") from None
    except (pa.ArrowException, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # else it comes from pyarrow and is about the content
            raise DataError(f"the file cannot be read ({error.strerror})", where=printable(path)) from None
        what = str(error).splitlines()[0][:120]
        raise DataError(
            f"the file is damaged or of another kind ({what})", where=printable(path), fix="write it again"
        ) from None


# -- JSON


def _in_utf8(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks in UTF-8 without a byte order mark, whatever mark they began with."""
    head = next(parts, b"")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoder = codecs.getincrementaldecoder("utf-16")()
        yield decoder.decode(head).encode("utf-8")
        for part in parts:
            yield decoder.decode(part).encode("utf-8")
        return
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from parts


def _lines(parts: Iterator[bytes], label: str) -> Iterator[Record]:
    """One record per line that is not blank."""
    buffer, number, too_long = b"", 0, False
    for part in parts:
        *whole, rest = (buffer + part).split(b"\n")
        for line in whole:
            number += 1
            if too_long or len(line) > MAX_RECORD_CHARS:
                yield _too_long(f"{label}:{number}")
            elif line.strip():
                yield _line(line, f"{label}:{number}", ended=True)
            too_long = False
        buffer = rest
        if len(buffer) > MAX_RECORD_CHARS:
            too_long, buffer = True, b""
    number += 1
    if too_long:
        yield _too_long(f"{label}:{number}")
    elif buffer.strip():
        yield _line(buffer, f"{label}:{number}", ended=False)


def _line(line: bytes, where: str, *, ended: bool) -> Record:
    """What one line holds; half a line at the end of a file is called so."""
    try:
        return Record(where, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        fault, detail = "not UTF-8", f"byte 0x{line[error.start]:02X} at {error.start}"
    except (ValueError, RecursionError) as error:
        fault, detail = "not valid JSON", str(error).splitlines()[0]
    return Record(where, fault=fault if ended else "the last line is cut off", detail=detail)


def _too_long(where: str) -> Record:
    return Record(where, fault=f"a record of over {MAX_RECORD_CHARS >> 20} MiB")


def _values(path: Path, packing: str, label: str) -> Iterator[Record]:
    """A file of one JSON array, of one object, or of lines in spite of its name."""
    parts = _in_utf8(blocks(path, packing))
    head = b""
    for part in parts:
        head += part
        if head.strip():
            break
    if head.lstrip()[:1] == b"[":
        yield from _elements(_chain(head, parts), label, path)
        return
    first, newline, _ = head.lstrip().partition(b"\n")
    if newline and _is_json(first):
        yield from _lines(_chain(head, parts), label)
        return
    whole = bytearray(head)
    for part in parts:
        whole += part
        if len(whole) > MAX_RECORD_CHARS:
            raise BadFile(f"one JSON object of over {MAX_RECORD_CHARS >> 20} MiB; write it as JSON lines")
    try:
        value = json.loads(whole.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"not valid JSON ({str(error).splitlines()[0]})") from None
    held = value.get("data") if isinstance(value, dict) else None
    for number, entry in enumerate(held if isinstance(held, list) else [value], 1):
        yield Record(f"{label}: record {number}", entry)


def _elements(parts: Iterator[bytes], label: str, path: Path) -> Iterator[Record]:
    """The elements of one JSON array, each parsed as soon as it is there.

    Raises:
        DataError: from some line on it is no JSON; what stands after it cannot be told apart.
    """
    decoder, scan = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    text, at, line, number, expects = "", 0, 1, 0, "["
    ended = False
    while True:
        while at < len(text) and (text[at].isspace() or (expects != "value" and text[at] == expects)):
            line += text[at] == "\n"
            if text[at] == expects:
                expects = "value"
            at += 1
        if at < len(text) and text[at] == "]" and (expects == "," or number == 0):
            return
        try:
            if expects == "value" and at < len(text):
                value, end = scan.raw_decode(text, at)
                number += 1
                yield Record(f"{label}:{line} (record {number})", value)
                line += text.count("\n", at, end)
                at, expects = end, ","
                continue
            fault = (
                f"expected {expects!r}" if at < len(text) and expects != "value" else "the file is cut off"
            )
        except (ValueError, RecursionError) as error:
            fault = str(error).splitlines()[0]
        text, at = text[at:], 0
        part = None if ended or len(text) > MAX_RECORD_CHARS else next(parts, None)
        if part is None:
            if not ended and len(text) <= MAX_RECORD_CHARS:
                text += decoder.decode(b"", final=True)
                ended = True
                continue
            raise DataError(
                f"not valid JSON after record {number} ({fault})", where=f"{printable(path)}:{line}"
            )
        text += decoder.decode(part)


def _chain(head: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from parts


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# -- tables


def _table(path: Path, label: str) -> Iterator[Record]:
    """The rows of a Parquet file."""
    with pq.ParquetFile(path, pre_buffer=False) as table:
        batches = table.iter_batches(_BATCH_ROWS, columns=_readable(table.schema_arrow))
        yield from _rows(batches, label)


def _arrow(path: Path, label: str) -> Iterator[Record]:
    """The rows of an Arrow file, in the streaming format that `datasets` writes or in the one with a footer."""
    with pa.memory_map(str(path)) as mapped:
        try:
            reader = pa.ipc.open_stream(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped)
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        names = _readable(reader.schema)
        parts = (
            batch.select(names).slice(i, _BATCH_ROWS)
            for batch in batches
            for i in range(0, batch.num_rows, _BATCH_ROWS)
        )
        yield from _rows(parts, label)


def _readable(schema: pa.Schema) -> list[str]:
    """Columns without raw bytes, which are pictures or sound."""
    return [
        field.name
        for field in schema
        if not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
    ]


def _rows(batches: Iterator[Any], label: str) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield Record(f"{label}:{number}", _plain(row))


def _plain(value: Any) -> Any:
    """A row as JSON would have it: a table fills every object up to all keys with nulls, and these say nothing."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        if value and all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
            return {key: _plain(entry) for key, entry in value}  # a map
        return [_plain(entry) for entry in value]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"  # a picture, of which nobody here makes anything
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


# -- folders


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """The Arrow files of a saved data set, in its own order.

    Raises:
        DataError: its description cannot be read, names a file that is not there, or keeps rows by an index.
    """
    where = printable(folder / _SAVED_ONE)
    try:
        state = json.loads((folder / _SAVED_ONE).read_bytes())
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"this describes no saved data set ({error})", where=where, fix="save it again"
        ) from None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError("its rows are chosen by an index", where=where, fix="save it after flatten_indices()")
    files = tuple(folder / Path(name).name for name in names)
    if missing := [file for file in files if not file.is_file()]:
        raise DataError("a file of the data set is missing", where=printable(missing[0]), fix="save it again")
    return files


def _choose(names: list[str], split: str | None, where: str) -> tuple[str, tuple[str, ...]]:
    """The split to read, and the others."""
    wanted = split if split is not None else "train" if "train" in names or len(names) != 1 else names[0]
    if wanted not in names:
        known = ", ".join(name or "(none)" for name in names)
        raise DataError(
            f"there is no split {wanted!r} (there are: {known})", where=where, fix="name one with --split"
        )
    return wanted, tuple(name for name in names if name != wanted)


def _split_of(path: Path) -> str:
    """The split that a file's name or folder tells, as in data/test-00000-of-00001.parquet."""
    for part in reversed(path.parts):
        if match := _SPLIT.search(part):
            name = match[1].lower()
            return _SPLIT_NAMES.get(name, name)
    return ""
