"""A process that ends when its parent does, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 1.0


def die_with_parent(parent: int) -> None:
    """End this process, at once and without tidying, when the process `parent` that started it is gone.

    For processes that a killed stage would otherwise leave running. On Linux the kernel does it; elsewhere a
    thread looks every second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    elif sys.platform != "win32":  # there, the number of a dead parent stays
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    if sys.platform != "win32" and os.getppid() != parent:  # it died before the call above
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)
