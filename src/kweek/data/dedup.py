"""Near duplicates: candidates by MinHash, verified by true Jaccard similarity, removed by the star rule.

MinHash with banding (Broder 1997; Leskovec et al., "Mining of Massive Datasets", section 3.4) finds pairs
that may be alike; used alone it removes much that is no duplicate (a third of the removals in our measurement
were below the stated similarity). So every candidate is verified on its shingles, and a document is removed
only if it is itself similar to a longer one that stays: a chain A~B~C does not take C along with B.

Legend: N documents, S shingles of all documents one after another, P permutations.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kweek.data.document import Document
from kweek.protocols import Progress, silent

SHINGLE_WORDS = 5  # long enough that unrelated texts share hardly any
BANDS, ROWS = 24, 4  # finds a pair of similarity 0.7 with probability 0.998; verification removes the excess
REMOVE_AT = 0.7  # the similarity from which a document is a near duplicate
LINK_AT = 0.5  # from here on two documents that both stay must not be divided between training and test
MAX_BUCKET = 64  # a larger bucket is boilerplate: each member is compared with the longest of them only
NUM_ANCHORS = 8

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without blanks: a character is a word
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_BATCH_CHARS = 4 << 20  # documents hashed together: large enough for vectors, small enough for the cache
_BLOCK = 1 << 15  # shingles per vector operation: 256 kB stay in the second-level cache
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15 * (2 * k + 1) & (1 << 64) - 1 for k in range(5)], np.uint64)

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]


class _WordHashes(dict[str, int]):
    """Word to 64-bit hash, the same in every process; computed once per word."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little"
        )
        if len(self) > 1_000_000:
            self.clear()  # a cache, bounded
        self[word] = value
        return value


def shingles(texts: Sequence[str]) -> list[U64]:
    """The set of five-word shingles of every text, as sorted hashes.

    Case, punctuation and white space do not count; letters and digits of all scripts do. A text of one to
    four words has one shingle, one without words none.
    """
    cache = _WordHashes()
    found: list[U64] = []
    start = 0
    while start < len(texts):
        end, size = start, 0
        while end < len(texts) and (size == 0 or size + len(texts[end]) <= _BATCH_CHARS):
            size += len(texts[end])
            end += 1
        found.extend(_shingles(texts[start:end], cache))
        start = end
    return found


def _shingles(texts: Sequence[str], cache: _WordHashes) -> Iterator[U64]:
    """`shingles` of one batch: one vector operation over all words, then one sort per text."""
    padding = [0] * (SHINGLE_WORDS - 1)  # after every text, so that no shingle spans two
    values: list[int] = []
    spans: list[tuple[int, int]] = []
    for text in texts:
        words = _WORD.findall(text.lower())
        count = max(len(words) - SHINGLE_WORDS + 1, 1) if words else 0
        spans.append((len(values), len(values) + count))
        values.extend(map(cache.__getitem__, words))
        values.extend(padding)
    hashes = np.array(values, np.uint64)
    width = max(len(hashes) - SHINGLE_WORDS + 1, 0)
    mixed = np.zeros(width, np.uint64)
    for k in range(SHINGLE_WORDS):
        mixed += hashes[k : k + width] * _MULTIPLIERS[k]
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    for begin, end in spans:
        yield np.unique(mixed[begin:end])


def jaccard(a: U64, b: U64) -> float:
    """Size of the intersection over size of the union of two sorted sets; 0 when both are empty."""
    if not len(a) or not len(b):
        return 0.0
    if len(a) > len(b):
        a, b = b, a
    at = np.searchsorted(b, a)
    at[at == len(b)] = 0
    common = int(np.count_nonzero(b[at] == a))
    return common / (len(a) + len(b) - common)


