"""An assembler for the kernel's classic packet filter, the language of system-call filters.

A filter is a list of instructions of 8 bytes. Jumps lead forward only, by at most 255 instructions; here they name a
label. Source: linux/Documentation/networking/filter.rst and include/uapi/linux/bpf_common.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: the 32-bit word at an offset into the accumulator
EQUAL, GREATER, AT_LEAST, BITS = (
    0x15,
    0x25,
    0x35,
    0x45,
)  # BPF_JMP | BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, with a constant
RETURN = 0x06  # BPF_RET | BPF_K
_LONGEST_JUMP = 255
_LONGEST_FILTER = 4096  # BPF_MAXINSNS


@dataclass(frozen=True)
class Instruction:
    """One instruction; a jump goes to the label `yes` or `no`, or on to the next where that is None."""

    code: int
    constant: int
    yes: str | None = None
    no: str | None = None


def assemble(items: Iterable[Instruction | str]) -> bytes:
    """The filter as the kernel takes it; a string among the items is a label for what follows it.

    Raises:
        ValueError: a label that is missing, given twice or not ahead and within reach, or a filter too long.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for item in items:
        if isinstance(item, Instruction):
            instructions.append(item)
        elif labels.setdefault(item, len(instructions)) != len(instructions):
            raise ValueError(f"the label {item!r} is given twice")
    if len(instructions) > _LONGEST_FILTER:
        raise ValueError(f"a filter of {len(instructions)} instructions; the kernel takes {_LONGEST_FILTER}")
    return b"".join(
        struct.pack(
            "=HBBI",
            instruction.code,
            _distance(instruction.yes, at, labels, instructions),
            _distance(instruction.no, at, labels, instructions),
            instruction.constant,
        )
        for at, instruction in enumerate(instructions)
    )


def _distance(label: str | None, at: int, labels: dict[str, int], instructions: Sequence[Instruction]) -> int:
    if label is None:
        return 0
    if label not in labels:
        raise ValueError(f"no instruction has the label {label!r}")
    distance = labels[label] - at - 1
    if not 0 <= distance <= _LONGEST_JUMP or labels[label] >= len(instructions):
        raise ValueError(f"the label {label!r} is out of reach")
    return distance
