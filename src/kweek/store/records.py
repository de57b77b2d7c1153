"""Records: what happened, one JSON object per line, appended as the work goes and readable at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kweek.errors import StoreError
from kweek.store.files import OutputFile, encode_json, failures, file_ops, write_bytes


class Records:
    """An append-only file of JSON lines `{"kind", "time", ...}`, times in seconds since 1970.

    Every line reaches the kernel before `append` returns, so a killed process loses nothing that it said.
    One process appends at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._whole = False  # whether the file is known to end with a whole line

    def append(self, kind: str, **fields: Any) -> bytes:
        """Add one record; returns its line, without the end. Raises StoreError when the disk does not take it."""
        if not self._whole:
            self._drop_torn_line()
        line = encode_json({"kind": kind, "time": round(time.time(), 3), **fields}).encode("utf-8")
        ops = file_ops()
        with failures(self.path, "append"):
            descriptor = ops.open_append(self.path)
        self._whole = False  # until the write has succeeded
        try:
            OutputFile(descriptor, self.path).write(line + b"\n")
            self._whole = True
        finally:
            with failures(self.path, "close"):
                ops.close(descriptor)
        return line

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keep only the records for which `keep` is true, atomically: for a stage that resumes earlier."""
        lines = read_lines(self.path)
        kept = [line for line, record in lines if keep(record)]
        if len(kept) < len(lines) or self._is_torn():
            write_bytes(self.path, b"".join(line + b"\n" for line in kept))

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All records of a file, none when it does not exist; a last line cut off by a crash is left out.

        Raises StoreError naming file and line for any other line that is no JSON object.
        """
        return [record for _, record in read_lines(Path(path))]

    def _drop_torn_line(self) -> None:
        """Take away half a line that a crash left, so that the next record does not continue it."""
        if self._is_torn():
            self.rewind(lambda record: True)
        self._whole = True

    def _is_torn(self) -> bool:
        """Whether the file has content that does not end a line."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"


def read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every whole line of a file, without its end, with the record in it. Raises as `Records.read`."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise StoreError(f"broken record: {error}", where=f"{path}:{number}") from None
        if not isinstance(record, dict):
            raise StoreError("a record must be a JSON object", where=f"{path}:{number}")
        found.append((line, record))
    return found
