"""A stage without inputs: writes some numbers drawn from the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting


class Config(StageConfig):
    roles: ClassVar[Mapping[str, Role]] = {}
    count: int = setting(5, doc="how many numbers", reason="enough to tell lists apart", ge=1)
    scale: float = setting(1.0, doc="largest number", reason="the unit interval", gt=0)
    label: str = setting("plain", doc="a word kept beside them", reason="shows text keys")


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    return Estimate(flop=config.count, seconds=0.2, memory_bytes=1e6, values={"count": config.count})


def run(ctx: StageContext) -> None:
    draw = random.Random(ctx.seed)
    numbers = [draw.random() * ctx.config.scale for _ in range(ctx.config.count)]
    print("stray output of a library")
    ctx.records.append("drawn", count=len(numbers))
    ctx.ledger.add("draw", float(len(numbers)), "fp64")
    ctx.out.write_json("numbers.json", numbers)
    ctx.out.metrics["count"] = len(numbers)
