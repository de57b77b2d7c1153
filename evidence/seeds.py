"""One measurement per seed, side by side, each kept as soon as it is there (`harness.kept`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness import kept

from kweek.store.artifact import Artifact

MAX_WORKERS = 2  # every one reads and trains models; more gain little where memory is narrow


def by_seed(
    name: str, measure: Callable[..., dict[str, Any]], seeds: Sequence[int], models: Path, sizes: Any
) -> list[dict[str, Any]]:
    """What `measure(seed, models, sizes)` returns for every seed, as JSON gives it back.

    They run on the cores that the process may use, so `taskset` keeps a long measurement to one.

    Args:
        name: AREA/NAME.
        measure: a function of its module; runs in a process of its own.
        models: the artifacts of a run; which models they are counts, not where they lie.
        sizes: anything that is JSON.
    """
    asked = digest([sizes, *(Artifact.open(path).fingerprint for path in sorted(models.iterdir()))])
    workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)), len(seeds))
    with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
        jobs = [
            processes.submit(kept, name, f"{seed}-{asked}", measure, seed, models, sizes) for seed in seeds
        ]
        return [job.result() for job in jobs]


def digest(asked: Any) -> str:
    """A short hash of anything that is JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
