"""A stage whose size follows from the budget, and which reads a file outside the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kweek.recipe.context import Estimate, StageConfig, StageContext, setting


class Config(StageConfig):
    uses_budget: ClassVar[bool] = True
    folder: str | None = setting(None, doc="a file to copy", reason="none is needed")


def external(config: Config) -> str:
    return Path(config.folder).read_text() if config.folder else ""


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    seconds = inputs["budget"]["seconds"] or 1.0
    return Estimate(flop=seconds * machine_peak.fp32_flop_per_second, seconds=seconds, memory_bytes=1e6)


def run(ctx: StageContext) -> None:
    ctx.out.write_json("spent.json", [ctx.budget_seconds, ctx.budget_flop, ctx.threads, external(ctx.config)])
