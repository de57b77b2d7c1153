"""Attacks in the tier `wasm`, where there are no system calls, no processes and no addresses to make them from."""

from __future__ import annotations

from attack import Attack, ended_for
from attacks_leftover import OUTPUT

#: Put before every attack. What does not exist here cannot be used: that is a way of being blocked, too.
PRELUDE = """
import os, sys
def verdict(blocked, how):
    print("blocked:" if blocked else "OPEN:", how, flush=True)
def fails(action):
    try:
        result = action()
    except (OSError, ImportError, AttributeError, NotImplementedError, MemoryError, RuntimeError) as error:
        verdict(True, repr(error)[:200])
    else:
        verdict(False, repr(result)[:200])
"""

_TRIED = {
    "network": {
        "a connection": "__import__('socket').create_connection(('127.0.0.1', 9), timeout=2)",
        "a connection, version 6": "__import__('socket').create_connection(('::1', 9), timeout=2)",
        "a datagram": "__import__('socket').socket(2, __import__('socket').SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "a name looked up": "__import__('socket').getaddrinfo('localhost', 80)",
        "waiting for a connection": "__import__('socket').create_server(('127.0.0.1', 0))",
        "a page": "__import__('urllib.request').request.urlopen('http://127.0.0.1:9/', timeout=2)",
    },
    "reads": {
        "the list of users": "open('/etc/passwd').read()",
        "by climbing": "open('../' * 20 + 'etc/passwd').read()",
        "by climbing from a descriptor": "[os.open('../etc/passwd', os.O_RDONLY, dir_fd=n) for n in range(3, 9)]",
        "the root": "os.listdir('/')",
        "the environment": "open('/proc/self/environ').read()",
        "the guard's own file": "open('/tmp/secret').read()",
        "through a link": "(os.symlink('/etc/passwd', 'link'), open('link').read())",
    },
    "writes": {
        "a new file": "open('marker', 'w')",
        "a new file outside": "open('/tmp/marker', 'w')",
        "the program itself": "open('program.py', 'a')",
        "a given file removed": "os.remove('program.py')",
        "a given file renamed": "os.rename('program.py', 'x')",
        "a folder": "os.mkdir('folder')",
    },
    "processes": {
        "a fork": "os.fork()",
        "another program": "__import__('subprocess').run(['true'])",
        "another program in its place": "os.execv('/bin/true', ['true'])",
        "a thread": "__import__('threading').Thread(target=print).start()",
        "a signal": "os.kill(1, 9)",
        "calling C": "__import__('ctypes').CDLL(None).getpid()",
    },
    "memory": {
        "one large piece": "bytearray(300 << 20)",
        "little by little": "[bytes(1 << 20) for _ in range(300)]",
    },
}

WASM = [
    *(
        Attack(kind, name, PRELUDE + f"fails(lambda: {action})")
        for kind, tried in _TRIED.items()
        for name, action in tried.items()
    ),
    Attack(
        "environment",
        "variables of the caller",
        PRELUDE + "verdict(not os.environ and 'GUARD' not in repr(sys.orig_argv), dict(os.environ))",
    ),
    Attack("cpu", "a loop without end", "while True: pass", ended_for("cpu_seconds"), {"cpu_seconds": 0.5}),
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
    *(Attack(flood.kind, flood.name, "import os\n" + flood.source, flood.judge) for flood in OUTPUT[:2]),
]
