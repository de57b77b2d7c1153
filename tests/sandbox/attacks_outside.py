"""Attacks on what lies outside: the network, files, the environment, other processes."""

from __future__ import annotations

import errno

from attack import Attack

from kweek.sandbox import Result

SOCKET, CONNECT, BIND, SETSOCKOPT = (41, 198), (42, 203), (49, 200), (54, 208)
#: Families of sockets by number (include/linux/socket.h), each tried with the types that it has.
FAMILIES = {
    "ip": (2, 1), "ip datagram": (2, 2), "ip raw": (2, 3), "ip6": (10, 1), "ip6 datagram": (10, 2),
    "unix": (1, 1), "unix datagram": (1, 2), "netlink": (16, 3), "packet": (17, 3), "key": (15, 3),
    "vsock": (40, 1), "kernel cryptography": (38, 5), "bluetooth": (31, 3), "can": (29, 3), "tipc": (30, 1),
    "xdp": (44, 3), "smc": (43, 1), "mctp": (45, 2),
}  # fmt: skip

NETWORK = [
    *(
        Attack("network", f"socket: {name}", f"denied({SOCKET}, {family}, {kind}, 0)")
        for name, (family, kind) in FAMILIES.items()
    ),
    Attack(
        "network",
        "socket: every family and type there is",
        f"""
found = [(f, t) for f in range(64) for t in range(1, 7) if -call({SOCKET}, f, t, 0) not in DENIED]
verdict(not found, found)
""",
    ),
    Attack(
        "network", "a pair of sockets of another family", "denied((53, 199), 2, 1, 0, (ctypes.c_int * 2)())"
    ),
    Attack(
        "network",
        "a pair's socket, connected to an abstract address",
        f"""
import socket
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
denied({CONNECT}, here.fileno(), b"\\x01\\x00\\x00kweek-marker", 15)
""",
    ),
    Attack(
        "network",
        "a pair's socket, sending to an address",
        """
import socket
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
fails(lambda: here.sendto(b"marker", "\\0kweek-marker"))
""",
    ),
    Attack(
        "network",
        "a pair's socket, bound to a name",
        f"""
import socket
here, there = socket.socketpair()
denied({BIND}, here.fileno(), b"\\x01\\x00marker", 8)
""",
    ),
    Attack(
        "network",
        "looking a name up",
        """
import socket
try:
    verdict(False, socket.getaddrinfo("localhost", 80))
except OSError as error:
    verdict(True, repr(error))
""",
    ),
    Attack(
        "network",
        "a page from this machine",
        """
import urllib.request, urllib.error
try:
    verdict(False, urllib.request.urlopen("http://127.0.0.1:9/", timeout=2))
except urllib.error.URLError as error:
    verdict(getattr(error.reason, "errno", 0) in DENIED, repr(error))
""",
    ),
]

_ABSENT = f"{errno.ENOENT}, errno.EACCES, errno.EPERM"


def _no_file(name: str, path: str) -> Attack:
    return Attack("reads", name, f"fails(lambda: open({path!r}, 'rb').read(64), {_ABSENT})")


