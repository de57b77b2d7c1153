"""How much the sentences of a text have to do with a question, by their words: BM25 with the text as its own corpus."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kweek.system.compression.english import EMPTY

#: Robertson & Zaragoza 2009 (The Probabilistic Relevance Framework), section 3.5: usual values of k1 and b.
SATURATION, LENGTH_SHARE = 1.2, 0.75
_FLOP_PER_MATCH = (
    8  # operations of one term in one sentence: its length's share, a division, a product, two sums
)
_RUN = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+")
_DENSE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Scores:
    """One figure for each sentence, larger for what has more to do with the question, and the FLOP that they took
    (nan where nobody knows)."""

    values: list[float]
    flop: float


class Relevance(Protocol):
    """Judges sentences by a question."""

    def __call__(self, question: str, sentences: Sequence[str]) -> Scores: ...


def terms(text: str) -> list[str]:
    """The words that a text may be found by: folded, without endings, parts of identifiers too; no stop words.

    Scripts that write no blanks between words give pairs of letters.
    """
    found: list[str] = []
    for run in _RUN.findall(text):
        if _DENSE.search(run):
            found += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
            continue
        whole = _stem(run.casefold())
        parts = [_stem(part.casefold()) for part in _PART.findall(run)]
        found += [whole, *(part for part in parts if part != whole)]
    return [term for term in found if term not in EMPTY]


def by_words(question: str, sentences: Sequence[str]) -> Scores:
    """BM25 of each sentence for the terms of the question (Robertson & Zaragoza 2009, equation 3.15)."""
    asked = Counter(terms(question))
    counts = [Counter(terms(sentence)) for sentence in sentences]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / max(1, len(lengths)) or 1.0
    values, matches = [0.0] * len(sentences), 0
    for term, weight in asked.items():
        holding = [number for number, count in enumerate(counts) if term in count]
        rarity = math.log(1 + (len(sentences) - len(holding) + 0.5) / (len(holding) + 0.5))
        for number in holding:
            often = counts[number][term]
            longer = 1 - LENGTH_SHARE + LENGTH_SHARE * lengths[number] / mean
            values[number] += weight * rarity * often * (SATURATION + 1) / (often + SATURATION * longer)
        matches += len(holding)
    return Scores(values, float(_FLOP_PER_MATCH * matches))


def _stem(word: str) -> str:
    """A word without the commonest English endings: enough for questions, which bend verbs otherwise than answers."""
    for ending, instead in (
        ("ies", "y"),
        ("sses", "ss"),
        ("ing", ""),
        ("ed", ""),
        ("es", ""),
        ("s", ""),
        ("e", ""),
    ):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            return word[: len(word) - len(ending)] + instead
    return word
