"""Attacks on the limits of memory and of processor time."""

from __future__ import annotations

import errno

from attack import Attack, ended_for

MEMORY = [
    Attack(
        "memory",
        "one large piece",
        """
try:
    verdict(False, len(bytearray(300 << 20)))
except MemoryError:
    verdict(True, "MemoryError")
""",
    ),
    Attack(
        "memory",
        "little by little",
        """
held = []
try:
    for _ in range(600):
        held.append(os.urandom(1 << 19))
    verdict(False, len(held))
except MemoryError:
    del held
    verdict(True, "MemoryError")
""",
    ),
    Attack(
        "memory",
        "a little in each of several processes",
        """
import time
for _ in range(4):
    if os.fork() == 0:
        held = os.urandom(40 << 20)
        time.sleep(50)
        os._exit(0)
time.sleep(50)
verdict(False, "four processes with 40 MiB each")
""",
        ended_for("memory_bytes"),
    ),
    Attack(
        "memory",
        "shared by several processes, which counts once",
        """
import time
held = os.urandom(40 << 20)
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        time.sleep(0.5)
        os._exit(0)
ended = [os.waitpid(child, 0)[1] for child in children]
verdict(ended == [0] * 4, "what is shared is not counted four times, if this line arrives")
""",
    ),
    Attack(
        "memory",
        "a shared mapping of nothing",
        """
import mmap
try:
    held = [mmap.mmap(-1, 64 << 20) for _ in range(4)]
    verdict(False, "256 MiB mapped")
except (OSError, MemoryError) as error:
    verdict(error.errno == errno.ENOMEM if isinstance(error, OSError) else True, repr(error))
""",
    ),
    Attack("memory", "a file without a name", "denied((319, 279), b'marker', 0)"),
    Attack("memory", "a secret file without a name", "denied((447, 447), 0)"),
    Attack("memory", "shared memory of System V", "denied((29, 194), 0, 1 << 20, 0o1600)"),
    Attack("memory", "messages of System V", "denied((68, 186), 0, 0o1600)"),
    Attack("memory", "semaphores of System V", "denied((64, 190), 0, 100, 0o1600)"),
    Attack("memory", "messages of POSIX", "denied((240, 180), b'marker', 0o102, 0o600, 0)"),
    Attack("memory", "pages given to a pipe", "denied((278, 75), 1, 0, 0, 0)"),
    Attack(
        "memory",
        "wide pipes",
        """
import fcntl
reader, writer = os.pipe()
fails(lambda: fcntl.fcntl(writer, 1031, 1 << 20))
""",
    ),
    Attack(
        "memory",
        "wide buffers of sockets",
        """
import socket
here, there = socket.socketpair()
fails(lambda: here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24))
""",
    ),
    Attack(
        "memory",
        "many descriptors",
        f"""
held = []
try:
    while len(held) < 5000:
        held += os.pipe()
    verdict(False, len(held))
except OSError as error:
    verdict(error.errno == {errno.EMFILE} and len(held) < 100, (len(held), repr(error)))
""",
    ),
    Attack(
        "memory",
        "locked in place",
        """
locked = libc.mlockall(3) == 0
verdict(not locked and ctypes.get_errno() in (*DENIED, errno.ENOMEM), ctypes.get_errno())
""",
    ),
    Attack(
        "memory",
        "a limit raised again",
        """
import resource
def raise_it():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    raise_it()
    verdict(False, resource.getrlimit(resource.RLIMIT_AS))
except ValueError as error:
    verdict("not allowed" in str(error), error)
""",
    ),
]

PROCESSORS = [
    Attack("cpu", "a loop without end", "while True: pass", ended_for("cpu_seconds"), {"cpu_seconds": 0.5}),
    Attack(
        "cpu",
        "a loop that ignores the signal",
        """
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
        ended_for("cpu_seconds"),
        {"cpu_seconds": 0.5},
    ),
    Attack(
        "cpu",
        "loops in several processes",
        """
for _ in range(3):
    os.fork()
while True: pass
""",
        ended_for("cpu_seconds"),
        {"cpu_seconds": 1.0},
    ),
    Attack(
        "cpu",
        "processes that end unaccounted",
        """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    child = os.fork()
    if child == 0:
        for _ in range(3_000_000): pass
        os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass
""",
        ended_for("cpu_seconds", "seconds"),
        {"cpu_seconds": 1.0, "seconds": 30.0},
    ),
    Attack(
        "cpu",
        "a call that never comes back to Python",
        "import re; re.match('(a|a)*b', 'a' * 64)",
        ended_for("cpu_seconds"),
        {"cpu_seconds": 0.5},
    ),
    Attack(
        "cpu", "sleeping for ever", "import time; time.sleep(10**6)", ended_for("seconds"), {"seconds": 1.0}
    ),
    Attack(
        "cpu",
        "stopping itself",
        "import signal; os.kill(os.getpid(), signal.SIGSTOP)",
        ended_for("seconds"),
        {"seconds": 1.0},
    ),
    Attack("cpu", "real-time scheduling", "denied((144, 119), 0, 1, (ctypes.c_int * 1)(50))"),
    Attack("cpu", "a better priority", "denied((141, 140), 0, 0, -10)"),
    Attack("cpu", "a better priority for its disk", "denied((251, 30), 1, 0, 1 << 13)"),
]

TAKING = [*MEMORY, *PROCESSORS]
