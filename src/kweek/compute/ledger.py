"""The ledger: what work cost in FLOP by kind and precision, tokens, seconds, CPU seconds and joules."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

from kweek.compute.energy import WATTS_PER_BUSY_CORE, EnergyMeter
from kweek.compute.flops import Precision, standardised

JoulesSource = Literal["measured", "estimated"]


class Ledger:
    """Costs that add up. Kinds are the caller's words: "pretrain", "sample", "judge"."""

    def __init__(self) -> None:
        self.flop: dict[str, dict[Precision, float]] = {}
        self.tokens = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.joules = 0.0
        self.joules_source: JoulesSource = "measured"  # until something estimated is added

    def add(self, kind: str, flop: float, precision: Precision, tokens: int = 0) -> None:
        """Count `flop` operations of one kind and precision, and the tokens that they were spent on."""
        by_precision = self.flop.setdefault(kind, {})
        by_precision[precision] = by_precision.get(precision, 0.0) + float(flop)
        self.tokens += tokens

    @contextmanager
    def time(self) -> Iterator[Ledger]:
        """Add the seconds, CPU seconds and joules of the block, those of finished child processes included.

        Blocks do not nest: the inner one would be counted twice.
        """
        meter, started, cpu_started = EnergyMeter(), time.perf_counter(), _cpu_seconds()
        try:
            yield self
        finally:
            cpu_seconds = _cpu_seconds() - cpu_started
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += cpu_seconds
            joules = meter.joules(cpu_seconds)
            if joules is None:
                joules, self.joules_source = cpu_seconds * WATTS_PER_BUSY_CORE, "estimated"
            self.joules += joules

    @property
    def flop_total(self) -> float:
        """All operations, whatever their precision."""
        return sum(sum(by_precision.values()) for by_precision in self.flop.values())

    @property
    def flop_standardised(self) -> float:
        """All operations in 16-bit equivalents."""
        return sum(standardised(x, precision) for kind in self.flop.values() for precision, x in kind.items())

    def merge(self, other: Ledger) -> None:
        """Add all of another ledger's costs; seconds add up too, also those of work done side by side."""
        for kind, by_precision in other.flop.items():
            for precision, flop in by_precision.items():
                self.add(kind, flop, precision)
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.joules += other.joules
        if other.joules_source == "estimated":
            self.joules_source = "estimated"

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON data, with the two totals."""
        return {
            "flop": {kind: dict(by_precision) for kind, by_precision in self.flop.items()},
            "flop_total": self.flop_total,
            "flop_standardised": self.flop_standardised,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "joules": self.joules,
            "joules_source": self.joules_source,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_dict` described."""
        ledger = cls()
        for kind, by_precision in data["flop"].items():
            for precision, flop in by_precision.items():
                ledger.add(kind, flop, cast(Precision, precision))
        ledger.tokens = int(data["tokens"])
        ledger.seconds, ledger.cpu_seconds = float(data["seconds"]), float(data["cpu_seconds"])
        ledger.joules, ledger.joules_source = float(data["joules"]), data["joules_source"]
        return ledger


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
