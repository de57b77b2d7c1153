"""Processes of our own beside this one: a module of Kweek that answers on its standard streams and may be killed."""

from __future__ import annotations

import os
import subprocess
import sys


def start_module(module: str) -> subprocess.Popen[bytes]:
    """Run a module with this process's paths and nothing of the user's folder, one thread, its own session."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
    }
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, start_new_session=True,
    )  # fmt: skip
