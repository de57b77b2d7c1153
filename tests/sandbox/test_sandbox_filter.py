"""The filter of system calls, executed here as the kernel would, for both processors on any."""

from __future__ import annotations

import errno
import platform
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.sandbox.bpf import EQUAL, LOAD_WORD, RETURN, Instruction, assemble
from kweek.sandbox.calls import CALLS
from kweek.sandbox.seccomp import ALLOW, KILL, RULES, build_filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = sorted(ARCHITECTURES)
PERM, NOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def decide(
    program: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int | None = None
) -> int:
    """What the filter answers: the machine of linux/Documentation/networking/filter.rst, as far as filters use it."""
    words = [word % (1 << 64) for word in (*arguments, *(0,) * 6)[:6]]
    data = struct.pack("<IIQ6Q", number % (1 << 32), architecture or 0, 0, *words)
    accumulator, at, steps = 0, 0, 0
    while True:
        code, yes, no, constant = struct.unpack_from("<HBBI", program, 8 * at)
        at, steps = at + 1, steps + 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
            continue
        taken = {
            0x15: accumulator == constant,
            0x25: accumulator > constant,
            0x35: accumulator >= constant,
            0x45: bool(accumulator & constant),
        }[code]
        at += yes if taken else no


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(machine: str, name: str, *arguments: int) -> int:
    return decide(build_filter(machine), CALLS[name][machine], arguments, ARCHITECTURES[machine])


def test_every_call_on_the_list_and_no_other(machine: str) -> None:
    program = build_filter(machine)
    listed = {both[machine]: name for name, both in CALLS.items() if machine in both}
    for number in range(600):
        answer = decide(program, number, (), ARCHITECTURES[machine])
        name = listed.get(number)
        if name is None:
            assert answer == (NOSYS if number > 452 else PERM), number
        elif name == "clone3":
            assert answer == NOSYS
        elif name not in RULES:
            assert answer == ALLOW, name


def test_other_architectures_and_x32_are_ended(machine: str) -> None:
    program = build_filter(machine)
    others = {0x40000003, 0x40000028, 0, *ARCHITECTURES.values()} - {ARCHITECTURES[machine]}
    for other in others:
        assert decide(program, 1, (), other) == KILL
    if machine == "x86_64":
        for number in (0x40000000, 0x40000027, 0x7FFFFFFF, 0xFFFFFFFF):
            assert decide(program, number, (), ARCHITECTURES[machine]) == KILL


def test_clone_starts_processes_and_threads_but_no_namespaces(machine: str) -> None:
    assert ask(machine, "clone", 0x01200011) == ALLOW  # as fork
    assert ask(machine, "clone", 0x003D0F00) == ALLOW  # as a thread
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x2000):
        assert ask(machine, "clone", flag | 17) == PERM


def test_arguments_decide(machine: str) -> None:
    assert ask(machine, "socketpair", 1) == ALLOW
    assert ask(machine, "socketpair", 2) == PERM
    assert ask(machine, "prlimit64", 0, 7) == ALLOW
    assert ask(machine, "prlimit64", 1, 7) == PERM
    assert ask(machine, "fcntl", 0, 1030) == ALLOW
    assert ask(machine, "fcntl", 0, 1031) == PERM
    assert ask(machine, "ioctl", 0, 0x5401) == ALLOW
    assert ask(machine, "ioctl", 0, 0x5412) == PERM
    assert ask(machine, "ioctl", 0, 0xFFFFFFFF00005412) == PERM  # the kernel reads 32 bits of it
    assert ask(machine, "prctl", 15) == ALLOW
    assert ask(machine, "prctl", 35) == PERM
    assert ask(machine, "sendto", 3, 0, 0, 0, 0, 0) == ALLOW
    assert ask(machine, "sendto", 3, 0, 0, 0, 0x7FFF, 16) == PERM
    assert ask(machine, "sendto", 3, 0, 0, 0, 1 << 32, 16) == PERM  # an address whose low half is zero


@given(number=st.integers(0, (1 << 32) - 1), arguments=st.tuples(*[st.integers(0, (1 << 64) - 1)] * 6))
def test_whatever_is_asked_gets_one_of_four_answers(number: int, arguments: tuple[int, ...]) -> None:
    for machine in MACHINES:
        answer = decide(build_filter(machine), number, arguments, ARCHITECTURES[machine])
        assert answer in (ALLOW, PERM, NOSYS, KILL)
        known = {both[machine] for both in CALLS.values() if machine in both}
        assert answer != ALLOW or number in known


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    path = Path(header)
    if not path.exists():
        pytest.skip(f"{header} is not installed")
    text = path.read_text()
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    names = {"newfstatat": "fstatat"} if machine == "aarch64" else {}
    checked = 0
    for name, both in CALLS.items():
        if machine in both and names.get(name, name) in numbers:
            assert both[machine] == numbers[names.get(name, name)], name
            checked += 1
        elif machine not in both:
            assert name not in numbers
    assert checked > 100


def test_no_list_for_other_processors() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        build_filter("riscv64")


def test_this_machines_filter_is_short_enough_to_be_walked_at_every_call() -> None:
    if platform.machine() in MACHINES:
        assert len(build_filter(platform.machine())) // 8 < 400


def test_the_assembler_refuses_what_it_cannot_mean() -> None:
    end = Instruction(RETURN, ALLOW)
    jump = Instruction(EQUAL, 1, yes="there")
    assert len(assemble([Instruction(LOAD_WORD, 0), jump, end, "there", end])) == 32
    for items, said in (
        ([jump, end], "no instruction has"),
        (["there", jump, end], "out of reach"),
        ([jump, *[end] * 300, "there", end], "out of reach"),
        ([jump, end, "there"], "out of reach"),
        (["there", end, "there", end], "twice"),
        ([end] * 5000, "5000 instructions"),
    ):
        with pytest.raises(ValueError, match=said):
            assemble(items)  # type: ignore[arg-type]
