"""What a piece of work has cost: arithmetic, tokens, time, money. Costs add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from kweek.compute.flops import format_flop


@dataclass(frozen=True)
class Cost:
    """Costs of one call or of many.

    Attributes:
        flop: operations that are known.
        num_unknown: calls whose FLOP nobody knows, such as those of a remote model of unknown size.
        tokens_in: of prompts, texts that were only scored among them.
        tokens_cached: those of them that had been computed before.
        tokens_out: new tokens, what tools force into a generation among them.
        seconds: summed over calls, also those that ran side by side.
        tool_cpu_seconds: processor time of tools.
        money: in the currency of the prices.
    """

    flop: float = 0.0
    num_unknown: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    tool_cpu_seconds: float = 0.0
    money: float = 0.0

    @property
    def tokens(self) -> int:
        """Read and written together."""
        return self.tokens_in + self.tokens_out

    @property
    def flop_said(self) -> str:
        """The FLOP in words; what is unknown is said and never taken for nothing.

        >>> Cost(2e9, num_unknown=1).flop_said, Cost(num_unknown=2).flop_said
        ('2.0e9 FLOP and 1 call of unknown FLOP', 'unknown FLOP (2 calls)')
        """
        if not self.num_unknown:
            return format_flop(self.flop)
        calls = f"{self.num_unknown} call{'s' if self.num_unknown > 1 else ''}"
        if not self.flop:
            return f"{format_flop(math.nan)} ({calls})"
        return f"{format_flop(self.flop)} and {calls} of unknown FLOP"

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def to_dict(self) -> dict[str, Any]:
        """What is not 0, as JSON data."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        """The cost that `to_dict` described."""
        return cls(**data)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return sum(costs, start=Cost())
