"""Which system calls a program may make: a list of what Python needs, and the answer "not permitted" to all others.

What is not on the list has no other way in: no sockets, no mounts, no namespaces, no tracing, no keys, no asynchronous
rings, and no call that a later kernel adds. Calls are looked at with their arguments where only some uses are safe.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kweek.sandbox.bpf import AT_LEAST, BITS, EQUAL, GREATER, LOAD_WORD, RETURN, Instruction, assemble
from kweek.sandbox.calls import AARCH64, CALLS, X86_64

# include/uapi/linux/seccomp.h, audit.h
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ARCHITECTURES = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
_X32 = 0x40000000  # set in the numbers of a second set of calls of x86_64, which goes around any list
#: Calls numbered from here on are newer than the list; a C library asks whether they exist.
_NEWER = 453

#: CLONE_NEW* of every namespace, and CLONE_PTRACE.
_CLONE_DENIED = 0x7E022000
_AF_UNIX = 1
_FCNTL = (
    *(0, 1, 2, 3, 4, 5, 6, 7),  # F_DUPFD to F_SETLKW: descriptors, flags, locks
    *(36, 37, 38),  # F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
    *(1030, 1032, 1034),  # F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS; not F_SETPIPE_SZ: pipes are memory
)
_IOCTL = (
    *(
        0x5401,
        0x802C542A,
        0x5413,
        0x540F,
    ),  # is it a terminal, of what size: TCGETS, TCGETS2, TIOCGWINSZ, TIOCGPGRP
    *(
        0x541B,
        0x5421,
        0x5450,
        0x5451,
    ),  # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; not TIOCSTI, which types for others
)
_PRCTL = (
    *(1, 2, 3),  # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE
    *(15, 16, 23, 27, 39),  # names, PR_CAPBSET_READ, PR_GET_SECUREBITS, PR_GET_NO_NEW_PRIVS
)
_ARCH_PRCTL = (0x1001, 0x1002, 0x1003, 0x1004)  # the thread's own segment registers


@dataclass(frozen=True)
class Rule:
    """When a call is allowed: an argument's low 32 bits are one of `values`, have none of `bits`, or it is zero."""

    argument: int
    values: Sequence[int] = ()
    bits: int = 0
    zero: bool = False


#: The kernel reads 32 bits of each of these arguments, except of the address given to sendto.
RULES = {
    "clone": Rule(0, bits=_CLONE_DENIED),
    "socketpair": Rule(0, values=(_AF_UNIX,)),
    "sendto": Rule(4, zero=True),
    "fcntl": Rule(1, values=_FCNTL),
    "ioctl": Rule(1, values=_IOCTL),
    "prctl": Rule(0, values=_PRCTL),
    "arch_prctl": Rule(0, values=_ARCH_PRCTL),
    "prlimit64": Rule(0, values=(0,)),  # of the caller alone
}


def build_filter(machine: str) -> bytes:
    """The filter for a processor by its name in `platform.machine()`, as the kernel takes it.

    Raises:
        ValueError: there is no list of calls for it.
    """
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise ValueError(f"no list of system calls for {machine}")
    return assemble(_instructions(machine))


def _instructions(machine: str) -> Iterator[Instruction | str]:
    numbers = {name: both[machine] for name, both in CALLS.items() if machine in both}
    yield Instruction(LOAD_WORD, _ARCHITECTURE)
    yield Instruction(EQUAL, _ARCHITECTURES[machine], yes="native")
    yield Instruction(RETURN, KILL)
    yield "native"
    yield Instruction(LOAD_WORD, _NUMBER)
    if machine == X86_64:
        yield Instruction(AT_LEAST, _X32, no="known")
        yield Instruction(RETURN, KILL)
        yield "known"
    # Not "not permitted": the C library then falls back on clone, whose flags a filter can read.
    yield from _answer(numbers["clone3"], errno.ENOSYS)
    for name, rule in RULES.items():
        if name in numbers:
            yield from _ruled(name, numbers[name], rule)
    plain = sorted(number for name, number in numbers.items() if name not in RULES and name != "clone3")
    for first, last in _ranges(plain):
        yield Instruction(AT_LEAST, first, no=f"beside {first}")
        yield Instruction(GREATER, last, yes=f"beside {first}")
        yield Instruction(RETURN, ALLOW)
        yield f"beside {first}"
    yield Instruction(AT_LEAST, _NEWER, no="denied")
    yield Instruction(RETURN, _ERRNO | errno.ENOSYS)
    yield "denied"
    yield Instruction(RETURN, _ERRNO | errno.EPERM)


def _answer(number: int, error: int) -> Iterator[Instruction | str]:
    yield Instruction(EQUAL, number, no=f"not {number}")
    yield Instruction(RETURN, _ERRNO | error)
    yield f"not {number}"


def _ruled(name: str, number: int, rule: Rule) -> Iterator[Instruction | str]:
    """Allow a call by its rule, deny it otherwise; any other call goes on behind."""
    low = _ARGUMENTS + 8 * rule.argument
    yield Instruction(EQUAL, number, no=f"not {name}")
    yield Instruction(LOAD_WORD, low)
    if rule.bits:
        yield Instruction(BITS, rule.bits, no=f"allow {name}")
    for value in rule.values:
        yield Instruction(EQUAL, value, yes=f"allow {name}")
    if rule.zero:
        yield Instruction(EQUAL, 0, no=f"deny {name}")
        yield Instruction(LOAD_WORD, low + 4)
        yield Instruction(EQUAL, 0, yes=f"allow {name}")
    yield f"deny {name}"
    yield Instruction(RETURN, _ERRNO | errno.EPERM)
    yield f"allow {name}"
    yield Instruction(RETURN, ALLOW)
    yield f"not {name}"


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring numbers, as (first, last): the filter walks past these and not past each call."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
