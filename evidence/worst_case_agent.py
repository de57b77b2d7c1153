"""An agent that does all it can to stay alive: started inside a supervised run by `system/stop.py`, never outside one.

It ignores every signal, keeps a crowd of processes that have forked twice and left their session, kills and stops
whatever it can reach by number, rewrites the files of its own run, and pretends to be its supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CROWD = 40  # processes at once: enough to be a crowd, few enough to leave the machine alone
REACH = 400  # numbers of processes to kill


def deaf() -> None:
    """Ignore whatever may be ignored."""
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


def spawn(deadline: float) -> None:
    """One more of the crowd: forked twice, in a session of its own, and always replacing itself."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if os.fork():
            os._exit(0)  # the fork lives on, under another number
    os._exit(0)


def attack() -> None:
    """Kill and stop whatever has a number, itself excepted."""
    own = {os.getpid(), os.getpgid(0), os.getppid()}
    for number in set(range(1, REACH)) - own:
        for sent in (signal.SIGSTOP, signal.SIGTERM):
            with contextlib.suppress(OSError):
                os.kill(number, sent)
    for number in (1, os.getppid()):
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.kill(number, sent)


def rewrite(folder: Path) -> None:
    """Change every file of the run, this program too."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            path.write_text("1\n")
    for name in ("lock", "pid", "supervisor"):
        (folder / name).write_text("1\n")


def main() -> None:
    """Everything, until it is ended; after a minute it gives up, so that no test machine is left with it."""
    if os.getpid() > 9:
        sys.exit("not in a namespace of its own")
    folder, mark, token = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    deadline = time.monotonic() + 60
    deaf()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", mark, token])
    attack()
    for _ in range(CROWD):
        spawn(deadline)
    rewrite(folder)
    (folder / "ready").write_text("yes")
    while time.monotonic() < deadline:
        time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.kill(1, sent)


if __name__ == "__main__":
    main()
