"""What an artifact was made with: versions and machine, so that a difference can be traced later."""

from __future__ import annotations

import functools
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import kweek


def describe_environment() -> dict[str, Any]:
    """Versions of Python, torch, numpy and Kweek, the platform, the processor and the number of threads.

    Imports nothing heavy; `threads` is what torch uses when it is loaded, else what it would use.
    """
    torch = sys.modules.get("torch")
    return {
        "kweek": kweek.__version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "platform": platform.platform(),
        "cpu": _processor(),
        "threads": torch.get_num_threads() if torch else _num_threads(),
    }


@functools.cache  # it cannot change while the process runs, and reading it takes milliseconds
def _version(package: str) -> str | None:
    """The installed version of a package, None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name as the system gives it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _num_threads() -> int:
    """The number of threads torch would start with."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
