"""One batch of rollouts, learnt from: one or several updates, and what they saw.

The trainer stays blind to all of it: a learner writes weights and streams (`kweek.align.lessons`) and gives the trainer
its objective (`kweek.align.surrogate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.lessons import Lesson, policy_segments
from kweek.align.measures import Ratios, logprob_gap, ratios, require_agreement
from kweek.align.policy import Policy
from kweek.align.prepared import Prepared, prepare
from kweek.align.reference import Reference
from kweek.align.rollout import Group
from kweek.align.sampling import Drawing
from kweek.align.sft import ROW_LENGTH
from kweek.align.surrogate import Surrogate, objective_for, weights_suffice
from kweek.data.batches import Batch, Segment, collate, pack
from kweek.data.packing import keyed_generator
from kweek.errors import ConfigError
from kweek.train.trainer import StepResult, Trainer

ROWS_PER_MICROBATCH = 32  # 8k tokens at a time keep activations of a small network in some 100 MB


@dataclass
class Learned:
    """What learning from one batch of rollouts saw.

    Attributes:
        prepared: what came before the updates.
        gap: largest difference of engine and trainer on a sampled token, nats; None where the weights that sampled were
            no longer there to compare with.
        ratios: of all updates.
        steps: results of the updates, in order.
        value_errors: mean squared error of the critic in each.
        flop: of everything.
    """

    prepared: Prepared
    gap: float | None = None
    ratios: Ratios = field(default_factory=Ratios)
    steps: list[StepResult] = field(default_factory=list)
    value_errors: list[float] = field(default_factory=list)
    flop: float = 0.0


class Learner:
    """Turns rollouts into updates of a trainer's network.

    Args:
        trainer: is given the policy's objective.
        policy: the algorithm.
        limit: the most tokens that an episode may take.
        drawing: how the rollouts are drawn; by default as it is differentiated.
        critic: for generalised advantages.
        reference: where the policy charges a divergence, or one is to be measured.
        control: of the divergence's weight; by default that stays as the policy has it.
        epochs: passes over a batch of rollouts.
        minibatches: updates per pass.
        seed: of the order in which minibatches are drawn.

    Raises:
        ConfigError: parts that do not go together.
    """

    def __init__(
        self,
        trainer: Trainer,
        policy: Policy,
        *,
        limit: int,
        drawing: Drawing | None = None,
        critic: Critic | None = None,
        reference: Reference | None = None,
        control: DivergenceControl | None = None,
        epochs: int = 1,  # on policy: nothing to correct
        minibatches: int = 1,  # likewise
        seed: int = 0,
    ) -> None:
        self.trainer, self.policy, self.limit = trainer, policy, limit
        self.drawing = drawing or Drawing()
        self.critic, self.reference, self.epochs, self.minibatches = critic, reference, epochs, minibatches
        self.control = control or DivergenceControl(policy.kl_weight)
        self.seed = seed
        _refuse(self)
        if reference is not None:
            reference.require_same_vocabulary(trainer.network)
        trainer.objective = objective_for(policy, self.drawing.temperature)

    def learn(
        self,
        groups: Sequence[Group],
        *,
        step: int,
        factor: float,
        replay: Sequence[Segment] = (),
        current: bool = True,
    ) -> Learned:
        """Update on groups of rollouts, with supervised `replay` segments beside every update.

        Args:
            step: number of this batch of rollouts; the order of minibatches depends on it.
            factor: of the learning rates.
            current: whether the trainer's weights are those that sampled, so that the two can be compared.

        Raises:
            GuardError: engine and trainer disagree about what was sampled. An update has been made on it; the weights
                before are those of the last checkpoint.
        """
        prepared = self.prepare(groups)
        learned = Learned(prepared, flop=prepared.flop)
        if isinstance(self.trainer.objective, Surrogate):
            self.trainer.objective.kl_weight = self.control.weight
        for part in self._parts(prepared.lessons, step):
            share = len(part) / len(prepared.lessons)
            batches = self.batches(part, replay, num_answers=share * prepared.num_answers)
            result = self.trainer.step(batches, factor)
            if current and not learned.steps:
                learned.gap = logprob_gap(batches, result.nll)
                require_agreement(learned.gap)
            learned.ratios += ratios(batches, result.nll, self.policy)
            learned.steps.append(result)
            learned.flop += result.flop
            if self.critic is not None:
                fitted = self.critic.fit(part, factor)
                learned.value_errors.append(fitted.parts["value_error"])
                learned.flop += fitted.flop
        if prepared.kl is not None:
            self.control.measured(prepared.kl)
        return learned

    def prepare(self, groups: Sequence[Group]) -> Prepared:
        """Rewards and advantages, before any update."""
        return prepare(groups, self.policy, self.limit, self.control.weight, self.reference, self.critic)

    def batches(
        self, lessons: Sequence[Lesson], replay: Sequence[Segment] = (), num_answers: float | None = None
    ) -> list[Batch]:
        """The micro-batches of one update on these lessons, normalised over all of them.

        Args:
            num_answers: of the update, those without a signal among them; by default the lessons are all there is.
        """
        as_weights = weights_suffice(self.policy, self.drawing.temperature)
        segments = policy_segments(
            lessons, self.policy, self.limit, as_weights=as_weights, num_answers=num_answers
        )
        rows = pack([*segments, *replay], ROW_LENGTH)
        parts = (rows[i : i + ROWS_PER_MICROBATCH] for i in range(0, len(rows), ROWS_PER_MICROBATCH))
        return [collate(part) for part in parts]

    def _parts(self, lessons: list[Lesson], step: int) -> Iterator[list[Lesson]]:
        """The lessons of every update."""
        if not lessons:
            return
        if self.minibatches == 1:
            yield from [lessons] * self.epochs
            return
        for epoch in range(self.epochs):
            order = keyed_generator("minibatches", self.seed, step, epoch).permutation(len(lessons))
            for members in np.array_split(order, self.minibatches):
                if len(members):
                    yield [lessons[int(i)] for i in members]


def _refuse(learner: Learner) -> None:
    """Raises ConfigError for parts that do not go together."""
    policy, drawing = learner.policy, learner.drawing
    policy.require_updates(learner.epochs * learner.minibatches)
    valued = policy.advantage == "generalised"
    checks = (
        (valued and learner.critic is None, "critic", "generalised advantages need a critic"),
        (not valued and learner.critic is not None, "critic", "these advantages do not ask a critic"),
        (policy.needs_reference and learner.reference is None, "kl", "a divergence needs a reference model"),
        (
            learner.reference is not None and drawing.temperature != 1,
            "temperature",
            "a divergence is measured between softmaxes at temperature 1",
        ),
        (
            drawing.truncates and policy.truncation == "refuse",
            "truncation",
            "top_k, top_p and min_p sample another distribution than the one that is differentiated",
        ),
        (
            policy.overlong_tokens >= learner.limit,
            "overlong_tokens",
            f"the ramp of the penalty is as long as the longest answer, {learner.limit} tokens",
        ),
    )
    for wrong, key, what in checks:
        if wrong:
            raise ConfigError(what, where=key)
