"""Meaning as vectors: one or more per chunk from a sentence encoder, searched exactly.

Legend: N vectors, D width. 100,000 vectors of width 384 take 154 MB and some 20 ms.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kweek.errors import ConfigError, Interrupted
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.system.memory.store import Store

if TYPE_CHECKING:
    from kweek.engine.embed import Embedder

#: Chunks embedded between two commits: what a kill costs, some ten seconds on one core.
BATCH = 128
#: What every encoder is asked once, so that vectors of two encoders never meet in one memory.
_PROBE = "The river froze in the coldest night of the year."
_SAME = 0.999  # cosine of two answers of one encoder to the probe; rounding costs a millionth

Vectors = npt.NDArray[np.float32]


def unit(vectors_ND: Vectors) -> Vectors:
    """The same directions at length one; an encoder may leave that to its user."""
    lengths = np.linalg.norm(vectors_ND, axis=-1, keepdims=True)
    scaled: Vectors = (vectors_ND / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def fill(
    store: Store, encoder: Embedder, progress: Progress = silent, should_stop: ShouldStop = never
) -> int:
    """Embed every chunk that has no vector yet; returns how many had none. What is done is kept when it is stopped.

    Raises:
        ConfigError: the memory's vectors are of another encoder.
        Interrupted: it was stopped.
    """
    agree(store, encoder)
    missing = [
        row[0] for row in store.all("select id from chunks where id not in (select chunk from vectors)")
    ]
    for start in range(0, len(missing), BATCH):
        if should_stop():
            raise Interrupted
        progress(start, len(missing), "reading meaning")
        numbers = missing[start : start + BATCH]
        marks = ",".join("?" * len(numbers))
        rows = store.all(f"select id, text from chunks where id in ({marks})", numbers)  # noqa: S608 - marks only
        parts = [(chunk, _parts(encoder, text.decode("utf-8"))) for chunk, text in rows]
        vectors = unit(encoder.embed([text for _, texts in parts for text in texts], truncate=True))
        with store.change():
            at = 0
            for chunk, texts in parts:
                values = [
                    (chunk, part, vectors[at + part].astype("<f4").tobytes()) for part in range(len(texts))
                ]
                store.rows.executemany("insert or replace into vectors values (?, ?, ?)", values)
                at += len(texts)
    return len(missing)


def agree(store: Store, encoder: Embedder) -> None:
    """Make sure that the memory's vectors are this encoder's; the first one is noted. Raises ConfigError."""
    probe = unit(encoder.embed([_PROBE]))[0]
    noted = store.fact("encoder")
    if noted is None:
        with store.change():
            store.set_fact("encoder", json.dumps([round(float(value), 6) for value in probe]))
        return
    known = np.array(json.loads(noted), dtype=np.float32)
    if known.shape != probe.shape or float(known @ probe) < _SAME:
        raise ConfigError(
            "the memory's vectors are of another encoder",
            where=str(store.path),
            fix="use the encoder that it was made with, or index into a new file",
        )


def _parts(encoder: Embedder, text: str) -> list[str]:
    """The text in pieces that the encoder reads whole; one where it fits, as nearly always."""
    (ids,) = encoder.tokenizer.encode_batch([text], None)
    words = text.split()
    if len(ids) <= encoder.max_tokens or len(words) < 2:
        return [text]
    size = math.ceil(len(words) / math.ceil(1.1 * len(ids) / encoder.max_tokens))
    size = min(size, len(words) - 1)
    pieces = [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
    return [part for piece in pieces for part in _parts(encoder, piece)]


class Matrix:
    """All vectors of a memory in working memory.

    Attributes:
        generation: of the database that they were read from.
    """

    def __init__(self, store: Store) -> None:
        with store.lock:
            self.generation = store.generation
            rows = store.all("select chunk, vector from vectors order by chunk, part")
        self.chunks_N = np.fromiter((chunk for chunk, _ in rows), dtype=np.int64, count=len(rows))
        joined = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f4").astype(
            np.float32, copy=False
        )
        self.vectors_ND: Vectors = joined.reshape(len(rows), -1) if len(rows) else joined.reshape(0, 1)

    def search(self, vector_D: Vectors, k: int) -> list[tuple[int, float]]:
        """The k chunks nearest by dot product, the best of a chunk's vectors counting; best first."""
        if not len(self.chunks_N):
            return []
        scores_N = self.vectors_ND @ vector_D
        most = min(len(scores_N), 4 * k)  # a chunk has one vector, seldom more
        near = np.argpartition(scores_N, -most)[-most:]
        best: dict[int, float] = {}
        for row in near[np.lexsort((near, -scores_N[near]))]:
            best.setdefault(int(self.chunks_N[row]), float(scores_N[row]))
        return list(best.items())[:k]
