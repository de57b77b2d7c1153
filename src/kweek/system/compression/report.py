"""What one use of compression did: tokens, what was kept, what it cost, and from what length on it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kweek.model.config import ModelConfig
from kweek.system.compression.protected import Kind
from kweek.system.compression.spans import Span

Method = Literal["extract", "perplexity"]
MOST_TOKENS = 1 << 24  # no context is longer; what has not paid by then does not pay

Flop = Callable[[float], float]
"""FLOP of reading so many tokens."""


@dataclass(frozen=True)
class Compressed:
    """A text after compression.

    Attributes:
        text: what is left.
        kept: where that stands in the text before, ascending.
        method: how it was chosen; None where the text was left as it is.
        num_tokens_before, num_tokens_after: of the text alone.
        target_ratio: what was asked for; protected spans may prevent it.
        flop: of choosing; nan where nobody knows.
        seconds: of choosing.
        protected: by kind, how many were kept, and how many there were. None is ever kept damaged.
        break_even_tokens: least length of a text from which reading the rest costs the reader fewer FLOP than it saves;
            None where it never does, or where the reader's or the compressor's FLOP are unknown.
        reason: why a text was left as it is.
    """

    text: str
    kept: tuple[Span, ...]
    method: Method | None
    num_tokens_before: int
    num_tokens_after: int
    target_ratio: float
    flop: float = 0.0
    seconds: float = 0.0
    protected: Mapping[Kind, tuple[int, int]] = field(default_factory=dict)
    break_even_tokens: int | None = None
    reason: str = ""

    @property
    def ratio(self) -> float:
        """How many times fewer tokens there are."""
        return self.num_tokens_before / max(1, self.num_tokens_after)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the text, as JSON data, for records and traces; unknown FLOP are None, never 0."""
        return {
            "method": self.method,
            "num_tokens_before": self.num_tokens_before,
            "num_tokens_after": self.num_tokens_after,
            "ratio": self.ratio,
            "target_ratio": self.target_ratio,
            "flop": None if math.isnan(self.flop) else self.flop,
            "seconds": self.seconds,
            "protected": {kind: list(pair) for kind, pair in self.protected.items()},
            "break_even_tokens": self.break_even_tokens,
            "reason": self.reason,
            "kept": [list(span) for span in self.kept],
        }


def unchanged(text: str, num_tokens: int, target_ratio: float, reason: str) -> Compressed:
    """A text that was left as it is."""
    return Compressed(text, (Span(0, len(text)),), None, num_tokens, num_tokens, target_ratio, reason=reason)


def reading(config: ModelConfig) -> Flop:
    """FLOP of reading a prompt with a network of that shape."""
    return lambda num_tokens: num_tokens * config.num_flops_per_token(max(1, round(num_tokens)))


def break_even(compressing: Flop, reader: Flop, ratio: float) -> int | None:
    """The least number of tokens of which compressing costs fewer FLOP than it saves the reader; None if there is none.

    Once it pays it is taken to pay for everything longer: a reader's cost grows faster than its length, a compressor's
    as fast.

    Args:
        compressing: of a text before compression.
        reader: of a prompt.
        ratio: above 1.
    """

    def pays(num_tokens: int) -> bool:
        return reader(num_tokens) - reader(num_tokens / ratio) > compressing(num_tokens)

    high = 1
    while not pays(high):
        high *= 2
        if high > MOST_TOKENS:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def questions_to_cache(ratio: float, cached_share: float = 0.0) -> float:
    """How many questions to one text make it cheaper to keep the whole in the reader's cache than to compress it for
    each of them: 1 + (q - 1) c < q / r gives q.

    Args:
        ratio: r, of compression.
        cached_share: c, what a cached token costs of one that is read anew; 0 in one's own engine, some 0.1 to 0.5
            where tokens are sold.

    Returns:
        The number of questions, or infinity where a cached token costs more than its share of a compressed one.
    """
    return (1 - cached_share) / (1 / ratio - cached_share) if cached_share < 1 / ratio else math.inf
