"""Independent pieces of a stage side by side, each on one thread in a process of its own.

Two threads on one small network gain half of what two networks side by side do. Finished pieces are kept in a
file, so that a killed stage does only the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from kweek.errors import Interrupted
from kweek.protocols import ShouldStop
from kweek.recipe.lifeline import die_with_parent
from kweek.store import files

Job = TypeVar("Job")


def _begin(parent: int) -> None:
    die_with_parent(parent)
    torch.set_num_threads(1)


def side_by_side(
    work: Callable[[Job], dict[str, Any]],
    jobs: Mapping[str, Job],
    workers: int,
    kept: Path,
    on_result: Callable[[str, dict[str, Any]], None],
    should_stop: ShouldStop,
) -> dict[str, dict[str, Any]]:
    """`work(job)` for every job, `workers` at a time, in the given order; results must be plain JSON data.

    Args:
        work: a module-level function, called in another process.
        kept: where finished results are kept between attempts.
        on_result: called in this process with each name and result, kept ones included.

    Raises:
        Interrupted: asked to stop; what is finished stays in `kept`.
    """
    before = files.read_json(kept) if kept.exists() else {}
    finished: dict[str, dict[str, Any]] = {name: before[name] for name in jobs if name in before}
    for name, result in finished.items():
        on_result(name, result)
    # No fork: a child of a process with a thread pool may deadlock in it.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        names = {pool.submit(work, job): name for name, job in jobs.items() if name not in finished}
        pending = set(names)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                finished[names[future]] = future.result()
                files.write_json(kept, finished)
                on_result(names[future], finished[names[future]])
            if should_stop():
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise Interrupted
    return {name: finished[name] for name in jobs}
