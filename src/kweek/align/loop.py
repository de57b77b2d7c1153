"""The loop of reinforcement: sample, judge, annotate, update; checked at every step, watched by guards, resumable.

Everything that is random is keyed by what it is for (the batch's number, the item, the attempt), so a checkpoint holds
weights, optimisers, curriculum, the divergence's weight, counts and what guards remember, and a killed run that goes on
ends in the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kweek.align.collecting import Collected, Course
from kweek.align.curriculum import Curriculum
from kweek.align.guards.guard import Guard, Step, Verdict
from kweek.align.keeping import Keeper
from kweek.align.learner import Learner
from kweek.align.metrics import Metrics, measure
from kweek.align.sources import Source
from kweek.data.batches import Segment
from kweek.errors import GuardError, Interrupted
from kweek.protocols import ShouldStop, never
from kweek.train.trainer import CHECKPOINT_SECONDS, Trained

MAX_FAULTS = 0.01  # share of attempts whose judge may fail: more, and what is left is no fair sample
FEWEST = 100  # attempts before that share means anything


OnStep = Callable[[Trained, Metrics, Collected], None]
OnVerdict = Callable[[str, int, Verdict], None]  # guard's name, batches learnt from, verdict
Replay = Callable[[int], Sequence[Segment]]


@dataclass
class Counts:
    """Attempts judged, and those whose judge failed."""

    judged: int = 0
    faults: int = 0

    def add(self, batch: Collected) -> None:
        """Raises GuardError where too many judgements have failed: they are never taken for a reward of 0."""
        attempts = sum(len(group) for group in batch.all_groups) + len(batch.faults)
        self.judged, self.faults = self.judged + attempts, self.faults + len(batch.faults)
        if self.faults > MAX_FAULTS * max(self.judged, FEWEST):
            raise GuardError(
                f"the judge failed on {self.faults} of {self.judged} attempts, the last time: {batch.faults[-1]}"
                if batch.faults
                else f"the judge failed on {self.faults} of {self.judged} attempts",
                fix="mend it: training on the rest would teach whatever makes it fail",
            )


@dataclass(frozen=True)
class Finished:
    """How a run of reinforcement ended.

    Attributes:
        totals: batches learnt from, new tokens sampled, FLOP of everything.
        stopped: why it ended before its last step, empty where it did not.
        kept: number of batches that the weights have learnt from; fewer than the totals say where a guard went back.
    """

    totals: Trained
    stopped: str
    kept: int


def nothing(step: int) -> Sequence[Segment]:
    """A `Replay` of nothing."""
    return ()


@dataclass
class Loop:
    """One run.

    Attributes:
        learner: what learns.
        source: where rollouts come from.
        course: how many.
        state: folder of checkpoints, which nobody else writes to; None keeps nothing.
        guards: watch every step; see `kweek.align.guards`.
        replay: supervised segments beside the updates of a step.
        on_step: told the running totals, the figures and the rollouts of every step, before guards are asked.
        on_verdict: told what a guard says that is not ok, or that it has measured.
    """

    learner: Learner
    source: Source
    course: Course
    state: Path | None = None
    guards: Sequence[Guard] = ()
    replay: Replay = nothing
    on_step: OnStep | None = None
    on_verdict: OnVerdict | None = None
    should_stop: ShouldStop = never
    totals: Trained = field(default_factory=Trained)

    def __post_init__(self) -> None:
        self.course.require_sense(self.learner.policy)
        self._keeper = Keeper(self.learner, self.state)
        self._curriculum, self._counts = Curriculum(), Counts()

    def run(self) -> Finished:
        """Go on from the last checkpoint to the last step.

        Raises:
            Interrupted: asked to stop; a checkpoint has been written.
            GuardError: a guard refuses to begin, engine and trainer disagree, judges fail too often, or a loss is not a
                number.
        """
        self._restore()
        try:
            for guard in self.guards:
                verdict = self._begun(guard)
                if self._heard(guard, verdict):
                    return Finished(self.totals, f"{guard.name}: {verdict.text}", self.totals.step)
            return self._steps()
        finally:
            self.source.close()

    def _steps(self) -> Finished:
        saved = time.monotonic()
        while self.totals.step < self.course.steps:
            if self.should_stop():
                self._save()
                raise Interrupted
            metrics, batch, rewards = self._one()
            if self.on_step is not None:
                self.on_step(self.totals, metrics, batch)
            if (ended := self._watched(metrics, batch, rewards)) is not None:
                return ended
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        return Finished(self.totals, "", self.totals.step)

    def _one(self) -> tuple[Metrics, Collected, list[list[float]]]:
        """One batch of rollouts, learnt from."""
        step = self.totals.step
        batch = self.source.take(step)
        self._counts.add(batch)
        started = time.monotonic()
        weight = self.learner.control.weight
        learned = self.learner.learn(
            batch.groups,
            step=step,
            factor=min(1.0, (step + 1) / max(1, self.course.warmup)),
            replay=self.replay(step),
            current=batch.version == step,
        )
        self._curriculum = self._curriculum.after(batch.all_groups)
        self.source.publish(step + 1, self._curriculum)
        metrics = measure(batch, learned, weight, time.monotonic() - started)
        tokens = sum(len(r.token_ids) - r.num_prompt_tokens for group in batch.all_groups for r in group)
        self.totals = Trained(step + 1, self.totals.num_tokens + tokens, self.totals.flop + metrics.flop)
        return metrics, batch, learned.prepared.rewards

    def _watched(self, metrics: Metrics, batch: Collected, rewards: list[list[float]]) -> Finished | None:
        """Ask the guards, and the budget of the divergence; how the run ended, if it did."""
        number = self.totals.step
        shown = Step(number, metrics.numbers(), batch.groups, rewards)
        stopped: list[tuple[str, int | None]] = []
        for guard in self.guards:
            verdict = guard.after(shown)
            if self._heard(guard, verdict):
                stopped.append((f"{guard.name}: {verdict.text}", verdict.keep))
        if metrics.kl is not None and self.learner.control.spent(metrics.kl):
            stopped.append((f"the divergence of {metrics.kl:.3g} nats per answer is over its budget", None))
        if not stopped:
            return None
        why, keep = stopped[0]
        return Finished(self.totals, why, number if keep is None else self._keeper.go_back(keep, number))

    def _begun(self, guard: Guard) -> Verdict:
        """What a guard says before the first update; a refusal is passed on as well.

        Where a run goes on only that counts: what is told must not depend on where it was killed.
        """
        try:
            verdict = guard.before()
        except GuardError as error:
            if self.on_verdict is not None:
                self.on_verdict(guard.name, self.totals.step, Verdict("stop", str(error)))
            raise
        return Verdict(keep=verdict.keep) if self.totals.step and verdict.kind != "stop" else verdict

    def _heard(self, guard: Guard, verdict: Verdict) -> bool:
        """Keep what it wants kept, and pass it on; whether it ends the run."""
        if verdict.keep is not None:
            self._keeper.keep(guard.name, verdict.keep, self.totals.step)
        if self.on_verdict is not None and (verdict.kind != "ok" or verdict.figures):
            self.on_verdict(guard.name, self.totals.step, verdict)
        return verdict.kind == "stop"

    def _save(self) -> None:
        about: dict[str, Any] = {
            "curriculum": self._curriculum.state(),
            "counts": [self._counts.judged, self._counts.faults],
            "kl_weight": self.learner.control.weight,
            "guards": {guard.name: guard.state() for guard in self.guards},
            "source": self.source.state(),
        }
        self._keeper.save(self.totals, about, self.source.tensors())

    def _restore(self) -> None:
        found = self._keeper.load()
        if found is None:
            self.source.begin(0, self._curriculum, {}, {})
            return
        self.totals, about, tensors = found
        self._curriculum = Curriculum.restore(about["curriculum"])
        self._counts = Counts(*about["counts"])
        self.learner.control.weight = about["kl_weight"]
        for guard in self.guards:
            if guard.name in about["guards"]:
                guard.restore(about["guards"][guard.name])
        self.source.begin(self.totals.step, self._curriculum, about["source"], tensors)
