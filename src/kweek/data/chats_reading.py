"""Reading of chats and judgements: a file or folder in, rows and a report out, whatever the format and its faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from kweek.data.chats import Conversation, Judgement, Preference, Row, Task
from kweek.data.chats_files import Record, find_source, read_records
from kweek.data.chats_formats import FORMATS, Format, detect
from kweek.data.chats_report import BadRow, Report
from kweek.data.readers import printable
from kweek.errors import ConfigError, DataError

NUM_TRIED = 100  # records looked at for one of a known format: a header or a few odd lines may come first


def read_chats(
    path: Path,
    report: Report,
    *,
    format: str | None = None,
    split: str | None = None,
    on_bad: Literal["skip", "stop"] = "skip",
) -> Iterator[Row]:
    """The rows of a file or folder, one at a time.

    Args:
        path: a file (.jsonl, .json, .parquet, .arrow), a folder of them, or one that `datasets` saved.
        report: filled as rows are read; complete when the last one has been.
        format: a name from `FORMATS`; by default the one that the first records look like.
        split: the one to read where there are several; by default "train".
        on_bad: "skip" counts a record that cannot be used, "stop" makes it an error.

    Raises:
        DataError: the file cannot be read, is in no known format, or holds nothing that can be used; with "stop",
            the first record that cannot.
        ConfigError: no format of that name.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}", fix=f"name one of {', '.join(FORMATS)}")
    source = find_source(path, split)
    report.source, report.detected = printable(path), format is None
    if source.others:
        others = ", ".join(name or "files of no split" for name in source.others)
        report.note(f"split {source.split!r} was read; there are others: {others}")
    records = (
        record
        for file in source.files
        for record in read_records(file, label=printable(file.relative_to(path)) if path.is_dir() else None)
    )
    held: list[Record] = []
    form = FORMATS.get(format) if format else _find_format(records, held, report.source)
    assert form is not None
    report.format = form.name
    for record in _again(held, records):
        row = _row(record, form, report, on_bad)
        if row is not None:
            report.num_rows += 1
            yield row
    if not report.num_rows:
        raise DataError(
            f"nothing in it can be used as {form.row} of the format {form.name!r} "
            f"({report.num_records:,} records{': ' + report.commonest() if report.skipped else ''})",
            where=report.source,
            fix="mend the records, or name the right format with --format",
        )


def require(rows: Iterator[Row], *kinds: type[Conversation | Preference | Judgement | Task]) -> Iterator[Any]:
    """The rows, all of which must be of some kinds.

    Raises:
        DataError: one is not.
    """
    for row in rows:
        if not isinstance(row, kinds):
            wanted = " or ".join(kind.__name__.lower() for kind in kinds)
            raise DataError(
                f"a {type(row).__name__.lower()} where a {wanted} is needed",
                where=row.origin,
                fix="give a file of the right kind, or name its format",
            )
        yield row


def _row(record: Record, form: Format, report: Report, on_bad: str) -> Row | None:
    """The row of a record, None when it is left out."""
    report.num_records += 1
    notes: list[str] = []
    try:
        if record.fault is not None:
            raise BadRow(record.fault, record.detail)
        if not isinstance(record.value, Mapping):
            raise BadRow("not an object", type(record.value).__name__)
        if not form.matches(record.value) and (other := detect(record.value)) is not None:
            raise BadRow("of another format", other.name)
        row = form.parse(record.value, notes.append)
    except BadRow as bad:
        if on_bad == "stop":
            raise DataError(
                str(bad), where=record.where, fix="mend the record or let it be left out"
            ) from None
        report.skip(record.where, bad.reason, bad.detail)
        return None
    for note in notes:
        report.note(note)
    return replace(row, origin=record.where)


def _find_format(records: Iterator[Record], held: list[Record], where: str) -> Format:
    """The format of the first record that looks like one; the records looked at are put into `held`.

    Raises:
        DataError: none of the first records looks like any.
    """
    for record in records:
        held.append(record)
        if form := detect(record.value):
            return form
        if len(held) >= NUM_TRIED:
            break
    if not held:
        raise DataError("there are no records in it", where=where, fix="check the file")
    first = next((r for r in held if isinstance(r.value, Mapping)), None)
    if first is None:
        fault = held[0].fault or "not an object"
        raise DataError(f"no chats in it: {fault}", where=held[0].where, fix="write one JSON object per line")
    keys = ", ".join(map(str, list(first.value)[:12])).encode("utf-8", "backslashreplace").decode()
    raise DataError(
        f"the format is not known (keys: {keys})",
        where=first.where,
        fix=f"name one with --format ({', '.join(FORMATS)}) or write messages: [{{role, content}}]",
    )


def _again(held: list[Record], records: Iterator[Record]) -> Iterator[Record]:
    yield from held
    yield from records
