"""Whether training holds what an evaluation will ask: overlap in runs of words, said in numbers.

A word of an evaluation item counts as met when a run of `RUN_WORDS` words around it occurs in one training text; an
item is contaminated when more than half of its words are met in the same text (Lambert et al. 2024, "Tulu 3",
arXiv 2411.15124, section 3.2). An item of fewer words than a run must be the whole text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RUN_WORDS = 8  # long enough that unrelated texts hardly share one, short enough to see through small changes
MOST_MET = 0.5  # the share of words from which on an item counts as known
NUM_EXAMPLES = 20  # hits named; the counts are of all

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Hit:
    """A training text that holds an evaluation item: their numbers, and the share of the item's words in it."""

    text: int
    item: int
    share: float


@dataclass
class Contamination:
    """What a comparison found.

    Attributes:
        num_texts, num_items: what was compared.
        texts: numbers of the training texts that hold an item.
        items: numbers of the items that some text holds, with the largest share.
        examples: the first hits.
    """

    num_texts: int = 0
    num_items: int = 0
    texts: list[int] = field(default_factory=list)
    items: dict[int, float] = field(default_factory=dict)
    examples: list[Hit] = field(default_factory=list)

    def said(self) -> str:
        """The counts in words."""
        share = len(self.items) / self.num_items if self.num_items else 0.0
        return (
            f"{len(self.items):,} of {self.num_items:,} evaluation items ({share:.1%}) are in training, "
            f"in {len(self.texts):,} of {self.num_texts:,} texts"
        )


def contamination(texts: Iterable[str], items: Sequence[str]) -> Contamination:
    """Look for evaluation items in training texts.

    Args:
        texts: of training, read once; a prompt each, or a whole chat.
        items: what the evaluation asks. Memory goes by their words, not by those of the texts.
    """
    found = Contamination(num_items=len(items))
    lengths, runs = _index(items)
    for number, text in enumerate(texts):
        found.num_texts += 1
        met: dict[int, set[int]] = {}
        words = _WORD.findall(text.casefold())
        for start in range(max(1, len(words) - RUN_WORDS + 1)):
            run = words[start : start + RUN_WORDS]
            for item, at in runs.get(_key(run), ()):
                met.setdefault(item, set()).update(range(at, at + len(run)))
        hits = [(item, len(places) / lengths[item]) for item, places in met.items()]
        hits = [(item, share) for item, share in hits if share > MOST_MET]
        if hits:
            found.texts.append(number)
        for item, share in hits:
            found.items[item] = max(share, found.items.get(item, 0.0))
            if len(found.examples) < NUM_EXAMPLES:
                found.examples.append(Hit(number, item, share))
    return found


def _index(items: Sequence[str]) -> tuple[dict[int, int], dict[bytes, list[tuple[int, int]]]]:
    """The number of words of every item, and where each run of words stands: (item, first word)."""
    lengths: dict[int, int] = {}
    runs: dict[bytes, list[tuple[int, int]]] = {}
    for item, text in enumerate(items):
        words = _WORD.findall(text.casefold())
        if not words:
            continue
        lengths[item] = len(words)
        for start in range(max(1, len(words) - RUN_WORDS + 1)):
            runs.setdefault(_key(words[start : start + RUN_WORDS]), []).append((item, start))
    return lengths, runs


def _key(words: Sequence[str]) -> bytes:
    """A short name of a run of words; runs of different words have different names for all practical purposes."""
    return hashlib.blake2b("\x1f".join(words).encode("utf-8", "replace"), digest_size=8).digest()
