"""The critic of PPO: a network that expects, before every token, what the answer will still earn.

It minimises the mean over the chosen tokens of (V - return)^2, with returns from generalised advantages
(`kweek.align.advantages`). Squared errors are not clipped: clipping them did not help where it was measured
(Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2).

Legend: B rows, T positions, D width, N = B T.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kweek.align.advantages import Values
from kweek.align.lessons import Lesson, chosen
from kweek.align.rollout import Rollout
from kweek.align.sft import ROW_LENGTH
from kweek.data.batches import Batch, collate, pack, segment
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scores
from kweek.train.objective import Loss
from kweek.train.trainer import StepResult, Trainer

ROWS_PER_MICROBATCH = 32  # as the policy's


class SquaredError:
    """An `Objective`: the sum over tokens of share times (V - return)^2, from the streams `share` and `return`."""

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`. `network` is a `Scorer` of every token."""
        value_N = network.logits(hidden_BTD.flatten(0, 1))[:, 0].float()
        error_N = value_N - batch.streams["return"].flatten()
        return Loss(error_N.square() @ batch.streams["share"].flatten())


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
        trainer.objective = SquaredError()

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
            own = chosen(lesson.rollout)
            streams = {"share": own / count, "return": lesson.returns}
            segments.append(segment(lesson.rollout.token_ids, np.zeros_like(own), streams))
        rows = pack(segments, ROW_LENGTH)
        parts = [rows[i : i + ROWS_PER_MICROBATCH] for i in range(0, len(rows), ROWS_PER_MICROBATCH)]
        return self.trainer.step([collate(part) for part in parts], factor)

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What `values` costs."""
        lengths = [len(rollout.token_ids) for rollout in rollouts]
        return sum(length * self._scorer.config.num_flops_per_token(length) for length in lengths)
