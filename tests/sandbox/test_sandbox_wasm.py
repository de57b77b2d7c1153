"""Programs in WebAssembly. The guest is built once, for half a minute, and kept in the user's cache."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import guard
import pytest

from kweek.sandbox import Limits, Result, SandboxError, run
from kweek.sandbox.check import check
from kweek.sandbox.limits import MIB
from kweek.sandbox.wasm import build, guest

pytestmark = [
    pytest.mark.slow,  # for the first of them, where the guest is not there yet
    pytest.mark.skipif(not build.is_installed(), reason="wasmtime and componentize-py are not installed"),
]
LIMITS = Limits(seconds=60.0, memory_bytes=128 * MIB)


def ran(program: str, **options: object) -> Result:
    return run(program, tier="wasm", **{"limits": LIMITS, **options})  # type: ignore[arg-type]


def test_output_input_status_and_files() -> None:
    files = {"solution.py": "def double(x): return 2 * x\n", "data/given": b"\xff"}
    program = """
import sys, solution
print(sys.stdin.read(), solution.double(4), open("data/given", "rb").read())
print("no", file=sys.stderr)
sys.exit(3)
"""
    done = ran(program, files=files, stdin="yes")
    assert (done.exit, done.stdout, done.stderr) == (3, b"yes 8 b'\\xff'\n", b"no\n")
    assert (done.reason, done.tier, dict(done.files)) == (None, "wasm", {})


def test_the_library_is_there() -> None:
    program = """
import unittest, json, re, decimal, fractions, statistics, heapq, itertools, dataclasses, typing, enum, collections.abc
import datetime, hashlib, csv, base64, textwrap, functools, string, operator, bisect, random, xml.etree.ElementTree
import threading, asyncio, unittest.mock
assert "ü".encode("latin-1").decode("cp1252") == "ü"
class T(unittest.TestCase):
    def test(self): self.assertEqual(sum(fractions.Fraction(1, 3) for _ in range(3)), 1)
unittest.main(argv=["x"])
"""
    done = ran(program)
    assert done.exit == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("program", "limits", "reason"),
    [
        ("while True: pass", {"cpu_seconds": 0.3}, "cpu_seconds"),
        ("print('before', flush=True); import time; time.sleep(99)", {"seconds": 1.0}, "seconds"),
        ("while True: print('before' * 99)", {"output_bytes": 1000}, "output_bytes"),
    ],
)
def test_what_a_program_is_ended_for_is_named(program: str, limits: dict[str, float], reason: str) -> None:
    done = ran(program, limits=Limits(**{"seconds": 60.0, **limits}))  # type: ignore[arg-type]
    assert done.reason == reason and done.exit < 0
    assert done.truncated == (reason == "output_bytes")
    assert ran("print(1)").stdout == b"1\n"  # and the next one is none the worse


def test_memory_is_bounded_in_all() -> None:
    done = ran("held = []\nwhile True: held.append(bytes(1 << 20))")
    assert (done.exit, done.reason) == (1, None) and b"MemoryError" in done.stderr
    assert done.peak_memory_bytes <= LIMITS.memory_bytes + 64 * MIB


@pytest.mark.parametrize(
    "attempt",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "open('/etc/passwd')",
        "open('../../etc/passwd')",
        "import os; os.listdir('/')",
        "open('made', 'w')",
        "import os; os.remove('given')",
        "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
        "import ctypes; ctypes.CDLL(None)",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_there_is_no_way_out(attempt: str) -> None:
    done = ran(attempt, files={"given": "x"})
    assert (done.exit, done.reason) == (1, None), done.stdout
    assert b"Traceback" in done.stderr


def test_programs_know_nothing_of_each_other() -> None:
    assert ran("import builtins, sys; builtins.left = sys.left = 1; print(1)").ok
    assert (
        ran("import builtins, sys; print(hasattr(builtins, 'left'), hasattr(sys, 'left'))").stdout
        == b"False False\n"
    )
    numbers = {ran("import random; print(random.random())").stdout for _ in range(3)}
    assert len(numbers) == 3


def test_a_crash_is_the_programs_own() -> None:
    assert ran("import os; os.abort()").exit == -6
    assert ran("import os; os._exit(5)").exit == 1  # of a guest that ends itself the host learns only this
    assert ran("import os; os._exit(0)").exit == 0


def test_several_at_once() -> None:
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda n: ran(f"print({n} ** 2)").stdout, range(6)))
    assert results == [f"{n * n}\n".encode() for n in range(6)]


def test_workers_end_when_told_to() -> None:
    ran("pass")
    workers = guest._workers(os.getpid())
    workers.close()
    assert ran("print(1)").stdout == b"1\n"
    assert threading.active_count() < 20


def test_commands_need_the_other_tier() -> None:
    with pytest.raises(SandboxError, match="source"):
        run(["python3", "-c", "pass"], tier="wasm")


def test_attacks_in_the_guard() -> None:
    if refusal := guard.refusal("ordinary"):
        pytest.skip(f"attacks are not tried without a guard: {refusal}")
    build.guest()
    outcomes = guard.run_guarded("ordinary", ["wasm"], 900.0, wasm=True)
    assert len(outcomes) >= 30 and not [one for one in outcomes if one["wrong"]]


def test_every_promise_is_kept() -> None:
    found = check("wasm")
    assert found.works, [row for row in found.rows if not row.kept]
