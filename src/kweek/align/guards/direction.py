"""Which way an update really moves a model: made, looked at, and taken back.

What decides is not the loss but the weights after a real update: whatever turns a sign on the way (in the reward, in
the columns of the data, in an advantage, a loss or an optimiser) turns this direction too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kweek.stats.paired import Paired, paired_difference
from kweek.train.trainer import Trainer

#: Length of the probing step over that of the weights: far below one training update, so that neither a large learning
#: rate nor curvature decides, and far above rounding.
STEP = 1e-3


@dataclass(frozen=True)
class Probe:
    """An update to make, and what it must raise.

    Attributes:
        name: what is updated on what, for messages.
        trainers: those whose weights the update moves.
        update: makes it; called with the moments of the optimisers empty.
        margins: by how much the better answer of each known pair leads: in log-probability, or in reward or value.
        figure: what the margins are called in records.
        own: whether the update is made on the known pairs themselves, so that the margins are bound to rise on average.
            An update on other data may leave them alone, but must not lower them.
        again: whether it says something in the middle of a run too. Where a loss has its optimum at a finite margin,
            margins may rightly fall once they are beyond it; so one that is not `own` is only asked again while the
            run has not raised them.
    """

    name: str
    trainers: Sequence[Trainer]
    update: Callable[[], object]
    margins: Callable[[], Sequence[float]]
    figure: str = "margin"
    own: bool = True
    again: bool = True


@dataclass(frozen=True)
class Direction:
    """What a probe found: mean margins before and after a short step along the update, and their paired change."""

    before: float
    after: float
    change: Paired


def direction(probe: Probe) -> Direction:
    """Make the update, go a short way along it, look, and put everything back.

    Raises:
        ValueError: fewer than two margins.
        KweekError: whatever the update itself refuses.
    """
    before = list(probe.margins())
    with _borrowed(probe.trainers) as saved:
        probe.update()
        with torch.no_grad():
            _shorten(saved)
        after = list(probe.margins())
    change = paired_difference(after, before)
    return Direction(sum(before) / len(before), sum(after) / len(after), change)


def _shorten(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep of every weight's way only so much that the whole is `STEP` of the weights' length."""
    way = sum(float((p - old).square().sum()) for p, old in saved) ** 0.5
    length = sum(float(old.square().sum()) for _, old in saved) ** 0.5
    share = min(1.0, STEP * length / way) if way else 1.0
    for p, old in saved:
        p.copy_(torch.lerp(old, p, share))


@contextmanager
def _borrowed(trainers: Sequence[Trainer]) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
    """Trainers without moments; gives (weight, what it was) and leaves weights, moments and gradients as they were."""
    weights = [(p, p.detach().clone()) for t in trainers for p in t.optimiser.parameters]
    moments = [{name: value.clone() for name, value in t.optimiser.state().items()} for t in trainers]
    try:
        for trainer in trainers:
            trainer.optimiser.load_state({})
        yield weights
    finally:
        with torch.no_grad():
            for p, old in weights:
                p.copy_(old)
                p.grad = None
        for trainer, state in zip(trainers, moments, strict=True):
            trainer.optimiser.load_state(state)
