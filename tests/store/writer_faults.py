"""Faults at every call of the writer, and what a reader finds afterwards. Tests and evidence run the same checks.

Run as a program, `python writer_faults.py FOLDER` kills a child with SIGKILL at every call and prints the counts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kweek.errors import StoreError
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.files import FileOps, use_file_ops, write_bytes

FAULTS = ("die_before", "die_after", "torn_write", "no_space", "io_error", "fsync_error")
CALLS = (
    "open", "open_append", "write", "fsync", "close", "replace", "rename_dir", "remove", "make_dir", "remove_dir",
)  # fmt: skip
GROWING = {"open", "open_append", "write", "make_dir"}  # the calls that a full disk refuses


class Died(BaseException):
    """The process is dead: nothing may run any more, so every later call raises this too."""


class FaultyOps(FileOps):
    """Real file operations of which the `at`-th (from 1) goes wrong in the way `fault` says."""

    def __init__(self, fault: str | None = None, at: int = 0) -> None:
        self.fault, self.at = fault, at
        self.calls: list[str] = []
        self.descriptors: set[int] = set()
        self.dead = False
        self.happened = False

    def die(self) -> None:
        """End the process: the kernel closes its files, and with them its locks."""
        self.dead = True
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        raise Died

    def around(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Make a call, or the fault in its stead."""
        if self.dead:
            raise Died
        self.calls.append(name)
        here = len(self.calls) == self.at
        if self.fault == "no_space" and self.happened and name in GROWING:
            raise OSError(errno.ENOSPC, "no space left on device")  # a full disk stays full
        if not here:
            return call(*arguments)
        if self.fault == "die_before":
            self.die()
        if self.fault == "torn_write" and name == "write":
            descriptor, data = arguments
            os.write(descriptor, data[: len(data) // 2])
            self.die()
        if self.fault == "no_space" and name in GROWING:
            self.happened = True
            if name == "write":
                descriptor, data = arguments
                os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "no space left on device")
        if self.fault == "io_error" or (self.fault == "fsync_error" and name == "fsync"):
            self.happened = True
            if name == "close":
                call(*arguments)  # Linux closes the descriptor even when it reports an error
            raise OSError(errno.EIO, "input/output error")
        result = call(*arguments)
        if self.fault == "die_after":
            if name in ("open", "open_append"):
                self.descriptors.add(result)
            self.die()
        return result

    def open(self, path: Path) -> int:
        descriptor = self.around("open", super().open, path)
        self.descriptors.add(descriptor)
        return descriptor

    def open_append(self, path: Path) -> int:
        descriptor = self.around("open_append", super().open_append, path)
        self.descriptors.add(descriptor)
        return descriptor

    def fsync(self, descriptor: int) -> None:
        self.around("fsync", lambda descriptor: None, descriptor)  # a killed process keeps its pages anyway

    def close(self, descriptor: int) -> None:
        try:
            self.around("close", super().close, descriptor)
        finally:
            if not self.dead:
                self.descriptors.discard(descriptor)


def _forward(name: str) -> Callable[..., Any]:
    real = getattr(FileOps, name)
    return lambda self, *arguments: self.around(name, lambda *given: real(self, *given), *arguments)


for _name in CALLS:
    if _name not in ("open", "open_append", "close", "fsync"):
        setattr(FaultyOps, _name, _forward(_name))


class UnsyncedOps(FileOps):
    """Real file operations without the wait for the disk: for what stands around the case under test."""

    def fsync(self, descriptor: int) -> None:
        pass


class KillingOps(FaultyOps):
    """The same with the real thing: SIGKILL to this very process."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


CONTENT = {
    "old": {"model.bin": b"old" * 1000, "notes/readme.txt": b"the old one"},
    "new": {"model.bin": b"new!" * 1500, "deep/er/extra.json": b"{}", "notes/readme.txt": b"the new one"},
}


def write_artifact(place: Path, version: str) -> None:
    """Write the artifact of a version."""
    with ArtifactWriter(place, kind="model", fingerprint=version, lineage={"base": "0"}) as out:
        for name, data in CONTENT[version].items():
            with out.open(name) as file:
                for start in range(0, len(data), 2048):
                    file.write(data[start : start + 2048])
        out.metrics["version"] = version


def read_artifact(place: Path) -> str | None:
    """The version a reader finds, None when there is none. Anything else is an AssertionError."""
    try:
        artifact = Artifact.open(place, verify="hash")
    except StoreError as error:
        assert "no finished artifact" in str(error), error
        return None
    version = artifact.fingerprint
    assert artifact.metrics == {"version": version}
    found = {name: artifact.file(name).read_bytes() for name in artifact.files}
    assert found == CONTENT[version]
    return version


def write_file(place: Path, version: str) -> None:
    """Write the single file of a version."""
    write_bytes(place, CONTENT[version]["model.bin"])


def read_file(place: Path) -> str | None:
    """The version a reader finds in a single file."""
    if not place.exists():
        return None
    data = place.read_bytes()
    return next(version for version, content in CONTENT.items() if content["model.bin"] == data)


KINDS: dict[str, tuple[Callable[[Path, str], None], Callable[[Path], str | None]]] = {
    "artifact": (write_artifact, read_artifact),
    "file": (write_file, read_file),
}


def cases(scratch: Path, kind: str) -> Iterator[tuple[str | None, str, int, Path]]:
    """Every fault at every call, over an old version and over none: (what was there, fault, call, place)."""
    write, _ = KINDS[kind]
    for before in ("old", None):
        counting = FaultyOps()
        for fault in (None, *FAULTS):
            for at in range(1, len(counting.calls) + 1) if fault else (0,):
                folder = scratch / f"{kind}-{before}-{fault}-{at}"
                folder.mkdir(parents=True)
                if before:
                    with use_file_ops(UnsyncedOps()):
                        write(folder / "thing", before)
                if fault is None:
                    with use_file_ops(counting):
                        write(folder / "thing", "new")
                else:
                    yield before, fault, at, folder / "thing"
                shutil.rmtree(folder)


def check_every_call(scratch: Path, kind: str) -> Counter[str]:
    """Inject every fault at every call of one replacement. Returns how many of each were tried.

    Raises AssertionError unless a reader finds the old or the new one, whole, and a later writer succeeds and
    leaves nothing else behind.
    """
    write, read = KINDS[kind]
    tried: Counter[str] = Counter()
    for before, fault, at, place in cases(scratch, kind):
        ops, failed = FaultyOps(fault, at), None
        try:
            with use_file_ops(ops):
                write(place, "new")
        except (Died, StoreError) as error:
            failed = error
        label = f"{kind} over {before}, {fault} at call {at} ({ops.calls[at - 1]})"
        found = read(place)
        assert found in ((before, "new") if failed else ("new",)), f"{label}: found {found}"
        if isinstance(failed, StoreError) and found == "new":
            assert ops.calls[at - 1] == "fsync", f"{label}: replaced although it failed before"
        with use_file_ops(UnsyncedOps()):
            write(place, "new")
        assert read(place) == "new", label
        assert [path.name for path in place.parent.iterdir()] == ["thing"], f"{label}: leftovers"
        tried[fault] += bool(failed)
    return tried


def kill_every_call(scratch: Path, kind: str) -> int:
    """SIGKILL a child at every call, before and after it. Returns the number of kills."""
    write, read = KINDS[kind]
    kills = 0
    for before, fault, at, place in cases(scratch, kind):
        if fault not in ("die_before", "die_after", "torn_write"):
            continue
        child = os.fork()
        if not child:
            with use_file_ops(KillingOps(fault, at)):
                write(place, "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        assert read(place) in (before, "new"), f"{kind} over {before}, {fault} at call {at}"
        with use_file_ops(UnsyncedOps()):
            write(place, "new")
        assert [path.name for path in place.parent.iterdir()] == ["thing"]
    return kills


if __name__ == "__main__":
    print(json.dumps({kind: kill_every_call(Path(sys.argv[1]), kind) for kind in KINDS}))
