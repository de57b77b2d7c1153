"""What `check` tries inside: one harmless program per promise, and how its end shows that the promise is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from kweek.sandbox.limits import MIB, Limits, Result, Tier

_MEMORY = 96 * MIB
_LIMITS = {
    "seconds": 20.0,
    "cpu_seconds": 5.0,
    "memory_bytes": _MEMORY,
    "disk_bytes": 4 * MIB,
    "processes": 8,
}
_FLOOD_BYTES = 64 << 10

# Each of these prints {"tried": ..., "through": [...]}: what got through must be nothing.
_REPORT = """
import errno, json, os, sys
def tell(tried, through):
    print(json.dumps({"tried": tried, "through": [str(name) for name in through]}))
def works(action):
    try:
        action()
        return True
    except (OSError, ImportError, AttributeError):
        return False
"""
_NETWORK = """
try:
    import socket
    families = sorted({int(f) for f in socket.AddressFamily})
    open_ = [f for f in families for t in (1, 2, 3, 5) if works(lambda: socket.socket(f, t))]
except ImportError:
    families, open_ = ["any"], []
tell(f"{len(families)} families of sockets", open_)
"""
_READS = """
paths = ["/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ", "/dev/mem", "/root", "/home", "/sys"]
paths += ["../" * 20 + "etc/passwd"]
def look(path):
    return os.listdir(path) if os.path.isdir(path) else open(path)
tell(f"{len(paths)} files and folders", [p for p in paths if works(lambda: look(p))])
"""
_WRITES = """
paths = ["/marker", "/dev/marker", os.path.dirname(os.__file__) + "/marker", os.__file__, "../marker", "/etc/marker"]
tell(f"{len(paths)} places", [p for p in paths if works(lambda: open(p, "a"))])
"""
_ENVIRONMENT = """
ours = {"PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_CTYPE", "TZ", "MALLOC_ARENA_MAX", "LD_LIBRARY_PATH"}
tell(f"{len(os.environ)} variables", [k for k in os.environ if k not in ours and not k.startswith("PYTHON")])
"""
_CALLS = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
calls = {
    "unshare": (272, 97, 0x10000000), "mount": (165, 40, 0), "ptrace": (101, 117, 0), "keyctl": (250, 219, 0),
    "bpf": (321, 280, 0), "perf_event_open": (298, 241, 0), "io_uring_setup": (425, 425, 0),
    "userfaultfd": (323, 282, 0), "memfd_create": (319, 279, 0), "process_vm_readv": (310, 270, 0),
    "init_module": (175, 105, 0), "kexec_load": (246, 104, 0), "setns": (308, 268, -1), "clone3": (435, 435, 0),
}
def answers(entry):
    words = [ctypes.c_long(word) for word in (entry[column], entry[2], 0, 0, 0, 0, 0)]
    return libc.syscall(*words) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)
tell(f"{len(calls)} calls", [name for name, entry in calls.items() if answers(entry)])
"""
_ONE = "bytearray(200 << 20)"
_ALL = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = os.urandom(40 << 20)
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
_FORKS = """
import os, time
count = 1
try:
    while count < 100:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except BlockingIOError:
    pass
print(count)
"""
_ORPHANS = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
"""
_DISK = """
import errno
size = 0
try:
    with open("file", "wb", buffering=0) as file:
        while size < 64 << 20:
            size += file.write(bytes(1 << 18))
except OSError as error:
    print(size if error.errno in (errno.ENOSPC, errno.EFBIG) else -1)
"""
_NO_DISK = "open('file', 'w')"


def _nothing_through(result: Result) -> tuple[bool, str]:
    try:
        told = json.loads(result.stdout)
    except ValueError:
        return False, f"the probe broke down: {result.stderr[-200:]!r}"
    through = ", ".join(told["through"])
    return not told["through"], f"{told['tried']} tried, {through or 'none'} got through"


def _fails_with(error: str) -> Callable[[Result], tuple[bool, str]]:
    def judge(result: Result) -> tuple[bool, str]:
        seen = error.encode() in result.stderr and result.exit == 1
        return seen, f"{error} within" if seen else f"exit {result.exit}"

    return judge


def _ended_for(reason: str) -> Callable[[Result], tuple[bool, str]]:
    def judge(result: Result) -> tuple[bool, str]:
        return result.reason == reason, f"ended for {result.reason} after {result.seconds:.2f} s"

    return judge


def _at_most(name: str) -> Callable[[Result], tuple[bool, str]]:
    def judge(result: Result) -> tuple[bool, str]:
        got = int(result.stdout) if result.stdout.strip().isdigit() else -1
        return 0 < got <= _LIMITS[name], f"{got:,} of {_LIMITS[name]:,}"

    return judge


def _prompt(result: Result) -> tuple[bool, str]:
    return result.exit == 0 and result.reason is None, f"ended with the program, after {result.seconds:.2f} s"


@dataclass(frozen=True)
class Probe:
    """One promise: what it is about, what keeps it in each tier, what is tried, and what the end shows."""

    what: str
    kept_by: dict[Tier, str]
    source: str
    judge: Callable[[Result], tuple[bool, str]]
    changed: dict[str, float] = field(default_factory=dict)

    def limits(self) -> Limits:
        """What the probe runs under."""
        return Limits(**{**_LIMITS, **self.changed})  # type: ignore[arg-type]


def _both(ns: str, wasm: str) -> dict[Tier, str]:
    return {"ns": ns, "wasm": wasm}


_NONE = "there is none inside"
_NETWORK_BY = _both("no call makes a socket; an empty network", _NONE)
_LOOP, _SLEEP, _FLOOD = "while True: pass", "import time; time.sleep(1000)", "while True: print('x' * 1000)"
PROBES = (
    Probe("network", _NETWORK_BY, _REPORT + _NETWORK, _nothing_through),
    Probe(
        "reading outside",
        _both("a root of its own", "the given files alone"),
        _REPORT + _READS,
        _nothing_through,
    ),
    Probe("writing outside", _both("read-only mounts, Landlock", _NONE), _REPORT + _WRITES, _nothing_through),
    Probe(
        "environment", _both("started without", "started without"), _REPORT + _ENVIRONMENT, _nothing_through
    ),
    Probe(
        "system calls", {"ns": "a list of what Python needs (seccomp)"}, _REPORT + _CALLS, _nothing_through
    ),
    Probe("memory of a process", _both("the kernel", "the host"), _ONE, _fails_with("MemoryError")),
    Probe("memory in all", {"ns": "watched every 2 to 20 ms"}, _ALL, _ended_for("memory_bytes")),
    Probe(
        "processor time in all",
        _both("watched", "the host"),
        _LOOP,
        _ended_for("cpu_seconds"),
        {"cpu_seconds": 0.3},
    ),
    Probe("time", _both("watched", "the host"), _SLEEP, _ended_for("seconds"), {"seconds": 0.5}),
    Probe("processes", {"ns": "the kernel"}, _FORKS, _at_most("processes")),
    Probe("orphans", {"ns": "the process namespace"}, _ORPHANS, _prompt),
    Probe("disk", {"ns": "a disk of that size"}, _DISK, _at_most("disk_bytes")),
    Probe("disk", {"wasm": "none to write to"}, _NO_DISK, _fails_with("PermissionError")),
    Probe(
        "output",
        _both("read no further", "read no further"),
        _FLOOD,
        _ended_for("output_bytes"),
        {"output_bytes": _FLOOD_BYTES},
    ),
)
