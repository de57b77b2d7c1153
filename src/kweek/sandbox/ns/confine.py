"""The program's own process: gives up every right, checks that its limits bind, and becomes the program."""

from __future__ import annotations

import os
import resource
import stat

from . import kernel, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request

_OPEN_FILES = 64  # each may hold some 200 kB in the kernel that counts as nobody's memory
_STACK_BYTES = 8 << 20  # the usual; threads take theirs from it
_SIGNALS_QUEUED = 256
_SUPERVISORS = 2  # processes of ours that count as the user's

# Rights of Landlock (include/uapi/linux/landlock.h), by the version that brought them.
_EXECUTE, _WRITE, _READ, _READ_FOLDER = 1, 2, 4, 8
_MAKE_DEVICES = 1 << 6 | 1 << 11  # MAKE_CHAR, MAKE_BLOCK
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_ON_FILES = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15  # the rights that a single file can have
_NETWORK_RIGHTS, _SCOPES = 3, 3  # TCP since version 4; abstract sockets and signals since 6


def become(request: Request, output: tuple[int, int, int], group: int) -> None:
    """Become the program. `output` are its standard streams, `group` its control group's list, open, or -1.

    Raises:
        Refused: the kernel does not enforce something.
        OSError: likewise, or the program cannot be started.
    """
    os.setsid()
    if group >= 0:
        os.write(group, b"0")
    for number, stream in enumerate(output):
        os.dup2(stream, number)
    os.chdir(tree.WORK)
    os.umask(0o022)
    for number in range(1, 65):
        kernel.set_signal(number, ignored=False)
    _limit(request)
    kernel.prctl(
        kernel.PR_SET_THP_DISABLE, 1, what="small pages"
    )  # memory then grows slower than it is watched
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, what="no new privileges")
    _check_fork_limit()
    _landlock(request)
    kernel.install_filter(request.filter)
    environment = dict(pair.split(b"=", 1) for pair in request.environment)
    os.execve(b"/python/bin/" + request.argv[0], request.argv, environment)  # noqa: S606 - there is no shell to start it with


def _limit(request: Request) -> None:
    """Limits that the kernel counts by process, or for processes by user."""
    cpu = -(-request.cpu_microseconds // 1_000_000)
    for what, limit in (
        (resource.RLIMIT_AS, request.memory),
        (resource.RLIMIT_FSIZE, request.disk),
        (resource.RLIMIT_NPROC, request.processes + _SUPERVISORS),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (resource.RLIMIT_SIGPENDING, _SIGNALS_QUEUED),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        _lower(what, limit, limit)
    # The supervisor, which counts finer, comes first; then a signal that says why, then one that cannot be ignored.
    _lower(resource.RLIMIT_CPU, cpu + 1, cpu + 2)


def _lower(what: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the one that the caller itself is under, where that is lower."""
    most = resource.getrlimit(what)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))


def _check_fork_limit() -> None:
    """See the limit of processes refuse one: the kernel does not count those of some users."""
    kept = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, kept[1]))
    try:
        child = os.fork()
    except BlockingIOError:
        resource.setrlimit(resource.RLIMIT_NPROC, kept)
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise kernel.Refused("the kernel does not bound this user's processes")


def _landlock(request: Request) -> None:
    """A second fence around the same files, networks and signals, where the kernel has it."""
    version = kernel.landlock_version()
    if not version:
        return
    rights = next(rights for since, rights in reversed(_FILE_RIGHTS.items()) if since <= version)
    network = _NETWORK_RIGHTS if version >= 4 else 0
    rules = kernel.landlock_create(rights, network, _SCOPES if version >= 6 else 0)
    look = _READ | _READ_FOLDER
    places = {b"/": look, b"/dev": look | _WRITE}
    places |= {place: look | _EXECUTE for _, place in request.binds}
    for own in (tree.WORK, tree.TMP, tree.SHARED):
        places[os.fsencode(own)] = rights & ~_EXECUTE & ~_MAKE_DEVICES
    for place, granted in places.items():
        held = os.open(place, os.O_PATH | os.O_CLOEXEC)
        possible = rights if stat.S_ISDIR(os.fstat(held).st_mode) else rights & _ON_FILES
        kernel.landlock_allow(rules, granted & possible, held)
        os.close(held)
    kernel.landlock_restrict(rules)
    os.close(rules)
