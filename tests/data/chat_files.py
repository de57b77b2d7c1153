"""Writes chats in every kind of file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kweek.data.chats import Row
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import Report


def lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def rows(path: Path, **options: Any) -> tuple[list[Row], Report]:
    """What is read, and the report."""
    report = Report()
    return list(read_chats(path, report, **options)), report


def asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **rest}
