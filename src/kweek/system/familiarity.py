"""Is a question of the kind the model was taught?

A small model answers anything, and outside what it was taught it answers nonsense with the same confidence.
How much a question surprises the model, in bits per byte, tells: questions of the kind it was taught on lie in
a narrow band, others far above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.protocols import LanguageModel
from kweek.tokenize.tokenizer import Tokenizer

MARGIN = 1.15  # a question may surprise a little more than the most surprising known one


def surprise(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    """Bits per byte of each text, read from its beginning."""
    scored = model.score([[tokenizer.eos_id, *tokenizer.encode(text)] for text in texts])
    return [
        -sum(logprobs) / math.log(2) / max(1, len(text.encode()))
        for logprobs, text in zip(scored, texts, strict=True)
    ]


@dataclass(frozen=True)
class Familiarity:
    """What is familiar: phrases that were taught, whatever their numbers, and a limit of surprise for all else."""

    limit: float
    phrases: frozenset[str]

    @classmethod
    def of(
        cls, model: LanguageModel, tokenizer: Tokenizer, known: Sequence[str], phrases: Sequence[str]
    ) -> Familiarity:
        """Calibrate on held-out questions of the kind that was taught."""
        values = surprise(model, tokenizer, known)
        return cls(MARGIN * max(values), frozenset(_plain(phrase) for phrase in phrases))

    def outside(self, model: LanguageModel, tokenizer: Tokenizer, text: str) -> float | None:
        """How surprising the text is, in multiples of the limit, when it lies outside; else None."""
        if _plain(text) in self.phrases:
            return None
        value = surprise(model, tokenizer, [text])[0]
        return value / self.limit if value > self.limit else None


def _plain(text: str) -> str:
    """Letters and numbers only, every number alike: "What is 12+7?" is the phrase "what is 0"."""
    letters = "".join(c for c in text.lower() if c.isalnum() or c.isspace()).strip()
    return re.sub(r"\d+", "0", letters)
