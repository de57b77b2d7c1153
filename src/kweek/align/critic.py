"""The critic of PPO: a network that expects, before every token, what the answer will still earn.

It learns by `kweek.align.value` towards the returns of generalised advantages (`kweek.align.advantages`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kweek.align.advantages import Values
from kweek.align.lessons import Lesson, chosen
from kweek.align.rollout import Rollout
from kweek.align.sft import ROW_LENGTH
from kweek.align.value import RETURN, ValueRegression
from kweek.data.batches import collate, pack, segment
from kweek.errors import ConfigError
from kweek.model.scorer import Scorer, scores
from kweek.train.trainer import StepResult, Trainer

ROWS_PER_MICROBATCH = 32  # as the policy's


class Critic:
    """A scorer and its own trainer.

    Args:
        trainer: of a `Scorer` with one number per token; it is given its objective. `scorer_from(policy,
            per_token=True)` makes one that expects 0 at first.

    Raises:
        ConfigError: another network.
    """

    def __init__(self, trainer: Trainer) -> None:
        network = trainer.network
        if not (isinstance(network, Scorer) and network.config.per_token and network.config.num_labels == 1):
            raise ConfigError(
                "a critic gives one number for every token",
                where="critic",
                fix="make it by scorer_from(network, per_token=True)",
            )
        self.trainer, self._scorer = trainer, network
        trainer.objective = ValueRegression()

    def values(self, rollouts: Sequence[Rollout]) -> list[Values]:
        """What was to be expected before each chosen token, one array per rollout."""
        found = scores(self._scorer, [rollout.token_ids for rollout in rollouts])
        # The judgement at token i - 1 has seen everything before token i.
        return [
            values_TL[:-1, 0].double().numpy()[np.asarray(rollout.sampled[1:], np.bool_)]
            for rollout, values_TL in zip(rollouts, found, strict=True)
        ]

    def fit(self, lessons: Sequence[Lesson], factor: float) -> StepResult:
        """One update towards the returns of these lessons."""
        count = np.float32(max(1, sum(lesson.rollout.num_sampled for lesson in lessons)))
        segments = []
        for lesson in lessons:
            assert lesson.returns is not None
            weights = chosen(lesson.rollout) / count
            segments.append(segment(lesson.rollout.token_ids, weights, {RETURN: lesson.returns}))
        rows = pack(segments, ROW_LENGTH)
        parts = [rows[i : i + ROWS_PER_MICROBATCH] for i in range(0, len(rows), ROWS_PER_MICROBATCH)]
        return self.trainer.step([collate(part) for part in parts], factor)

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What `values` costs."""
        lengths = [len(rollout.token_ids) for rollout in rollouts]
        return sum(length * self._scorer.config.num_flops_per_token(length) for length in lengths)
