"""A stage that goes wrong in a chosen way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

from kweek.errors import DataError
from kweek.recipe.context import Estimate, StageConfig, StageContext, setting


class Config(StageConfig):
    how: Literal["user", "bug", "killed", "silent", "parent"] = setting(
        "user", doc="the fault", reason="the commonest"
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    return Estimate(flop=0, seconds=0, memory_bytes=0)


def run(ctx: StageContext) -> None:
    if ctx.config.how == "user":
        raise DataError("no documents", where="docs/a.txt:3", fix="add some")
    if ctx.config.how == "bug":
        raise ZeroDivisionError("division\nby zero")
    if ctx.config.how == "parent":  # of a process that outlives it
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        ctx.state.joinpath("child").write_text(str(child.pid))
    if ctx.config.how in ("killed", "parent"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(7)
