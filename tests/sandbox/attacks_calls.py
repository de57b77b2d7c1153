"""Attacks on the kernel: calls that no program here has any business to make, with arguments that could do no harm."""

from __future__ import annotations

from attack import Attack, says

from kweek.sandbox import Result

#: What is tried -> numbers on x86_64 and on 64-bit Arm (None where there is none), and arguments as Python.
CALLS: dict[str, tuple[tuple[int, int | None], str]] = {
    "namespaces: a user's": ((272, 97), "0x10000000"),
    "namespaces: mounts": ((272, 97), "0x00020000"),
    "namespaces: another's": ((308, 268), "0, 0"),
    "mounting": ((165, 40), "b'none', b'/work', b'tmpfs', 0, 0"),
    "mounting, the new way": ((430, 430), "b'tmpfs', 0"),
    "moving a mount": ((429, 429), "-100, b'/work', -100, b'/tmp', 0"),
    "copying a mount": ((428, 428), "-100, b'/', 1"),
    "changing a mount": ((433, 433), "-100, b'/', 0"),
    "changing the root": ((155, 41), "b'/work', b'/work'"),
    "keys: control": ((250, 219), "0, -3, 0"),
    "keys: a new one": ((248, 217), "b'user', b'marker', b'x', 1, -3"),
    "keys: asking for one": ((249, 218), "b'user', b'marker', 0, 0"),
    "programs for the kernel": ((321, 280), "0, 0, 0"),
    "counters of the processor": ((298, 241), "0, 0, -1, -1, 0"),
    "rings: set-up": ((425, 425), "1, bytes(120)"),
    "rings: entering": ((426, 426), "0, 0, 0, 0, 0, 0"),
    "rings: registering": ((427, 427), "-1, 0, 0, 0"),
    "asynchronous input and output": ((206, 0), "1, (ctypes.c_ulong * 1)()"),
    "faults of pages handled here": ((323, 282), "1"),
    "a new kernel": ((246, 104), "0, 0, 0, 0"),
    "a module": ((175, 105), "0, 0, b''"),
    "a module from a file": ((313, 273), "-1, b'', 0"),
    "a module removed": ((176, 106), "b'kweek-no-such-module', 0x800"),
    "the machine started anew": ((169, 142), "0, 0, 0, 0"),
    "swapping": ((167, 224), "b'/work/none', 0"),
    "accounting": ((163, 89), "b'/work/none'"),
    "ports of the machine": ((173, None), "0x80, 1, 1"),
    "privilege level": ((172, None), "3"),
    "the table of segments": ((154, None), "0, 0, 0"),
    "another personality": ((135, 92), "0x0400000"),
    "the kernel's log": ((103, 116), "10, 0, 0"),
    "the clock": ((227, 112), "0, 0"),
    "the clock's speed": ((159, 171), "bytes(208)"),
    "the machine's name": ((170, 161), "b'marker', 6"),
    "quotas": ((179, 60), "0, 0, 0, 0"),
    "watching all files": ((300, 262), "0, 0"),
    "watching files": ((294, 26), "0"),
    "pages of other processes": ((279, 239), "1, 0, 0, 0, 0, 0"),
    "advice on other processes": ((440, 440), "-1, 0, 0, 0, 0"),
    "where memory lies": ((238, 237), "0, 0, 0"),
    "another filter of calls": ((317, 277), "1, 0, 0"),
    "capabilities regained": ((126, 91), "b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', b'\\xff' * 24"),
    "being the superuser": ((117, 147), "0, 0, 0"),
    "another group": ((119, 149), "0, 0, 0"),
    "other groups": ((116, 159), "0, 0"),
    "executing what is open": ((322, 281), "0, b'', 0, 0, 0x1000"),
    "a call that there is not yet": ((999, 999), "0"),
    "memory of the process laid out anew": ((157, 167), "35, 1, 0, 0, 0"),
    "the terminal's input": ((16, 29), "0, 0x5412, b'x'"),
    "the terminal's discipline": ((16, 29), "0, 0x5423, (ctypes.c_int * 1)(0)"),
    "signals by descriptors' owner": ((72, 25), "0, 8, 1"),
}

_MACHINE_CODE = """
import mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write({code!r})
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
result = ctypes.CFUNCTYPE(ctypes.c_long)(address)()
verdict(False, result)
"""


def _killed(result: Result) -> str:
    """Ended by the filter, or, where the kernel has no such way in, by the processor."""
    return "" if result.reason == "call" or result.exit == -11 else says(result) or "it came back"


#: Ways around a list of numbers that x86_64 alone has: the calls of 32-bit programs and of "x32".
_FOREIGN = [
    Attack(
        "calls",
        "the 32-bit way (int 0x80)",
        # mov eax, 20 (getpid); int 0x80; ret
        _MACHINE_CODE.format(code=b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"),
        _killed,
    ),
    Attack("calls", "the x32 way", "verdict(False, libc.syscall(ctypes.c_long(0x40000000 + 39)))", _killed),
]


def kernel(machine: str) -> list[Attack]:
    """The attacks on the kernel of this processor."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    plain = [
        Attack("calls", name, f"denied({numbers}, {arguments})")
        for name, (numbers, arguments) in CALLS.items()
        if numbers[column] is not None
    ]
    return [*plain, *(_FOREIGN if machine == "x86_64" else [])]