READS = [
    _no_file("the list of users", "/etc/passwd"),
    _no_file("the passwords", "/etc/shadow"),
    _no_file("by climbing", "../" * 40 + "etc/hostname"),
    _no_file("the environment of process 1", "/proc/1/environ"),
    _no_file("its own environment as the kernel shows it", "/proc/self/environ"),
    _no_file("the root of process 1", "/proc/1/root/etc/passwd"),
    _no_file("the kernel's memory", "/dev/mem"),
    _no_file("the kernel's log", "/dev/kmsg"),
    _no_file("a disk", "/dev/vda"),
    _no_file("the kernel's settings", "/sys/kernel/uevent_helper"),
    _no_file("the guard's own file", "/tmp/secret"),
    Attack("reads", "home folders", f"fails(lambda: os.listdir('/root') + os.listdir('/home'), {_ABSENT})"),
    Attack(
        "reads",
        "through a symbolic link",
        f"os.symlink('/etc/passwd', 'link'); fails(lambda: open('link').read(), {_ABSENT})",
    ),
    Attack(
        "reads",
        "any file or folder that is not Python's",
        """
allowed = {"python", "dev", "work", "tmp", "box", "proc", "lib", "lib64", "usr"}
found = [name for name in os.listdir("/") if name not in allowed]
for folder, folders, names in os.walk("/"):
    if not folder.startswith(("/python", "/work")):
        found += [f"{folder}/{name}" for name in names]
known = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
found = [name for name in found if name not in known and not os.path.basename(name).startswith("ld-")]
verdict(not found, found[:20])
""",
    ),
    Attack(
        "reads",
        "packages installed beside Python",
        """
import glob
verdict(not [n for p in glob.glob("/python/lib*/python3*/*-packages") for n in os.listdir(p)], "packages")
""",
    ),
    Attack(
        "reads",
        "descriptors left open by the caller",
        """
def is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False
found = [number for number in range(3, 4096) if is_open(number)]
verdict(not found, found)
""",
    ),
    Attack("reads", "a file by its handle", "denied((304, 265), -100, b'\\0' * 16, 0)"),
    Attack("reads", "another root", "denied((161, 51), b'/work')"),
    Attack("reads", "a device made here", "denied((259, 33), -100, b'disk', 0o060600, (254 << 8))"),
    Attack(
        "reads",
        "a terminal",
        f"fails(lambda: os.open('/dev/tty', os.O_RDWR), {_ABSENT})",
    ),
]

ENVIRONMENT = [
    Attack(
        "environment",
        "variables of the caller",
        """
ours = {"PATH", "HOME", "USER", "TMPDIR", "LANG", "TZ", "MALLOC_ARENA_MAX", "LD_LIBRARY_PATH", "LC_CTYPE"}
found = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("PYTHON")}
verdict(not found and "GUARD-CANARY" not in repr(os.environ), found)
""",
    ),
    Attack(
        "environment",
        "the caller's secret where the kernel put variables and words",
        """
pointers = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
block, number = [], 0
while pointers[number]:
    block.append(pointers[number])
    number += 1
words = b" ".join(block) + " ".join(sys.orig_argv).encode()
verdict(b"-".join((b"GUARD", b"CANARY")) not in words, number)
""",
    ),
    Attack(
        "environment", "the machine's name", "verdict(os.uname().nodename == 'sandbox', os.uname().nodename)"
    ),
    Attack(
        "environment",
        "who runs it",
        "verdict((os.getuid(), os.geteuid(), os.getgid()) == (1000, 1000, 1000), (os.getuid(), os.getgid()))",
    ),
]

WRITES = [
    *(
        Attack(
            "writes",
            f"a new file in {folder}",
            f"fails(lambda: open('{folder}/marker', 'w'), errno.EROFS, *DENIED)",
        )
        for folder in ("/", "/dev", "/python", "/python/bin", "/box")
    ),
    Attack(
        "writes",
        "the standard library",
        "fails(lambda: open(os.__file__, 'a'), errno.EROFS, *DENIED)",
    ),
    Attack(
        "writes",
        "the interpreter",
        "fails(lambda: open(os.path.realpath(sys.executable), 'r+b'), errno.EROFS, errno.ETXTBSY, *DENIED)",
    ),
    Attack(
        "writes",
        "permissions of the library",
        "fails(lambda: os.chmod(os.__file__, 0o666), errno.EROFS, *DENIED)",
    ),
    Attack(
        "writes", "times of the library", "fails(lambda: os.utime(os.__file__, (0, 0)), errno.EROFS, *DENIED)"
    ),
    Attack(
        "writes",
        "a name in place of the library",
        "fails(lambda: os.rename(os.__file__, 'x'), errno.EROFS, errno.EXDEV, *DENIED)",
    ),
    Attack(
        "writes",
        "a hard link to the interpreter",
        "fails(lambda: os.link(os.path.realpath(sys.executable), 'x'), errno.EXDEV, *DENIED)",
    ),
    Attack("writes", "mounts made writable", "denied((165, 40), 0, b'/', 0, 32 | 4096, 0)"),
    Attack("writes", "mounts made writable, the new way", "denied((442, 442), -100, b'/', 0, bytes(32), 32)"),
    Attack("writes", "the cover of the packages taken off", "denied((166, 39), b'/python', 2)"),
    Attack("writes", "extended attributes", "denied((188, 5), b'/work', b'user.marker', b'x', 1, 0)"),
    Attack(
        "writes",
        "a program of its own, executed",
        """
import shutil, subprocess
binary = os.path.realpath(sys.executable)
if os.path.getsize(binary) < 3 << 20:
    shutil.copy(binary, "own")
else:
    open("own", "wb").write(b"#!/python/bin/python3\\nprint(1)\\n")
os.chmod("own", 0o755)
fails(lambda: subprocess.run(["./own", "-c", "print('OPEN')"]))
""",
    ),
]


