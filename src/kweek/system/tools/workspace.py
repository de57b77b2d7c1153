"""A folder of text documents for a model to read and change: no path leaves it, every change can be undone."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kweek.errors import DataError, StoreError
from kweek.store.files import file_ops, write_bytes
from kweek.system.tools.history import History, What, digest_of
from kweek.system.tools.patches import apply_patch
from kweek.system.tools.paths import BadPath, Root, checked_path

_DESCRIPTORS = Path("/proc/self/fd")  # Linux: a folder by what is open, whatever has become of its name


@dataclass(frozen=True)
class WorkspaceLimits:
    """How much a workspace may hold.

    Attributes:
        document_bytes: of one document.
        num_documents: in the folder.
        history_bytes: of all versions together.
    """

    document_bytes: int = 1 << 20  # a long book
    num_documents: int = 1000  # more than a list that a model could read
    history_bytes: int = 256 << 20  # a thousand versions of a long report


class Workspace:
    """The documents below a folder.

    Safe to use from several threads of one process.

    Args:
        folder: it must exist; what lies in it can be read and changed, hidden files excepted.
        limits: on sizes.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: Path, limits: WorkspaceLimits | None = None) -> None:
        self._root = Root(folder)
        self._limits = limits or WorkspaceLimits()
        self._history = History(Path(folder))
        self._lock = threading.RLock()

    def documents(self) -> list[str]:
        """The paths of all documents."""
        return [str(path) for path in self._root.files(self._limits.num_documents)]

    def read(self, path: str) -> str:
        """The text of a document.

        Raises:
            DataError: there is none, it is no text in UTF-8, or it is too large.
        """
        place = checked_path(path)
        data = self._root.read(place, self._limits.document_bytes)
        if data is None:
            known = ", ".join(self.documents()[:20]) or "none"
            raise DataError("there is no such document", where=path, fix=f"there are: {known}")
        return _text(data, path)

    def create(self, path: str, text: str) -> None:
        """A new document.

        Raises:
            DataError: there is one already, or it would be too large.
        """
        with self._lock:
            place = checked_path(path)
            if self._root.read(place, self._limits.document_bytes) is not None:
                raise DataError("there is a document of this name", where=path, fix="edit it, or use another")
            if len(self.documents()) >= self._limits.num_documents:
                raise DataError(f"there are {self._limits.num_documents:,} documents already", where=path)
            self._change(place, "create", None, text)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a passage that is there exactly once.

        Raises:
            DataError: it is not there, or more than once.
        """
        with self._lock:
            text = self.read(path)
            count = text.count(old) if old else 0
            if count != 1:
                why = "the passage is empty" if not old else f"the passage is there {count} times, not once"
                raise DataError(why, where=path, fix="copy more of the document around it, exactly")
            self._change(checked_path(path), "edit", text, text.replace(old, new))

    def patch(self, path: str, patch: str) -> None:
        """Apply a patch in the unified form, all of it or nothing.

        Raises:
            DataError: a part of it does not fit.
        """
        with self._lock:
            text = self.read(path)
            self._change(checked_path(path), "patch", text, apply_patch(text, patch))

    def undo(self, path: str) -> str:
        """Take the last change of a document back; returns what was undone. Repeated, it goes further back.

        Raises:
            DataError: there is nothing to undo, or somebody else has changed the document since.
        """
        with self._lock:
            place = checked_path(path)
            now = self._root.read(place, self._limits.document_bytes)
            change = self._history.to_undo(path, now)
            if change is None:
                raise DataError("there is no change to undo", where=path)
            if (None if now is None else digest_of(now)) != change.after:
                raise DataError("it was changed by somebody else since", where=path, fix="leave it as it is")
            before = None if change.before is None else self._history.content(change.before)
            self._history.note(path, "undo", now, before, change.number)
            self._put(place, before)
            return change.what

    def _change(self, place: PurePosixPath, what: What, before: str | None, after: str) -> None:
        try:
            data = after.encode()
        except UnicodeEncodeError:
            raise DataError("the text is not Unicode (half of a surrogate pair)", where=str(place)) from None
        if len(data) > self._limits.document_bytes:
            most = self._limits.document_bytes
            raise DataError(
                f"the document would have {len(data):,} bytes, more than {most:,}", where=str(place)
            )
        if self._history.num_bytes() + len(data) > self._limits.history_bytes:
            raise DataError("there is no room for more versions", where=str(place))
        with self._root.parent(place, make=True):
            pass  # the path is good before anything is noted
        self._history.note(str(place), what, None if before is None else before.encode(), data)
        self._put(place, data)

    def _put(self, place: PurePosixPath, data: bytes | None) -> None:
        """Give a document its content; None removes it."""
        try:
            with self._root.parent(place) as folder:
                held = _DESCRIPTORS / str(folder)
                path = (held if held.is_dir() else self._root.folder / place.parent) / place.name
                if data is None:
                    file_ops().remove(path)
                else:
                    write_bytes(path, data)
        except StoreError as error:
            raise StoreError(error.what, where=str(place), fix=error.fix) from None
        except OSError as error:
            raise BadPath(f"it cannot be removed: {error.strerror}", where=str(place)) from None


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start} is not UTF-8", where=path, fix="read text documents only"
        ) from None
