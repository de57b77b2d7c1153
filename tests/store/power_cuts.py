"""What a disk may hold after a power cut: any part of what was never forced to it, in any order.

A killed process leaves the kernel's pages alone, so that killing can never show a missing fsync. Here the calls
of the writer are recorded, and for every moment the disk is rebuilt without some of the calls that no fsync had
covered by then: all subsets of up to three, more by sampling (Pillai et al. 2014, ALICE).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from kweek.store.files import FileOps

Call = tuple[object, ...]
Disk = dict[str, bytes | None]  # relative path to content, None for a folder
EXHAUSTIVE_DEPTH, SAMPLES = 3, 200


class RecordingOps(FileOps):
    """Real file operations that keep a log in terms of files' numbers and paths below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.log = root, list[Call]()
        self.numbers = itertools.count()
        self.by_descriptor: dict[int, int] = {}
        self.by_path: dict[str, int] = {}

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def moved(self, source: str, target: str) -> None:
        for path in list(self.by_path):
            if path == source or path.startswith(source + "/"):
                self.by_path[target + path[len(source) :]] = self.by_path.pop(path)

    def open(self, path: Path) -> int:
        descriptor, number = super().open(path), next(self.numbers)
        self.by_descriptor[descriptor] = self.by_path[self.name(path)] = number
        self.log.append(("create", self.name(path), number))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        taken = super().write(descriptor, data)
        self.log.append(("write", self.by_descriptor[descriptor], bytes(data[:taken])))
        return taken

    def fsync(self, descriptor: int) -> None:
        self.log.append(("sync", self.by_descriptor[descriptor]))

    def fsync_path(self, path: Path) -> None:
        self.log.append(("sync", self.by_path[self.name(path)]))

    def fsync_dir(self, path: Path) -> None:
        self.log.append(("sync_dir", self.name(path)))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.by_path.pop(self.name(target), None)
        self.moved(self.name(source), self.name(target))
        self.log.append(("rename", self.name(source), self.name(target)))

    def rename_dir(self, source: Path, target: Path) -> None:
        super().rename_dir(source, target)
        self.moved(self.name(source), self.name(target))
        self.log.append(("rename", self.name(source), self.name(target)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(("remove", self.name(path)))

    def make_dir(self, path: Path) -> None:
        super().make_dir(path)
        self.log.append(("make_dir", self.name(path)))

    def remove_dir(self, path: Path) -> None:
        super().remove_dir(path)
        self.log.append(("remove", self.name(path)))


def snapshot(root: Path) -> Disk:
    """A folder's content as a `Disk`."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def possible_disks(before: Disk, log: list[Call], seed: int = 0) -> Iterator[Disk]:
    """Every different disk that a power cut during `log` may leave, starting from `before`."""
    generator, seen = random.Random(seed), set[object]()
    for end in range(len(log) + 1):
        pending = [index for index in range(end) if not _is_synced(log, index, end)]
        depths = range(min(EXHAUSTIVE_DEPTH, len(pending)) + 1)
        drops = [set(drop) for depth in depths for drop in itertools.combinations(pending, depth)]
        drops += [{index for index in pending if generator.random() < 0.5} for _ in range(SAMPLES)]
        for drop in drops:
            disk = _replay(before, [call for index, call in enumerate(log[:end]) if index not in drop])
            state = tuple(sorted((path, data is None, data) for path, data in disk.items()))
            if state not in seen:
                seen.add(state)
                yield disk


def materialise(disk: Disk, root: Path) -> None:
    """Make a folder hold what the disk holds."""
    root.mkdir()
    for path, data in sorted(disk.items()):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(data)


def _is_synced(log: list[Call], index: int, end: int) -> bool:
    """Whether a later fsync before `end` covers the call at `index`."""
    kind, subject, *_ = log[index]
    if kind in ("sync", "sync_dir"):
        return True
    if kind == "write":
        return ("sync", subject) in log[index + 1 : end]
    parent = Path(str(subject)).parent.as_posix()
    return ("sync_dir", parent) in log[index + 1 : end]


def _replay(before: Disk, calls: list[Call]) -> Disk:
    """The disk after some calls; a call whose premise is gone has no effect."""
    disk = dict(before)
    paths: dict[object, str] = {}
    written: dict[object, bytes] = {}
    for call in calls:
        kind, subject = call[0], call[1]
        if kind == "create" and str(Path(str(subject)).parent.as_posix()) in {*disk, "."}:
            paths[call[2]], disk[str(subject)] = str(subject), written.get(call[2], b"")
        elif kind == "make_dir":
            disk[str(subject)] = None
        elif kind == "write":
            written[subject] = written.get(subject, b"") + bytes(call[2])  # type: ignore[arg-type]
            if subject in paths:
                disk[paths[subject]] = written[subject]
        elif kind == "remove":
            for path in [path for path in disk if path == subject or path.startswith(f"{subject}/")]:
                del disk[path]
        elif kind == "rename" and subject in disk:
            target = str(call[2])
            for path in [path for path in disk if path == target or path.startswith(target + "/")]:
                del disk[path]
            for path in [path for path in disk if path == subject or path.startswith(f"{subject}/")]:
                disk[target + path[len(str(subject)) :]] = disk.pop(path)
            paths = {number: _renamed(path, str(subject), target) for number, path in paths.items()}
    return disk


def _renamed(path: str, source: str, target: str) -> str:
    """A path after a rename of it or of a folder above it."""
    return target + path[len(source) :] if path == source or path.startswith(source + "/") else path
