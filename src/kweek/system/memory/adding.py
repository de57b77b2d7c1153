"""Bringing a memory up to date with a folder: what is new is added, what changed replaced, what is gone removed.

A file counts as changed when its bytes hash to something else, whatever its clock says. Documents are written in
batches, each whole or not at all, so the work goes on after a kill where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kweek.data.document import Document
from kweek.data.readers import Rejection, list_files, printable
from kweek.data.streams import BadFile
from kweek.errors import Interrupted
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.system.memory.chunks import spans
from kweek.system.memory.documents import EXTENSIONS, WITH_HEADINGS, Read, Reader, file_hash
from kweek.system.memory.store import Store

#: Text written in one transaction: what a kill costs, about a second.
BATCH_BYTES = 8 << 20
BATCH_FILES = 1000


@dataclass
class Added:
    """What came of adding.

    Attributes:
        new, updated, unchanged, removed: files. A file whose content is known from another file is new as well.
        chunks: added.
        text_bytes: of the documents that were added.
        rejected: files that were not used, and why. One that was used before stays as it was.
        seconds: it all took.
    """

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0
    text_bytes: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Item:
    """A document about to be written, and the place that it was found in."""

    path: str
    shown: str
    read: Read


def add_files(
    store: Store, folder: Path, *, trusted: bool = False, progress: Progress = silent, should_stop: ShouldStop = never
) -> Added:  # fmt: skip
    """Bring the memory up to date with a folder, or one file.

    Args:
        trusted: whether the user vouches for new documents.
        progress: told bytes of files.

    Raises:
        DataError: there is no such folder, or nothing in it that can be read.
        Interrupted: it was asked to stop; what is done is kept.
    """
    began = time.monotonic()
    added = Added()
    root = folder.resolve()
    files = list_files(root, added.rejected.append, EXTENSIONS)
    total, done = sum(size for _, size, _ in files), 0
    known = dict(store.all("select path, sha256 from sources"))
    waiting: list[_Item] = []
    reader = Reader()
    try:
        for path, size, _ in files:
            if should_stop():
                raise Interrupted
            _take(path, root, known, reader, waiting, added)
            if _is_full(waiting):
                _write(store, waiting, trusted, added)
            done += size
            progress(done, total, "indexing")
    finally:
        reader.close()
        _write(store, waiting, trusted, added)
    if root.is_dir():
        _remove_gone(store, root, {printable(path) for path, _, _ in files}, added)
    added.seconds = time.monotonic() - began
    return added


def add_documents(store: Store, documents: Iterable[Document], *, trusted: bool = False) -> Added:
    """Add documents that are no files; one whose source and origin are known replaces the earlier one."""
    began = time.monotonic()
    added = Added()
    known = dict(store.all("select path, sha256 from sources"))
    waiting: list[_Item] = []
    for document in documents:
        shown = f"{document.source}/{document.origin}" if document.origin else document.source
        path = f"document:{shown}" if document.origin else f"document:{shown}:{document.id}"
        about = {"licence": document.licence, "language": document.language}
        read = Read(document.id, document.text.encode("utf-8", "replace"), "text", document.id, about)
        _count(path, document.id, known, added)
        if known.get(path) != document.id and document.text.strip():
            waiting.append(_Item(path, shown, read))
        if _is_full(waiting):
            _write(store, waiting, trusted, added)
    _write(store, waiting, trusted, added)
    added.seconds = time.monotonic() - began
    return added


def _is_full(waiting: list[_Item]) -> bool:
    return len(waiting) >= BATCH_FILES or sum(len(item.read.text) for item in waiting) >= BATCH_BYTES


def _count(path: str, sha256: str, known: dict[str, str], added: Added) -> None:
    if path not in known:
        added.new += 1
    elif known[path] == sha256:
        added.unchanged += 1
    else:
        added.updated += 1


def _take(
    path: Path, root: Path, known: dict[str, str], reader: Reader, waiting: list[_Item], added: Added
) -> None:
    """Read a file unless it is known as it is."""
    name = printable(path)
    shown = printable(path.relative_to(root)) if path != root else printable(path.name)
    try:
        sha256 = file_hash(path)
        if known.get(name) != sha256:
            waiting.append(_Item(name, shown, reader.read(path, sha256)))
        _count(name, sha256, known, added)
    except BadFile as error:
        added.rejected.append(Rejection(shown, str(error)))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "changed while it was read"
        added.rejected.append(Rejection(shown, f"cannot be read ({reason})"))


def _write(store: Store, waiting: list[_Item], trusted: bool, added: Added) -> None:
    """Store what waits, in one transaction."""
    if not waiting:
        return
    with store.change():
        for item in waiting:
            _write_one(store, item, trusted, added)
    waiting.clear()


def _write_one(store: Store, item: _Item, trusted: bool, added: Added) -> None:
    read = item.read
    before = store.one("select document from sources where path = ?", (item.path,))
    document = store.one("select id from documents where name = ?", (read.name,))
    if document is None:
        places = list(spans(read.text, headings=read.kind in WITH_HEADINGS))
        document = store.add_document(
            read.name, read.text, places, kind=read.kind, about=json.dumps(read.about), trusted=trusted
        )
        added.chunks += len(places)
        added.text_bytes += len(read.text)
    store.rows.execute(
        "insert or replace into sources (path, shown, sha256, document) values (?, ?, ?, ?)",
        (item.path, item.shown, read.sha256, document),
    )
    if before is not None and before != document:
        drop_orphans(store, [before])


def drop_orphans(store: Store, documents: Sequence[int]) -> None:
    """Remove those documents that no source names any more. Inside `change`."""
    for document in documents:
        if store.one("select 1 from sources where document = ?", (document,)) is None:
            store.drop_document(document)


def _remove_gone(store: Store, root: Path, there: set[str], added: Added) -> None:
    """Forget files below a folder that are no longer there."""
    below = printable(root).rstrip("/") + "/"
    gone = [
        (path, document)
        for path, document in store.all("select path, document from sources")
        if path.startswith(below) and path not in there and not Path(path).exists()
    ]
    if gone:
        with store.change():
            store.rows.executemany("delete from sources where path = ?", [(path,) for path, _ in gone])
            drop_orphans(store, list(dict.fromkeys(document for _, document in gone)))
    added.removed = len(gone)
