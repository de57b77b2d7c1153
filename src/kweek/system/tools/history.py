"""The versions of documents: every content that a document had is kept, and every change can be taken back.

In the workspace's folder `.history`: contents in files named by their SHA-256, and one line for each change, written
before the change is made. A change that a crash cut off is one whose document is still as it was before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kweek.errors import StoreError
from kweek.store.files import failures, file_ops, write_bytes
from kweek.store.records import Records

FOLDER = ".history"
What = Literal["create", "edit", "patch", "undo"]


@dataclass(frozen=True)
class Change:
    """One change of a document.

    Attributes:
        number: 1 for the first of the workspace.
        path: of the document.
        what: was done.
        before, after: SHA-256 of the contents; None where the document did not exist.
        undoes: the number of the change that this one takes back.
    """

    number: int
    path: str
    what: What
    before: str | None
    after: str | None
    undoes: int | None = None


class History:
    """The changes of one workspace.

    Args:
        folder: of the workspace.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._records = Records(self._folder / "changes.jsonl")

    def changes(self) -> list[Change]:
        """All of them, oldest first.

        Raises:
            StoreError: the file of changes is broken.
        """
        found = []
        for record in Records.read(self._records.path):
            try:
                found.append(Change(**{name: record[name] for name in Change.__dataclass_fields__}))
            except KeyError as error:
                raise StoreError(f"a change without {error}", where=str(self._records.path)) from None
        return found

    def note(
        self, path: str, what: What, before: bytes | None, after: bytes | None, undoes: int | None = None
    ) -> Change:
        """Keep both contents and the change, before it is made.

        Raises:
            StoreError: the disk does not take it.
        """
        if self._folder.is_symlink():
            raise StoreError("a link, where versions are kept", where=str(self._folder), fix="remove it")
        if not self._folder.is_dir():
            with failures(self._folder, "create the folder"):
                file_ops().make_dir(self._folder)
        number = len(self.changes()) + 1
        change = Change(number, path, what, self._keep(before), self._keep(after), undoes)
        self._records.append("change", **vars(change))
        return change

    def content(self, digest: str) -> bytes:
        """A content that was kept.

        Raises:
            StoreError: it is gone, or not what it was.
        """
        path = self._folder / digest
        with failures(path, "read"):
            data = path.read_bytes()
        if digest_of(data) != digest:
            raise StoreError("the kept version is damaged", where=str(path))
        return data

    def to_undo(self, path: str, now: bytes | None) -> Change | None:
        """The last change of a document that is in force; None when there is none.

        A change that was noted and not made, because the process ended in between, is passed over.
        """
        changes = [change for change in self.changes() if change.path == path]
        current = None if now is None else digest_of(now)
        if changes and changes[-1].after != current and changes[-1].before == current:
            changes.pop()
        undone: set[int] = set()
        for change in reversed(changes):
            if change.undoes is not None:
                undone.add(change.undoes)
            elif change.number not in undone:
                return change
        return None

    def num_bytes(self) -> int:
        """Of all contents that are kept."""
        if not self._folder.is_dir():
            return 0
        return sum(entry.stat().st_size for entry in self._folder.iterdir())

    def _keep(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        digest = digest_of(data)
        if not (self._folder / digest).exists():
            write_bytes(self._folder / digest, data)
        return digest


def digest_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
