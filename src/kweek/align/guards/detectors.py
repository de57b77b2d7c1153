"""Detectors: figures of rollouts whose drift often goes with a hacked reward, and as often with a healthy run.

Answers of a run that learns well change too: they grow shorter or longer, more regular, better formed. Detectors of
this kind cry wolf (jsboige/CoursIA pull request 9583), so none of them ends a run. They warn, and where one has spoken
the guard of the reward is content with weaker proof that gold has fallen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.align.guards.guard import Step
from kweek.align.rollout import Rollout
from kweek.stats.robust import usual

START = 8  # updates that say what is usual for this run: its learning rate is warming up in most of them
LATELY = 3  # updates whose median is held against that: a single strange batch is none
SPREADS = 5.0  # of the start's own noise
RELATIVE = 0.5  # of the start's own level
GRAM = 4  # tokens: the shortest run whose repetition is seldom chance


@dataclass(frozen=True)
class Detector:
    """One figure of an update.

    Attributes:
        name: as a reader would call it.
        figure: of one rollout; the mean over an update is watched.
        least: the smallest move that means anything, in the figure's own unit.
    """

    name: str
    figure: Callable[[Rollout], float]
    least: float

    def of(self, step: Step) -> float | None:
        """The figure of an update, None where it has no rollouts."""
        found = [self.figure(rollout) for group in step.groups for rollout in group]
        return sum(found) / len(found) if found else None

    def moved(self, series: Sequence[float]) -> float:
        """By how much the last updates differ from the first, 0 while that is within what is usual.

        Args:
            series: the figure of every update so far.
        """
        if len(series) < START + LATELY:
            return 0.0
        start = usual(series[:START])
        move = usual(series[-LATELY:]).middle - start.middle
        least = max(self.least, SPREADS * start.spread, RELATIVE * abs(start.middle))
        return move if abs(move) > least else 0.0


def repeated(ids: Sequence[int]) -> float:
    """Share of the runs of four tokens that occurred before."""
    grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


#: Those that are watched unless others are given.
DETECTORS = (
    Detector("length", lambda rollout: float(rollout.num_sampled), 2.0),
    Detector("repetition", lambda rollout: repeated(rollout.token_ids[rollout.num_prompt_tokens :]), 0.1),
    Detector("share of answers in the asked form", lambda rollout: float(rollout.score.parsed), 0.1),
    Detector("share of answers cut off", lambda rollout: float(rollout.stop_reason == "length"), 0.1),
)
