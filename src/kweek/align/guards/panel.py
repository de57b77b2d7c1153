"""The guard against lost abilities: a fixed panel of measures before and after a stage, compared item by item.

The panel knows nothing of models: what it reads comes as callables, so that a stage can put anything into it (see
`kweek.align.guards.abilities` for the usual ones). A loss beyond its tolerance fails when the paired interval says so,
and is a warning while it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kweek.align.guards.guard import Step, Verdict
from kweek.errors import GuardError
from kweek.stats.paired import Paired, paired_difference

EVERY = 20  # updates between looks: a panel costs some seconds, and abilities go slowly
CONFIDENCE = 0.99  # several measures and several looks share what may go wrong by chance


@dataclass(frozen=True)
class Measure:
    """One thing that a stage must not cost.

    Attributes:
        name: for the table.
        read: one figure per item, the items always the same and in the same order.
        better: which way is up.
        tolerance: what may be lost, in the measure's own unit; infinite where it is told and does not gate.
        weights: of the items, where the figure is a ratio (bytes of documents, for bits per byte).
        key: says which items are read and how, so that a stored reading is only compared with its like.
    """

    name: str
    read: Callable[[], Sequence[float]]
    better: Literal["higher", "lower"]
    tolerance: float
    weights: tuple[float, ...] = ()
    key: str = ""


#: By measure, the figure of every item; JSON.
Readings = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Change:
    """What happened to one measure: a row of the table of the alignment tax.

    Attributes:
        before, after: means.
        lost, lo, hi: the loss, positive where something was lost, with its paired interval; infinite of one item.
        tolerance: what may be lost.
        n: items.
        verdict: `ok`; `warn`, more is lost than may be but chance might have done it; `fail`, it has not.
    """

    name: str
    before: float
    after: float
    lost: float
    lo: float
    hi: float
    tolerance: float
    n: int
    verdict: Literal["ok", "warn", "fail"]

    def row(self) -> dict[str, Any]:
        """As a record: what is infinite is null."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}


class Panel:
    """Some measures.

    Args:
        measures: with names of their own.
        confidence: of the intervals that decide.
    """

    def __init__(self, measures: Sequence[Measure], confidence: float = CONFIDENCE) -> None:
        self.measures, self.confidence = measures, confidence

    def read(self) -> dict[str, list[float]]:
        """All measures of the model as it is now."""
        return {measure.name: [float(value) for value in measure.read()] for measure in self.measures}

    def compare(self, before: Readings, after: Readings) -> list[Change]:
        """What was lost between two readings. An ability that was not read before is new and cannot be lost.

        Raises:
            ValueError: a measure was read on other items.
        """
        changes = []
        for measure in (m for m in self.measures if m.name in before):
            was, now = before[measure.name], after[measure.name]
            worse, better = (was, now) if measure.better == "higher" else (now, was)
            weights = measure.weights or None
            found = _paired(worse, better, self.confidence, weights)
            verdict: Literal["ok", "warn", "fail"] = "ok"
            if found.difference > measure.tolerance:
                verdict = "fail" if found.lo > measure.tolerance else "warn"
            changes.append(
                Change(
                    measure.name, _mean(was, weights), _mean(now, weights), found.difference, found.lo, found.hi,
                    measure.tolerance, found.n, verdict,
                )
            )  # fmt: skip
        return changes


def _paired(
    worse: Sequence[float], better: Sequence[float], confidence: float, weights: Sequence[float] | None
) -> Paired:
    """The difference of two readings; a single item has no spread, so that it can warn and never fail."""
    if len(worse) == len(better) == 1:
        gap = worse[0] - better[0]
        return Paired(gap, -math.inf, math.inf, int(gap > 0), int(gap < 0), 1, 1.0)
    return paired_difference(worse, better, confidence, weights)


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    shares = weights or [1.0] * len(values)
    return sum(v * w for v, w in zip(values, shares, strict=True)) / sum(shares)


def told(change: Change) -> str:
    """A change in words."""
    figures = f"from {change.before:.4g} to {change.after:.4g}"
    return (
        f"{change.name} lost {change.lost:.3g} ({figures}, interval {change.lo:.3g} to {change.hi:.3g}), where"
        f" {change.tolerance:.3g} may be lost"
    )


def failed(changes: Sequence[Change]) -> list[Change]:
    """Those that have lost more than may be lost."""
    return [change for change in changes if change.verdict == "fail"]


def refusal(changes: Sequence[Change]) -> GuardError:
    """The error of a stage that has lost more than may be lost."""
    return GuardError(
        "; ".join(told(change) for change in failed(changes)),
        fix="replay earlier material beside the new, lower the learning rate, or raise the tolerance",
    )


def require_kept(changes: Sequence[Change]) -> None:
    """Raises GuardError where a stage has lost more than may be lost."""
    if failed(changes):
        raise refusal(changes)


class PanelGuard:
    """Reads the panel now and then, and ends a run that has lost too much; keeps the last weights that had not.

    Args:
        panel: what is read.
        every: updates between looks.
        last: number of the last update, after which it looks too; None where nobody knows.
        start: what was read before the first update, where somebody has; otherwise it is read then.

    Attributes:
        latest: the step of the last look of this process, and what was read; None before one.
    """

    name = "panel"

    def __init__(
        self, panel: Panel, every: int = EVERY, *, last: int | None = None, start: Readings | None = None
    ) -> None:
        self.panel, self.every, self.last = panel, every, last
        self.latest: tuple[int, dict[str, list[float]]] | None = None
        self._start: Readings = dict(start or {})
        self._kept = 0

    def before(self) -> Verdict:
        """See `Guard`."""
        self._start = self._start or self.panel.read()
        return Verdict(keep=self._kept)

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        if step.number % self.every and step.number != self.last:
            return Verdict(keep=self._kept)
        self.latest = (step.number, self.panel.read())
        changes = self.panel.compare(self._start, self.latest[1])
        figures = {change.name: change.lost for change in changes}
        limits = {change.name: change.tolerance for change in changes if math.isfinite(change.tolerance)}
        if lost := failed(changes):
            return Verdict("stop", "; ".join(told(change) for change in lost), self._kept, figures, limits)
        if doubtful := [change for change in changes if change.verdict == "warn"]:
            text = "; ".join(told(change) for change in doubtful)
            return Verdict("warn", text, self._kept, figures, limits)
        self._kept = step.number
        return Verdict(keep=self._kept, figures=figures, limits=limits)

    def read_at(self, step: int) -> Readings:
        """The panel of the model as it is now, after that step: not read again where the last look was there."""
        return self.latest[1] if self.latest is not None and self.latest[0] == step else self.panel.read()

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {"start": dict(self._start), "kept": self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._start, self._kept = dict(state["start"]), state["kept"]
