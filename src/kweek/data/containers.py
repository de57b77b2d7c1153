"""Files that hold many documents: JSON lines and Parquet tables, one record at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kweek.data.streams import BadFile, blocks

MAX_RECORD_CHARS = 8 << 20  # parsed as a whole
MAX_PACKED_TABLE_BYTES = 32 << 20  # a Parquet file inside an archive has to be unpacked into memory
MAX_ROW_GROUP_BYTES = 1 << 30  # pages are decoded one by one, but a dictionary page is not bounded otherwise

_TEXT_KEYS = ("text", "content", "messages")  # the first that a record has is taken
_BATCH_ROWS = 64


@dataclass(frozen=True)
class Record:
    """The text of one record, and what it says about itself."""

    text: str
    language: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used: its line or row (from 1) and the reason."""

    number: int
    reason: str


def json_records(text: Iterator[str]) -> Iterator[Record | BadRecord]:
    """One record per line of a JSON-lines file; empty lines are passed over."""
    for number, line in enumerate(_lines(text), 1):
        if line is None:
            yield BadRecord(number, f"a record of over {MAX_RECORD_CHARS:,} characters")
        elif line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BadRecord(number, f"not valid JSON ({str(error).splitlines()[0]})")
                continue
            yield _record(record, number)


def _lines(text: Iterator[str]) -> Iterator[str | None]:
    """Lines without their ends; None for one that is too long to hold."""
    buffer = ""
    too_long = False
    for block in text:
        *whole, rest = (buffer + block).split("\n")
        for line in whole:
            yield None if too_long else line
            too_long = False
        buffer = rest
        if len(buffer) > MAX_RECORD_CHARS:
            too_long, buffer = True, ""
    if buffer or too_long:
        yield None if too_long else buffer


def _record(record: Any, number: int) -> Record | BadRecord:
    """The text of a parsed JSON value."""
    if not isinstance(record, dict):
        return BadRecord(number, "not a JSON object")
    key = next((key for key in _TEXT_KEYS if record.get(key)), None)
    if key is None:
        return BadRecord(number, f"has none of the keys {', '.join(_TEXT_KEYS)}")
    text = _chat(record[key]) if isinstance(record[key], list) else record[key]
    if not isinstance(text, str) or not text:
        return BadRecord(number, f"the value of {key!r} is not text")
    return Record(text, _word(record, "language", "lang"), _word(record, "licence", "license"))


def _word(record: dict[str, Any], *keys: str) -> str | None:
    """The first of the keys whose value is a short text."""
    values = (record.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and 0 < len(value) <= 80), None)


def _chat(messages: list[Any]) -> str | None:
    """A chat as text: every message's role and content as a paragraph. None when it is not a chat."""
    paragraphs = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return None
        content = message.get("content") or ""
        if isinstance(content, list):  # parts; those that are not text (images) are left out
            parts = (part.get("text") for part in content if isinstance(part, dict))
            content = "\n".join(part for part in parts if isinstance(part, str))
        if isinstance(content, str) and content.strip():
            paragraphs.append(f"{message['role'].capitalize()}: {content.strip()}")
    return "\n\n".join(paragraphs) or None


def parquet_records(path: Path, packing: str) -> Iterator[Record | BadRecord]:
    """One record per row of a Parquet file with a text column.

    Raises:
        BadFile: not a Parquet file, damaged, without a text column, or with row groups too large to hold.
    """
    source: Any = str(path)
    if packing:
        packed = bytearray()
        for block in blocks(path, packing):
            packed += block
            if len(packed) > MAX_PACKED_TABLE_BYTES:
                raise BadFile(f"a table of over {MAX_PACKED_TABLE_BYTES >> 20} MiB in an archive; unpack it")
        source = io.BytesIO(packed)
    try:
        # Whole-file checks first, so that nothing of a damaged file is used.
        with pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as table:
            columns = _columns(table)
            for _ in table.iter_batches(_BATCH_ROWS, columns=columns[:1]):
                pass
        if packing:
            source.seek(0)
        with pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as table:
            number = 0
            for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield _record(row, number)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadFile(f"not a readable Parquet file ({str(error).splitlines()[0][:120]})") from error


def _columns(table: pq.ParquetFile) -> list[str]:
    """The text column, and those that say more about a document.

    Raises:
        BadFile: there is no text column, or a row group of it is too large.
    """
    schema = table.schema_arrow
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    text = next((k for k in ("text", "content") if k in schema.names), None)
    if text is None or not any(test(schema.field(text).type) for test in is_text):
        raise BadFile("the table has no column 'text' or 'content' of strings")
    groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    sizes = (chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == text)
    largest = max(sizes, default=0)
    if largest > MAX_ROW_GROUP_BYTES:
        raise BadFile(f"a row group of over {MAX_ROW_GROUP_BYTES >> 30} GiB; write smaller ones")
    extra = [k for k in ("language", "lang", "licence", "license") if k in schema.names]
    return [text, *extra]
