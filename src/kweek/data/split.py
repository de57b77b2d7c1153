"""Training, validation and test: by content, with nothing alike on two sides.

What must not be divided forms a group: documents from one file, and documents that are similar. The hash of a
group's least document id decides its side, so a document keeps its side whatever else is in the corpus, unless
that joins it to another group.
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


def assign(
    documents: Sequence[Document], links: Iterable[tuple[str, str]] = (), fractions: Fractions | None = None
) -> dict[str, Split]:
    """The side of every document, by id.

    Args:
        documents: documents with different ids.
        links: pairs of ids that must not be divided.
        fractions: shares held out.

    A file with more bytes than a held-out side should have is dealt out document by document, as it could
    only go to training whole. A group of that size, files and links together, goes to training. When a side
    gets less than half its share (few, large groups), the groups next in order of hash are moved to it.
    """
    shares = fractions or Fractions()
    sizes = [document.num_bytes for document in documents]
    total = sum(sizes)
    largest = total * max(shares.validation, shares.test)
    groups = _grouped(documents, links, sizes, largest)
    order: list[tuple[float, int, list[int]]] = []
    sides: dict[str, Split] = {document.id: "train" for document in documents}
    for members in groups:
        size = sum(sizes[i] for i in members)
        if size <= largest:
            order.append((_position(min(documents[i].id for i in members)), size, members))
    order.sort()
    held_out: tuple[tuple[Split, float, float], ...] = (
        ("test", 0.0, shares.test),
        ("validation", shares.test, shares.test + shares.validation),
    )
    spare = [entry for entry in order if entry[0] >= shares.test + shares.validation]
    for side, start, end in held_out:
        chosen = [entry for entry in order if start <= entry[0] < end]
        missing = total * (end - start) / 2 - sum(size for _, size, _ in chosen)
        while missing > 0 and spare:
            chosen.append(spare.pop(0))
            missing -= chosen[-1][1]
        for _, _, members in chosen:
            sides.update((documents[i].id, side) for i in members)
    return sides


def _grouped(
    documents: Sequence[Document], links: Iterable[tuple[str, str]], sizes: Sequence[int], largest: float
) -> list[list[int]]:
    """Indices of the documents that belong together."""
    groups = _Groups(len(documents))
    by_origin: dict[str, list[int]] = {}
    for i, document in enumerate(documents):
        by_origin.setdefault(document.origin, []).append(i)
    for members in by_origin.values():
        if sum(sizes[i] for i in members) <= largest:
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
