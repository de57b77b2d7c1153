"""The ladder: small pretraining runs side by side, from which a law is fitted and the large run forecast."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kweek.data.packing import PackedMix, Source
from kweek.recipe.derive import MAX_LENGTH, BasePlan
from kweek.recipe.materials import Mix, token_sources, validation_texts
from kweek.recipe.pretraining import build, documents_bits, evaluate_bits, pretrain
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

#: Of the target: ten runs over 1.1 decades up to a sixth. Fewer make the interval too wide, see docs/log.md.
FRACTIONS = tuple(round(10 ** (1.1 * (i / 9 - 1)) / 6, 5) for i in range(10))
SPEED_STEPS = 96  # timed updates, some seconds, after an eighth as many to warm up


@dataclass(frozen=True)
class Rung:
    """One small run to make."""

    name: str
    plan: BasePlan
    seed: int
    task_share: float
    corpus: Path
    tokenizer: Path
    compute_dtype: str
    validation_bytes: int


@dataclass(frozen=True)
class Result:
    """What a small run reached."""

    name: str
    num_parameters: int
    width: int
    num_tokens: int
    tokens_per_step: int
    learning_rate: float
    flop: float
    seconds: float
    bits_per_byte: float
    bits_per_byte_by_source: dict[str, float]


_loaded: dict[tuple[str, str], tuple[Tokenizer, list[Source], dict[str, list[str]]]] = {}


def climb(rung: Rung) -> dict[str, Any]:
    """Make one small run and measure it: a `Result` as plain data. A worker process keeps the tokens it loaded."""
    key = (str(rung.corpus), str(rung.tokenizer))
    if key not in _loaded:
        corpus = Artifact.open(rung.corpus)
        tokenizer = Tokenizer.load(rung.tokenizer)
        # Every rung draws from the same pool of task texts, enough for the largest.
        mix = Mix(rung.task_share, 2_000_000 if rung.task_share else 0, f"pretrain/{rung.seed}")
        _loaded[key] = (
            tokenizer,
            token_sources(corpus, tokenizer, mix),
            validation_texts(corpus, rung.validation_bytes),
        )
    tokenizer, sources, texts = _loaded[key]
    dtype = getattr(torch, rung.compute_dtype)
    done = pretrain(rung.plan, sources, tokenizer.eos_id, rung.seed, compute_dtype=dtype)
    bits = evaluate_bits(done.network, tokenizer, texts)
    result = Result(
        rung.name,
        rung.plan.config.num_parameters()["total"],
        rung.plan.config.hidden_size,
        done.totals.num_tokens,
        rung.plan.tokens_per_step,
        LearningRates().matrices * rung.plan.learning_rate_factor,
        done.totals.flop,
        done.seconds,
        documents_bits(bits),
        {source: found.value for source, found in bits.items()},
    )
    return asdict(result)


def training_flop_per_second(
    plan: BasePlan, sources: Sequence[Source], eos_id: int, dtype: torch.dtype
) -> float:
    """How fast this machine trains the plan's network with the current number of threads.

    The upper quartile of timed updates: whatever else runs for a moment can only slow them.
    """
    network = build(plan, 0)
    trainer = Trainer(network, SplitOptimiser(network, LearningRates()), compute_dtype=dtype)
    lengths = [MAX_LENGTH // 2] * (SPEED_STEPS + SPEED_STEPS // 8)
    speeds: list[float] = []
    for batch in PackedMix(sources, lengths, plan.tokens_per_step, 0, eos_id).batches():
        started = time.perf_counter()
        result = trainer.step([batch], 0.1)
        speeds.append(result.flop / (time.perf_counter() - started))
    steady = sorted(speeds[SPEED_STEPS // 8 :])
    return steady[3 * len(steady) // 4]


def as_record(result: Result) -> dict[str, Any]:
    """The fields of a `run` record."""
    return {**asdict(result), "tokens": result.num_tokens, "batch_tokens": result.tokens_per_step}
