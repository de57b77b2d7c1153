"""The one file of a memory: documents as chunks, where they come from, the index of their words, their vectors.

SQLite writes it, in transactions: a killed process leaves the file as it was after the last one. Deleted content is
overwritten with zeros as it goes (`secure_delete`); `kweek.system.memory.deletion` takes away the rest.

A document's text is stored once, as its chunks; the index of words (FTS5) holds no text of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kweek.errors import StoreError
from kweek.system.memory import analysis

APPLICATION_ID = 0x4B77656B  # "Kwek": tells the file from other people's databases
FORMAT = 1
#: How the index cuts text into words; the sidecar and the questions go through the same.
TOKENIZER = "porter unicode61 remove_diacritics 2"
_WAIT_SECONDS = 30.0  # for another process that writes; a batch of documents takes well under one
_CACHE_KIB = 32 << 10  # enough that merging the index of a 100 MB memory does not read pages twice

_SCHEMA = f"""
create table facts (key text primary key, value text not null) without rowid;
create table documents (
    id integer primary key, name text not null unique, kind text not null, trusted integer not null,
    added real not null, expires real, about text not null);
create index documents_by_end on documents (expires) where expires is not null;
create table sources (
    path text primary key, shown text not null, sha256 text not null,
    document integer not null references documents (id)) without rowid;
create index sources_by_document on sources (document);
create table chunks (
    id integer primary key, document integer not null references documents (id),
    start integer not null, sha256 blob not null, text blob not null);
create index chunks_by_document on chunks (document, start);
create table vectors (
    chunk integer not null, part integer not null, vector blob not null, primary key (chunk, part)) without rowid;
create virtual table words using fts5 (text, content='', tokenize='{TOKENIZER}');
"""

_REMEDIES = (
    ("locked", "another process is writing to it", "wait until it has ended"),
    ("busy", "another process is using it", "wait until it has ended"),
    ("full", "the disk is full", "free space and run the same command again"),
    ("readonly", "it cannot be written", "change its permissions, or copy it to a folder that you may write to"),
    ("unable to open", "it cannot be opened", "check the path and its permissions"),
    ("no such module", "the SQLite of this Python has no FTS5", "use a Python from python.org or your system"),
)  # fmt: skip
REBUILD = "index the folder again with --rebuild; the damaged file is kept beside it"


@contextlib.contextmanager
def failures(path: Path | str) -> Iterator[None]:
    """Turn what SQLite says into a StoreError that names the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        for sign, what, fix in _REMEDIES:
            if sign in text:
                raise StoreError(what, where=str(path), fix=fix) from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
            raise StoreError(f"the memory is damaged ({text})", where=str(path), fix=REBUILD) from error
        raise


