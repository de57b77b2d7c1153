"""Starting a run under a supervisor, and ending it with all that it has started, whatever that does against it.

Nothing that is needed to find a run lies where the run can change it: the supervisor is found among the processes of
this machine by its command line, which holds a token of the run's folder, and by being outside the namespace.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import kweek
from kweek.errors import KweekError
from kweek.store import lock
from kweek.system.process_tree import children, end_tree
from kweek.system.supervisor import MARK

SECONDS = 2.0  # within which everything has ended
_START = "import sys; sys.path.append(sys.argv[1]); from kweek.system.supervisor import main; main()"


@dataclass(frozen=True)
class Stopped:
    """What a stop has done.

    Attributes:
        supervised: whether the run was in a namespace of its own, so that nothing of it can be left.
        seconds: until the last process had ended.
    """

    supervised: bool
    seconds: float


def start(
    words: Sequence[str], run: Path, *, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a process namespace of its own; it ends with its exit status, and with it all that it started.

    Args:
        words: the command.
        run: folder of the run, by which `stop` finds it.
        environment: None takes that of this process.

    Raises:
        KweekError: this is no Linux.
    """
    _require_linux()
    source = str(Path(kweek.__file__).parents[1])
    supervisor = [sys.executable, "-I", "-S", "-c", _START, source, MARK, token(run), "--", *words]
    return subprocess.Popen(supervisor, env=None if environment is None else dict(environment))  # noqa: S603


def token(run: Path) -> str:
    """What a run's folder is called in the command line of its supervisor."""
    return hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:32]


def stop(run: Path) -> Stopped:
    """End every process of a run. It is not asked, and cannot prevent it.

    A run that was started without a supervisor is ended with all processes below it that can be found; what has forked
    twice before is then not found.

    Args:
        run: its folder.

    Raises:
        KweekError: nothing runs there, or something has not ended within two seconds.
    """
    _require_linux()
    started = time.monotonic()
    found = supervisors(run)
    if found:
        for process in found:
            _end(process, started + SECONDS)
        return Stopped(True, time.monotonic() - started)
    holder = lock.holder(run / "lock")
    if holder is None or not _has_open(holder, run / "lock"):
        raise KweekError(
            "nothing is running there", where=str(run), fix="give the folder of a run that is going on"
        )
    end_tree(holder, started + SECONDS)
    return Stopped(False, time.monotonic() - started)


def supervisors(run: Path) -> list[int]:
    """Processes that supervise a run; one inside a run that only says so is in another namespace."""
    wanted, own = token(run), _namespace("self")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if MARK in words[:8] and wanted in words[:8] and _namespace(entry.name) == own:
                found.append(int(entry.name))
    # A fork of the supervisor has the same command line; with the oldest the others end.
    return [process for process in found if not _is_child_of(process, found)]


def _end(supervisor: int, deadline: float) -> None:
    """Kill process 1 of the run's namespace, then those outside, and wait until the kernel has done so."""
    try:
        line = [supervisor]
        for _ in range(2):  # the second, and process 1
            line += children(line[-1])[:1]
        handles = [os.pidfd_open(process) for process in line]
    except (OSError, ProcessLookupError):
        return  # it ended by itself just now
    try:
        for handle in reversed(handles):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:  # that of process 1 ends when all others of its namespace have
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise KweekError(
                    f"the run has not ended within {SECONDS:g} s", fix="look for a disk or driver that hangs"
                )
    finally:
        for handle in handles:
            os.close(handle)


def _require_linux() -> None:
    if sys.platform != "linux":
        raise KweekError("processes are supervised and found under Linux alone", fix="end the run by hand")


def _namespace(process: str) -> str:
    return str(Path(f"/proc/{process}/ns/pid").readlink())


def _is_child_of(process: int, others: list[int]) -> bool:
    return any(process in children(other) for other in others if other != process)


def _has_open(process: int, path: Path) -> bool:
    """Whether a process has a file open: whatever a lock's text says, only its holder has."""
    found = False
    with suppress(OSError):  # no such process, or not ours
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found |= entry.samefile(path)
    return found
