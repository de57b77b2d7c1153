"""Paths that a model names: checked as text, then opened step by step so that none leads out of its folder.

Nothing is followed: each part is opened inside the folder opened before it, and must be a plain folder or file of the
same disk. So neither a link that was there nor one put there in between leads anywhere (the way of `openat2` with
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, Linux 5.6, with calls that every system of that family has).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kweek.errors import DataError

_MAX_PARTS = 16  # folders within folders; deeper trees are mistakes
_MAX_BYTES = 200  # of one part: the writer adds some characters, and file systems take 255
_NOT_ALLOWED = frozenset('\\:*?"<>|')  # names that some system reads otherwise than they are written
_DEVICES = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{name}{number}" for name in ("com", "lpt") for number in (*"0123456789", *"¹²³")
}
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class BadPath(DataError):
    """A path that may not be used; the message is for the model as much as for people."""


def checked_path(path: str) -> PurePosixPath:
    """A relative path of plain names, the same on every system.

    Raises:
        BadPath: it is absolute, has "..", a hidden name, a name of a device or one that some system reads otherwise.
    """
    shown = repr(path[:80])

    def bad(why: str) -> BadPath:
        return BadPath(why, where=shown, fix="give a path like notes/plan.md")

    if not path or path.startswith("/"):
        raise bad("not a path within the workspace")
    parts = path.split("/")
    if len(parts) > _MAX_PARTS:
        raise bad(f"{len(parts)} folders within folders")
    for part in parts:
        if part in ("", ".", ".."):
            raise bad(f"a path may have no part {part!r}")
        if part.startswith("."):
            raise bad("hidden names are out of reach")
        if any(unicodedata.category(c)[0] == "C" or c in _NOT_ALLOWED for c in part):
            raise bad("a name holds a character that no name should")
        if part != part.strip() or part.endswith("."):
            raise bad("a name begins or ends with a blank, or ends with a full stop")
        if unicodedata.normalize("NFC", part) != part:
            raise bad("a name is not in Unicode's composed form (NFC)")
        if part.split(".")[0].strip().casefold() in _DEVICES:
            raise bad("the name of a device")
        if len(part.encode()) > _MAX_BYTES:
            raise bad(f"a name has more than {_MAX_BYTES} bytes")
    return PurePosixPath(path)


class Root:
    """A folder, held open, below which files are reached.

    Args:
        folder: it must exist.

    Raises:
        DataError: it does not, or is no folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        except OSError as error:
            raise DataError(f"cannot be opened as a folder: {error.strerror}", where=str(folder)) from None
        self._device = os.fstat(self._descriptor).st_dev

    def __del__(self) -> None:
        if descriptor := getattr(self, "_descriptor", None):
            os.close(descriptor)

    @contextlib.contextmanager
    def parent(self, path: PurePosixPath, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder that holds a path, while the block runs.

        Args:
            path: as `checked_path` gives it.
            make: make the folders that are missing.

        Raises:
            BadPath: something on the way is missing, no plain folder, on another disk, or differs in case only.
        """
        here = os.dup(self._descriptor)
        try:
            for part in path.parts[:-1]:
                self._check_case(here, part, path)
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=here)
                below = self._opened(part, _FOLDER, here, path)
                os.close(here)
                here = below
                if os.fstat(here).st_dev != self._device:
                    raise BadPath("another disk lies on the way", where=str(path))
            self._check_case(here, path.name, path)
            yield here
        finally:
            os.close(here)

    def read(self, path: PurePosixPath, limit: int) -> bytes | None:
        """The bytes of a file; None when it does not exist.

        Raises:
            BadPath: it is no plain file of this folder alone, or larger than `limit`.
        """
        try:
            with self.parent(path) as folder:
                descriptor = self._opened(path.name, _FILE, folder, path)
        except _Missing:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BadPath("not a plain file", where=str(path))
            if found.st_nlink != 1:
                raise BadPath("a file that has other names too (hard links)", where=str(path))
            if found.st_dev != self._device:
                raise BadPath("a file of another disk", where=str(path))
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BadPath(f"the file has more than {limit:,} bytes", where=str(path))
        return data

    def files(self, most: int) -> list[PurePosixPath]:
        """Paths of the plain files, in order, hidden ones left out; at most so many."""
        found: list[PurePosixPath] = []
        for here, folders, names, _ in os.fwalk(".", dir_fd=self._descriptor, follow_symlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = PurePosixPath(here, name)
                with contextlib.suppress(BadPath):
                    found.append(checked_path(str(path)))
                if len(found) == most:
                    return found
        return sorted(found)

    def _opened(self, name: str, flags: int, folder: int, path: PurePosixPath) -> int:
        try:
            return os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            raise _Missing("there is no such file", where=str(path)) from None
        except OSError as error:
            linked = error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR)
            why = "a link, or no folder, lies on the way" if linked else str(error.strerror)
            raise BadPath(why, where=str(path)) from None

    def _check_case(self, folder: int, part: str, path: PurePosixPath) -> None:
        """Two names that differ in case only are one file on some systems and two on others."""
        folded = part.casefold()
        for name in os.listdir(folder):
            if name != part and unicodedata.normalize("NFC", name).casefold() == folded:
                raise BadPath(f"there is {name!r}, which differs in case only", where=str(path))


class _Missing(BadPath):
    """There is nothing of this name."""
