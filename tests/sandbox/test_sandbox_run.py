"""Programs in namespaces, as their caller meets them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kweek.errors import ConfigError
from kweek.sandbox import Limits, Result, SandboxError, groups, interpreter, namespaces, run
from kweek.sandbox.limits import MIB

pytestmark = pytest.mark.usefixtures("spaces")
ROOT = os.geteuid() == 0
LIMITS = Limits(seconds=60.0, memory_bytes=128 * MIB, disk_bytes=4 * MIB)


def ran(program: str, **options: object) -> Result:
    return run(program, tier="ns", **{"limits": LIMITS, **options})  # type: ignore[arg-type]


def test_output_input_status_and_time() -> None:
    done = ran("import sys; print(sys.stdin.read()); print('no', file=sys.stderr); sys.exit(3)", stdin="yes")
    assert (done.exit, done.stdout, done.stderr) == (3, b"yes\n", b"no\n")
    assert (done.reason, done.truncated, done.ok, done.tier) == (None, False, False, "ns")
    assert 0 < done.cpu_seconds < 30 and 0 < done.seconds < 60
    assert 4 * MIB < done.peak_memory_bytes < LIMITS.memory_bytes
    assert ran("pass").ok


def test_a_signal_is_a_negative_status() -> None:
    assert ran("import os, signal; os.kill(os.getpid(), signal.SIGTERM)").exit == -signal.SIGTERM
    assert ran("import os; os.abort()").exit == -signal.SIGABRT


def test_files_in_and_out() -> None:
    files = {"solution.py": "def double(x): return 2 * x\n", "data/given.bin": b"\xff\x00", "kept": "same"}
    program = """
