"""Tokens per second of the loop against `transformers` (eager), interleaved, at 1M, 3M and 10M parameters."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from harness import evidence

from kweek.compute.hardware import measure_peak
from kweek.data.batches import Batch, collate, segment
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

#: name: (width, feed-forward, layers, heads, vocabulary)
SIZES = {"1M": (128, 352, 4, 2, 1024), "3M": (192, 512, 6, 3, 4096), "10M": (320, 864, 8, 5, 8192)}
BATCH, LENGTH = 8, 256
FASTER = {torch.float32: 1.05, torch.bfloat16: 1.25}


def ours(config: ModelConfig, dtype: torch.dtype) -> Any:
    """One update of Kweek's loop."""
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(0))
    trainer = Trainer(network, SplitOptimiser(network, LearningRates()), compute_dtype=dtype)

    def step(ids: np.ndarray) -> None:
        batch = collate([[segment(row)] for row in ids])
        weights = torch.full_like(batch.weights_BT, 1 / batch.num_tokens)
        trainer.step(
            [Batch(batch.ids_BT, batch.targets_BT, weights, batch.positions_BT, None, batch.num_tokens)], 1e-3
        )

    return step


def theirs(config: ModelConfig, dtype: torch.dtype) -> Any:
    """One update of `Qwen3ForCausalLM` with fused AdamW and clipping, autocast in bf16 as its users do."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in config.to_hf().items() if k != "architectures"}))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(ids: np.ndarray) -> None:
        inputs, targets = torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(ids[:, 1:].copy())
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(input_ids=inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def compare(name: str, dtype: torch.dtype, rounds: int, peak: float) -> dict[str, Any]:
    """Interleaved updates of both; the ratio of medians with the spread of the paired ratios."""
    width, feed_forward, layers, heads, vocabulary = SIZES[name]
    config = ModelConfig(vocabulary, width, feed_forward, layers, heads, heads)
    generator = np.random.default_rng(0)
    steps = {"ours": ours(config, dtype), "theirs": theirs(config, dtype)}
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds + 3):
        ids = generator.integers(0, vocabulary, (BATCH, LENGTH + 1))
        for which, step in steps.items():
            started = time.perf_counter()
            step(ids)
            if number >= 3:
                times[which].append(time.perf_counter() - started)
    pairs = sorted(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
    seconds = statistics.median(times["ours"])
    flop = BATCH * LENGTH * config.num_flops_per_token(LENGTH, backward=True)
    return {
        "ratio": statistics.median(times["theirs"]) / seconds,
        "middle_half": [pairs[len(pairs) // 4], pairs[3 * len(pairs) // 4]],
        "tokens_per_second": BATCH * LENGTH / seconds,
        "share_of_peak": flop / seconds / peak,
    }


def run(quick: bool) -> dict[str, Any]:
    """All sizes on one thread, fp32 and, where this CPU is fast in it, bf16."""
    torch.set_num_threads(1)
    peak = measure_peak(1)
    fast = peak.bf16_flop_per_second or 0.0
    dtypes = [torch.float32] + ([torch.bfloat16] if fast > 1.5 * peak.fp32_flop_per_second else [])
    rounds = 8 if quick else 24
    found = {}
    for dtype in dtypes:
        limit = peak.fp32_flop_per_second if dtype == torch.float32 else fast
        for name in SIZES:
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = compare(name, dtype, rounds, limit)
    ratios = {key: row["ratio"] for key, row in found.items()}
    return {
        "ours": min(ratios.values()),
        "reference": 1.0,
        "unit": "ratio of tokens per second, Kweek over transformers",
        "ratio": min(ratios.values()),
        "interval": [min(ratios.values()), max(ratios.values())],
        "n": rounds,
        "seeds": [0],
        "details": {**found, "peak_fp32": peak.fp32_flop_per_second, "peak_bf16": peak.bf16_flop_per_second},
        "passed": all(
            row["ratio"] >= (FASTER[torch.bfloat16] if "bfloat16" in key else FASTER[torch.float32])
            for key, row in found.items()
        ),
    }


evidence(
    "spine/trains_fast",
    claim="1.05 times the tokens/s of eager transformers in fp32 at 1M, 3M and 10M; 1.25 times in bf16 where fast",
    run=run,
)
