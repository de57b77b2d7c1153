"""What an attack is: a program that tries something, harmless in content, and says itself whether it got through.

Attacks run in the sandbox under test and nowhere else, and that runs in the guard of `guard.py`. An attack that breaks
down for any reason but the one it names counts as one that got through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kweek.sandbox import Limits, Result, Tier

MIB = 1 << 20
#: Small, so that even an attack that gets through finds little to take; time enough for a machine that is busy.
LIMITS = {
    "seconds": 60.0,
    "cpu_seconds": 10.0,
    "memory_bytes": 96 * MIB,
    "disk_bytes": 4 * MIB,
    "processes": 8,
    "output_bytes": 64 << 10,
}

#: Put before every attack: making a system call by its number, and telling how it went.
_PRELUDE = """
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
DENIED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]

def call(numbers, *arguments):
    "The result of a system call, or its error as a negative number; `numbers` are those of x86_64 and of 64-bit Arm."
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers[COLUMN]), *words)
    return -ctypes.get_errno() if result == -1 else result

def verdict(blocked, how):
    print("blocked:" if blocked else "OPEN:", how, flush=True)

def denied(numbers, *arguments):
    "The kernel must refuse to listen: any other error means that the call went in."
    result = call(numbers, *arguments)
    verdict(-result in DENIED, errno.errorcode.get(-result, result))

def fails(action, *errors):
    "The action must fail with one of these errors."
    try:
        result = action()
    except OSError as error:
        verdict(error.errno in (errors or DENIED), repr(error))
    else:
        verdict(False, repr(result)[:200])
"""

Judge = Callable[[Result], str]


def says(result: Result) -> str:
    """The last line of an attack that judges itself; the judgement is empty when it was blocked."""
    last = result.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if last.startswith("blocked:") and result.reason is None:
        return ""
    return f"{last or 'said nothing'}; exit {result.exit}, reason {result.reason}, {result.stderr[-300:]!r}"


def ended_for(*reasons: str) -> Judge:
    """Blocked when the program was ended for one of these limits, within a sensible time."""

    def judge(result: Result) -> str:
        return (
            "" if result.reason in reasons else f"reason {result.reason}, exit {result.exit}: {says(result)}"
        )

    return judge


@dataclass(frozen=True)
class Attack:
    """One attack: its kind, what it tries, how it is judged, and limits other than the usual.

    `files` are given to it; `judge` says what got through, or nothing.
    """

    kind: str
    name: str
    source: str
    judge: Judge = says
    limits: Mapping[str, float] = field(default_factory=dict)

    def program(self, tier: Tier) -> str:
        """The whole program. There are no system calls to be made in the tier wasm."""
        return _PRELUDE + self.source if tier == "ns" else self.source

    def bounds(self) -> Limits:
        """The limits it runs under."""
        return Limits(**{**LIMITS, **self.limits})  # type: ignore[arg-type]
