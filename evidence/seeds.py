"""One measurement per seed, kept as soon as it is there: a script that is killed goes on with the seeds it lacks.

What is kept lies below `runs/seeds/`, by what was asked and by the source it was measured with; other source, other
files. Seeds run side by side on the cores that the process may use, so `taskset` keeps a long measurement to one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness import ROOT, run_folder

from kweek.store.artifact import Artifact
from kweek.store.files import read_json, write_json

Measure = Callable[..., dict[str, Any]]
MAX_WORKERS = 2  # every one reads and trains models; more gain little where memory is narrow


def finished_runs(seeds: Sequence[int]) -> list[Path]:
    """Run folders of the default recipe, one per seed: those named in KWEEK_RUNS, else made now."""
    named = os.environ.get("KWEEK_RUNS")
    return [Path(path) for path in named.split(os.pathsep)] if named else [run_folder(seed) for seed in seeds]


def by_seed(
    script: str, measure: Measure, folders: Sequence[Path], seeds: Sequence[int], sizes: Any
) -> list[Any]:
    """What `measure(seed, folder, sizes)` returns for every seed, as JSON gives it back.

    Args:
        script: the script's file; its neighbours count as its source.
        measure: a function of its module; runs in a process of its own.
        folders: a run folder per seed; which models it holds counts, not where it lies.
        sizes: anything that is JSON.
    """
    jobs = []
    for seed, folder in zip(seeds, folders, strict=True):
        runs = {
            path.name: Artifact.open(path).fingerprint for path in sorted((folder / "artifacts").iterdir())
        }
        path = place(Path(script), [seed, sizes, runs])
        jobs.append(
            (measure, seed, folder, sizes, path.with_name(f"{Path(script).stem}-{seed}-{path.name}.json"))
        )
    workers = min(MAX_WORKERS, len(os.sched_getaffinity(0)), len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
        for job in [processes.submit(_one, *job) for job in jobs]:
            job.result()
    return [read_json(path) for *_, path in jobs]


def _one(measure: Measure, seed: int, folder: Path, sizes: Any, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure(seed, folder, sizes))


def place(script: Path, asked: Any) -> Path:
    """Where what a script measures is kept: another question or other source, another place."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for path in [script, *sorted((ROOT / "evidence").glob("*.py")), *sorted((ROOT / "src").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return ROOT / "runs" / "seeds" / digest.hexdigest()[:16]
