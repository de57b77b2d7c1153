"""Joining rankings of the same chunks that were made in different ways."""

from __future__ import annotations

from collections.abc import Sequence

#: Of Cormack, Clarke & Büttcher 2009: large enough that no single first place decides.
RRF_CONSTANT = 60


def fuse(rankings: Sequence[Sequence[int]], k: int) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: a chunk's score is the sum of 1 / (60 + rank) over the rankings that hold it.

    >>> fuse([[7, 8], [8, 9]], 2)
    [(8, 0.03252247488101534), (7, 0.01639344262295082)]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk in enumerate(ranking, start=1):
            scores[chunk] = scores.get(chunk, 0.0) + 1 / (RRF_CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: -item[1])[:k]
