"""Namespaces: what the program shares with the machine (nothing but the kernel), and who it is (nobody)."""

from __future__ import annotations

import os

from . import tree
from .kernel import (
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Refused,
    prctl,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request

USER = 1000  # inside; not 0, so that nothing treats it as special
_SIGKILL = 9
_ALL = NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; ends at once if that has happened already."""
    prctl(PR_SET_PDEATHSIG, _SIGKILL, what="dying with the caller")
    if os.getppid() != parent:
        os._exit(1)


def enter(request: Request) -> None:
    """Leave the machine's namespaces; the next child is process 1 of the new ones.

    The superuser first builds the root, which needs rights to read Python wherever it lies, then becomes a user that
    nobody else is, and goes on like any ordinary user. Its processes are thus bounded like theirs: the kernel never
    bounds the superuser's.

    Raises:
        Refused: the kernel does not permit it.
        OSError: a file of Python is not there, or identities cannot be mapped.
    """
    if request.outer_user >= 0:
        unshare(NEWNS, "a mount namespace")
        tree.build(request)
        _become(request.outer_user)
        die_with(request.parent)  # a change of identity has cancelled it
    user, group = os.geteuid(), os.getegid()
    unshare(_ALL, "namespaces for an ordinary user")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{USER} {group} 1")
    _write("/proc/self/uid_map", f"{USER} {user} 1")
    if request.outer_user < 0:
        tree.build(request)


def _become(user: int) -> None:
    """Give up being the superuser, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    prctl(PR_SET_DUMPABLE, 1, what="owning one's own entries in /proc")  # else the maps cannot be written


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise Refused(f"mapping the user ({path}): {error.strerror}") from None
    finally:
        os.close(descriptor)
