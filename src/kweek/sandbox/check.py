"""What is really enforced here: found out by trying, inside."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from kweek.sandbox import groups, namespaces
from kweek.sandbox.limits import MIB, Limits, SandboxError, Tier
from kweek.sandbox.probes import PROBES
from kweek.sandbox.run import run
from kweek.sandbox.wasm import guest

_STARTS = 5  # the median of so few is steady enough to print two digits of


@dataclass(frozen=True)
class Row:
    """One promise, what keeps it, whether it was kept, and what was seen."""

    what: str
    kept_by: str
    kept: bool
    seen: str


@dataclass(frozen=True)
class Check:
    """A tier on this machine: why it is refused, or how it did.

    Args:
        start_seconds: from the call to the result of a program that does nothing, median.
        notes: what else there is to know of its bounds.
    """

    tier: Tier
    refusal: str | None
    rows: tuple[Row, ...] = ()
    start_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it runs programs and keeps every promise."""
        return self.refusal is None and all(row.kept for row in self.rows)


def check(tier: Tier) -> Check:
    """Try every promise of a tier. Takes some seconds; `wasm` builds its guest first unless it is there."""
    refusal = namespaces.refusal() if tier == "ns" else guest.refusal()
    if refusal is not None:
        return Check(tier, str(refusal))
    rows = []
    for probe in PROBES:
        if tier in probe.kept_by:
            try:
                kept, seen = probe.judge(run(probe.source, limits=probe.limits(), tier=tier))
            except SandboxError as error:
                kept, seen = False, str(error)
            rows.append(Row(probe.what, probe.kept_by[tier], kept, seen))
    return Check(tier, None, tuple(rows), _start_seconds(tier), _notes() if tier == "ns" else ())


def _start_seconds(tier: Tier) -> float:
    took = []
    for _ in range(_STARTS):
        started = time.perf_counter()
        run("", tier=tier)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _notes() -> tuple[str, ...]:
    from kweek.sandbox.ns.kernel import landlock_version  # its import needs Linux

    default = Limits()
    version, above = landlock_version(), groups.parent()
    landlock = (
        f"Landlock {version} is a second fence"
        if version
        else "this kernel has no Landlock as a second fence"
    )
    if above is not None:
        memory = "a control group bounds memory and disk together, kernel buffers included"
    else:
        most = default.processes * default.memory_bytes // MIB
        memory = (
            "no control group is given to this user: between two looks memory may pass its limit by what can be "
            f"filled in that time, and never by the limit times the processes ({most:,} MiB by default)"
        )
    return landlock, memory
