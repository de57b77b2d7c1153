"""What is found out about a machine, from real texts of Linux and macOS, and what is measured."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from kweek.compute.hardware import (
    Machine,
    detect,
    measure_peak,
    parse_cpuinfo,
    parse_sysctl,
    peak_memory_bytes,
)

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu vme fma avx f16c avx2 avx512f avx512dq avx_vnni avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
"""
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes sve asimddp i8mm bf16
CPU implementer\t: 0x41
"""
APPLE = """machdep.cpu.brand_string: Apple M2
hw.optional.neon: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 0
kern.version: Darwin: 23
"""


def test_linux_on_x86() -> None:
    name, features = parse_cpuinfo(XEON)
    assert name == "Intel(R) Xeon(R) Platinum 8488C"
    assert {"avx2", "fma", "avx512", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16"} <= features
    assert Machine(name, 2, None, features, None).has_fast_bf16


def test_linux_on_arm_does_not_name_its_processor() -> None:
    assert parse_cpuinfo(GRAVITON) == (None, frozenset({"neon", "sve", "arm_i8mm", "arm_bf16"}))


def test_macos() -> None:
    assert parse_sysctl(APPLE) == ("Apple M2", frozenset({"neon", "arm_bf16"}))


def test_an_old_processor_has_no_fast_bf16() -> None:
    _, features = parse_cpuinfo("flags : avx2 avx512f avx512_vnni")
    assert not Machine(None, 1, None, features, None).has_fast_bf16


def test_nothing_known_stays_unknown() -> None:
    assert parse_cpuinfo("") == (None, frozenset())
    assert parse_sysctl("") == (None, frozenset())


def test_this_machine() -> None:
    machine = detect()
    assert 1 <= machine.num_cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes is None or machine.memory_bytes > 1e8
    assert (machine.accelerator is None) or torch.cuda.is_available() or torch.backends.mps.is_available()


def test_the_peak_is_plausible_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    peak = measure_peak(threads=1, seconds=0.1)
    assert torch.get_num_threads() == before
    assert peak.threads == 1
    assert 1e9 < peak.fp32_flop_per_second < 1e13
    assert peak.bf16_flop_per_second is None or peak.bf16_flop_per_second > 1e8
    assert 1e8 < peak.memory_bytes_per_second < 1e13


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports this process alone")
def test_memory_of_children_counts() -> None:
    before = peak_memory_bytes()
    assert before > 1e7
    subprocess.run([sys.executable, "-c", "x = bytearray(600_000_000)"], check=True)
    assert peak_memory_bytes() >= before
    assert peak_memory_bytes() > 6e8


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count from the start of the program")
def test_memory_of_the_process_that_started_this_one_does_not_count() -> None:
    held = bytearray(400_000_000)
    code = "from kweek.compute.hardware import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(done.stdout) < len(held) / 2
