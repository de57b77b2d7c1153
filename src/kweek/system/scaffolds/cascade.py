"""Cascade: a small model first, the larger one where the small one's doubt is too large (Chen et al. 2023,
arXiv 2305.05176). Doubt is calibrated on answers that were judged: it means how often such answers are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kweek.errors import DataError
from kweek.stats.intervals import wilson
from kweek.system.context import Context, Scaffold
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.direct import direct
from kweek.system.scaffolds.votes import self_consistency
from kweek.system.task import Answer, Task

SMALL, LARGE = "small", "core"
FEWEST = 20  # judged answers: with fewer, an interval of a share is wider than any doubt


@dataclass(frozen=True)
class Calibration:
    """How often answers of a confidence are right: a rising staircase (isotonic regression, Zadrozny and Elkan 2002).

    Attributes:
        confidences: left ends of the stairs, rising.
        right: share of right answers on each.
    """

    confidences: tuple[float, ...]
    right: tuple[float, ...]

    @classmethod
    def of(cls, confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
        """From judged answers. Raises DataError for fewer than twenty."""
        if len(confidences) != len(right) or len(right) < FEWEST:
            raise DataError(
                f"{len(right)} judged answers are too few to calibrate doubt", fix=f"give at least {FEWEST}"
            )
        order = np.argsort(confidences, kind="stable")
        stairs: list[list[float]] = []  # left end, sum of right, count
        for place in order:
            confidence, value = float(confidences[place]), float(right[place])
            if stairs and stairs[-1][0] == confidence:
                stairs[-1][1] += value
                stairs[-1][2] += 1
            else:
                stairs.append([confidence, value, 1.0])
            while len(stairs) > 1 and stairs[-2][1] / stairs[-2][2] >= stairs[-1][1] / stairs[-1][2]:
                _, total, count = stairs.pop()
                stairs[-1][1] += total
                stairs[-1][2] += count
        return cls(tuple(one[0] for one in stairs), tuple(one[1] / one[2] for one in stairs))

    def __call__(self, confidence: float) -> float:
        """The share of right answers among those of this confidence; below all known that of the lowest."""
        place = int(np.searchsorted(self.confidences, confidence, side="right")) - 1
        return self.right[max(0, place)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"confidences": list(self.confidences), "right": list(self.right)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` described."""
        return cls(tuple(data["confidences"]), tuple(data["right"]))


def threshold(confidences: Sequence[float], right: Sequence[bool], wanted: float) -> float | None:
    """The lowest confidence from which on answers are right with the share `wanted`: the lower end of its 95% interval.

    None where no confidence is enough. Of the judged answers it is chosen on; report its accuracy on others.
    """
    found = None
    for limit in sorted(set(confidences), reverse=True):
        kept = [ok for value, ok in zip(confidences, right, strict=True) if value >= limit]
        if wilson(sum(kept), len(kept)).lo >= wanted:
            found = limit
    return found


def cascade(
    context: Context,
    task: Task,
    *,
    first: Scaffold | None = None,
    then: Scaffold | None = None,
    calibration: Calibration | None = None,
    accept: float = 0.8,
) -> Answer:
    """The small model's answer where it is probably right, else that of the larger one.

    Args:
        context, task: as for every scaffold.
        first: gives an answer with a confidence; None takes four votes of the small model, which tell agreement from
            doubt.
        then: asked where that is not enough; None takes one answer of the larger model.
        calibration: what a confidence means; None takes it at its word.
        accept: the least probability of being right; 0.8 lets one in five of the doubtful through.
    """
    first = first or partial(self_consistency, n=4, way=Way(role=SMALL))
    then = then or partial(direct, way=Way(role=LARGE, temperature=0.0))
    answer = first(context.branch("first"), task)
    said = answer.confidence or 0.0
    probability = said if calibration is None else calibration(said)
    data = {"confidence": said, "probability": probability, "passed_on": probability < accept}
    if probability >= accept:
        return replace(answer, confidence=probability, data={**answer.data, **data})
    context.offer(replace(answer, finished=False))
    last = then(context.branch("then"), task)
    return replace(last, data={**last.data, **data, "first": answer.text})
