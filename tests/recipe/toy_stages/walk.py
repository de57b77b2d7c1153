"""A slow stage that can be killed anywhere: a chain of hashes, with a checkpoint every few steps."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from kweek.errors import Interrupted
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.store.files import read_json, write_json


class Config(StageConfig):
    roles: ClassVar[Mapping[str, Role]] = {"numbers": Role("where the chain starts")}
    steps: int = setting(20, doc="length of the chain", reason="a second or so", ge=1)
    pause: float = setting(0.0, doc="seconds per step", reason="as fast as it goes", ge=0)


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    assert inputs["numbers"]["count"] >= 1
    return Estimate(flop=config.steps, seconds=config.steps * config.pause, memory_bytes=2e6)


def run(ctx: StageContext) -> None:
    config: Config = ctx.config
    saved = ctx.state / "walk.json"
    at = read_json(saved) if saved.exists() else {"step": 0, "hash": ""}
    if at["step"] == 0:
        at["hash"] = ctx.inputs["numbers"].file("numbers.json").read_text()
    ctx.records.rewind(lambda record: record["step"] <= at["step"])
    while at["step"] < config.steps:
        if ctx.should_stop():
            write_json(saved, at)
            raise Interrupted
        time.sleep(config.pause)
        at = {"step": at["step"] + 1, "hash": hashlib.sha256(at["hash"].encode()).hexdigest()}
        ctx.records.append("train", step=at["step"], loss=1.0 / at["step"])
        ctx.progress(at["step"], config.steps, loss=1.0 / at["step"], undefined=float("nan"))
        if at["step"] % 5 == 0:
            write_json(saved, at)
    ctx.out.write_text("walk.txt", json.dumps(at))
    ctx.out.metrics["bits_per_byte"] = 2.0
    ctx.out.metrics["num_bytes"] = 4 * config.steps
