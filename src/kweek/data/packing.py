"""Which tokens a pretraining step sees: a pure function of seed and step number.

Each source is visited in a keyed permutation, one epoch after another. From a pool of open documents a row
is filled so that as few documents as possible are cut; a long document goes on in a later row, a short one
(a story, whose end means nothing without its beginning) is never continued. Resuming means replaying the
plan to the step at hand, which costs a fraction of a second per million tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kweek.data.batches import Batch, Ids, Segment, collate
from kweek.errors import DataError

POOL = 64  # open documents per source: enough that some document fits nearly every gap
SHORTEST = 8  # gaps of fewer tokens are padded: a shorter piece predicts almost nothing from its context


def keyed_generator(*key: object) -> np.random.Generator:
    """A counter-based generator whose stream depends on the whole key (neighbouring keys share nothing)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class Source:
    """Documents of one kind as token ids without delimiters.

    `weight` is the share of rows. `continues` says whether the rest of a cut document is worth reading.
    """

    name: str
    documents: Sequence[Ids]
    weight: float
    continues: bool = True


class _Stream:
    """The open documents of one source, refilled from its keyed permutation."""

    def __init__(self, source: Source, seed: int, eos_id: int) -> None:
        self.source, self.seed, self.eos_id = source, seed, eos_id
        self.epoch, self.position = -1, 0
        self.order: Ids = np.empty(0, np.int64)
        self.pool: list[Ids] = []

    def _refill(self) -> None:
        while len(self.pool) < POOL:
            if self.position >= len(self.order):
                self.epoch += 1
                generator = keyed_generator("order", self.seed, self.source.name, self.epoch)
                self.order, self.position = generator.permutation(len(self.source.documents)), 0
            document = self.source.documents[int(self.order[self.position])]
            self.position += 1
            self.pool.append(np.concatenate(([self.eos_id], document, [self.eos_id])).astype(np.int64))

    def take(self, space: int, choice: float, *, first: bool) -> Segment | None:
        """The next piece of at most `space` predictions, or None when a gap is better padded."""
        self._refill()
        fitting = [i for i, tokens in enumerate(self.pool) if len(tokens) - 1 <= space]
        if first or not fitting:
            if not first and (space < SHORTEST or not self.source.continues):
                return None
            index = int(choice * len(self.pool))
        else:
            index = max(fitting, key=lambda i: len(self.pool[i]))
        tokens = self.pool.pop(index)
        piece, rest = tokens[: space + 1], tokens[space:]
        if self.source.continues and len(rest) > SHORTEST:
            self.pool.append(rest)
        return Segment(piece[:-1], piece[1:], np.ones(len(piece) - 1, np.float32))


class PackedMix:
    """Batches of a weighted mix with a sequence length that may grow from step to step.

    Args:
        sources: what to read; weights are normalised.
        lengths: the sequence length of every step; `tokens_per_step` stays constant.
        seed: the order of documents and the choice of sources depend on it and on nothing else.
    """

    def __init__(
        self, sources: Sequence[Source], lengths: Sequence[int], tokens_per_step: int, seed: int, eos_id: int
    ) -> None:
        if empty := [source.name for source in sources if not len(source.documents)]:
            raise DataError(
                f"source {empty[0]!r} has no documents", fix="give it documents or remove it from the mix"
            )
        self.sources, self.lengths, self.tokens_per_step = list(sources), lengths, tokens_per_step
        self.seed, self.eos_id = seed, eos_id

    def rows(self) -> Iterator[list[list[Segment]]]:
        """The rows of step 0, 1, 2, …"""
        streams = [_Stream(source, self.seed, self.eos_id) for source in self.sources]
        shares = np.array([source.weight for source in self.sources], np.float64)
        edges = np.cumsum(shares / shares.sum())
        for step, length in enumerate(self.lengths):
            generator = keyed_generator("rows", self.seed, step)
            yield [
                self._row(
                    streams[min(int(np.searchsorted(edges, generator.random())), len(streams) - 1)],
                    length,
                    generator,
                )
                for _ in range(max(1, self.tokens_per_step // length))
            ]

    @staticmethod
    def _row(stream: _Stream, length: int, generator: np.random.Generator) -> list[Segment]:
        row: list[Segment] = []
        space = length
        while space > 0 and (part := stream.take(space, generator.random(), first=not row)):
            row.append(part)
            space -= len(part)
        return row

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from `first_step` on; every token of a batch weighs 1 over the number of tokens in it."""
        for step, rows in enumerate(self.rows()):
            if step < first_step:
                continue
            batch = collate(rows, self.lengths[step])
            yield replace(batch, weights_BT=batch.weights_BT / batch.num_tokens)
