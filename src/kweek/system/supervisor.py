"""The process outside a run: it starts the run in a process namespace of its own, and with it everything in there ends.

    caller - supervisor (outside) - its second, outside too - process 1 of the namespace - the run - whatever it starts

Nothing inside sees the processes outside, and none of them shares its user namespace, so it can neither signal nor
trace them. When process 1 ends, for whatever reason, the kernel kills all others of the namespace, also those that have
forked twice, left their session, or ignore every signal. Each process here asks the kernel to be killed with its
parent.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from kweek.sandbox.ns.kernel import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    NEWNS,
    NEWPID,
    NEWUSER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Refused,
    mount,
    prctl,
    unshare,
)

MARK = (
    "kweek-supervisor"  # among the words of the supervisor's command line, followed by the token of its run
)
REFUSED = 125  # exit status: the kernel does not permit the namespaces
_EVERYBODY = "0 0 4294967295"  # every user is who they are outside


def main() -> None:
    """Run the words after "--" and end with their exit status."""
    words = sys.argv[sys.argv.index("--") + 1 :]
    os.setsid()  # so that signals to the group of the caller, or to that of the run, do not reach both
    ready, tell_ready = os.pipe()
    mapped, tell_mapped = os.pipe()
    parent = os.getpid()
    second = os.fork()
    if second == 0:
        _die_with(parent)
        os.close(ready)
        os.close(tell_mapped)
        _second(words, tell_ready, mapped)
    os.close(tell_ready)
    os.close(mapped)
    _pass_on(second)
    if os.read(ready, 1):  # it has left; as the superuser, only somebody who has not can map all users
        _map_users(second)
        os.write(tell_mapped, b"1")
    os.close(tell_mapped)
    os._exit(_status(second))


def _second(words: list[str], ready: int, mapped: int) -> None:
    """Leave the namespaces of the machine and start process 1. Never returns."""
    try:
        unshare(NEWUSER | NEWPID | NEWNS, "a process namespace")
    except Refused as error:
        _refuse(str(error))
    os.write(ready, b"1")
    if os.read(mapped, 1) != b"1":
        os._exit(REFUSED)
    parent = os.getpid()
    first = os.fork()
    if first == 0:
        _die_with(parent)
        _first(words)
    _pass_on(first)
    os._exit(_status(first))


def _first(words: list[str]) -> None:
    """Process 1: starts the run, waits for it, and takes everything else along when it ends. Never returns."""
    os.setsid()
    try:
        mount("", "/", "", MS_REC | MS_PRIVATE)
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except Refused:
        pass  # a container that covers parts of /proc: the processes outside can be seen, and still not be touched
    run = os.fork()
    if run == 0:
        os.setsid()
        prctl(PR_SET_DUMPABLE, 1, what="owning one's own entries in /proc")
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a shell has whatever it starts in the background ignore it
        try:
            os.execvp(words[0], words)  # noqa: S606 - there is no shell to start it with
        except OSError as error:
            _refuse(f"{words[0]}: {error.strerror}", 127)
    _pass_on(run)
    os._exit(_status(run))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; ends at once if that has happened already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, what="dying with the supervisor")
    if os.getppid() not in (parent, 0):  # 0 is a parent outside of the namespace
        os._exit(REFUSED)


def _map_users(process: int) -> None:
    """Let everybody inside be who they are outside: all users where this one may say so, else this one alone."""
    superuser = os.geteuid() == 0
    if not superuser:
        _write(f"/proc/{process}/setgroups", "deny")
    for kind, own in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        inner = _existing(kind) if superuser else f"{own} {own} 1"
        _write(f"/proc/{process}/{kind}", inner)


def _existing(kind: str) -> str:
    """The users that there are in this user namespace, each mapped to itself."""
    with open(f"/proc/self/{kind}") as file:  # noqa: PTH123 - few imports
        spans = [line.split() for line in file]
    return "\n".join(f"{inner} {inner} {count}" for inner, _, count in spans) or _EVERYBODY


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        _refuse(f"mapping users ({path}): {error.strerror}")
    finally:
        os.close(descriptor)


def _pass_on(child: int) -> None:
    """Pass requests to end on towards the run, which may save what it has; whoever insists uses `kweek stop`."""

    def forward(number: int, _: FrameType | None) -> None:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)


def _status(child: int) -> int:
    """Wait for a child, and for whatever else has become one; its exit status as a shell gives it."""
    while True:
        done, status = os.waitpid(-1, 0)
        if done == child:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _refuse(why: str, status: int = REFUSED) -> None:
    os.write(2, f"kweek: the run cannot be supervised: {why}\n".encode())
    os._exit(status)
