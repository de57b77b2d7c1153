"""The base model's plan as the stage `scale` stores it and the stage `pretrain` reads it."""

from __future__ import annotations

from typing import Any

from kweek.model.config import ModelConfig
from kweek.recipe.derive import BasePlan
from kweek.store import files
from kweek.store.artifact import Artifact

FILE = "plan.json"


def as_document(plan: BasePlan) -> dict[str, Any]:
    """A plan as JSON; the network's shape is a Hugging Face configuration."""
    return {
        "config": plan.config.to_hf(),
        "num_tokens": plan.num_tokens,
        "tokens_per_step": plan.tokens_per_step,
        "learning_rate_factor": plan.learning_rate_factor,
        "target_flop": plan.target_flop,
    }


def read_plan(scale: Artifact) -> BasePlan:
    """The plan in a `scale` artifact."""
    document = files.read_json(scale.file(FILE))
    return BasePlan(
        ModelConfig.from_hf(document["config"]),
        document["num_tokens"],
        document["tokens_per_step"],
        document["learning_rate_factor"],
        document["target_flop"],
    )