class Store:
    """An open memory file. Calls from several threads take turns.

    Attributes:
        path: of the file.
        rows: the connection; whoever uses it directly holds `lock` and stands inside `failures`. Besides the tables it
            has `temp.vocabulary` (term, doc, cnt) and `temp.instances` (term, doc, col, offset) of the index of words.
    """

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        """Open a file, made now when absent.

        Raises:
            StoreError: it is no memory, damaged, of a newer Kweek, not accessible, or absent and not to be made.
        """
        self.path = Path(path)
        self.lock = threading.RLock()
        self._turned = 0  # chunks added and removed in the change that is under way
        if not self.path.exists() and not create:
            raise StoreError("there is no memory", where=str(path), fix="make one: kweek index FOLDER")
        with failures(self.path):
            self.rows = sqlite3.connect(
                self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self.rows.close()
                raise

    def _prepare(self) -> None:
        for pragma in ("secure_delete = on", "temp_store = memory", f"cache_size = -{_CACHE_KIB}"):
            self.rows.execute(f"pragma {pragma}")
        found = self.rows.execute("pragma application_id").fetchone()[0]
        empty = not self.rows.execute("select count(*) from sqlite_master").fetchone()[0]
        if found != APPLICATION_ID and not (empty and found == 0):
            raise StoreError(
                "a database, but no memory of Kweek", where=str(self.path), fix="name another file"
            )
        self.rows.execute("pragma journal_mode = wal")
        if empty:
            with self.change():
                if not self.rows.execute("select count(*) from sqlite_master").fetchone()[0]:
                    self._create()
        version = self.rows.execute("pragma user_version").fetchone()[0]
        if version != FORMAT:
            fix = "update Kweek" if version > FORMAT else REBUILD
            raise StoreError(f"a memory of format {version}, not {FORMAT}", where=str(self.path), fix=fix)
        for name, kind in (("vocabulary", "row"), ("instances", "instance")):
            self.rows.execute(f"create virtual table temp.{name} using fts5vocab ('main', 'words', '{kind}')")

    def _create(self) -> None:
        for statement in _SCHEMA.split(";\n"):
            self.rows.execute(statement)
        self.rows.execute(f"pragma application_id = {APPLICATION_ID}")
        self.rows.execute(f"pragma user_version = {FORMAT}")
        self.set_fact("identity", secrets.token_hex(16))
        self.set_fact("analysis", str(analysis.VERSION))

    def close(self) -> None:
        """Close the file; what was committed stays."""
        with self.lock, failures(self.path):
            self.rows.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """All or nothing: what is written inside becomes visible together, and the generation counts up."""
        with self.lock, failures(self.path):
            self.rows.execute("begin immediate")
            self._turned = 0
            try:
                yield
                self.set_fact("generation", str(self.generation + 1))
                self.set_fact("turnover", str(self.turnover + self._turned))
                self.rows.execute("commit")
            except BaseException:
                if self.rows.in_transaction:
                    self.rows.execute("rollback")
                raise

    def all(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.lock, failures(self.path):
            return self.rows.execute(statement, values).fetchall()

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row of a query, None when there is no row."""
        found = self.all(statement, values)
        return found[0][0] if found else None

    def fact(self, key: str) -> str | None:
        """What the file says of itself under a key."""
        found = self.one("select value from facts where key = ?", (key,))
        return None if found is None else str(found)

    def set_fact(self, key: str, value: str) -> None:
        """Note something; inside `change`."""
        self.rows.execute("insert or replace into facts values (?, ?)", (key, value))

    @property
    def generation(self) -> int:
        """Counts changes: whatever was derived from the file under another number is stale."""
        return int(self.fact("generation") or 0)

    @property
    def turnover(self) -> int:
        """Chunks added and removed since the beginning: how far what was derived earlier is off."""
        return int(self.fact("turnover") or 0)

    @property
    def identity(self) -> str:
        """Random digits by which what is derived from this file is told from what is derived from another."""
        return self.fact("identity") or ""

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return int(self.one("select count(*) from chunks"))

    # -- documents

    def add_document(
        self, name: str, text: bytes, spans: Iterable[tuple[int, int]], *, kind: str, about: str = "{}",
        trusted: bool = False, expires: float | None = None,
    ) -> int:  # fmt: skip
        """Store a document that is not there yet; returns its number. Inside `change`.

        Args:
            name: content hash.
            spans: its chunks, which together are the text.
            kind: "text", "html", "pdf", "docx", "note".
            about: JSON object of further facts.
            expires: seconds since 1970 after which it is found no more; None for never.
        """
        cursor = self.rows.execute(
            "insert into documents (name, kind, trusted, added, expires, about) values (?, ?, ?, ?, ?, ?)",
            (name, kind, int(trusted), time.time(), expires, about),
        )
        document = int(cursor.lastrowid or 0)
        for start, end in spans:
            piece = text[start:end]
            cursor = self.rows.execute(
                "insert into chunks (document, start, sha256, text) values (?, ?, ?, ?)",
                (document, start, hashlib.sha256(piece).digest(), piece),
            )
            self.rows.execute(
                "insert into words (rowid, text) values (?, ?)",
                (cursor.lastrowid, analysis.indexed(piece.decode("utf-8"))),
            )
            self._turned += 1
        return document

    def drop_document(self, document: int) -> int:
        """Remove a document with all that was derived from it; returns how many chunks it had. Inside `change`."""
        chunks = self.rows.execute("select id, text from chunks where document = ?", (document,)).fetchall()
        for chunk, piece in chunks:
            self.rows.execute(
                "insert into words (words, rowid, text) values ('delete', ?, ?)",
                (chunk, analysis.indexed(piece.decode("utf-8", "replace"))),
            )
            self.rows.execute("delete from vectors where chunk = ?", (chunk,))
        for table, column in (("chunks", "document"), ("sources", "document"), ("documents", "id")):
            self.rows.execute(f"delete from {table} where {column} = ?", (document,))  # noqa: S608 - our own names
        self.set_fact("unpurged", str(int(self.fact("unpurged") or 0) + 1))
        self._turned += len(chunks)
        return len(chunks)

    def text(self, document: int) -> bytes:
        """A document's text in UTF-8."""
        pieces = self.all("select text from chunks where document = ? order by start", (document,))
        return b"".join(piece for (piece,) in pieces)

    def reindex(self) -> None:
        """Make the index of words anew from the chunks, under the rules of today."""
        with self.change():
            self.rows.execute("drop table if exists words")
            self.rows.execute(_SCHEMA.split(";\n")[-2])
            for chunk, piece in self.rows.execute("select id, text from chunks order by id").fetchall():
                self.rows.execute(
                    "insert into words (rowid, text) values (?, ?)",
                    (chunk, analysis.indexed(piece.decode("utf-8"))),
                )
            self.set_fact("analysis", str(analysis.VERSION))
