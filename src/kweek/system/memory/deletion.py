"""Deletion with proof: after it no byte of the document is in the files of the memory.

Deleting rows is not enough: an index of words keeps the terms of deleted rows until its segments are merged, a
database keeps pages on its free list, the write-ahead log keeps the last changes, the sidecar keeps what it was made
from. So the index is merged into one segment, the file rewritten from its live rows (VACUUM), the log cut to
nothing, the sidecar removed; then all raw files are searched for everything that was in the document.

What this proves is about the files. Blocks that a disk has freed, snapshots and backups are outside its reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kweek.errors import StoreError
from kweek.system.memory import analysis, bm25
from kweek.system.memory.store import Store, failures
from kweek.system.memory.terms import Terms

#: Long enough that text of other documents hardly ever holds one by chance; what it holds is looked up and told apart.
WINDOW_BYTES = 16
#: A term that no other document has is looked for by itself from this length on.
TERM_BYTES = 8
_BLOCK_BYTES = 4 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing (Knuth 6.4)
_FILTER_BITS = 22
_DESCRIPTIONS = (
    "select path, shown from sources",
    "select name, kind, about from documents",
    "select key, value from facts",
    "select sql from sqlite_master",
    f"select term from temp.vocabulary where length(term) >= {WINDOW_BYTES}",  # noqa: S608 - a number
)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Proof:
    """What was removed and what was looked for afterwards.

    Attributes:
        documents: names of the removed documents.
        sources: where they came from.
        chunks: how many chunks they had.
        windows: how many different stretches of 16 bytes of them (text and vectors) were looked for.
        terms: how many terms and paths that nothing else has were looked for.
        found: what was found of them and stands in no remaining document; empty when the proof holds.
        files: raw files searched, and their bytes.
        seconds: it took.
    """

    documents: tuple[str, ...]
    sources: tuple[str, ...]
    chunks: int
    windows: int
    terms: int
    found: tuple[str, ...]
    files: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.found


def remove(store: Store, terms: Terms, documents: Sequence[int], derive: Callable[[], None]) -> Proof:
    """Remove documents and whatever earlier changes left behind, and search for what is left of them.

    Args:
        documents: their numbers; none purges what earlier changes left, with nothing to look for.
        derive: makes anew, from what remains, whatever files are derived from the database.

    Raises:
        StoreError: the file cannot be rewritten, as long as another process uses it for instance.
    """
    began = time.monotonic()
    names, sources, words = [], [], set[str]()
    needles = [np.zeros(0, dtype=np.uint64)]
    for document in documents:
        names.append(str(store.one("select name from documents where id = ?", (document,))))
        sources += [path for (path,) in store.all("select path from sources where document = ?", (document,))]
        needles.append(windows(store.text(document)))
        for chunk, piece in store.all("select id, text from chunks where document = ?", (document,)):
            words |= terms.of(analysis.indexed(piece.decode("utf-8", "replace")))
            for (vector,) in store.all("select vector from vectors where chunk = ?", (chunk,)):
                needles.append(windows(vector)[::WINDOW_BYTES])
    with store.change():
        num_chunks = sum(store.drop_document(document) for document in documents)
        store.set_fact("unpurged", "0")
    purge(store)
    derive()
    alone = [term for term in words if len(term.encode()) >= TERM_BYTES and not _is_known(store, term)]
    wanted = np.unique(np.concatenate(needles))
    files = raw_files(store.path)
    found = (
        *_windows_left(store, wanted, files),
        *_terms_left(store, [*alone, *sources, *names], files),
        *_postings_left(store),
    )
    return Proof(
        tuple(names),
        tuple(sources),
        num_chunks,
        len(wanted),
        len(alone) + len(sources) + len(names),
        found,
        {path.name: path.stat().st_size for path in files},
        time.monotonic() - began,
    )


def purge(store: Store) -> None:
    """Rewrite the files from what is alive: index merged, pages anew, log empty, sidecar gone. Raises StoreError."""
    bm25.path_of(store.path).unlink(missing_ok=True)
    with store.lock, failures(store.path):
        store.rows.execute("insert into words (words) values ('optimize')")
        store.rows.execute("vacuum")
        busy, _, _ = store.rows.execute("pragma wal_checkpoint (truncate)").fetchone()
    if busy:
        raise StoreError(
            "removed, but another process still reads the file, so its log keeps old pages",
            where=str(store.path),
            fix="end the other process and run the same command again",
        )


def raw_files(path: Path) -> list[Path]:
    """The files of a memory that exist: database, log, sidecar, and temporary ones of theirs."""
    return sorted(
        file for file in path.parent.iterdir()
        if file.name.removeprefix(".").startswith(path.name) and file.is_file()
    )  # fmt: skip


def windows(text: bytes) -> Hashes:
    """A hash of every stretch of `WINDOW_BYTES` of a text, in order; of a shorter text none."""
    count = len(text) - WINDOW_BYTES + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    eights: Hashes = np.ndarray((len(text) - 7,), dtype="<u8", buffer=text, strides=(1,))
    low, high = eights[:count], eights[8 : 8 + count]
    return (low * _FACTOR) ^ (high + (high << np.uint64(23)))


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks that overlap by a window less one byte."""
    with path.open("rb") as file:
        tail = b""
        while block := file.read(_BLOCK_BYTES):
            yield tail + block
            tail = (tail + block)[1 - WINDOW_BYTES :]


