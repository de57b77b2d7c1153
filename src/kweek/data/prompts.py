"""Training and validation by what is asked: the same question never on both sides, nor one much like it.

A question's side follows from its hash, so it keeps it whatever else is in the file and under any seed, and all answers
to one question stay together. Questions that are alike but not the same are then looked for between the sides, by
MinHash and verified by true similarity as in `dedup`, and taken out of training.

Legend: N questions, P permutations.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kweek.data.dedup import BANDS, REMOVE_AT, ROWS, U32, jaccard, shingles, signatures
from kweek.errors import DataError

VALIDATION_SHARE = 0.05  # of 2,000 questions a hundred: enough to see a loss turn, few enough to spare
_SLACK = 0.25  # how far an estimate from 96 hashes may lie below the truth: five standard deviations at 0.7


@dataclass(frozen=True)
class Near:
    """A training question that is nearly one of validation: their numbers, and the Jaccard similarity."""

    train: int
    validation: int
    similarity: float


@dataclass(frozen=True)
class Division:
    """Numbers of the questions on either side; those of `near` are on none."""

    train: list[int]
    validation: list[int]
    near: list[Near]


def is_validation(question: str, share: float = VALIDATION_SHARE) -> bool:
    """Whether a question is kept for validation: a function of its words, whatever their case, and of nothing else."""
    words = " ".join(unicodedata.normalize("NFC", question).split()).casefold()
    digest = hashlib.sha256(f"split\x1f{words}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def divide(questions: Sequence[str], share: float = VALIDATION_SHARE) -> Division:
    """The sides of some questions.

    Raises:
        DataError: a side would be empty.
    """
    validation = [i for i, question in enumerate(questions) if is_validation(question, share)]
    kept = set(validation)
    train = [i for i in range(len(questions)) if i not in kept]
    if share > 0 and not validation:
        raise DataError(
            f"none of {len(questions):,} rows falls to validation at a share of {share:g}",
            fix="raise the share, give more rows, or name a validation file",
        )
    found = find_near([questions[i] for i in train], [questions[i] for i in validation])
    near = [Near(train[n.train], validation[n.validation], n.similarity) for n in found]
    gone = {n.train for n in near}
    train = [i for i in train if i not in gone]
    if not train:
        raise DataError(
            f"no row is left to train on ({len(validation):,} for validation, {len(near):,} nearly the same as those)",
            fix="lower the share or give more rows",
        )
    return Division(train, validation, near)


def find_near(train: Sequence[str], validation: Sequence[str]) -> list[Near]:
    """Training questions that are at least `REMOVE_AT` similar to one of validation, each with the most similar."""
    sets, others = shingles(train), shingles(validation)
    ours = [i for i, s in enumerate(sets) if len(s)]
    theirs = [j for j, s in enumerate(others) if len(s)]
    if not ours or not theirs:
        return []
    signature_NP = signatures([sets[i] for i in ours])
    other_NP = signatures([others[j] for j in theirs])
    buckets = [_buckets(other_NP, band) for band in range(BANDS)]
    near = []
    for n, i in enumerate(ours):
        candidates: set[int] = set()
        for band, bucket in enumerate(buckets):
            candidates.update(bucket.get(signature_NP[n, band * ROWS : (band + 1) * ROWS].tobytes(), ()))
        if not candidates:
            continue
        members = np.array(sorted(candidates))
        likely = members[(other_NP[members] == signature_NP[n]).mean(axis=1) >= REMOVE_AT - _SLACK]
        similarity, first = max(
            ((jaccard(sets[i], others[theirs[m]]), -theirs[m]) for m in likely), default=(0.0, 0)
        )
        if similarity >= REMOVE_AT:
            near.append(Near(i, -first, similarity))
    return near


def _buckets(signature_NP: U32, band: int) -> dict[bytes, list[int]]:
    """Rows by the hashes of one band."""
    buckets: dict[bytes, list[int]] = {}
    for n, key in enumerate(np.ascontiguousarray(signature_NP[:, band * ROWS : (band + 1) * ROWS])):
        buckets.setdefault(key.tobytes(), []).append(n)
    return buckets
