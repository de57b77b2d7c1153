"""Attacks on what is left over: processes, orphans, the disk, the output."""

from __future__ import annotations

import errno

from attack import LIMITS, MIB, Attack

from kweek.sandbox import Result


def _few(result: Result) -> str:
    """The attack prints how many it got."""
    try:
        got = int(result.stdout.split()[-1])
    except (IndexError, ValueError):
        return f"said {result.stdout[-100:]!r}, reason {result.reason}, {result.stderr[-300:]!r}"
    return "" if 0 < got <= LIMITS["processes"] else f"got {got}"


FORKS = [
    Attack(
        "forks",
        "as many processes as there can be",
        """
import time
started = 1
try:
    for _ in range(300):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        started += 1
except BlockingIOError:
    pass
print(started, flush=True)
""",
        _few,
    ),
    Attack(
        "forks",
        "as many threads as there can be",
        """
import threading, time
started = 1
try:
    for _ in range(300):
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        started += 1
except RuntimeError:
    pass
print(started, flush=True)
os._exit(0)
""",
        _few,
        {"memory_bytes": 512 * MIB},  # each reserves 8 MiB of addresses
    ),
    Attack(
        "forks",
        "each of them forking again",
        """
import time
mark = os.open("marks", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
os.write(mark, b"x")
end = time.monotonic() + 1.0
while time.monotonic() < end:
    try:
        if os.fork() == 0:
            os.write(mark, b"x")
    except BlockingIOError:
        time.sleep(0.01)
print(os.fstat(mark).st_size, flush=True)
time.sleep(1)
""",
        _few,
    ),
    Attack("forks", "a clone with namespaces of its own", "denied((56, 220), 0x10000000 | 17, 0, 0, 0, 0)"),
    Attack("forks", "the newer clone, whose flags no filter reads", "denied((435, 435), 0, 0)"),
]


def _prompt(result: Result) -> str:
    """The run ends with the program, whatever it leaves; the runner sees afterwards that nothing is left."""
    return (
        ""
        if result.exit == 0 and result.seconds < 20
        else f"{result.seconds:.1f} s, {result.stderr[-200:]!r}"
    )


ORPHANS = [
    Attack(
        "orphans",
        "a process in a session of its own",
        """
import time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(50)
    os._exit(0)
os.wait()
""",
        _prompt,
    ),
    Attack(
        "orphans",
        "one that ignores every signal",
        """
import signal, time
if os.fork() == 0:
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    time.sleep(50)
""",
        _prompt,
    ),
    Attack(
        "orphans",
        "one that forks for as long as it lives",
        """
if os.fork() == 0:
    while True:
        try:
            if os.fork():
                os._exit(0)
        except BlockingIOError:
            pass
""",
        _prompt,
    ),
    Attack(
        "orphans",
        "one that keeps the output open",
        """
import time
if os.fork() == 0:
    time.sleep(50)
print("done", flush=True)
os._exit(0)
""",
        _prompt,
    ),
    Attack(
        "orphans",
        "one that has stopped itself",
        """
import signal, time
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
""",
        _prompt,
    ),
    Attack(
        "orphans",
        "one started while all are being killed",
        """
import signal, threading
def again():
    while True:
        try:
            os.fork()
        except BlockingIOError:
            pass
if os.fork() == 0:
    again()
""",
        _prompt,
    ),
]


def _bounded_files(result: Result) -> str:
    size = sum(map(len, result.files.values()))
    good = size <= LIMITS["disk_bytes"] and result.truncated
    return "" if good else f"{size} bytes, truncated {result.truncated}, {result.stderr[-200:]!r}"


def _full(got: str, most: float) -> str:
    return f"verdict({errno.ENOSPC} == error and {got} <= {int(most)}, ({got}, error))"


DISK = [
    Attack(
        "disk",
        "one large file",
        f"""
size, error = 0, 0
try:
    with open("big", "wb", buffering=0) as file:
        while size < 64 << 20:
            size += file.write(bytes(1 << 20))
except OSError as failed:
    error = failed.errno
verdict(error in (errno.ENOSPC, errno.EFBIG) and size <= {int(LIMITS["disk_bytes"])}, (size, error))
""",
    ),
    Attack(
        "disk",
        "many files",
        f"""
size, error = 0, 0
try:
    for number in range(200):
        with open(f"part{{number}}", "wb", buffering=0) as file:
            size += file.write(bytes(1 << 18))
except OSError as failed:
    error = failed.errno
{_full("size", LIMITS["disk_bytes"])}
""",
    ),
    Attack(
        "disk",
        "files in every place that takes some",
        f"""
size, error = 0, 0
try:
    for number in range(300):
        for place in ("/work", "/tmp", "/dev/shm"):
            with open(f"{{place}}/part{{number}}", "wb", buffering=0) as file:
                size += file.write(bytes(1 << 16))
except OSError as failed:
    error = failed.errno
{_full("size", LIMITS["disk_bytes"])}
""",
    ),
    Attack(
        "disk",
        "empty files",
        f"""
count, error = 0, 0
try:
    while count < 100_000:
        open(f"/tmp/empty{{count}}", "w").close()
        count += 1
except OSError as failed:
    error = failed.errno
{_full("count", LIMITS["disk_bytes"] / 4096)}
""",
    ),
    Attack(
        "disk",
        "a file longer than it is",
        f"fails(lambda: os.truncate(os.open('long', os.O_CREAT | os.O_WRONLY), 1 << 40), {errno.EFBIG})",
    ),
    Attack(
        "disk",
        "many files longer than they are, for the caller",
        """
for number in range(50):
    os.truncate(os.open(f"long{number}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC), 2 << 20)
""",
        _bounded_files,
    ),
    Attack(
        "disk",
        "folders without end, for the caller",
        """
for _ in range(150):
    os.mkdir("d")
    os.chdir("d")
open("deep", "w").close()
""",
        lambda result: "" if result.truncated and not result.files else f"{list(result.files)[:3]}",
    ),
]


def _cut(result: Result) -> str:
    size = len(result.stdout) + len(result.stderr)
    good = result.reason == "output_bytes" and result.truncated and size <= LIMITS["output_bytes"]
    return "" if good else f"{size} bytes, reason {result.reason}"


OUTPUT = [
    Attack("output", "a flood", "while True: os.write(1, b'x' * 65536)", _cut),
    Attack("output", "a flood of errors", "while True: os.write(2, b'x' * 65536)", _cut),
    Attack(
        "output",
        "a flood from several processes",
        "os.fork(); os.fork()\nwhile True: os.write(1, b'x' * 4096)",
        _cut,
    ),
    Attack("output", "a flood in small drops", "while True: os.write(1, b'x' * 7)", _cut),
    Attack(
        "output",
        "a report of its own",
        """
for number in range(3, 64):
    try:
        os.write(number, b"\\x09\\0\\0\\0\\0\\0\\0\\0l4:donee")
    except OSError:
        pass
verdict(True, "the true report came, if this line arrives")
""",
    ),
]

LEFT_OVER = [*FORKS, *ORPHANS, *DISK, *OUTPUT]
