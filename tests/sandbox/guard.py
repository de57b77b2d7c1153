"""The outer guard: a container around the sandbox under test, so that a hole in it harms nothing.

Everything in it is made by the tools of util-linux and nothing by the code that is tested: namespaces of its own
(processes, mounts, network, System V, names), a root of its own with the system's libraries, Python and this
repository mounted read-only, a small /tmp in memory, no network but a loopback that is down, at most 1 GiB of memory
over all its processes (watched from outside, and killed above), and a time-out. The superuser in it keeps only the
capabilities that the sandbox asks for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import kweek
from kweek.sandbox.wasm import build

User = Literal["root", "ordinary"]

MEMORY_BYTES = 1 << 30
_LOOK_SECONDS = 0.05
_HERE = Path(__file__).resolve().parent
_SOURCES = Path(kweek.__file__).resolve().parents[1]
_TOOLS = ("unshare", "mount", "umount", "pivot_root", "setpriv", "prlimit")
_NOBODY = 65534
#: What the sandbox needs of the superuser: mounts, another identity, and reading Python wherever it lies.
_KEPT = "sys_admin,setuid,setgid,setpcap,dac_override,dac_read_search,chown,fowner,kill,sys_chroot"

_INSIDE = """
set -eu
cd "$STAGE"
mount --make-rprivate /
mount -t tmpfs -o size=16m,mode=755 guard .
cd "$STAGE"
mkdir python src tests proc dev tmp old etc
for folder in /usr /lib /lib32 /lib64 /bin /sbin; do
    if [ -L "$folder" ]; then cp -P "$folder" .; elif [ -d "$folder" ]; then
        mkdir ".$folder"; mount --rbind "$folder" ".$folder"; mount -o remount,bind,ro ".$folder"; fi
done
for pair in "$PREFIX=python" "$SOURCES=src" "$TESTS=tests"; do
    mount --bind "${pair%=*}" "${pair##*=}"; mount -o remount,bind,ro "${pair##*=}"
done
if [ -n "$PACKAGES" ]; then
    mkdir packages cache cache/kweek
    mount --bind "$PACKAGES" packages; mount -o remount,bind,ro packages
    mount --bind "$CACHE" cache/kweek; mount -o remount,bind,ro cache/kweek
fi
for device in null zero full random urandom; do : > dev/$device; mount --bind /dev/$device dev/$device; done
echo 'guard:x:0:0::/:' > etc/passwd
mount -t proc proc proc
mount -t tmpfs -o size=64m,mode=1777 guard tmp
echo GUARD-CANARY > tmp/secret
pivot_root . old
cd /
umount -l /old
mount -o remount,ro /
export LD_LIBRARY_PATH="$LIBRARIES" PYTHONPATH=/src:/tests:/packages PYTHONDONTWRITEBYTECODE=1
export XDG_CACHE_HOME=/cache CANARY=GUARD-CANARY HOME=/tmp
exec prlimit --as="$MEMORY" --core=0 $BECOME $PYTHON /tests/attack_runner.py "$@"
"""


def refusal(user: User) -> str:
    """Why the guard cannot be set up here for this user, or nothing."""
    if sys.platform != "linux":
        return "namespaces are a part of Linux"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"the guard needs {missing[0]} of util-linux"
    if user == "root" and os.geteuid() != 0:
        return "only the superuser can try the sandbox as root"
    words = _unshare()
    done = subprocess.run([*words, "true"], capture_output=True, text=True)
    return (
        "" if done.returncode == 0 else f"this kernel or container forbids namespaces ({done.stderr.strip()})"
    )


def _unshare() -> list[str]:
    spaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
    return spaces if os.geteuid() == 0 else [*spaces, "--user", "--map-root-user"]


def run_guarded(
    user: User, words: Sequence[str], seconds: float, *, wasm: bool = False
) -> list[dict[str, Any]]:
    """Run `attack_runner.py` with these words as this user, within the guard; returns the objects it printed.

    `wasm` shows it the packages of that tier and the guest, which must have been built. WebAssembly reserves more
    addresses than there is memory, so that then the watcher alone bounds it.

    Raises:
        RuntimeError: it broke down, took too long, or too much memory.
    """
    prefix = Path(sys.base_prefix).resolve()
    binary = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    become = ""
    if os.geteuid() == 0:
        kept = ",".join(f"+{name}" for name in _KEPT.split(","))
        as_user = f"--reuid {_NOBODY} --regid {_NOBODY} --clear-groups" if user == "ordinary" else ""
        become = f"setpriv --bounding-set -all,{kept} {as_user}"
    with tempfile.TemporaryDirectory() as stage:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "STAGE": stage,
            "PREFIX": str(prefix),
            "SOURCES": str(_SOURCES),
            "TESTS": str(_HERE),
            "PYTHON": f"/python/{binary.relative_to(prefix)}",
            "MEMORY": "unlimited" if wasm else str(MEMORY_BYTES),
            "PACKAGES": str(build.package().parent) if wasm else "",
            "CACHE": str(build.guest().parents[1]) if wasm else "",
            "LIBRARIES": "/python/lib",
            "BECOME": become,
        }
        guarded = subprocess.Popen(
            [*_unshare(), "sh", "-c", _INSIDE, "guard", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        watcher = _Watcher(guarded)
        watcher.start()
        try:
            out, err = guarded.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            guarded.kill()
            out, err = guarded.communicate()
            err += f" (killed after {seconds:g} s)"
        finally:
            watcher.stop()
    if guarded.returncode != 0 or watcher.exceeded:
        raise RuntimeError(f"the guard ended with {guarded.returncode}, {watcher.exceeded}: {err[-2000:]}")
    return [json.loads(line) for line in out.splitlines()]


class _Watcher(threading.Thread):
    """Kills the guard when all its processes together hold more than it may."""

    def __init__(self, guarded: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._guarded, self._stopped = guarded, threading.Event()
        self.exceeded = ""

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopped.wait(_LOOK_SECONDS):
            used = sum(map(_resident, _descendants(self._guarded.pid)))
            if used > MEMORY_BYTES:
                self.exceeded = f"{used} bytes of memory"
                self._guarded.kill()
                return

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self.join()


def _descendants(process: int) -> list[int]:
    found, new = [process], [process]
    while new:
        children = []
        for parent in new:
            for path in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    children += map(int, path.read_text().split())
                except OSError:
                    continue  # it has ended
        found += children
        new = children
    return found


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
