"""Locks between processes: one writer for a run folder or an artifact, and a dead writer's lock is free.

The lock belongs to the open file (`flock`, on Windows `msvcrt.locking`), so the kernel releases it when the
process ends in whatever way. The process id in the file is only for the message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from types import TracebackType

from kweek.errors import StoreError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BUSY = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
_WINDOWS_LOCK_BYTE = 1 << 30  # far behind the process id, which must stay readable: locks are mandatory there


def acquire(path: Path, *, wait: bool) -> int | None:
    """Lock the file `path`, created when absent; returns a descriptor for `release`, None when it is busy.

    With `wait` it blocks until the holder ends. Raises StoreError when the file cannot be made or locked.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise StoreError(
                f"cannot create the lock: {error.strerror}",
                where=str(path),
                fix="choose a folder that you may write to",
            ) from error
        try:
            if not _lock(descriptor, wait):
                os.close(descriptor)
                return None
            if _is_still(path, descriptor):  # else its last holder removed it while this process waited
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"this file system cannot lock files: {error.strerror}",
                where=str(path),
                fix="use a folder on a local disk",
            ) from error
        os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Give back what `acquire` gave; the file goes too, where an open file can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()  # while still locked, so that nobody can hold a lock on a file about to vanish
    os.close(descriptor)


def holder(path: Path) -> int | None:
    """The process id written in a lock file, None when there is none."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


class RunLock:
    """Keeps a second process out of a folder: `with RunLock(run): ...`.

    Raises StoreError naming the process that holds it. The lock of a dead process is taken over silently.
    """

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        self._descriptor = acquire(self._path, wait=False)
        if self._descriptor is None:
            process = holder(self._path)
            raise StoreError(
                f"already in use by process {process}" if process else "already in use by another process",
                where=str(self._path.parent),
                fix="wait until it ends or stop it, or choose another folder with --out",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            release(self._path, self._descriptor)
            self._descriptor = None


def _lock(descriptor: int, wait: bool) -> bool:
    """Take the lock; False when another holds it and `wait` is false."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _WINDOWS_LOCK_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the file that is open as `descriptor`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
