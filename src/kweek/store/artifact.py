"""Artifacts: folders with a manifest, swapped in whole: after a crash at any call, the old one or the new.

An artifact NAME is made in the hidden sibling `.NAME.new`. When all its files are on the disk and hashed,
the manifest `artifact.json` is written last; then the old folder moves to `.NAME.old`, the new one takes the
place, and the old one is removed. A crash between the two renames leaves the place empty and a whole
`.NAME.old`, which the next reader or writer puts back. `.NAME.lock` keeps writers apart and makes a reader
that finds the place empty wait for a writer that is just there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

from kweek.errors import StoreError
from kweek.store import lock
from kweek.store.environment import describe_environment
from kweek.store.files import OutputFile, encode_json, failures, file_ops, read_json

MANIFEST = "artifact.json"
_FORMAT = 1  # raised when a reader of this version could misread what a later one writes
_PATIENCE, _PAUSE = 20, 0.05  # a swap is two renames and two fsyncs: a second is plenty


def fingerprint(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """SHA-256 (hex) of everything that determines an artifact, as canonical JSON.

    `inputs` maps the input's name to its fingerprint, `code` is the version of the code that matters. Keys
    are sorted and lists equal tuples, so the same meaning gives the same fingerprint. Raises TypeError for
    values that are not data.
    """
    parts = {"kind": kind, "config": config, "inputs": inputs, "code": code}
    canonical = json.dumps(json.loads(encode_json(parts)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished folder: what it is, what it was made from, what it cost, and what lies in it.

    `files` maps the name relative to the folder (with "/") to {"bytes": int, "sha256": hex}; `lineage` maps
    the name of each input to its fingerprint.
    """

    path: Path
    kind: str
    fingerprint: str
    metrics: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, str] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, *, verify: Literal["size", "hash"] = "size") -> Artifact:
        """Read an artifact and check its files: sizes always, contents too when `verify` is "hash".

        Puts an artifact back that a crash left beside its place, and waits a moment for a writer that is just
        swapping it. Raises StoreError when there is none, when its manifest is broken, or when a file is
        missing or differs from the manifest.
        """
        path = Path(path)
        for _ in range(_PATIENCE):
            before = _identity(path)
            try:
                return _read(path, verify)
            except StoreError:
                if not _sibling(path, "old").exists() and _identity(path) == before:
                    raise
            if not _put_back(path):  # then a writer is swapping it at this moment
                time.sleep(_PAUSE)
        return _read(path, verify)

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files. Raises StoreError when the manifest does not name it."""
        if name not in self.files:
            known = ", ".join(sorted(self.files)) or "none"
            raise StoreError(f'has no file "{name}" (it has {known})', where=str(self.path))
        return self.path / name


class ArtifactWriter:
    """Makes an artifact: `with ArtifactWriter(path, kind=..., fingerprint=...) as out: out.write_json(...)`.

    When the block ends well, the folder takes its place with everything in `out.directory`; when it raises,
    whatever was at `path` stays. Fill `out.metrics` and `out.ledger` before the end. Raises StoreError when
    the disk refuses, when another process writes the same artifact, or when `path` is a folder that is no
    artifact.
    """

    def __init__(
        self, path: Path, *, kind: str, fingerprint: str, lineage: Mapping[str, str] | None = None
    ) -> None:
        self.target = Path(os.path.realpath(path))
        self.kind, self.fingerprint = kind, fingerprint
        self.lineage: dict[str, str] = dict(lineage or {})
        self.metrics: dict[str, Any] = {}
        self.ledger: dict[str, Any] = {}
        self.directory = _sibling(self.target, "new")
        self._lock: int | None = None

    def __enter__(self) -> ArtifactWriter:
        with failures(self.target, "create the folder"):
            self.target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            with failures(self.target, "prepare the folder"):
                _settle(self.target)
                _refuse_foreign(self.target)
                _remove_tree(self.directory)
                file_ops().make_dir(self.directory)
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with failures(self.target, "finish the artifact"):
                    self._commit()
        finally:
            try:
                with suppress(OSError):
                    _remove_tree(self.directory)  # nothing is left of it after a commit
            finally:
                self._unlock()

    def path(self, name: str) -> Path:
        """Where to make the file `name` ("folder/file" allowed); the folders are created."""
        staged = self.directory.joinpath(*_parts(name, self.target))
        with failures(staged, "create the folder"):
            for folder in reversed(staged.relative_to(self.directory).parents[:-1]):
                if not (self.directory / folder).exists():
                    file_ops().make_dir(self.directory / folder)
        return staged

    @contextmanager
    def open(self, name: str) -> Iterator[OutputFile]:
        """Write the file `name` as a stream of bytes, once."""
        staged, ops = self.path(name), file_ops()
        with failures(staged, "create the file"):
            descriptor = ops.open(staged)
        try:
            yield OutputFile(descriptor, staged)
        finally:
            with failures(staged, "close the file"):
                ops.close(descriptor)

    def write_bytes(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write a file whole."""
        with self.open(name) as file:
            file.write(data)

    def write_text(self, name: str, text: str) -> None:
        """Write a file in UTF-8."""
        self.write_bytes(name, text.encode("utf-8"))

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of indented JSON (see `kweek.store.files.encode_json`)."""
        self.write_text(name, encode_json(value, indent=2) + "\n")

    def _commit(self) -> None:
        """Bring everything to the disk, write the manifest last, and take the place."""
        ops = file_ops()
        files, folders = _listing(self.directory)
        entries = {}
        for file in files:
            ops.fsync_path(file)
            name = file.relative_to(self.directory).as_posix()
            entries[name] = {"bytes": file.stat().st_size, "sha256": _hash(file)}
        manifest = {
            "format": _FORMAT,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "lineage": self.lineage,
            "metrics": self.metrics,
            "ledger": self.ledger,
            "environment": describe_environment(),
            "files": entries,
        }
        self._write_manifest(encode_json(manifest, indent=2) + "\n")
        for folder in reversed(folders):
            ops.fsync_dir(folder)
        _swap(self.directory, self.target)

    def _write_manifest(self, text: str) -> None:
        """The last file: with it the folder is an artifact."""
        ops = file_ops()
        descriptor = ops.open(self.directory / MANIFEST)
        try:
            OutputFile(descriptor, self.target / MANIFEST).write(text.encode("utf-8"))
            ops.fsync(descriptor)
        finally:
            ops.close(descriptor)

    def _take_lock(self) -> int:
        """The lock on the place. Raises StoreError when another writer has it."""
        path = _sibling(self.target, "lock")
        for _ in range(_PATIENCE):  # a reader that puts an artifact back holds it for a moment
            held = lock.acquire(path, wait=False)
            if held is not None:
                return held
            time.sleep(_PAUSE)
        raise StoreError(
            f"is being written by process {lock.holder(path) or 'unknown'}",
            where=str(self.target),
            fix="wait until it ends",
        )

    def _unlock(self) -> None:
        """Let others write."""
        if self._lock is not None:
            lock.release(_sibling(self.target, "lock"), self._lock)
            self._lock = None


def _sibling(path: Path, role: Literal["new", "old", "lock"]) -> Path:
    """The hidden neighbour of an artifact's place."""
    return path.parent / f".{path.name}.{role}"