def _matching(blocks: Iterable[bytes], wanted: Hashes) -> Hashes:
    """Which of the wanted hashes (sorted) occur in the blocks."""
    kept = np.zeros(len(wanted), dtype=bool)
    shift = np.uint64(64 - _FILTER_BITS)
    table = np.zeros(1 << _FILTER_BITS, dtype=bool)
    table[(wanted * _FACTOR) >> shift] = True
    for block in blocks:
        hashes = windows(block)
        hashes = hashes[table[(hashes * _FACTOR) >> shift]]
        places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        kept[places[wanted[places] == hashes]] = True
    return wanted[kept]


def _texts(store: Store) -> Iterator[bytes]:
    """All that the file may rightly hold: the remaining documents, what names and describes them, their long terms."""
    for (document,) in store.all("select id from documents"):
        yield store.text(document)
    for statement in _DESCRIPTIONS:
        for row in store.all(statement):
            yield "\n".join(map(str, row)).encode("utf-8", "surrogateescape")
    for (vector,) in store.all("select vector from vectors"):
        yield vector


def _windows_left(store: Store, wanted: Hashes, files: Sequence[Path]) -> list[str]:
    """Windows that a raw file holds and no remaining document."""
    found: list[str] = []
    for path in files:
        if len(wanted) and len(left := _matching(_blocks(path), wanted)):
            explained = _matching(_texts(store), left)
            if unexplained := len(left) - len(explained):
                found.append(f"{unexplained} stretches of {WINDOW_BYTES} bytes in {path.name}")
    return found


def _terms_left(store: Store, needles: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Terms and paths whose bytes a raw file holds and no remaining document, whatever its case."""
    encoded = {needle: needle.encode("utf-8", "surrogateescape") for needle in needles}
    hits: dict[str, str] = {}
    for path in files:
        data = path.read_bytes()
        hits |= {
            needle: path.name for needle, sought in encoded.items() if needle not in hits and sought in data
        }
    return [f"{needle!r} in {name}" for needle, name in hits.items() if not _stands(store, needle)]


def _postings_left(store: Store) -> list[str]:
    """Places in the index of words that belong to no chunk."""
    left = store.one("select count(*) from temp.instances where doc not in (select id from chunks)")
    return [f"{left} places in the index of words"] if left else []


def _is_known(store: Store, term: str) -> bool:
    """Whether the index of words has a term."""
    return store.one("select 1 from temp.vocabulary where term = ?", (term,)) is not None


def _stands(store: Store, needle: str) -> bool:
    """Whether a remaining document or source holds a text, in any case."""
    sought = needle.casefold()
    return any(sought in text.decode("utf-8", "replace").casefold() for text in _texts(store))