def signatures(sets: Sequence[U64]) -> U32:
    """MinHash signatures (N, P), uint32, of non-empty sets: the least value of each of P hash functions."""
    rng = np.random.default_rng(0)  # fixed: the functions are part of the method
    num_hashes = BANDS * ROWS
    factors = rng.integers(1 << 63, size=num_hashes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    terms = rng.integers(1 << 63, size=num_hashes, dtype=np.uint64)
    out = np.empty((num_hashes, len(sets)), np.uint32)
    start = 0
    while start < len(sets):
        end, size = start, 0
        while end < len(sets) and (size == 0 or size + len(sets[end]) <= _BLOCK):
            size += len(sets[end])
            end += 1
        block = np.concatenate(sets[start:end])
        offsets = np.cumsum([0, *(len(s) for s in sets[start : end - 1])])
        for p in range(num_hashes):
            high = ((block * factors[p] + terms[p]) >> np.uint64(32)).astype(np.uint32)
            out[p, start:end] = np.minimum.reduceat(high, offsets)
        start = end
    return np.ascontiguousarray(out.T)


def candidate_pairs(signature_NP: U32) -> Pairs:
    """Pairs (i < j) of rows that agree in at least one band, each once, sorted.

    Rows are taken to be in the order of preference: a bucket of over `MAX_BUCKET` gives pairs with its first
    `NUM_ANCHORS` members only, so that boilerplate does not make the work quadratic.
    """
    num_rows = len(signature_NP)
    found: list[Pairs] = []
    for band in range(BANDS):
        rows = np.ascontiguousarray(signature_NP[:, band * ROWS : (band + 1) * ROWS]).view(np.uint64)
        keys = rows[:, 0] * _MULTIPLIERS[0] + (rows[:, 1] ^ (rows[:, 1] >> np.uint64(33))) * _MULTIPLIERS[1]
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        starts = np.concatenate([[0], borders])
        sizes = np.diff(np.concatenate([starts, [num_rows]]))
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            members = order[start : start + size]
            anchors = members if size <= MAX_BUCKET else members[:NUM_ANCHORS]
            left, right = np.meshgrid(anchors, members, indexing="ij")
            keep = left < right
            found.append(np.stack([left[keep], right[keep]], axis=1))
    if not found:
        return np.empty((0, 2), np.int64)
    codes = np.unique(np.concatenate(found) @ np.array([num_rows, 1]))
    return np.stack(np.divmod(codes, num_rows), axis=1)


@dataclass(frozen=True)
class Removal:
    """A document left out, the one kept in its place, and their Jaccard similarity."""

    id: str
    kept_id: str
    similarity: float


@dataclass
class Deduplicated:
    """What remains, in the order given; `links` are pairs of ids of kept documents that are alike."""

    kept: list[Document] = field(default_factory=list)
    removed: list[Removal] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    num_candidates: int = 0


def deduplicate(documents: Sequence[Document], progress: Progress = silent) -> Deduplicated:
    """Remove near duplicates of documents with different ids.

    Longest first (then by id, so that the input's order does not matter), a document stays unless it is at
    least `REMOVE_AT` similar to one that stays already. Links join those that are at least `LINK_AT` similar.
    """
    ranked = sorted(documents, key=lambda document: (-len(document.text), document.id))
    progress(0, 4, "comparing documents")
    sets = shingles([document.text for document in ranked])
    progress(1, 4, "comparing documents")
    filled = np.array([i for i, s in enumerate(sets) if len(s)], np.int64)
    signature_NP = signatures([sets[i] for i in filled])
    progress(2, 4, "comparing documents")
    pairs = candidate_pairs(signature_NP)
    likely = filled[pairs[_estimate(signature_NP, pairs) >= LINK_AT - 0.2]] if len(pairs) else pairs
    progress(3, 4, "comparing documents")
    result = Deduplicated(num_candidates=len(pairs))
    earlier: dict[int, list[int]] = {}
    for i, j in likely.tolist():
        earlier.setdefault(j, []).append(i)
    gone: set[str] = set()
    for j, document in enumerate(ranked):
        similar = [
            (jaccard(sets[i], sets[j]), ranked[i].id) for i in earlier.get(j, ()) if ranked[i].id not in gone
        ]
        best, kept_id = max(similar, default=(0.0, ""))
        if best >= REMOVE_AT:
            gone.add(document.id)
            result.removed.append(Removal(document.id, kept_id, best))
        else:
            result.links.extend((other, document.id) for value, other in similar if value >= LINK_AT)
    result.kept = [document for document in documents if document.id not in gone]
    progress(4, 4, "comparing documents")
    return result


def _estimate(signature_NP: U32, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Estimated similarity of every pair: the share of equal hashes (standard deviation 0.05 at 0.5)."""
    blocks = (pairs[i : i + 8192] for i in range(0, len(pairs), 8192))
    return np.concatenate([(signature_NP[b[:, 0]] == signature_NP[b[:, 1]]).mean(axis=1) for b in blocks])