def _swap(staged: Path, target: Path) -> None:
    """Give `staged` the place of `target`; after every single call the old or the new can be found."""
    ops, old = file_ops(), _sibling(target, "old")
    if target.exists():
        ops.rename_dir(target, old)
        ops.fsync_dir(target.parent)  # else a disk may remember the second rename and not the first
    try:
        ops.rename_dir(staged, target)
    except OSError:
        if old.exists():
            with suppress(OSError):  # else the next reader does it
                ops.rename_dir(old, target)
        raise
    ops.fsync_dir(target.parent)
    with suppress(OSError):  # what cannot be removed now is removed by the next writer
        _remove_tree(old)


def _settle(target: Path) -> None:
    """Finish or undo what a dead writer began. The caller holds the lock."""
    old = _sibling(target, "old")
    if not target.exists() and _is_artifact(old):
        file_ops().rename_dir(old, target)
        file_ops().fsync_dir(target.parent)
    _remove_tree(old)


def _put_back(target: Path) -> bool:
    """For readers: give the place back to the old artifact if a dead writer left it empty; true when done."""
    old, lock_path = _sibling(target, "old"), _sibling(target, "lock")
    if target.exists() or not _is_artifact(old):
        return False
    held = lock.acquire(lock_path, wait=True)  # a living writer holds it until the place is taken
    if held is None:
        return False
    try:
        if target.exists() or not _is_artifact(old):  # somebody was quicker
            return False
        with failures(target, "recover the artifact after a crash"):
            file_ops().rename_dir(old, target)
        return True
    finally:
        lock.release(lock_path, held)


