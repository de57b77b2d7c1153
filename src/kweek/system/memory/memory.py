"""The memory of a system: what is put into it, found in it, forgotten by it.

    memory = Memory("memory.db")
    memory.add(Path("notes"))
    for passage in memory.search("when was the bridge built?"):
        print(passage.source, passage.start, passage.text)

Search is by words (BM25). Meaning (vectors of an encoder) is asked too when `evaluate` has shown, on this very corpus,
that it finds more. What is found is data, and untrusted unless the user vouched for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kweek.data.document import Document, document_id
from kweek.errors import ConfigError, DataError, StoreError
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.system.memory import adding, analysis, bm25, deletion, vectors
from kweek.system.memory.adding import Added
from kweek.system.memory.appraisal import Appraisal, Question, appraise
from kweek.system.memory.chunks import spans
from kweek.system.memory.deletion import Proof
from kweek.system.memory.documents import shown_source
from kweek.system.memory.health import Health, examine
from kweek.system.memory.passage import Passage
from kweek.system.memory.ranking import fuse
from kweek.system.memory.store import REBUILD, Store, failures
from kweek.system.memory.terms import Terms

if TYPE_CHECKING:
    from kweek.engine.embed import Embedder

Mode = Literal["auto", "bm25", "dense", "hybrid"]
#: From here on the sidecar pays: the database alone then takes some 10 ms for a question.
SIDECAR_CHUNKS = 30_000
#: A sidecar that is off by less is left alone, and the database answers, until it is off by more: making it anew takes
#: seconds, and somebody who writes notes between questions would wait at every one.
STALE_SHARE = 0.01
#: A note lives for thirty days: long enough for a piece of work, short enough that mistakes do not stay.
NOTE_SECONDS = 30 * 86400.0
#: How deep each ranking is read for one answer of k passages when rankings are joined.
_FUSED_DEPTH = 50
_LEAST_NAME = 6  # characters of a document's name that may stand for it


class Memory:
    """Documents in one file, with search over them.

    Attributes:
        path: of the file; derived files lie beside it under longer names.
        store: the file itself.
        encoder: turns text into vectors; None leaves search to words.
    """

    def __init__(self, path: Path | str, *, encoder: Embedder | None = None, create: bool = True) -> None:
        """Open a memory, made now when absent.

        Raises:
            StoreError: the file is no memory, damaged, not accessible, or absent and not to be made.
        """
        self.store = Store(path, create=create)
        self.path, self.encoder = self.store.path, encoder
        self._terms = Terms()
        self._sidecar: bm25.Sidecar | None = None
        self._seen = -1  # generation that `_sidecar` was looked up for
        self._matrix: vectors.Matrix | None = None
        if self.store.fact("analysis") != str(analysis.VERSION):
            self.store.reindex()

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- putting in

    def add(
        self, what: Path | str | Iterable[Document], *, trusted: bool = False, progress: Progress = silent,
        should_stop: ShouldStop = never,
    ) -> Added:  # fmt: skip
        """Bring the memory up to date with a folder or a file, or add documents.

        Files whose bytes are known are passed over, files that are gone are removed. Derived files are made anew.

        Args:
            trusted: whether the user vouches for what is new: what it says may then be acted upon.

        Raises:
            DataError: there is no such folder, or nothing in it that can be read.
            Interrupted: it was asked to stop; what is done is kept.
            StoreError: the file could not be written.
        """
        self._expire()
        if isinstance(what, Path | str):
            added = adding.add_files(
                self.store, Path(what), trusted=trusted, progress=progress, should_stop=should_stop
            )
        else:
            added = adding.add_documents(self.store, what, trusted=trusted)
        if self.encoder is not None:
            vectors.fill(self.store, self.encoder, progress, should_stop)
        began = time.monotonic()
        self._derive()
        added.seconds += time.monotonic() - began
        return added

    def remember(
        self, text: str, *, source: str, seconds: float | None = NOTE_SECONDS, trusted: bool = False, **about: Any
    ) -> str:  # fmt: skip
        """Write a note back: what a system wants to find again. Returns the name of the document.

        Args:
            source: who says so and where, as it will be shown ("chat of 2 May").
            seconds: after which it is gone; None keeps it. A text that is there already lives on until the later end.
            about: further facts of where it comes from (a trace, a question), JSON values.

        Raises:
            DataError: there is no text.
        """
        if not text.strip():
            raise DataError("there is nothing to remember", where=source)
        name, encoded = document_id(text), text.encode("utf-8", "replace")
        ends = None if seconds is None else time.time() + seconds
        self._expire()
        with self.store.change():
            known = self.store.all("select id, expires from documents where name = ?", (name,))
            if not known:
                document = self.store.add_document(
                    name,
                    encoded,
                    spans(encoded),
                    kind="note",
                    about=json.dumps(about),
                    trusted=trusted,
                    expires=ends,
                )
            else:
                document, before = known[0]
                ends = None if ends is None or before is None else max(ends, before)
                self.store.rows.execute("update documents set expires = ? where id = ?", (ends, document))
            self.store.rows.execute(
                "insert or replace into sources (path, shown, sha256, document) values (?, ?, ?, ?)",
                (f"note:{name}", source, hashlib.sha256(encoded).hexdigest(), document),
            )
        if self.encoder is not None:
            vectors.fill(self.store, self.encoder)
        return name

    def _expire(self) -> None:
        """Remove what has reached its end."""
        due = self.store.all("select id from documents where expires <= ?", (time.time(),))
        if due:
            with self.store.change():
                for (document,) in due:
                    self.store.drop_document(document)

    # -- finding

    def search(self, query: str, k: int = 10, mode: Mode = "auto") -> list[Passage]:
        """The k passages that answer best, best first; fewer where fewer have anything to do with the query.

        Args:
            mode: "bm25" by words, "dense" by meaning, "hybrid" by both; "auto" what `evaluate` has chosen.

        Raises:
            ConfigError: meaning is asked for and there is no encoder, or another than the memory was made with.
            StoreError: the file is damaged beyond what can be made anew from it.
        """
        if mode == "auto":
            mode = "hybrid" if self.encoder is not None and self.store.fact("mode") == "hybrid" else "bm25"
        ends = self.store.one("select count(*) from documents where expires <= ?", (time.time(),))
        depth = k + 4 * int(ends)  # what has ended is passed over below
        if mode == "bm25":
            ranked = self._by_words(query, depth)
        elif mode == "dense":
            ranked = self._by_meaning(query, depth)
        else:
            deep = max(_FUSED_DEPTH, depth)
            rankings = [
                [chunk for chunk, _ in found]
                for found in (self._by_words(query, deep), self._by_meaning(query, deep))
            ]
            ranked = fuse(rankings, depth)
        return self._passages(ranked)[:k]

    def text(self, document: str) -> str:
        """The whole text of a document. Raises DataError when there is none of that name."""
        number = self.store.one("select id from documents where name = ?", (document,))
        if number is None:
            raise DataError("no such document", where=document)
        return self.store.text(number).decode("utf-8")

    def _by_words(self, query: str, k: int) -> list[tuple[int, float]]:
        words = analysis.asked(query)
        if not words or k < 1:
            return []
        if (sidecar := self._current_sidecar()) is not None:
            return sidecar.search(self._terms(words), k)
        sought = " or ".join(f'"{word}"' for word in words).replace(" or ", " OR ")
        statement = "select rowid, rank from words where words match ? order by rank limit ?"
        try:
            with self.store.lock:
                rows = self.store.rows.execute(statement, (sought, k)).fetchall()
        except sqlite3.DatabaseError:
            self.store.reindex()  # the index is damaged; the chunks, which it is made from, may be sound
            rows = self.store.all(statement, (sought, k))
        return [(chunk, -rank) for chunk, rank in rows]

    def _by_meaning(self, query: str, k: int) -> list[tuple[int, float]]:
        if self.encoder is None:
            raise ConfigError(
                "searching by meaning needs an encoder",
                where=str(self.path),
                fix="name one (kweek get all-minilm-l6-v2), or search by words",
            )
        if self._matrix is None or self._matrix.generation != self.store.generation:
            vectors.agree(self.store, self.encoder)
            self._matrix = vectors.Matrix(self.store)
        return self._matrix.search(vectors.unit(self.encoder.embed([query], truncate=True))[0], k)

    def _passages(self, ranked: Sequence[tuple[int, float]]) -> list[Passage]:
        """The passages of chunks, in order; each checked against its hash."""
        marks = ",".join("?" * len(ranked))
        rows = self.store.all(
            "select c.id, d.name, d.trusted, d.about, c.start, c.text, c.sha256, "  # noqa: S608 - marks only
            "(select shown from sources s where s.document = d.id order by path limit 1) "
            f"from chunks c join documents d on d.id = c.document where c.id in ({marks}) "
            "and (d.expires is null or d.expires > ?)",
            (*(chunk for chunk, _ in ranked), time.time()),
        )
        found = {row[0]: row[1:] for row in rows}
        passages = []
        for chunk, score in ranked:
            if chunk not in found:  # of a document that has ended, or gone while we read
                continue
            name, trusted, about, start, piece, sha256, shown = found[chunk]
            if hashlib.sha256(piece).digest() != sha256:
                raise StoreError(
                    "the memory is damaged: a passage is not what was stored",
                    where=str(self.path),
                    fix=REBUILD,
                )
            start += len(piece) - len(piece.lstrip())
            text = piece.strip()
            digest = hashlib.sha256(text).hexdigest()
            source = shown_source(shown or "", about, start)
            passages.append(
                Passage(
                    name, source, start, start + len(text), text.decode("utf-8"), digest, score, bool(trusted)
                )
            )
        return passages

    # -- derived files

    def _current_sidecar(self) -> bm25.Sidecar | None:
        """The sidecar of the file as it is now; None where there is none and the database has to answer."""
        generation = self.store.generation
        if generation != self._seen:
            self._derive()
        return self._sidecar

    def _derive(self) -> None:
        """Open the sidecar, made anew where it is due and absent, stale or damaged."""
        generation, num_chunks = self.store.generation, self.store.num_chunks
        self._sidecar, self._seen = None, generation
        path = bm25.path_of(self.path)
        if num_chunks < SIDECAR_CHUNKS:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return
        with contextlib.suppress(bm25.Stale):
            found = bm25.Sidecar(path, self.store.identity)
            if found.generation == generation:
                self._sidecar = found
                return
            if self.store.turnover - found.turnover <= STALE_SHARE * num_chunks:
                return  # the database answers
        with contextlib.suppress(StoreError):  # a folder that cannot be written to: the database answers
            bm25.build(self.store, path)
            self._sidecar = bm25.Sidecar(path, self.store.identity)

    # -- taking out

    def find(self, name: str) -> list[int]:
        """Numbers of the documents that a name stands for: of the document, of a file, of a folder of files."""
        path = str(Path(name).resolve())
        rows = self.store.all(
            "select distinct document from sources where path in (?, ?) or shown = ?", (name, path, name)
        )
        if not rows:
            below = path.rstrip("/") + "/"
            length = len(below)
            rows = self.store.all(
                "select distinct document from sources where substr(path, 1, ?) = ?", (length, below)
            )
        if not rows and len(name) >= _LEAST_NAME:
            rows = self.store.all("select id from documents where substr(name, 1, ?) = ?", (len(name), name))
        return [document for (document,) in rows]

    def forget(self, *names: str) -> Proof:
        """Remove documents so that no byte of them is left in the files, and prove it; see `deletion`.

        Args:
            names: of documents, files or folders. None removes what earlier updates left behind.

        Raises:
            DataError: a name stands for nothing.
            StoreError: the file could not be rewritten.
        """
        documents: list[int] = []
        for name in names:
            if not (found := self.find(name)):
                raise DataError(
                    "nothing of that name is in the memory",
                    where=name,
                    fix="kweek index check --list shows what is",
                )
            documents += found
        self._sidecar, self._matrix = None, None
        return deletion.remove(self.store, self._terms, list(dict.fromkeys(documents)), self._derive)

    # -- knowing how good it is

    def evaluate(
        self, questions: Sequence[Question] = (), *, progress: Progress = silent, **sizes: int
    ) -> Appraisal:
        """Measure search on this corpus, and turn hybrid search on or off by it; see `appraisal`.

        Args:
            questions: of the user; without any they are made from the documents.
            sizes: `max_questions`, `max_passages`.

        Raises:
            DataError: there are too few documents to measure anything.
        """
        found = appraise(self.store, self.encoder, questions, progress=progress, **sizes)
        with self.store.change():
            self.store.set_fact("mode", "hybrid" if found.hybrid_pays else "bm25")
        return found

    def check(self, *, repair: bool = False) -> Health:
        """Whether everything stored is what was stored; with `repair` what can be made anew is.

        Raises:
            StoreError: the file itself is damaged.
        """
        if repair:
            with failures(self.path):
                self.store.reindex()
            bm25.path_of(self.path).unlink(missing_ok=True)
            self._derive()
        return examine(self.store, needs_sidecar=self.store.num_chunks >= SIDECAR_CHUNKS)
