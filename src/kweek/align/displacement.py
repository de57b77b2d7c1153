"""A guard for the known failure of preference pairs: chosen answers become less likely together with the rejected ones.

The margin of a pair also grows when its chosen answer falls, only more slowly than the rejected one. What gains then is
something that stands in no pair, and nobody has judged it. It is the most reported surprise of DPO (huggingface/trl
issue 800; Razin et al. 2024, arXiv 2410.08847) and no figure of a training run shows it but this one: loss, margin and
share of pairs ranked rightly all look well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kweek.align.guards.guard import Step, Verdict

#: Updates that are averaged: pairs differ more among each other than one update changes them.
WINDOW = 16
#: Nats per token that chosen answers may lose: at 0.1 every tenth token of them that was generated no longer is.
TOLERANCE = 0.1


class Displacement:
    """Warns, once, when the chosen answers have lost likelihood on the mean of the last updates while the margin grew.

    It needs pairs with a reference, whose parts `chosen_gain`, `rejected_gain`, `chosen_length` and `margin` a loop
    passes on as metrics.

    Args:
        window: updates that are averaged.
        tolerance: nats per token that the chosen answers may lose.
    """

    name = "displacement"

    def __init__(self, window: int = WINDOW, tolerance: float = TOLERANCE) -> None:
        self.window, self.tolerance = window, tolerance
        self._seen: list[dict[str, float]] = []
        self._said = False

    def before(self) -> Verdict:
        """See `Guard`: there is nothing to see yet."""
        return Verdict()

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        names = ("chosen_gain", "rejected_gain", "chosen_length", "margin")
        if not all(name in step.metrics for name in names):
            return Verdict()
        self._seen = [*self._seen, {name: step.metrics[name] for name in names}][-self.window :]
        mean = {name: sum(row[name] for row in self._seen) / len(self._seen) for name in names}
        lost = -mean["chosen_gain"] / max(mean["chosen_length"], 1.0)
        figures = {"chosen_lost_per_token": lost}
        if self._said or len(self._seen) < self.window or lost <= self.tolerance or mean["margin"] <= 0:
            return Verdict(figures=figures)
        self._said = True
        text = (
            f"chosen answers have become {-mean['chosen_gain']:.2f} nats less likely than at the start"
            f" ({lost:.2f} per token), rejected ones {-mean['rejected_gain']:.2f}: the margin grows because both fall;"
            " lower the learning rate, raise beta, or anchor the chosen answers by their own likelihood"
        )
        return Verdict("warn", text, figures=figures)

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {"seen": self._seen, "said": self._said}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._seen, self._said = [dict(row) for row in state["seen"]], bool(state["said"])
