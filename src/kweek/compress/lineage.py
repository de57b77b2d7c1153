"""Where a model folder comes from: the artifacts behind it, and the licences of the documents it learnt from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kweek.errors import StoreError
from kweek.store.artifact import MANIFEST, Artifact

_LICENCE_FILES = "LICEN[SC]E*"
_TRAINING_FILE = "train.parquet"


@dataclass(frozen=True)
class Ancestor:
    """Something a model was made from.

    Attributes:
        role: what it was to its user ("model", "corpus").
        name: of its folder, or what a foreign source is called.
        kind: of the artifact; None for what is not one of ours or not found beside it.
        fingerprint: of the artifact, or the hash of a foreign source.
        depth: steps from the model, from 1.
        licences: for a corpus, training documents by licence and source.
    """

    role: str
    name: str
    kind: str | None
    fingerprint: str
    depth: int
    licences: dict[tuple[str, str], int] = field(default_factory=dict)


def ancestors(folder: Path) -> list[Ancestor]:
    """Everything that the manifests of a folder and of its neighbours name, nearest first; empty without any.

    Artifacts of a run lie side by side, so a fingerprint is looked for among the neighbours.
    """
    start = _artifact(folder)
    if start is None:
        return []
    neighbours = {
        found.fingerprint: found
        for path in sorted(folder.resolve().parent.iterdir())
        if (path / MANIFEST).is_file() and (found := _artifact(path)) is not None
    }
    result: dict[str, Ancestor] = {}
    waiting = [(role, mark, 1) for role, mark in start.lineage.items()]
    for role, mark, depth in waiting:  # grows while it is walked
        if mark in result:
            continue
        found = neighbours.get(mark)
        if found is None:
            result[mark] = Ancestor(role, role, None, mark, depth)
            continue
        result[mark] = Ancestor(role, found.path.name, found.kind, mark, depth, _licences(found.path))
        waiting += [(inner, other, depth + 1) for inner, other in found.lineage.items()]
    return list(result.values())


def licence_text(folder: Path) -> str | None:
    """What the licence file of a folder says, or None without one."""
    for path in sorted(folder.glob(_LICENCE_FILES)):
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def _artifact(folder: Path) -> Artifact | None:
    try:
        return Artifact.open(folder)
    except StoreError:
        return None


def _licences(folder: Path) -> dict[tuple[str, str], int]:
    path = folder / _TRAINING_FILE
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path, columns=["licence", "source"])
    except (pa.ArrowException, OSError):
        return {}
    pairs = zip(table["licence"].to_pylist(), table["source"].to_pylist(), strict=True)
    return dict(Counter((licence or "not stated", source or "unknown") for licence, source in pairs))
