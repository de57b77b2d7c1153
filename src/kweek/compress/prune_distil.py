"""A pruned network learns to predict what the whole one predicts, on the one training loop.

The loss is that of `kweek.train.distillation`: a small teacher knows less than the text says, so the text has a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.data.packing import PackedMix, Source
from kweek.errors import ConfigError
from kweek.model.divergence import Measure
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.train.distillation import Distillation
from kweek.train.objective import Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, fit

_RATES_WIDTH, _RATES_TOKENS = 128, 512  # what the default learning rates are tuned for


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to distil.

    The defaults were measured at 90 thousand parameters; see the log, "Pruning at equal total FLOP".

    Attributes:
        num_tokens: tokens of text to read.
        row_length: tokens per row.
        tokens_per_step: tokens per update.
        rate: of the learning rates of training from nothing (scaled to width and batch).
        text_share: weight of the text's own loss; the divergence has the rest. At 1 the teacher is not read.
        seed: of the order of the text.
    """

    num_tokens: int
    #: what small networks are trained on.
    row_length: int = 256
    #: small batches train best at this size.
    tokens_per_step: int = 512
    #: the network is trained already, and only has to make good what was taken out; 0.25 and 1 measured worse.
    rate: float = 0.5
    #: of 0, 0.3, 0.7 and 1 the best after a tenth of the teacher's FLOP.
    text_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a share of the loss that is none."""
        if not 0 <= self.text_share <= 1:
            raise ConfigError(f"{self.text_share:g} is not a share", where="text_share", fix="give 0 to 1")

    @property
    def num_steps(self) -> int:
        """Updates."""
        return max(1, self.num_tokens // self.tokens_per_step)


class MaskedTrainer(Trainer):
    """A `Trainer` that keeps weights at zero.

    Args:
        masks: by parameter name, false where a weight has to stay zero (2:4 sparsity).
    """

    def __init__(
        self, network: Network, optimiser: SplitOptimiser, objective: Objective, masks: Mapping[str, Tensor]
    ) -> None:
        super().__init__(network, optimiser, objective=objective)
        self.masks = masks

    def step(self, batches: Sequence[Batch], factor: float) -> StepResult:
        """One update, after which the masked weights are zero."""
        result = super().step(batches, factor)
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.network.get_parameter(name).mul_(mask)
        return result


def distil(
    pupil: Network,
    teacher: Network,
    sources: Sequence[Source],
    eos_id: int,
    schedule: Schedule,
    *,
    masks: Mapping[str, Tensor] | None = None,
    state: Path | None = None,
    on_step: Callable[[Trained, StepResult, float], None] | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Trained:
    """Train the pupil, in place, to predict what the teacher predicts. See `kweek.train.trainer.fit` for the rest."""
    by_width = schedule.rate * _RATES_WIDTH / pupil.config.hidden_size
    by_batch = (
        schedule.tokens_per_step / _RATES_TOKENS
    ) ** 0.5  # of all but the embedding, as in pretraining
    optimiser = SplitOptimiser(pupil, LearningRates().scaled(by_width * by_batch, embedding=by_width))
    measure = Measure(text_share=schedule.text_share)
    trainer = MaskedTrainer(pupil, optimiser, Distillation(teacher, measure), masks or {})
    lengths = [schedule.row_length] * schedule.num_steps
    mix = PackedMix(sources, lengths, schedule.tokens_per_step, schedule.seed, eos_id)
    return fit(
        trainer,
        mix.batches,
        schedule.num_steps,
        WarmupStableDecay(schedule.num_steps, decay=1.0),
        state=state,
        on_step=on_step,
        progress=progress,
        should_stop=should_stop,
    )