import solution, os
assert solution.double(4) == 8
data = open("data/given.bin", "rb").read()
os.makedirs("made/deep")
open("made/deep/copy", "wb").write(data[::-1])
open("data/given.bin", "ab").write(b"!")
open("kept", "w").write("same")
os.chmod("made/deep/copy", 0)
os.chmod("made", 0)
open("/tmp/elsewhere", "w").write("not handed out")
"""
    done = ran(program, files=files)
    assert done.ok, done.stderr
    assert dict(done.files) == {"made/deep/copy": b"\x00\xff", "data/given.bin": b"\xff\x00!"}


def test_large_input_and_output_through_the_pipes() -> None:
    given = os.urandom(3 * MIB)
    limits = Limits(seconds=60.0, output_bytes=4 * MIB)
    done = ran(
        "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])", stdin=given, limits=limits
    )
    assert done.stdout == given[::-1]
    assert ran("pass", stdin=given).ok  # nobody reads it


def test_commands() -> None:
    done = run(["python3", "-c", "import sys; print(sys.argv)", "a b", "ü"], tier="ns", limits=LIMITS)
    assert done.stdout.decode() == "['-c', 'a b', 'ü']\n"
    for wrong in (["sh", "-c", "true"], [], ["/python/bin/python3"]):
        with pytest.raises(ConfigError, match="cannot be executed"):
            run(wrong, tier="ns", limits=LIMITS)


@pytest.mark.parametrize(
    "program",
    [
        "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', 'print(1)']).decode(), end='')",
        "import asyncio\nasync def main():\n  await asyncio.sleep(0.01)\n  print(1)\nasyncio.run(main())",
        "from multiprocessing import Pool\nif __name__ == '__main__':\n  with Pool(2) as p: print(p.map(abs, [-1])[0])",
        "from concurrent.futures import ThreadPoolExecutor as T\nprint(list(T(3).map(abs, [-1]))[0])",
        "import sqlite3; d = sqlite3.connect('x.db'); d.execute('create table t(a)'); print(1)",
        "import ctypes; print(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)())",
        "import tempfile; f = tempfile.TemporaryFile(); f.write(b'x'); print(1)",
        "import ssl, hashlib, decimal, zlib, lzma, bz2, uuid; uuid.uuid4(); print(1)",
        "import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start(); print(1)",
        "import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(1, 1)\n"
        "unittest.main(exit=False, argv=['x']); print(1)",
        "import fcntl, os; fcntl.flock(os.open('l', os.O_CREAT), fcntl.LOCK_EX); print(1); exit()",
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: print(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.2)",
    ],
)  # fmt: skip
def test_what_honest_programs_do(program: str) -> None:
    done = ran(program)
    assert (done.exit, done.stdout) == (0, b"1\n"), done.stderr.decode()


def test_the_same_program_says_the_same() -> None:
    outputs = {ran("print(list({'a', 'b', 'c', 'd', 'e', 'f'}))").stdout for _ in range(4)}
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("program", "limits", "reason"),
    [
        ("while True: pass", {"cpu_seconds": 0.2}, "cpu_seconds"),
        ("import time; print('before', flush=True); time.sleep(99)", {"seconds": 0.5}, "seconds"),
        ("while True: print('before' * 99)", {"output_bytes": 1000}, "output_bytes"),
        (
            "import os, time; [os.fork() for _ in range(2)]; x = os.urandom(50 << 20); time.sleep(60)",
            {},
            "memory_bytes",
        ),
    ],
)
def test_what_a_program_is_ended_for_is_named(program: str, limits: dict[str, float], reason: str) -> None:
    bounds = Limits(**{"seconds": 60.0, "memory_bytes": 128 * MIB, **limits})  # type: ignore[arg-type]
    done = ran(program, limits=bounds)
    assert done.reason == reason and not done.ok
    assert done.truncated == (reason == "output_bytes")
    if reason == "seconds":
        assert done.stdout == b"before\n"
    assert len(done.stdout) <= bounds.output_bytes


def test_running_out_within_is_the_programs_own_affair() -> None:
    done = ran("x = bytearray(1 << 30)")
    assert (done.exit, done.reason) == (1, None) and b"MemoryError" in done.stderr
    done = ran("open('x', 'wb').write(bytes(9 << 20))")
    assert (done.exit, done.reason) == (1, None) and b"OSError" in done.stderr


def test_several_at_once_do_not_take_from_each_other() -> None:
    program = "import os, time\npids = [os.fork() for _ in range(3)]\ntime.sleep(0.2)\nprint(len(pids))"
    with ThreadPoolExecutor(4) as pool:
        limits = Limits(seconds=120.0, processes=8, memory_bytes=128 * MIB)
        results = list(pool.map(lambda _: ran(program, limits=limits), range(8)))
    assert [done.exit for done in results] == [0] * 8, [done.stderr for done in results]


CALLER = """
import sys, threading
from kweek.sandbox import Limits, run
print("ready", flush=True)
run("import os, time\\nos.fork()\\ntime.sleep(999)", limits=Limits(seconds=999, cpu_seconds=999), tier="ns")
"""


def supervisors() -> set[int]:
    """Processes of sandboxes of this user, by their command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"ns.supervisor" in words or b"program.py" in words:
            found.add(int(path.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_its_caller(how: signal.Signals) -> None:
    before = supervisors()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert caller.stdout is not None and caller.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60
    while len(supervisors() - before) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    started = supervisors() - before
    assert len(started) >= 4, "supervisor, process 1, the program and its child"
    caller.send_signal(how)
    caller.wait(60)
    caller.stdout.close()
    while supervisors() & started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not supervisors() & started


def test_mounts_and_threads_are_as_before() -> None:
    ran("pass")
    mounts, threads = Path("/proc/self/mountinfo").read_text(), threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        ran("open('x', 'w').write('y')")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    for _ in range(
        100
    ):  # at most: a thread that another test had left may have ended; and one may just be ending
        if threading.active_count() <= threads and len(os.listdir("/proc/self/fd")) <= descriptors:
            break
        time.sleep(0.05)
    assert threading.active_count() <= threads, threading.enumerate()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_nothing_runs_where_something_is_not_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that the kernel does not take, and a Python that is not there: refused, with the way out named."""
    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "_filter", lambda: b"\xff" * 8)
        with pytest.raises(SandboxError, match=r"filter of system calls.*pip install 'kweek\[wasm\]'"):
            ran("open('ran', 'w')")
    real = interpreter.find()
    broken = interpreter.Interpreter(
        real.binary,
        (*real.binds, ("/nowhere/at-all", "/python/x")),
        real.hidden,
        real.links,
        real.environment,
    )
    monkeypatch.setattr(interpreter, "find", lambda: broken)
    with pytest.raises(SandboxError, match="nowhere"):
        ran("open('ran', 'w')")


@pytest.mark.skipif(not ROOT, reason="only the superuser's processes go uncounted")
def test_a_user_whose_processes_the_kernel_does_not_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_outer_user", lambda: -1)
    with pytest.raises(SandboxError, match="does not bound this user's processes"):
        ran("pass")


def test_no_new_privileges() -> None:
    program = "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))"
    assert ran(program).stdout == b"1\n"  # PR_GET_NO_NEW_PRIVS


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../../x", ".", "a\0b", "x" * 300])
def test_names_that_leave_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a file"):
        ran("pass", files={name: ""})


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match=r"program\.py"):
        ran("pass", files={"program.py": ""})
    with pytest.raises(ConfigError, match="disk_bytes"):
        ran("pass", files={"large": bytes(5 * MIB)})
    for wrong in ({"seconds": 0}, {"memory_bytes": MIB}, {"seconds": float("nan")}, {"processes": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]


def test_a_control_group_bounds_memory_where_there_is_one() -> None:
    if groups.parent() is None:
        pytest.skip("no control group (cgroup v2) is given to this user")
    with groups.group(LIMITS) as group:
        assert group is not None
        bound = int((group.path / "memory.max").read_text())
        assert bound == LIMITS.memory_bytes + LIMITS.disk_bytes and not group.exceeded()
    assert not group.path.exists()
