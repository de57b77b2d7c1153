"""The process that the caller starts: reads the request, leaves the machine's namespaces, and waits for process 1.

Started as `python -I -S` with an empty environment, so that nothing of the caller is in its memory or its environment.
The report goes to standard output; standard input stays open, and its closing ends everything.
"""

from __future__ import annotations

import os

from . import init, spaces
from .kernel import Refused
from .request import frame, receive

_REPORT = 1


def main() -> None:
    """Run one program and end this process."""
    request = receive(0)
    try:
        spaces.die_with(request.parent)
        group = os.open(request.group + b"/cgroup.procs", os.O_WRONLY) if request.group else -1
        spaces.enter(request)
        first = os.fork()
    except (Refused, OSError) as error:
        os.write(_REPORT, frame([b"refused", str(error).encode()]))
        os._exit(0)
    if first == 0:
        init.run(request, _REPORT, group)
    os.waitpid(first, 0)
    os._exit(0)
