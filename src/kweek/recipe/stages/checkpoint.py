"""Stage `checkpoint`: a model from outside, copied into the run, so that what was made of it can be made again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from kweek.compute.hardware import Peak
from kweek.errors import DataError
from kweek.model.checkpoint import open_tensors
from kweek.model.config import ModelConfig
from kweek.model.fetch import WHEELS
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.store.artifact import MANIFEST
from kweek.store.files import read_json
from kweek.tokenize.tokenizer import Tokenizer

#: Speed assumed for estimates, as a share of the machine's peak in fp32.
SHARE_OF_PEAK = 0.6


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {}

    threads: Literal[1, "all"] = setting(1, doc="CPU threads: 1 or all", reason="it only copies files")
    path: str = setting(
        "models/smollm2-135m",
        doc="a checkpoint folder with weights, tokenizer and chat template",
        reason="where `kweek get smollm2-135m` puts an open model that answers within a second on a laptop",
    )


def external(config: Config) -> str:
    """The files' names, sizes and times; weights are hashed when they are copied.

    Raises:
        DataError: no checkpoint is there.
    """
    digest = hashlib.sha256()
    for file in _files(config):
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Copying; and what later stages ask about the model."""
    size = sum(file.stat().st_size for file in _files(config))
    shape = ModelConfig.from_hf(read_json(Path(config.path) / "config.json"))
    values = {
        "num_parameters": shape.num_parameters()["total"],
        "flop_per_second": SHARE_OF_PEAK * machine_peak.fp32_flop_per_second,
    }
    return Estimate(0.0, 2.0 + size / 5e8, 5e8, values)


def run(ctx: StageContext) -> None:
    """Check the folder and copy it."""
    files = _files(ctx.config)
    folder = Path(ctx.config.path)
    Tokenizer.load(folder)
    with open_tensors(folder):
        pass  # opening checks everything but the values
    for number, file in enumerate(files):
        ctx.progress(number, len(files), f"copying {file.name}")
        with file.open("rb") as source, ctx.out.open(file.name) as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
    shape = ModelConfig.from_hf(read_json(folder / "config.json"))
    ctx.out.metrics["num_parameters"] = shape.num_parameters()["total"]
    ctx.out.metrics["num_bytes"] = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    ctx.out.metrics["source"] = folder.name


def _files(config: Config) -> list[Path]:
    """The files of the folder itself, without a manifest of ours. Raises DataError where there is no checkpoint."""
    folder = Path(config.path)
    if not (folder / "config.json").is_file():
        known = next((name for name in WHEELS if folder.name == name), None)
        fix = f"fetch it: kweek get {known} --out {folder}" if known else "name a folder with config.json"
        raise DataError("there is no checkpoint here", where=str(folder), fix=fix)
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name != MANIFEST)
