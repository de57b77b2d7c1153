"""Words as the index holds them: folded and stemmed by the very tokenizer of SQLite that made the index."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence

from kweek.system.memory.store import TOKENIZER

_KEPT = 50_000  # words whose terms are remembered, some 5 MB


class Terms:
    """From words to the terms of the index. Words met before cost a look into a table."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._rows.execute(
            f"create virtual table words using fts5 (text, content='', tokenize='{TOKENIZER}')"
        )
        self._rows.execute("create virtual table seen using fts5vocab ('words', 'instance')")
        self._known: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def __call__(self, words: Iterable[str]) -> list[str]:
        """The terms of all words, each once, in the order of the words."""
        words = list(words)
        with self._lock:
            if len(self._known) > _KEPT:
                self._known = {}
            if new := [word for word in dict.fromkeys(words) if word not in self._known]:
                self._known.update(zip(new, map(tuple, self._read(new)), strict=True))
            return list(dict.fromkeys(term for word in words for term in self._known[word]))

    def of(self, text: str) -> set[str]:
        """All terms of a text."""
        with self._lock:
            return set(self._read([text])[0])

    def _read(self, texts: Sequence[str]) -> list[list[str]]:
        """The terms of every text, in their order."""
        found: list[list[str]] = [[] for _ in texts]
        self._rows.execute("begin")
        self._rows.executemany("insert into words (rowid, text) values (?, ?)", enumerate(texts))
        for number, term in self._rows.execute("select doc, term from seen order by doc, offset"):
            found[number].append(term)
        self._rows.execute("insert into words (words) values ('delete-all')")
        self._rows.execute("commit")
        return found
