"""Mixing sources by weight: which documents of each are taken, and what a source that is too small means.

Documents are taken in the order of a keyed hash of their id until the source's share of bytes is reached. The
choice depends on content and seed only, and a larger budget takes a superset of what a smaller one takes.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kweek.data.document import Document
from kweek.errors import DataError


def keyed_order(document_id: str, seed: int) -> bytes:
    """Where a document stands in the order of `seed`: sort by this."""
    return hashlib.blake2b(
        document_id.encode(), key=seed.to_bytes(16, "little", signed=True), digest_size=12
    ).digest()


class Reservoir:
    """Keeps the first documents in keyed order, up to a number of bytes, of a stream of any length.

    Holds at most `max_bytes` and one document at any time, and each text once. The result does not depend on
    the order of the stream, except for which of several equal texts gives the origin: the first.
    """

    def __init__(self, max_bytes: int, seed: int) -> None:
        self.max_bytes, self.seed = max_bytes, seed
        self.num_duplicates = self.duplicate_bytes = 0
        self.num_over = self.over_bytes = 0
        self._held: dict[str, Document] = {}
        self._sizes: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # greatest order first
        self._size = 0
        self._limit: int | None = None

    def add(self, document: Document) -> None:
        """Offer one document."""
        if document.id in self._held:
            self.num_duplicates += 1
            self.duplicate_bytes += document.num_bytes
            return
        order = int.from_bytes(keyed_order(document.id, self.seed), "big")
        size = document.num_bytes
        if self._limit is not None and order >= self._limit:
            self._pass_over(size)
            return
        self._held[document.id], self._sizes[document.id] = document, size
        heapq.heappush(self._heap, (-order, document.id))
        self._size += size
        while self._size > self.max_bytes:
            negative, name = heapq.heappop(self._heap)
            self._limit = -negative
            self._size -= self._sizes[name]
            self._pass_over(self._sizes.pop(name))
            del self._held[name]

    def _pass_over(self, size: int) -> None:
        self.num_over += 1
        self.over_bytes += size

    def documents(self) -> list[Document]:
        """What is held, sorted by origin and then id, so that the stream's order leaves no trace."""
        return sorted(self._held.values(), key=lambda document: (document.origin, document.id))


@dataclass(frozen=True)
class Share:
    """What one source gave to a mix, in bytes. `repeats` is how often its text is to be passed over."""

    source: str
    weight: float
    wanted: int
    available: int | None
    taken: int
    repeats: float

    @property
    def note(self) -> str:
        """One sentence for the user when the source is too small; else empty."""
        if self.taken * max(self.repeats, 1.0) < 0.98 * self.wanted:
            return f"source {self.source!r} falls short: {self.taken:,} of {self.wanted:,} bytes"
        if self.repeats > 1.0:
            return f"source {self.source!r} is repeated {self.repeats:.1f} times"
        return ""


@dataclass(frozen=True)
class Mixed:
    """The documents of a mix, each once, and each source's share."""

    documents: list[Document]
    shares: list[Share]


def mix(
    sources: Mapping[str, Iterable[Document]],
    weights: Mapping[str, float],
    *,
    budget: int | None,
    seed: int,
    max_repeats: float = 1.0,
) -> Mixed:
    """Take documents from every source in proportion to its weight.

    Args:
        sources: a sequence is taken in keyed order; any other iterable (a generator of tasks, which may be
            endless) in its own order.
        weights: relative shares of the bytes, above 0, for exactly the sources given.
        budget: bytes of the whole mix; None takes as much as the smallest source allows at these weights.
        seed: key of the order.
        max_repeats: how often a source that is too small may be passed over; 1 lets it fall short.

    Raises:
        DataError: weights and sources do not fit together, or an endless source without a budget.
    """
    if set(weights) != set(sources):
        odd = sorted(set(weights) ^ set(sources))
        raise DataError(f"sources and weights differ in {', '.join(odd)}", fix="give every source one weight")
    if not all(0 < weight < float("inf") for weight in weights.values()):
        raise DataError("a weight must be above 0", fix="leave a source out instead of giving it no weight")
    total_weight = sum(weights.values())
    available = {
        name: sum(document.num_bytes for document in documents)
        for name, documents in sources.items()
        if isinstance(documents, Sequence)
    }
    if budget is None:
        if not available:
            raise DataError("endless sources need a budget of bytes", fix="set one")
        budget = int(min(available[name] * total_weight / weights[name] for name in available))
    documents: list[Document] = []
    shares: list[Share] = []
    for name in sorted(sources):
        wanted = int(budget * weights[name] / total_weight)
        chosen = _take(sources[name], wanted, seed)
        taken = sum(document.num_bytes for document in chosen)
        repeats = min(max_repeats, wanted / taken) if taken else 1.0
        documents += chosen
        shares.append(Share(name, weights[name], wanted, available.get(name), taken, max(1.0, repeats)))
    return Mixed(documents, shares)


def _take(documents: Iterable[Document], wanted: int, seed: int) -> list[Document]:
    """Documents up to the one with which `wanted` bytes are reached."""
    if isinstance(documents, Sequence):
        documents = sorted(documents, key=lambda document: keyed_order(document.id, seed))
    chosen: list[Document] = []
    size = 0
    for document in documents:
        if size >= wanted:
            break
        chosen.append(document)
        size += document.num_bytes
    return chosen


def repeated(documents: Sequence[Document], repeats: float, seed: int) -> list[Document]:
    """`documents` passed over `repeats` times: whole passes, then part of one more in keyed order."""
    passes, part = divmod(repeats, 1.0)
    found = list(documents) * int(passes)
    if part > 0.005:
        found += _take(
            list(documents), int(part * sum(document.num_bytes for document in documents)), seed + 1
        )
    return found
