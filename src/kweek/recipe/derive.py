"""From a budget to a base model: every derived size with the rule that derived it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kweek.model.config import ModelConfig

GRID = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)  # steps of about a fifth
TOKENS_PER_PARAMETER = (
    1.5  # at 1M parameters reading a story is learnt after about 1.5M tokens; see docs/log.md
)
MIN_WIDTH = (
    128  # narrower networks do not learn to follow a story within minutes, whatever the law says of text
)
REFERENCE_WIDTH, REFERENCE_BATCH = 128, 512  # where learning rates were tuned: width, tokens per step
# Measured from 0.1M to 4M tokens, see docs/log.md. One row of a mix of documents and tasks is a gradient of one kind of
# text only: half as many rows cost 3% in bits per byte, twice as many cost the tasks, which want more updates.
BATCH_AT_4M_TOKENS = 2048
MAX_LENGTH = 256  # tokens of context: four times the longest problem, and cheap attention


@dataclass(frozen=True)
class Derived:
    """One derived quantity."""

    name: str
    value: Any
    rule: str


@dataclass(frozen=True)
class BasePlan:
    """Everything pretraining needs to know."""

    config: ModelConfig
    num_tokens: int
    tokens_per_step: int
    learning_rate_factor: float
    target_flop: float

    @property
    def num_steps(self) -> int:
        return max(1, self.num_tokens // self.tokens_per_step)


def on_grid(value: float) -> float:
    """The largest grid value at or below: noise in a measured speed then rarely changes a plan."""
    exponent = math.floor(math.log10(value))
    mantissa = value / 10**exponent
    return float(max(g for g in GRID if g <= mantissa * (1 + 1e-9)) * 10**exponent)


def shape(width: int, vocab_size: int, eos_id: int, unit: int = 32) -> ModelConfig:
    """A Qwen3 layout: heads of 64 (two smaller ones below 128), feed-forward of 8/3 widths, a layer per 32 of width.

    `unit` divides the feed-forward width: 32, which 4 bits in groups need.
    """
    heads = max(2, width // 64)
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=unit * math.ceil(8 * width / 3 / unit),
        num_layers=max(4, width // 32),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=min(64, width // 2),
        max_positions=1024,
        eos_token_id=eos_id,
        pad_token_id=eos_id,
    )


def width_for(flop: float, vocab_size: int, eos_id: int) -> int:
    """The widest multiple of 64 whose `TOKENS_PER_PARAMETER` tokens per parameter fit into the budget; at least 128."""
    width = MIN_WIDTH
    while True:
        wider = shape(width + 64, vocab_size, eos_id)
        tokens = TOKENS_PER_PARAMETER * wider.num_parameters()["total"]
        if tokens * wider.num_flops_per_token(MAX_LENGTH, backward=True) > flop:
            return width
        width += 64


def plan_base(
    flop: float, vocab_size: int, eos_id: int, width: int | None = None
) -> tuple[BasePlan, list[Derived]]:
    """Size, tokens, batch and learning rate for a pretraining budget in FLOP."""
    flop = on_grid(flop)
    chosen = width or width_for(flop, vocab_size, eos_id)
    plan = _planned(flop, shape(chosen, vocab_size, eos_id))
    config = plan.config
    size_rule = (
        "pinned by hand"
        if width
        else f"widest multiple of 64 with {TOKENS_PER_PARAMETER:g} tokens per parameter, at least {MIN_WIDTH}"
    )
    derived = [
        Derived("compute", flop, "share of the budget for pretraining, down to a grid of steps of a fifth"),
        Derived("width", chosen, size_rule),
        Derived("layers", config.num_layers, "a layer per 32 of width, at least 4"),
        Derived(
            "parameters",
            config.num_parameters()["total"],
            "of the Qwen3 layout: heads of 64, feed-forward 8/3 widths",
        ),
        Derived("tokens", plan.num_tokens, "compute over FLOP per token"),
        Derived(
            "tokens_per_step",
            plan.tokens_per_step,
            f"{BATCH_AT_4M_TOKENS} at 4M tokens, growing with tokens^0.383 (arXiv 2505.13738)",
        ),
        Derived(
            "learning_rate",
            2e-3 * plan.learning_rate_factor,
            "matrices 2e-3 at width 128 and 512 tokens per step; 1/width, root of batch",
        ),
    ]
    return plan, derived


def plan_rung(base: BasePlan, fraction: float) -> BasePlan:
    """The plan of a small run at a fraction of the base model's FLOP, on the path of equal tokens per parameter.

    Both parameters and tokens grow with the root of the FLOP. Small runs of the base model's own size would be off the
    law: they end before they have learnt to use their context. Widths are multiples of 4, at least 16.
    """
    vocab_size, eos_id = base.config.vocab_size, 0  # training does not ask which token ends a text
    wanted = base.config.num_parameters()["total"] * math.sqrt(fraction)
    widths = range(16, base.config.hidden_size + 1, 4)
    configs = [shape(width, vocab_size, eos_id, 16 if width < MIN_WIDTH else 32) for width in widths]
    nearest = min(configs, key=lambda config: abs(math.log(config.num_parameters()["total"] / wanted)))
    return _planned(base.target_flop * fraction, nearest)


def _planned(flop: float, config: ModelConfig) -> BasePlan:
    """Tokens, batch and learning rate for a network and its FLOP."""
    # The sequence length is warmed up, so the mean context is shorter than the last; 0.64 of it on average.
    num_tokens = int(flop / config.num_flops_per_token(int(0.64 * MAX_LENGTH), backward=True))
    raw_batch = BATCH_AT_4M_TOKENS * (num_tokens / 4e6) ** 0.383
    tokens_per_step = max(MAX_LENGTH, MAX_LENGTH * round(raw_batch / MAX_LENGTH))
    factor = (REFERENCE_WIDTH / config.hidden_size) * math.sqrt(tokens_per_step / REFERENCE_BATCH)
    return BasePlan(config, num_tokens, tokens_per_step, factor, flop)
