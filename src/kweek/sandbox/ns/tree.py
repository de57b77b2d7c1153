"""The file system a program sees: the files of one Python, five devices, and one small disk in memory.

The root is a tmpfs that nobody can write to. What is mounted in it is mounted read-only, the disk excepted; the disk
has a fixed size and number of files, and is seen as the working folder, as `/tmp` and as `/dev/shm`.
"""

from __future__ import annotations

import os
import stat

from .kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    Refused,
    mount,
    pivot_root_here,
    restrict_mount,
    unmount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request

WORK, TMP, SHARED = "/work", "/tmp", "/dev/shm"  # noqa: S108 - places inside
_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
_BOX, _PROC = "/box", "/proc"
_ROOT_OPTIONS = "size=1m,nr_inodes=1k,mode=755"  # mount points and links alone
_BYTES_PER_FILE = (
    16384  # of the disk: so that empty files and folders are bounded too, at about a kilobyte each
)


def build(request: Request) -> None:
    """Mount the root on the stage: all of it that is the same for every program. Needs a mount namespace of one's own.

    Raises:
        Refused: a mount is not permitted.
        OSError: a file of Python is not there.
    """
    mount("", "/", "", MS_REC | MS_PRIVATE)
    stage = os.fsdecode(request.stage)
    sources = [(os.fsdecode(source), os.fsdecode(place)) for source, place in request.binds]
    sources += [(device, device) for device in _DEVICES]
    # Opened first, because the stage may cover them.
    held = [(os.open(source, os.O_PATH | os.O_CLOEXEC), place) for source, place in sources]
    mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, _ROOT_OPTIONS)
    for place in (WORK, TMP, SHARED, _BOX, _PROC):
        os.makedirs(stage + place)
    for descriptor, place in held:
        _bind(descriptor, stage + place)
    for folder in request.hidden:
        target = stage + os.fsdecode(folder)
        mount("tmpfs", target, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=555")
    for name, pointed in request.links:
        os.symlink(os.fsdecode(pointed), stage + os.fsdecode(name))
    restrict_mount(stage, MS_RDONLY)


def _bind(descriptor: int, target: str) -> None:
    """Mount what is open as `descriptor` on `target`, read-only."""
    kind = os.fstat(descriptor).st_mode
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(kind):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444))
    mount(f"/proc/self/fd/{descriptor}", target, "", MS_BIND)
    restrict_mount(target, MS_RDONLY | MS_NOSUID | (0 if stat.S_ISCHR(kind) else MS_NODEV))
    os.close(descriptor)


def settle(request: Request) -> int:
    """Add the disk, move in, and let go of everything outside; returns the processes' folder (/proc), open.

    It is the /proc of the new process namespace, and not visible by name to anybody.

    Raises:
        Refused: a mount is not permitted.
    """
    stage = os.fsdecode(request.stage)
    mount(
        stage, stage, "", MS_BIND | MS_REC
    )  # what comes from a more privileged namespace cannot become the root
    try:
        mount("proc", stage + _PROC, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except Refused as error:
        raise Refused(f"{error} (a container that covers parts of /proc forbids this)") from None
    processes = os.open(stage + _PROC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    unmount(stage + _PROC)
    options = f"size={request.disk},nr_inodes={max(64, request.disk // _BYTES_PER_FILE)},mode=755"
    mount("tmpfs", stage + _BOX, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    for place in (WORK, TMP, SHARED):
        part = f"{stage}{_BOX}/{place.replace('/', '-')}"
        os.mkdir(part)
        mount(part, stage + place, "", MS_BIND)
    unmount(stage + _BOX)
    os.chdir(stage)
    pivot_root_here()
    return processes


def write_files(files: list[tuple[bytes, bytes]]) -> None:
    """Put the given files into the working folder. Raises OSError when they do not fit."""
    for name, content in files:
        path = os.path.join(os.fsencode(WORK), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.close(descriptor)


def read_files(given: list[tuple[bytes, bytes]], limit: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """What a program, now dead, made or changed in its folder, and whether some of it was left out.

    Plain files alone, at most 16 folders deep, at most `limit` bytes in all: a file may claim more than it takes up.
    """
    before, found, complete = dict(given), list[tuple[bytes, bytes]](), True
    folders = [(os.fsencode(WORK), 0)]
    while folders:
        folder, depth = folders.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                complete &= depth < 16
                if depth < 16:
                    folders.append((entry.path, depth + 1))
                continue
            size = entry.stat(follow_symlinks=False).st_size
            if not entry.is_file(follow_symlinks=False) or size > limit:
                complete &= not entry.is_file(follow_symlinks=False)
                continue
            name, content = entry.path.removeprefix(os.fsencode(WORK) + b"/"), _content(entry.path, size)
            if before.get(name) != content:
                found.append((name, content))
                limit -= size
    return found, not complete


def _content(path: bytes, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, min(1 << 20, size)):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)
