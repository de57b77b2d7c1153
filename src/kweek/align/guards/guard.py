"""The protocol between a loop that trains and the guards that watch it.

The loop calls every guard once before the first update (also where it goes on from a checkpoint: what then costs
something twice is the guard's own business) and after every update. A guard answers with a verdict; what must not even
begin raises GuardError. Guards read, they never change a weight for good. What they remember is JSON, so that a killed
run that goes on judges as one that was never killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kweek.align.rollout import Group


@dataclass(frozen=True)
class Step:
    """What a guard is shown after an update.

    Attributes:
        number: updates done; 0 before the first.
        metrics: figures of this update by name. Guards know `loss` and `gradient_norm` of any run and, of a policy's,
            `reward` (mean), `entropy` (mean surprisal of sampled tokens, nats), `kl` (to the reference, nats per
            answer), `ratio` (largest absolute log of the importance ratio); of a training on pairs, `ranked` (share of
            the update's pairs that the model ranked as labelled) and `pairs` (their number). What is absent was not
            measured.
        groups: the rollouts that were learnt from; none where there are none.
        rewards: parallel to the groups, after all shaping, as the advantages were made from; none means the judge's
            own values (`rollout.score.value`).
    """

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Sequence[Group] = ()
    rewards: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Verdict:
    """What a guard says.

    Attributes:
        kind: `ok`; `warn`, to be shown and recorded; `stop`, end the run now.
        text: one sentence for the user, with the figures that speak for it; empty when ok.
        keep: the step whose weights are the best so far in the guard's eyes. The loop stores the present weights when
            it equals the present step, and on `stop` goes back to those of this step; None leaves the last.
        figures: what was measured, for the records.
        limits: by the same names, what a figure is held against; a report draws them beside it.
    """

    kind: Literal["ok", "warn", "stop"] = "ok"
    text: str = ""
    keep: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)


class Guard(Protocol):
    """Watches a run.

    Attributes:
        name: for records and messages.
    """

    name: str

    def before(self) -> Verdict:
        """Called once before the first update of this process.

        Raises:
            GuardError: the run must not begin.
        """
        ...

    def after(self, step: Step) -> Verdict:
        """Called after every update, in order."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON, for the checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Called, if at all, ahead of `before`."""
        ...
