"""The process that runs a function nobody trusts: `python -m kweek.compute.isolation_worker`, or a fork of its user.

First it says whether it is ready, then it answers jobs, one line of JSON each. Memory and processor time of each job
are bounded by the kernel; it ends with its parent, also when that was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import IO, Any

_PARENT_SECONDS = 1.0  # between looks at whether the parent lives
_SPARE_SECONDS = 5.0  # of processor time beyond the parent's own limit, which comes first while it lives

Function = Callable[[Any], Any]


def load(name: str) -> Any:
    """What `module:qualified.name` means.

    Raises:
        ImportError, AttributeError, ValueError: nothing.
    """
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def serve(function: Function, source: IO[bytes], target: IO[bytes], limits: dict[str, float]) -> None:
    """Answer every line of `source` on `target` until there are no more.

    A line is `{"value": …}`, its answer `{"value": …}` or `{"raised": "ValueError: …", "retire": bool}`.

    Args:
        function: JSON in, JSON out.
        source, target: of the jobs and their answers.
        limits: "seconds" and "memory_bytes" of one job.
    """
    _watch_parent(os.getppid())
    base = _data_bytes()
    _say(target, {"ready": True})
    while line := source.readline():
        _restrain(limits, base)
        try:
            answer: dict[str, Any] = {"value": function(json.loads(line)["value"])}
            encoded = json.dumps(answer)
        except BaseException as error:  # nothing that a job does may end the worker, or pass for an answer
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            encoded = json.dumps({"raised": text, "retire": isinstance(error, MemoryError)})
        target.write(encoded.encode() + b"\n")
        target.flush()


def _say(target: IO[bytes], message: dict[str, Any]) -> None:
    target.write(json.dumps(message).encode() + b"\n")
    target.flush()


def _watch_parent(parent: int) -> None:
    """End when the parent has gone; its end of our input may still be held open by another child of it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _data_bytes() -> int | None:
    """Private writable memory, None where the system does not say. Address space is no measure: heaps reserve it."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _restrain(limits: dict[str, float], base: int | None) -> None:
    """Bound memory and processor time of the job to come; without the module (Windows) the parent's clock must do."""
    with contextlib.suppress(ImportError, ValueError):
        import resource

        if base is not None:
            most = base + int(limits["memory_bytes"])
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + 2 * limits["seconds"] + _SPARE_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Load the function that the first line names, then serve."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not become an answer
    order = json.loads(source.readline())
    try:
        function = load(order["function"])
        if order["adaptor"]:
            function = load(order["adaptor"])(function)
    except BaseException as error:
        _say(target, {"raised": " ".join(f"{type(error).__name__}: {error}".split())[:300]})
        return
    serve(function, source, target, order["limits"])


if __name__ == "__main__":
    main()
