"""Programs in the tier `wasm`, as their caller sees them."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import kweek
from kweek.sandbox.interpreter import bare_environment
from kweek.sandbox.limits import PORTABLE, Limits, Result, SandboxError
from kweek.sandbox.ns.request import frame, read_frame
from kweek.sandbox.report import to_result
from kweek.sandbox.wasm import build
from kweek.store.files import write_bytes

if TYPE_CHECKING:
    from kweek.sandbox.ns.wire import Value

_START = "import sys; sys.path += sys.argv[1:3]; from kweek.sandbox.wasm.worker import main; main()"
_GRACE_SECONDS = 60.0  # beyond the program's own time, for a machine that swaps
_END_SECONDS = 5.0


class Workers:
    """The processes that hold a compiled guest: started when needed, killed with a program that sleeps too long."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def ask(self, request: bytes, seconds: float) -> Value | None:
        """The report on a program; None when the worker broke down over it.

        Raises:
            SandboxError: no worker starts.
        """
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or _start()
        report = _exchange(worker, request, seconds + _GRACE_SECONDS)
        if isinstance(report, list) and report[2] != b"seconds":  # else it has ended over it
            with self._lock:
                self._idle.append(worker)
        else:
            _end(worker)
        return report

    def close(self) -> None:
        """End the workers that are idle; the next program starts a new one."""
        with self._lock:
            while self._idle:
                _end(self._idle.pop())


def _start() -> subprocess.Popen[bytes]:
    # Both packages may be found by means that an isolated interpreter does not have.
    folders = [str(Path(kweek.__file__).parents[1]), str(build.package().parent)]
    words = [sys.executable, "-I", "-c", _START, *folders, str(build.guest())]
    worker = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=bare_environment(), start_new_session=True,
    )  # fmt: skip
    if _exchange(worker, b"", _GRACE_SECONDS) != b"ready":
        _end(worker)
        raise SandboxError("the host of WebAssembly programs does not start", fix=PORTABLE)
    return worker


def _exchange(worker: subprocess.Popen[bytes], request: bytes, seconds: float) -> Value | None:
    """What a worker answers to a request within so many seconds; None when it is killed for that, or ends."""
    assert worker.stdin is not None and worker.stdout is not None
    late = threading.Timer(seconds, worker.kill)
    late.start()
    try:
        worker.stdin.write(request)
        worker.stdin.flush()
        return read_frame(worker.stdout.fileno())
    except (BrokenPipeError, ValueError):
        return None
    except BaseException:
        worker.kill()  # nobody waits for the answer any more
        raise
    finally:
        late.cancel()


def _end(worker: subprocess.Popen[bytes]) -> None:
    assert worker.stdin is not None and worker.stdout is not None
    with suppress(BrokenPipeError):
        worker.stdin.close()
    worker.stdout.close()
    try:
        worker.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


@lru_cache
def _workers(process: int) -> Workers:
    """Those of this process: a forked one must not talk to its parent's."""
    workers = Workers()
    atexit.register(workers.close)
    return workers


@lru_cache
def refusal() -> SandboxError | None:
    """Why programs cannot run in WebAssembly here; None where they can. The first use builds the guest."""
    try:
        build.guest()
    except SandboxError as error:
        return error
    return None


def run(program: str, files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Result:
    """Run Python source in a fresh guest. It can read its files and change none; it has no processes to start.

    Raises:
        SandboxError: the tier is not installed, or does not start.
        StoreError: the files cannot be laid out.
    """
    with tempfile.TemporaryDirectory(prefix="kweek-") as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / file, content)
        request = [program.encode(), stdin, os.fsencode(name)]
        numbers = [int(limits.seconds * 1e6), int(limits.cpu_seconds * 1e6), limits.memory_bytes]
        words = frame([*request, *numbers, limits.output_bytes])
        report = _workers(os.getpid()).ask(words, limits.seconds)
    if report is None:  # the one bound that it runs into and does not survive is that of its host's memory
        report = [b"done", -signal.SIGABRT, b"memory_bytes", 0, 0, 0, limits.memory_bytes, b"", b"", []]
    return to_result(report, "wasm")
