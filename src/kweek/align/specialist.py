"""Making a specialist: an adapter beside a frozen network, trained on the exercises of a domain.

What one update reads is a few whole examples, packed into rows. Small batches, because the number of updates decides,
as it does for the chats of `kweek.align.sft`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kweek.data.batches import Batch, Segment, collate, pack
from kweek.data.packing import keyed_generator
from kweek.errors import GuardError
from kweek.model.adapter import AdapterConfig, attach
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.train.objective import Imitation
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, fit

LOOKED_AT = 8  # updates that an estimate of their cost is made of: within some percent
OnStep = Callable[[Trained, StepResult, float], None]


@dataclass(frozen=True)
class Schooling:
    """How a specialist learns.

    Attributes:
        rank: of the adapter; alpha is twice that.
        learning_rate: peak, of A and B.
        batch_size: examples per update.
        row_length: tokens that examples are packed into.
        warmup, decay: shares of the updates.
        compute_dtype: what the products are in; A, B, their moments and the frozen weights stay fp32.
    """

    rank: int = 16
    learning_rate: float = 1e-3
    batch_size: int = 8
    row_length: int = 256
    warmup: float = 0.05
    decay: float = 0.7
    compute_dtype: torch.dtype = torch.float32


class Drill:
    """The micro-batches of every update: `batch_size` examples in keyed order, epoch after epoch.

    A pure function of seed and step; weights are divided by their sum over the update.

    Raises:
        GuardError: examples without any token to learn.
    """

    def __init__(self, segments: Sequence[Segment], schooling: Schooling, seed: int) -> None:
        if not segments or not all(part.weights.any() for part in segments):
            raise GuardError("an example has no token to learn", fix="check that the answers are not empty")
        self.segments, self.seed = segments, seed
        self.batch_size, self.row_length = min(schooling.batch_size, len(segments)), schooling.row_length

    @property
    def steps_per_epoch(self) -> int:
        """Updates in which every example is read once, but for a last incomplete batch."""
        return len(self.segments) // self.batch_size

    def flop_per_step(self, network: Network) -> float:
        """Mean FLOP of an update of a network with its adapter, by the first few updates."""
        total = 0.0
        for batch in itertools.islice(self(), LOOKED_AT):
            num_rows, length = batch.ids_BT.shape
            total += num_rows * length * network.num_flops_per_token(length, backward=True)
            total -= Imitation().num_flops_spared(network, batch)
        return total / LOOKED_AT

    def __call__(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end."""
        step = first_step
        while True:
            epoch, place = divmod(step, self.steps_per_epoch)
            order = keyed_generator("drill", self.seed, epoch).permutation(len(self.segments))
            while place < self.steps_per_epoch:
                chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
                yield self._batch([self.segments[int(number)] for number in chosen])
                place, step = place + 1, step + 1

    def _batch(self, parts: Sequence[Segment]) -> Batch:
        total = np.float32(sum(float(part.weights.sum()) for part in parts))
        return collate(pack([replace(part, weights=part.weights / total) for part in parts], self.row_length))


def prepare(network: Network, schooling: Schooling, seed: int) -> None:
    """Freeze a network and put a fresh adapter on it, in place.

    Args:
        seed: of the adapter's first values.

    Raises:
        ConfigError: it has an adapter.
    """
    config = AdapterConfig(schooling.rank, 2.0 * schooling.rank)
    attach(network, config, torch.Generator().manual_seed(seed))


def school(
    network: Network,
    drill: Drill,
    schooling: Schooling,
    num_steps: int,
    *,
    state: Path | None = None,
    on_step: OnStep | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Trained:
    """Train the adapter of a network, in place.

    Args:
        network: in fp32, with an adapter.
        drill: what is read.
        num_steps: updates.
        state, on_step, progress, should_stop: see `kweek.train.trainer.fit`.

    Raises:
        Interrupted: asked to stop; `state` holds what is needed to go on.
    """
    trainer = trainer_of(network, schooling)
    schedule = WarmupStableDecay(num_steps, schooling.warmup, schooling.decay)
    totals = fit(
        trainer, drill, num_steps, schedule, state=state, on_step=on_step, progress=progress, should_stop=should_stop
    )  # fmt: skip
    if state is not None:
        trainer.save(state, totals)
    return totals


def trainer_of(network: Network, schooling: Schooling) -> Trainer:
    """What updates the adapter."""
    rate = schooling.learning_rate
    return Trainer(
        network,
        SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0),
        compute_dtype=schooling.compute_dtype,
        objective=Imitation(),
    )