def _identity(target: Path) -> tuple[int, int] | None:
    """What tells one manifest at a place from the next one there."""
    try:
        status = (target / MANIFEST).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is a whole artifact, by the sizes of its files."""
    try:
        _read(folder, "size")
    except StoreError:
        return False
    return True


def _refuse_foreign(target: Path) -> None:
    """Raise StoreError when the place holds something that a user may miss."""
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    raise StoreError(
        "exists and is not an artifact, so it will not be replaced",
        where=str(target),
        fix="choose another folder, or remove this one",
    )


def _read(path: Path, verify: Literal["size", "hash"]) -> Artifact:
    """Read the manifest of `path` and check the files that it names."""
    where = str(path / MANIFEST)
    if not (path / MANIFEST).exists():
        raise StoreError("no finished artifact here", where=str(path), fix="run the stage that makes it")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise StoreError(f"not a manifest of format {_FORMAT}", where=where, fix="make the artifact anew")
    try:
        artifact = Artifact(
            path=path,
            kind=_typed(manifest, "kind", str),
            fingerprint=_typed(manifest, "fingerprint", str),
            metrics=_typed(manifest, "metrics", dict),
            lineage=_typed(manifest, "lineage", dict),
            ledger=_typed(manifest, "ledger", dict),
            environment=_typed(manifest, "environment", dict),
            files=_typed(manifest, "files", dict),
        )
        for name, entry in artifact.files.items():
            _parts(name, path)
            size, digest = _typed(entry, "bytes", int), _typed(entry, "sha256", str)
            _verify(path / name, size, digest if verify == "hash" else None)
    except (KeyError, TypeError) as error:
        raise StoreError(f"broken manifest: {error}", where=where, fix="make the artifact anew") from None
    return artifact


def _typed(mapping: Any, key: str, kind: type) -> Any:
    """`mapping[key]`, which must be of type `kind`; raises KeyError or TypeError."""
    value = mapping[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} must be of type {kind.__name__}")
    return value


def _verify(file: Path, size: int, digest: str | None) -> None:
    """Raise StoreError unless `file` has `size` bytes and, where given, the SHA-256 `digest`."""
    fix = "make the artifact anew"
    try:
        status = file.stat()  # one call, for a writer may move the file between two
    except OSError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise StoreError("missing, though the manifest names it", where=str(file), fix=fix)
    found = status.st_size
    if found != size:
        raise StoreError(f"has {found} bytes where the manifest says {size}", where=str(file), fix=fix)
    if digest is not None and _hash(file) != digest:
        raise StoreError("its content differs from the manifest", where=str(file), fix=fix)


def _hash(file: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with failures(file, "read"), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below `folder`, and all folders from `folder` downward, in a fixed order.

    Raises StoreError for anything that is neither: a link would leave the artifact without its content.
    """
    files: list[Path] = []
    folders = [folder]
    for current in folders:  # grows while it is walked
        for child in sorted(current.iterdir()):
            if child.is_symlink() or not (child.is_dir() or child.is_file()):
                raise StoreError("an artifact holds plain files and folders only", where=str(child))
            (folders if child.is_dir() else files).append(child)
    return files, folders


def _remove_tree(folder: Path) -> None:
    """Remove a folder with all it holds, the manifest first, so that half of it is no artifact any more."""
    ops = file_ops()
    if folder.is_symlink() or not folder.is_dir():
        if folder.is_symlink() or folder.exists():
            ops.remove(folder)
        return
    for child in sorted(folder.iterdir(), key=lambda child: (child.name != MANIFEST, child.name)):
        _remove_tree(child)
    ops.remove_dir(folder)


def _parts(name: str, where: Path) -> tuple[str, ...]:
    """The parts of a file's name inside an artifact. Raises StoreError for names that lead elsewhere."""
    parts = PurePosixPath(name).parts
    odd = not parts or name.startswith("/") or ".." in parts or any(sign in name for sign in "\\:\0")
    if odd or name == MANIFEST:
        raise StoreError(f"{name!r} cannot be the name of a file in an artifact", where=str(where))
    return parts
