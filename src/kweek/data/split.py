"""Training, validation and test: by content, with nothing alike on two sides.

What must not be divided forms a group: documents from one file, and documents that are similar. The hash of
a group's least document id decides its side, so a document keeps its side whatever else is in the corpus,
unless that joins it to another group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kweek.data.document import Document

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Fractions:
    """Shares of the bytes held out."""

    validation: float = 0.04  # 4% of the default corpus is enough for 0.5% of error in bits per byte
    test: float = 0.04


class _Groups:
    """Disjoint sets (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, member: int) -> int:
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def join(self, a: int, b: int) -> None:
        self._parent[self.find(a)] = self.find(b)


@dataclass(frozen=True)
class _Group:
    """Documents that stay together: where they stand in the order of hashes, and their bytes by source."""

    position: float
    members: list[int]
    sizes: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    @property
    def source(self) -> str:
        """The source that most of it is from."""
        return max(self.sizes, key=lambda source: (self.sizes[source], source))


def assign(
    documents: Sequence[Document], links: Iterable[tuple[str, str]] = (), fractions: Fractions | None = None
) -> dict[str, Split]:
    """The side of every document, by id.

    Args:
        documents: documents with different ids.
        links: pairs of ids that must not be divided.
        fractions: shares held out.

    A file with more bytes than a held-out side should have is dealt out document by document, as it could
    only go to training whole; a group of twice that size, files and links together, does go to training. Then
    the hash decides, within bounds: of every source a held-out side gets at least its share and at most twice
    that, as far as the sizes of groups allow. Without the bounds a source of few, large files may be missing
    from a side.
    """
    shares = fractions or Fractions()
    totals: dict[str, int] = {}
    for document in documents:
        totals[document.source] = totals.get(document.source, 0) + document.num_bytes
    largest = sum(totals.values()) * max(shares.validation, shares.test)
    groups = [_describe(documents, members) for members in _grouped(documents, links, largest)]
    groups = sorted((g for g in groups if g.size <= 2 * largest), key=lambda group: group.position)
    sides: dict[str, Split] = {document.id: "train" for document in documents}
    held_out: tuple[tuple[Split, float, float], ...] = (
        ("test", 0.0, shares.test),
        ("validation", shares.test, shares.test + shares.validation),
    )
    free = groups
    for side, start, end in held_out:
        wanted = {source: size * (end - start) for source, size in totals.items()}
        chosen = _choose([g for g in free if g.position >= start], end, wanted)
        taken = {id(group) for group in chosen}
        free = [group for group in free if id(group) not in taken]
        for group in chosen:
            sides.update((documents[i].id, side) for i in group.members)
    return sides


def _choose(groups: Sequence[_Group], end: float, wanted: dict[str, float]) -> list[_Group]:
    """Groups for a held-out side: those before `end`, and after them what a source lacks to its share."""
    chosen: list[_Group] = []
    got = dict.fromkeys(wanted, 0)
    for group in groups:
        source, size = group.source, group.sizes[group.source]
        needed = group.position < end or got[source] < wanted[source]
        fits = got[source] + size <= 2 * wanted[source] or (got[source] == 0 and group.position >= end)
        if needed and fits:
            chosen.append(group)
            for name, part in group.sizes.items():
                got[name] += part
    return chosen


def _describe(documents: Sequence[Document], members: list[int]) -> _Group:
    sizes: dict[str, int] = {}
    for i in members:
        sizes[documents[i].source] = sizes.get(documents[i].source, 0) + documents[i].num_bytes
    return _Group(_position(min(documents[i].id for i in members)), members, sizes)


def _grouped(
    documents: Sequence[Document], links: Iterable[tuple[str, str]], largest: float
) -> list[list[int]]:
    """Indices of the documents that belong together."""
    groups = _Groups(len(documents))
    by_origin: dict[str, list[int]] = {}
    for i, document in enumerate(documents):
        by_origin.setdefault(document.origin, []).append(i)
    for members in by_origin.values():
        if sum(documents[i].num_bytes for i in members) <= largest:
            for i in members[1:]:
                groups.join(members[0], i)
    index = {document.id: i for i, document in enumerate(documents)}
    for a, b in links:
        if a in index and b in index:
            groups.join(index[a], index[b])
    found: dict[int, list[int]] = {}
    for i in range(len(documents)):
        found.setdefault(groups.find(i), []).append(i)
    return list(found.values())


def _position(representative: str) -> float:
    """A number in [0, 1) that depends on the representative's content only."""
    digest = hashlib.sha256(f"split\x1f{representative}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