def _no_strangers(result: Result) -> str:
    """A symbolic link, a pipe or a device is never handed to the caller as a file."""
    names = sorted(result.files)
    return "" if names == ["plain"] and result.exit == 0 else f"handed out: {names}, {result.stderr[-200:]!r}"


HANDED_OUT = [
    Attack(
        "files out",
        "links and pipes for the caller to read",
        """
import socket
open("plain", "w").write("x")
for number, target in enumerate(("/etc/passwd", "../../etc/shadow", "/proc/self/mem", "nowhere", ".")):
    os.symlink(target, f"link{number}")
os.symlink("/", "folder")
""",
        _no_strangers,
    ),
    Attack(
        "files out",
        "a file of a name that climbs",
        """
open("plain", "w").write("x")
for name in ("..", "../x", "/etc/marker", "a/../../x"):
    try:
        open(name, "w").close()
    except OSError:
        pass
""",
        _no_strangers,
    ),
]

PROCESSES = [
    Attack("processes", "memory of process 1, read", "denied((310, 270), 1, 0, 0, 0, 0, 0)"),
    Attack("processes", "memory of process 1, written", "denied((311, 271), 1, 0, 0, 0, 0, 0)"),
    Attack("processes", "process 1 traced", "denied((101, 117), 16, 1, 0, 0)"),
    Attack("processes", "a process of its own traced", "denied((101, 117), 0, 0, 0, 0)"),
    Attack("processes", "descriptors of process 1", "denied((438, 438), 0, 0, 0)"),
    Attack("processes", "comparing with process 1", "denied((312, 272), os.getpid(), 1, 0, 0, 0)"),
    Attack("processes", "limits of process 1", "denied((302, 261), 1, 7, (ctypes.c_ulong * 2)(0, 0), 0)"),
    Attack("processes", "process 1 slowed down", "denied((144, 119), 1, 5, (ctypes.c_int * 1)(0))"),
    Attack(
        "processes", "process 1 kept off the processors", "denied((203, 122), 1, 8, (ctypes.c_ulong * 1)(1))"
    ),
    Attack("processes", "a forged signal", "denied((129, 138), 1, 10, bytes(128))"),
    Attack(
        "processes",
        "killing process 1 with every signal",
        """
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
import time
time.sleep(0.3)
verdict(True, "still here, and so is the supervisor, if this line arrives")
""",
    ),
    Attack(
        "processes",
        "killing everything there is",
        """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for group in (-1, 0):
    try:
        os.kill(group, signal.SIGTERM)
    except OSError:
        pass
time.sleep(0.3)
verdict(True, "the supervisor is still here, if this line arrives")
""",
    ),
    Attack(
        "processes",
        "every number of a process, outside too",
        """
def answers(number):
    try:
        os.kill(number, 0)
        return True
    except OSError:
        return False
found = [number for number in range(2, 70000) if number != os.getpid() and answers(number)]
verdict(not found, found)
""",
    ),
]

OUTSIDE = [*NETWORK, *READS, *ENVIRONMENT, *WRITES, *HANDED_OUT, *PROCESSES]
