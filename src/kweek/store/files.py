"""The one writer: whatever Kweek puts on a disk goes through here; a crash leaves the old file or the new.

The order is the one that survives both a killed process and a power cut (Pillai et al. 2014, "All File
Systems Are Not Created Equal", the ALICE study): temporary file in the same folder, write, fsync, close,
replace, fsync of the folder. A failed fsync is never retried, because the kernel may have dropped the pages
and would report success the second time (PostgreSQL learnt this in 2018): the new file is abandoned.

Every system call passes through a `FileOps`, so that a test can make any single one of them fail.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from kweek.errors import StoreError

if sys.platform != "win32":
    import fcntl

#: Flags that only one family of systems knows; zero elsewhere.
_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_REMEDIES = {
    errno.ENOSPC: "free space on this disk and run the same command again",
    errno.EDQUOT: "free space within your quota and run the same command again",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "choose a folder on a disk that is not mounted read-only",
    errno.EIO: "check the disk: it reported an input/output error",
    errno.ENOENT: "check that the folder exists",
    errno.ENOTDIR: "check that every part of the path before the last is a folder",
    errno.EISDIR: "choose a name that is not already a folder",
}


class FileOps:
    """The system calls of the writer, one method each. Tests subclass it to fail at a chosen call."""

    def open(self, path: Path) -> int:
        """Create `path`, which must not exist, for writing; returns a file descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o666)

    def open_append(self, path: Path) -> int:
        """Open `path` for appending, creating it when absent; returns a file descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data`; returns how many bytes were taken."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Force a file's content to the disk itself."""
        if sys.platform == "darwin":  # there, fsync stops at the drive's own cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def fsync_path(self, path: Path) -> None:
        """Force the content of a file that is already closed to the disk."""
        descriptor = os.open(path, (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY) | _BINARY)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Give the file `source` the name `target`, atomically, whatever had that name."""
        os.replace(source, target)  # noqa: PTH105 - the bare call is what a fault is injected into

    def rename_dir(self, source: Path, target: Path) -> None:
        """Give the folder `source` the name `target`, which must be free."""
        os.rename(source, target)  # noqa: PTH104 - the bare call is what a fault is injected into

    def remove(self, path: Path) -> None:
        """Remove a file or a symbolic link."""
        path.unlink()

    def make_dir(self, path: Path) -> None:
        """Create one folder, whose parent exists."""
        path.mkdir()

    def remove_dir(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def fsync_dir(self, path: Path) -> None:
        """Force a folder's list of names to the disk. Windows has no such call and orders them itself."""
        if sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)


_current: ContextVar[FileOps] = ContextVar("file_ops", default=FileOps())  # noqa: B039 - FileOps has no state


def file_ops() -> FileOps:
    """The operations in force in this context."""
    return _current.get()


@contextlib.contextmanager
def use_file_ops(ops: FileOps) -> Iterator[FileOps]:
    """Send every call of the writer to `ops` while the block runs."""
    token = _current.set(ops)
    try:
        yield ops
    finally:
        _current.reset(token)


def store_error(error: OSError, path: Path, doing: str) -> StoreError:
    """The error a user sees for a failed call, with the remedy that fits its cause."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    fix = _REMEDIES.get(error.errno or 0, "nothing was replaced, so run the same command again")
    return StoreError(f"cannot {doing}: {reason}", where=str(path), fix=fix)


@contextlib.contextmanager
def failures(path: Path, doing: str) -> Iterator[None]:
    """Turn any `OSError` of the block into a `StoreError` about `path`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path, doing) from error


class OutputFile(io.RawIOBase):
    """A write-only binary file whose every write is complete and passes through the `FileOps`.

    It has no descriptor to ask for, so that libraries (pyarrow, numpy, gzip, `io.TextIOWrapper`) cannot go
    around it. Writes are not buffered: give it pieces of some kilobytes.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__()
        self._descriptor, self._path, self._position = descriptor, path, 0

    def writable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of `data` (bytes-like). Raises StoreError when the disk does not take it."""
        view = memoryview(data).cast("B")
        left = view
        with failures(self._path, "write"):
            while len(left):
                left = left[file_ops().write(self._descriptor, left) :]
        self._position += len(view)
        return len(view)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[OutputFile]:
    """Write `path` as a stream; it takes the place of the old file only when the block ends well.

    Raises StoreError when the disk refuses; the old file is then untouched. Anything that the block itself
    raises passes through, and nothing is replaced.
    """
    path, ops = Path(path), file_ops()
    _sweep(path)
    with failures(path, "create the file"):
        temporary, descriptor = _create_temporary(path)
    try:
        try:
            yield OutputFile(descriptor, path)
            with failures(path, "bring the file to the disk"):
                ops.fsync(descriptor)
        finally:
            with failures(path, "close the file"):
                ops.close(descriptor)
        with failures(path, "put the new file in its place"):
            ops.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            ops.remove(temporary)
        raise
    with failures(path, "bring the folder to the disk"):
        ops.fsync_dir(path.parent)


def write_bytes(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Replace the content of `path` atomically and durably. Raises StoreError; the old is then intact."""
    with open_atomic(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` with `text` in UTF-8, newlines as they are. Raises StoreError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace the content of `path` with `value` as indented JSON (see `encode_json`). Raises StoreError."""
    write_text(path, encode_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises StoreError naming the file, and the line where it is broken."""
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise StoreError("the file does not exist", where=str(path)) from None
    except OSError as error:
        raise store_error(error, Path(path), "read") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    except json.JSONDecodeError as error:
        raise StoreError(f"broken JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except RecursionError:
        raise StoreError("broken JSON: nested too deeply", where=str(path)) from None


def encode_json(value: Any, indent: int | None = None) -> str:
    """JSON that any parser reads: numbers that are not finite become null, as undefined values should.

    Takes mappings, lists, tuples, sets of strings, paths and the arrays of numpy and torch besides JSON's own
    types. Raises TypeError for anything else.
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """`value` rebuilt from dict, list, str, int, float, bool and None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars as well as arrays
        return _plain(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _create_temporary(path: Path) -> tuple[Path, int]:
    """A new hidden file beside `path` that this process holds a lock on; returns its name and descriptor."""
    ops = file_ops()
    while True:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        descriptor = ops.open(temporary)
        if sys.platform == "win32":
            return temporary, descriptor  # an open file cannot be removed there, which is lock enough
        with contextlib.suppress(OSError):  # some network file systems have no locks; then nobody sweeps
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else another writer swept it before the lock was taken
            return temporary, descriptor
        ops.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove what dead writers of `path` left behind. Best effort: what cannot be removed does no harm."""
    prefix = f".{path.name}."
    with contextlib.suppress(OSError):
        for sibling in sorted(path.parent.iterdir()):
            if sibling.name.startswith(prefix) and sibling.name.endswith(".tmp") and _abandoned(sibling):
                file_ops().remove(sibling)


def _abandoned(temporary: Path) -> bool:
    """Whether no living process holds the lock on a temporary file."""
    if sys.platform == "win32":
        return True  # removing it fails as long as it is open
    descriptor = os.open(temporary, os.O_RDONLY | _NO_FOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
