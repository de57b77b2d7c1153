"""Where the files of a model go: into an artifact that is being written, or into an ordinary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from kweek.store import files
from kweek.store.artifact import ArtifactWriter

Target = ArtifactWriter | Path


@contextmanager
def open_in(target: Target, name: str) -> Iterator[BinaryIO]:
    """Write one file as a stream; a folder is created, and a file in it replaced atomically. Raises StoreError."""
    if isinstance(target, Path):
        target.mkdir(parents=True, exist_ok=True)
        with files.open_atomic(target / name) as stream:
            yield cast(BinaryIO, stream)
    else:
        with target.open(name) as stream:
            yield cast(BinaryIO, stream)


def write_json_in(target: Target, name: str, value: Any) -> None:
    """Write one file of indented JSON, as above."""
    if isinstance(target, Path):
        target.mkdir(parents=True, exist_ok=True)
        files.write_json(target / name, value)
    else:
        target.write_json(name, value)
