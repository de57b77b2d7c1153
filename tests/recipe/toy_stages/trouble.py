"""A stage that goes wrong in a chosen way."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any, Literal

from kweek.errors import DataError
from kweek.recipe.context import Estimate, StageConfig, StageContext, setting


class Config(StageConfig):
    how: Literal["user", "bug", "killed", "silent"] = setting("user", doc="the fault", reason="the commonest")


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    return Estimate(flop=0, seconds=0, memory_bytes=0)


def run(ctx: StageContext) -> None:
    if ctx.config.how == "user":
        raise DataError("no documents", where="docs/a.txt:3", fix="add some")
    if ctx.config.how == "bug":
        raise ZeroDivisionError("division\nby zero")
    if ctx.config.how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)
