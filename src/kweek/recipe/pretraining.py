"""One pretraining run from a plan: used whole by the stage `pretrain`, in small by the ladder of `scale`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.evaluate.bits import BitsPerByte, bits_per_byte, pool
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.recipe.derive import MAX_LENGTH, REFERENCE_WIDTH, BasePlan
from kweek.recipe.materials import TASKS
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay, sequence_lengths
from kweek.train.trainer import StepResult, Trained, Trainer, fit

LENGTHS = (64, 128, MAX_LENGTH)  # the sequence length is warmed up: the largest single gain at this size
LENGTH_SHARES = (0.15, 0.35, 0.5)  # as in the measured trial of this recipe


@dataclass(frozen=True)
class Run:
    """What a pretraining run left."""

    network: Network
    totals: Trained
    seconds: float


def build(plan: BasePlan, seed: int) -> Network:
    """A fresh network whose weights depend on the seed alone."""
    network = Network(plan.config)
    initialise(network, torch.Generator().manual_seed(int(keyed_generator("weights", seed).integers(2**62))))
    return network


def pretrain(
    plan: BasePlan,
    sources: Sequence[Source],
    eos_id: int,
    seed: int,
    *,
    compute_dtype: torch.dtype,
    state: Path | None = None,
    on_step: Callable[[Network, Trained, StepResult, float], None] | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Run:
    """Train a fresh network on the mix for the plan's tokens. See `fit` for resuming and interruption."""
    network = build(plan, seed)
    # A row of the embedding is trained by the few places where its token stands, however many others the batch holds:
    # its best rate was the same with 512 and 2,048 tokens per step, see docs/log.md.
    by_width = REFERENCE_WIDTH / plan.config.hidden_size
    rates = LearningRates().scaled(plan.learning_rate_factor, embedding=by_width)
    optimiser = SplitOptimiser(network, rates)
    trainer = Trainer(network, optimiser, compute_dtype=compute_dtype)
    lengths = sequence_lengths(plan.num_steps, LENGTHS, LENGTH_SHARES)
    mix = PackedMix(sources, lengths, plan.tokens_per_step, seed, eos_id)
    started = time.monotonic()
    totals = fit(
        trainer,
        mix.batches,
        plan.num_steps,
        WarmupStableDecay(plan.num_steps),
        state=state,
        on_step=None if on_step is None else lambda *args: on_step(network, *args),
        progress=progress,
        should_stop=should_stop,
    )
    return Run(network, totals, time.monotonic() - started)


def documents_bits(by_source: Mapping[str, BitsPerByte]) -> float:
    """Bits per byte over all human documents: total bits over total bytes, generated tasks left out."""
    return pool([result for source, result in by_source.items() if source != TASKS]).value


def evaluate_bits(
    network: Network, tokenizer: Tokenizer, texts: Mapping[str, list[str]]
) -> dict[str, BitsPerByte]:
    """Bits per byte of each source at the length the network was trained for."""
    return bits_per_byte(network, tokenizer, dict(texts), context_length=MAX_LENGTH)
