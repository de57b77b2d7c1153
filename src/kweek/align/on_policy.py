"""On-policy distillation: the pupil answers, the teacher says token by token what it would have said instead.

A pupil that learns from its teacher's answers alone never sees where its own mistakes lead; here it learns on the very
prefixes that it comes to (Agarwal et al. 2024, "GKD", arXiv 2306.13649). Rollouts become segments whose sampled tokens
weigh one over their number in the whole update; tools' results and prompts weigh nothing. Then

- with the teacher in this process the objective is `kweek.train.distillation.Distillation`, by default reverse KL over
  the whole vocabulary;
- with a teacher that only scores (a server that returns log-probabilities) the segments also carry what it thinks of
  the sampled tokens, and the objective is `SampledDistillation`. Rollouts must then have been drawn from the pupil's
  own softmax, at temperature 1 and without truncation.

No gradient is taken through the sampling itself, as in GKD. A verifier is not needed; what it said is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kweek.align.rollout import Rollout
from kweek.align.sequences import micro_batches
from kweek.align.sft import ROW_LENGTH
from kweek.data.batches import Batch, Segment, segment
from kweek.errors import DataError, KweekError
from kweek.model.divergence import Measure
from kweek.protocols import LanguageModel
from kweek.train.distillation import TEACHER

#: What the teacher would not say is unlearnt, and a small pupil need not cover all that it would (GKD, figure 4).
REVERSE = Measure(beta=1.0)


def sampled_segments(rollouts: Sequence[Rollout]) -> list[Segment]:
    """One segment per rollout, its sampled tokens weighing one over the number of all sampled tokens.

    Raises:
        DataError: nothing was sampled.
    """
    total = _num_sampled(rollouts)
    return [
        segment(one.token_ids, np.asarray(one.sampled, np.float32) / np.float32(total)) for one in rollouts
    ]


def scored_segments(rollouts: Sequence[Rollout], teacher: LanguageModel) -> list[Segment]:
    """The same with what a teacher thinks of every token, for `SampledDistillation`.

    Raises:
        DataError: nothing was sampled, or from a truncated distribution, whose tokens estimate another divergence.
        KweekError: the teacher cannot score, or gives what is no logarithm.
    """
    total = _num_sampled(rollouts)
    if any(one.kept_mass for one in rollouts):
        raise DataError(
            "rollouts were drawn with top_k, top_p or min_p: their tokens estimate another divergence",
            fix="draw them from the whole softmax, or let the teacher read along in this process",
        )
    segments = []
    for one, said in zip(rollouts, teacher.score([one.token_ids for one in rollouts]), strict=True):
        sampled = np.asarray(one.sampled, np.float32)
        logprobs = np.asarray(said, np.float32)
        if len(logprobs) != len(sampled) or not np.isfinite(logprobs[sampled > 0]).all():
            raise KweekError(
                "the teacher does not give every sampled token a finite log-probability",
                fix="take a teacher of the same vocabulary that scores prompts",
            )
        streams, labels = (
            {TEACHER: logprobs},
            {TEACHER: 1.0},
        )  # the label tells them from text that is replayed
        segments.append(segment(one.token_ids, sampled / np.float32(total), streams, labels))
    return segments


def _num_sampled(rollouts: Sequence[Rollout]) -> int:
    total = sum(one.num_sampled for one in rollouts)
    if total == 0:
        raise DataError("no token of any rollout was sampled by the pupil", fix="let it answer first")
    return total


Sample = Callable[[int], Sequence[Rollout]]  # the rollouts of an update, drawn from the network as it is then


class OnPolicy:
    """Updates on what the pupil says now, for `kweek.train.trainer.fit`: each is sampled when it is asked for.

    Args:
        sample: gives the rollouts of an update; keyed by its number, so that a resumed run sees the same.
        num_steps: updates.
        teacher: scores the sampled tokens, where it cannot read along in the objective.
        replay: further segments of an update, their weights normalised by whoever made them. A teacher in the objective
            reads them too; where it only scores, they have their own likelihood for a loss.

    Attributes:
        flop: of sampling so far; the trainer counts the rest, but for a teacher behind `score`.
        rollouts: those of the last update, for records.
    """

    def __init__(
        self,
        sample: Sample,
        num_steps: int,
        *,
        teacher: LanguageModel | None = None,
        replay: Callable[[int], Sequence[Segment]] | None = None,
    ) -> None:
        self.sample, self.num_steps, self.teacher, self.replay = sample, num_steps, teacher, replay
        self.flop = 0.0
        self.rollouts: Sequence[Rollout] = ()

    def __call__(self, first_step: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of every update from `first_step` on.

        Raises:
            KweekError: see `scored_segments`.
        """
        for step in range(first_step, self.num_steps):
            self.rollouts = self.sample(step)
            self.flop += math.fsum(one.flop for one in self.rollouts)
            segments = (
                sampled_segments(self.rollouts)
                if self.teacher is None
                else scored_segments(self.rollouts, self.teacher)
            )
            segments += self.replay(step) if self.replay else ()
            yield micro_batches([[one] for one in segments], ROW_LENGTH)
