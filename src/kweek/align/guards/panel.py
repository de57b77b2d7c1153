"""The guard against lost abilities: a fixed panel of measures before and after a stage, compared item by item.

The panel knows nothing of models: what it reads comes as callables, so that a stage can put anything into it (see
`kweek.align.guards.abilities` for the usual ones). A loss beyond its tolerance fails when the paired interval says so,
and is a warning while it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kweek.align.guards.guard import Step, Verdict
from kweek.errors import GuardError
from kweek.stats.paired import paired_difference

EVERY = 20  # updates between looks: a panel costs some seconds, and abilities go slowly
CONFIDENCE = 0.99  # several measures and several looks share what may go wrong by chance


@dataclass(frozen=True)
class Measure:
    """One thing that a stage must not cost.

    Attributes:
        name: for the table.
        read: one figure per item, the items always the same and in the same order.
        better: which way is up.
        tolerance: what may be lost, in the measure's own unit.
        weights: of the items, where the figure is a ratio (bytes of documents, for bits per byte).
    """

    name: str
    read: Callable[[], Sequence[float]]
    better: Literal["higher", "lower"]
    tolerance: float
    weights: tuple[float, ...] = ()


#: By measure, the figure of every item; JSON.
Readings = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Change:
    """What happened to one measure: a row of the table of the alignment tax.

    Attributes:
        before, after: means.
        lost, lo, hi: the loss, positive where something was lost, with its paired interval.
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
        """As a record."""
        return asdict(self)


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
        """What was lost between two readings.

        Raises:
            ValueError: a measure is missing, or was read on other items.
        """
        changes = []
        for measure in self.measures:
            was, now = before[measure.name], after[measure.name]
            worse, better = (was, now) if measure.better == "higher" else (now, was)
            weights = measure.weights or None
            found = paired_difference(worse, better, self.confidence, weights)
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


def require_kept(changes: Sequence[Change]) -> None:
    """Raises GuardError where a stage has lost more than may be lost."""
    if failed := [change for change in changes if change.verdict == "fail"]:
        raise GuardError(
            "; ".join(told(change) for change in failed),
            fix="replay earlier material beside the new, lower the learning rate, or raise the tolerance",
        )


class PanelGuard:
    """Reads the panel now and then, and ends a run that has lost too much; keeps the last weights that had not.

    Args:
        panel: what is read.
        every: updates between looks.
    """

    name = "panel"

    def __init__(self, panel: Panel, every: int = EVERY) -> None:
        self.panel, self.every = panel, every
        self._start: dict[str, list[float]] = {}
        self._kept = 0

    def before(self) -> Verdict:
        """See `Guard`."""
        self._start = self._start or self.panel.read()
        return Verdict(keep=self._kept)

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        if step.number % self.every:
            return Verdict(keep=self._kept)
        changes = self.panel.compare(self._start, self.panel.read())
        figures = {change.name: change.lost for change in changes}
        failed = [change for change in changes if change.verdict == "fail"]
        if failed:
            return Verdict("stop", "; ".join(told(change) for change in failed), self._kept, figures)
        if doubtful := [change for change in changes if change.verdict == "warn"]:
            return Verdict("warn", "; ".join(told(change) for change in doubtful), self._kept, figures)
        self._kept = step.number
        return Verdict(keep=self._kept, figures=figures)

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {"start": self._start, "kept": self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._start, self._kept = dict(state["start"]), state["kept"]
