"""A stage that takes an artifact of another run as its own: for evidence that varies what comes after pretraining."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.store.artifact import MANIFEST, Artifact


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {}

    folder: str = setting(doc="an artifact of a finished run", reason="each recipe names its own")


def external(config: Config) -> str:
    """The borrowed artifact's own fingerprint."""
    return Artifact.open(Path(config.folder)).fingerprint


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Nothing but a copy; the values that later stages ask for."""
    found = Artifact.open(Path(config.folder))
    values = {"num_parameters": found.metrics.get("num_parameters"), "flop_per_second": 2e10}
    return Estimate(0.0, 1.0, 1e8, values)


def run(ctx: StageContext) -> None:
    """Copy the files and what was measured of them."""
    found = Artifact.open(Path(ctx.config.folder))
    for name in found.files:
        if name != MANIFEST:
            shutil.copyfile(found.file(name), ctx.out.path(name))
    ctx.out.metrics.update(found.metrics)
