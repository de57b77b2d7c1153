"""The sidecar: the index of words once more, as memory-mapped arrays in which a search takes a millisecond.

It is derived from the database's own index (same terms, same counts) and scores as SQLite does: BM25 (Robertson &
Zaragoza 2009, section 3) with k1 = 1.2, b = 0.75 and idf = ln((N - n + 0.5) / (n + 0.5)), at least 1e-6, so that both
rank alike. It names the database and the generation that it was made from, and carries the hash of its content: a
stale, torn or damaged one is found out when it is opened, and made anew.

Legend: N chunks, T terms, P postings (a term in a chunk).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.store.files import open_atomic
from kweek.system.memory.store import Store, failures

K1, B, LEAST_IDF = 1.2, 0.75, 1e-6  # SQLite's own
MAGIC = b"KwekBM25"
FORMAT = 1
_HEADER_BYTES = 4096
_ALIGNMENT = 64
_BATCH_CHARS = 8 << 20  # of numbers in text; some 100 MB of memory while they are read
_TYPES = {
    "chunks": "<i8",
    "term_ends": "<i8",
    "terms": "|u1",
    "posting_ends": "<i8",
    "rows": "<i4",
    "impacts": "<f4",
}

Array = npt.NDArray[Any]


class Stale(Exception):
    """The sidecar cannot be used; the message is the reason."""


def path_of(memory: Path) -> Path:
    """Where the sidecar of a memory file lies."""
    return memory.with_name(memory.name + ".bm25")


class Sidecar:
    """An opened sidecar.

    Attributes:
        generation, turnover: of the database that it was made from.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Map a file. Raises Stale: absent, of another database, torn or damaged."""
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER_BYTES)
            data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise Stale(f"cannot be read ({error})") from error
        about = _header(head)
        if about["identity"] != identity:
            raise Stale("made from another memory")
        if len(data) != about["bytes"]:
            raise Stale(f"{len(data):,} bytes, not {about['bytes']:,}")
        if hashlib.sha256(data[_HEADER_BYTES:].data).hexdigest() != about["sha256"]:
            raise Stale("damaged")
        self.generation, self.turnover = int(about["generation"]), int(about["turnover"])
        self._arrays: dict[str, Array] = {}
        for name, (start, count) in about["arrays"].items():
            kind = np.dtype(_TYPES[name])
            self._arrays[name] = data[start : start + count * kind.itemsize].view(kind)
        self._terms = self._arrays["terms"].data
        self._term_ends = self._arrays["term_ends"]
        self.num_chunks = len(self._arrays["chunks"])

    def search(self, terms: Sequence[str], k: int) -> list[tuple[int, float]]:
        """The best k chunks, number and score, best first and of equal ones the older first."""
        scores_N = np.zeros(self.num_chunks, dtype=np.float32)
        ends, rows, impacts = (self._arrays[name] for name in ("posting_ends", "rows", "impacts"))
        for term in terms:
            if (found := self._find(term.encode("utf-8"))) is not None:
                part = slice(int(ends[found]), int(ends[found + 1]))
                scores_N[rows[part]] += impacts[part]
        best = np.argpartition(scores_N, -k)[-k:] if k < self.num_chunks else np.arange(self.num_chunks)
        best = best[np.lexsort((best, -scores_N[best]))]
        return [(int(self._arrays["chunks"][row]), float(scores_N[row])) for row in best if scores_N[row] > 0]

    def _find(self, term: bytes) -> int | None:
        """Number of a term, by halving."""
        low, high = 0, len(self._term_ends) - 1
        while low < high:
            middle = (low + high) // 2
            here = bytes(self._terms[self._term_ends[middle] : self._term_ends[middle + 1]])
            if here == term:
                return middle
            low, high = (middle + 1, high) if here < term else (low, middle)
        return None


def build(store: Store, path: Path) -> None:
    """Make the sidecar of a database anew, atomically. Raises StoreError."""
    with store.lock, failures(store.path):
        store.rows.execute("begin")  # one view of the database from here to the end
        try:
            made_from = {
                "identity": store.identity,
                "generation": store.generation,
                "turnover": store.turnover,
            }
            arrays = _arrays(store.rows)
        finally:
            store.rows.execute("commit")
    layout: dict[str, tuple[int, int]] = {}
    at = _HEADER_BYTES
    for name, array in arrays.items():
        layout[name] = (at, len(array))
        at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    digest = hashlib.sha256()
    for piece in _pieces(arrays):
        digest.update(piece)
    about = {
        "format": FORMAT, **made_from, "bytes": at, "sha256": digest.hexdigest(), "arrays": layout,
    }  # fmt: skip
    with open_atomic(path) as file:
        head = MAGIC + json.dumps(about).encode()
        file.write(head.ljust(_HEADER_BYTES))
        for piece in _pieces(arrays):
            file.write(piece)


def _pieces(arrays: dict[str, Array]) -> Iterator[bytes | memoryview]:
    for array in arrays.values():
        yield array.data.cast("B")
        yield bytes(-array.nbytes % _ALIGNMENT)


def _header(head: bytes) -> dict[str, Any]:
    if not head.startswith(MAGIC) or len(head) < _HEADER_BYTES:
        raise Stale("no sidecar")
    try:
        about: dict[str, Any] = json.loads(head[len(MAGIC) :])
        if about["format"] != FORMAT:
            raise Stale(f"of format {about['format']}")
        places = [
            (start, count * np.dtype(_TYPES[name]).itemsize)
            for name, (start, count) in about["arrays"].items()
        ]
        if set(about["arrays"]) != set(_TYPES) or any(
            a < 0 or b < 0 or a + b > about["bytes"] for a, b in places
        ):
            raise Stale("damaged")
        return {
            key: about[key] for key in ("identity", "generation", "turnover", "bytes", "sha256", "arrays")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise Stale("damaged") from error


def _arrays(rows: sqlite3.Connection) -> dict[str, Array]:
    """All postings, by term, from the index of the database."""
    numbers = rows.execute("select id from chunks order by id").fetchall()
    chunks = np.fromiter((number for (number,) in numbers), dtype=np.int64, count=len(numbers))
    lengths_N = np.zeros(len(chunks), dtype=np.int64)
    terms: list[bytes] = []
    counts: list[Array] = []  # postings per term
    places: list[Array] = []
    times: list[Array] = []
    for batch, text, instances in _batches(rows):
        terms += batch
        rows_I = np.searchsorted(chunks, np.fromstring(text, dtype=np.int64, sep=",")).astype(np.int32)
        lengths_N += np.bincount(rows_I, minlength=len(chunks))
        term_I = np.repeat(np.arange(len(batch)), instances)
        if (
            np.diff(term_I * len(chunks) + rows_I) < 0
        ).any():  # SQLite gives them in order, but promises it nowhere
            rows_I = rows_I[np.lexsort((rows_I, term_I))]
        first_I = np.ones(len(rows_I), dtype=bool)
        first_I[1:] = (rows_I[1:] != rows_I[:-1]) | (term_I[1:] != term_I[:-1])
        starts = np.flatnonzero(first_I)
        places.append(rows_I[starts])
        times.append(np.diff(starts, append=len(rows_I)).astype(np.float32))
        counts.append(np.bincount(term_I[starts], minlength=len(batch)))
    empty = np.zeros(0, dtype=np.int64)
    counts_T = np.concatenate([empty, *counts])
    rows_P = np.concatenate([empty.astype(np.int32), *places])
    times_P = np.concatenate([empty.astype(np.float32), *times])
    mean = float(lengths_N.mean()) if len(chunks) and lengths_N.any() else 1.0
    norms_N = (K1 * (1 - B + B * lengths_N / mean)).astype(np.float32)
    idf_T = np.maximum(np.log((len(chunks) - counts_T + 0.5) / (counts_T + 0.5)), LEAST_IDF).astype(
        np.float32
    )
    impacts_P = times_P * np.float32(K1 + 1) / (times_P + norms_N[rows_P]) * np.repeat(idf_T, counts_T)
    widths = np.fromiter((len(term) for term in terms), dtype=np.int64, count=len(terms))
    return {
        "chunks": chunks,
        "term_ends": np.concatenate([[0], np.cumsum(widths)]).astype(np.int64),
        "terms": np.array(bytearray(b"".join(terms)), dtype=np.uint8),
        "posting_ends": np.concatenate([[0], np.cumsum(counts_T)]).astype(np.int64),
        "rows": rows_P,
        "impacts": impacts_P.astype(np.float32),
    }


def _batches(rows: sqlite3.Connection) -> Iterator[tuple[list[bytes], str, list[int]]]:
    """Terms in the order of their bytes, the chunks of all their instances joined by commas, instances per term."""
    terms: list[bytes] = []
    texts: list[str] = []
    instances: list[int] = []
    size = 0
    found = rows.execute("select term, count(*), group_concat(doc) from temp.instances group by term")
    for term, count, text in found:
        terms.append(term.encode("utf-8"))
        texts.append(text)
        instances.append(count)
        size += len(text)
        if size > _BATCH_CHARS:
            yield terms, ",".join(texts), instances
            terms, texts, instances, size = [], [], [], 0
    if terms:
        yield terms, ",".join(texts), instances
