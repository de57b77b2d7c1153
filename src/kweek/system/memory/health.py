"""Whether a memory is what was put into it: everything in the file that has a hash or a rule is held against it."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass

from kweek.errors import StoreError
from kweek.system.memory import bm25
from kweek.system.memory.store import Store, failures

_MOST = 20  # faults named; one page damaged on the disk can make thousands


@dataclass(frozen=True)
class Health:
    """The state of a memory.

    Attributes:
        documents, notes, chunks, text_bytes, vectors, sources: how many there are.
        mode: "bm25" or "hybrid", as the last evaluation has chosen.
        sidecar: "not needed", "current", "stale" (the database answers), or what is wrong with it.
        unpurged: documents changed or removed since the last purge, of which bytes may still lie in the file.
        faults: what is damaged, empty when all is sound.
    """

    documents: int
    notes: int
    sources: int
    chunks: int
    text_bytes: int
    vectors: int
    mode: str
    sidecar: str
    unpurged: int
    faults: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.faults


def examine(store: Store, *, needs_sidecar: bool) -> Health:
    """Look at everything. Reads the whole file. Raises StoreError when it is damaged so that it cannot be read."""
    documents = (
        "select count(*) from documents where (kind = 'note') = ? and (expires is null or expires > ?)"
    )
    now = time.time()
    faults = [*_database_faults(store), *_index_faults(store), *_chunk_faults(store)]
    return Health(
        documents=store.one(documents, (False, now)),
        notes=store.one(documents, (True, now)),
        sources=store.one("select count(*) from sources"),
        chunks=store.num_chunks,
        text_bytes=store.one("select coalesce(sum(length(text)), 0) from chunks"),
        vectors=store.one("select count(distinct chunk) from vectors"),
        mode=store.fact("mode") or "bm25",
        sidecar=_sidecar(store, needs_sidecar),
        unpurged=int(store.fact("unpurged") or 0),
        faults=tuple(faults[:_MOST]),
    )


def _database_faults(store: Store) -> list[str]:
    return [str(row[0]) for row in store.all(f"pragma integrity_check ({_MOST})") if row[0] != "ok"]


def _index_faults(store: Store) -> list[str]:
    """What the index of words says of itself."""
    try:
        with store.lock:
            store.rows.execute("insert into words (words) values ('integrity-check')")
            (found,) = store.rows.execute("select coalesce(sum(cnt), 0) from vocabulary").fetchone()
            (totals,) = store.rows.execute("select block from words_data where id = 1").fetchone()
    except (sqlite3.DatabaseError, TypeError) as error:  # TypeError: there is no such row
        return [f"the index of words is damaged ({error}); --repair makes it anew"]
    if found != (kept := _num_words(totals)):
        return [f"the index of words holds {found:,} of {kept:,} words; --repair makes it anew"]
    return []


def _num_words(totals: bytes) -> int:
    """Words of all chunks, as FTS5 counts them beside its index, which it does not hold against it by itself.

    Source: the SQLite source, ext/fts5/fts5_storage.c: a record of variable-length integers, seven bits to a byte and
    the last of them without its highest bit: the number of rows, then that of the words in each column.
    """
    numbers, value = [], 0
    for byte in totals:
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(value)
            value = 0
    return numbers[1] if len(numbers) > 1 else 0


def _chunk_faults(store: Store) -> list[str]:
    """Chunks that are not what was stored, or do not join."""
    faults = []
    document, expected = None, 0
    with store.lock, failures(store.path):
        rows = store.rows.execute(
            "select id, document, start, sha256, text from chunks order by document, start"
        )
        for chunk, owner, start, sha256, text in rows:
            if owner != document:
                document, expected = owner, 0
            if start != expected:
                faults.append(f"document {document} has a gap before byte {start}")
            if hashlib.sha256(text).digest() != sha256:
                faults.append(f"chunk {chunk} of document {document} is not what was stored")
            expected = start + len(text)
    return faults


def _sidecar(store: Store, needed: bool) -> str:
    if not needed:
        return "not needed"
    try:
        found = bm25.Sidecar(bm25.path_of(store.path), store.identity)
    except bm25.Stale as stale:
        return str(stale)
    except StoreError as error:
        return error.what
    return "current" if found.generation == store.generation else "stale"
