"""Functions nobody trusts, in a process that can be killed: they may hang, crash or eat memory and harm nothing.

A function that can be imported by name runs in a fresh process; any other (a closure, a lambda, what is defined in a
notebook) in a fork of this one. Arguments and results are JSON; nothing is pickled. No signal is used for time
limits, so all this works in any thread, and a regular expression that never returns is ended too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from kweek.compute.child import start_module
from kweek.compute.isolation_worker import Function, serve
from kweek.errors import ConfigError

SECONDS = 2.0  # a hundred times what a verifier takes, on a busy core too
MEMORY_BYTES = 512 << 20  # what a call may add; sympy on long expressions was seen to take a fifth of it
MAX_WORKERS = 2  # one slow call then does not hold up the next
_START_SECONDS = 60.0  # to import the function's module on a machine that swaps
_PATIENCE = (
    5.0  # times the limit, by the clock on the wall: a function may wait, and a busy machine makes it wait
)
_SLICE = (
    0.1  # seconds; the clock counts in these, so that time for which all was frozen is not the function's
)
_STOP_SECONDS = 5.0

FailureKind = Literal["raised", "hung", "died"]


class Failure(Exception):
    """The function gave no result.

    Attributes:
        kind: it raised, was killed for taking too long, or its process died (of memory, of a crash below Python).
    """

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind: FailureKind = kind


def importable_name(function: Callable[..., Any]) -> str | None:
    """`module:name` under which a fresh process finds the very function, None where there is none."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part, None)
    return f"{module}:{path}" if found is function else None


class _Worker:
    """One process with the function in it."""

    def __init__(
        self,
        function: Callable[..., Any],
        adaptor: Callable[[Any], Function] | None,
        limits: dict[str, float],
    ) -> None:
        self._limits = limits
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self.pid, self._source, self._target = self._start(function, adaptor)
        self._receive(_START_SECONDS)

    def _start(
        self, function: Callable[..., Any], adaptor: Callable[[Any], Function] | None
    ) -> tuple[int, IO[bytes], IO[bytes]]:
        """Process id, where its answers come from, where its jobs go."""
        name = importable_name(function)
        adaptor_name = importable_name(adaptor) if adaptor else ""
        if name is not None and adaptor_name is not None:
            return self._spawn({"function": name, "adaptor": adaptor_name, "limits": self._limits})
        if not hasattr(os, "fork"):
            raise ConfigError(
                "on this system a function must be importable to run in a process of its own",
                where=getattr(function, "__qualname__", repr(function)),
                fix="define it at the top of a module",
            )
        return _fork(adaptor(function) if adaptor else function, self._limits)

    def _spawn(self, order: dict[str, Any]) -> tuple[int, IO[bytes], IO[bytes]]:
        self._process = start_module("kweek.compute.isolation_worker")
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # it died at once; asking it will show
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        return self._process.pid, self._process.stdout, self._process.stdin

    def ask(self, value: Any, seconds: float) -> Any:
        """The function's result. Raises Failure; after one that is not "raised" the worker is gone."""
        with contextlib.suppress(OSError):
            self._target.write(json.dumps({"value": value}).encode() + b"\n")
            self._target.flush()
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Any:
        done, late = threading.Event(), threading.Event()

        def clock() -> None:
            before = _processor_seconds(self.pid)
            left = seconds if before is None else _PATIENCE * seconds
            while left > 0:
                started = time.monotonic()
                if done.wait(min(left, seconds, _SLICE)):
                    return
                left -= min(time.monotonic() - started, 2 * _SLICE)
                if before is not None and (_processor_seconds(self.pid) or before) - before >= seconds:
                    break
            late.set()
            self._kill()

        threading.Thread(target=clock, name="clock", daemon=True).start()
        try:
            line = self._source.readline()
        except (OSError, ValueError):
            line = b""
        finally:
            done.set()
        if line.endswith(b"\n") and not late.is_set():
            answer = json.loads(line)
            if "raised" not in answer:
                return answer.get("value")
            if answer.get("retire", True):
                self.close()
            raise Failure("raised", answer["raised"])
        self.close()
        if late.is_set():
            raise Failure("hung", f"it took over {seconds:g} s")
        memory = int(self._limits["memory_bytes"]) >> 20
        raise Failure("died", f"its process died (memory is limited to {memory} MB)")

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return not self._source.closed

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if self._process is not None:
                self._process.kill()
            else:
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process."""
        if not self.alive or self._owner != os.getpid():  # a fork has no say in its parent's workers
            return
        self._kill()
        for stream in (self._target, self._source):
            with contextlib.suppress(OSError):
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired, ChildProcessError):
            if self._process is not None:
                self._process.wait(_STOP_SECONDS)
            else:
                os.waitpid(self.pid, 0)


def _processor_seconds(pid: int) -> float | None:
    """What a process has used so far; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def _fork(function: Function, limits: dict[str, float]) -> tuple[int, IO[bytes], IO[bytes]]:
    """The same as a fresh process, for a function that has no name."""
    jobs_out, jobs_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads, whose locks the child would find held for ever; then its clock runs out.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            sys.settrace(None)  # a debugger's, or the audit's, which gives way to threads that are not here
            os.setsid()  # a Ctrl-C is the parent's
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nowhere, descriptor)
            faulthandler.disable()  # it has an error stream of its own
            sys.stdout = sys.stderr = os.fdopen(nowhere, "w")
            os.close(jobs_in)
            os.close(answers_out)
            serve(function, os.fdopen(jobs_out, "rb"), os.fdopen(answers_in, "wb"), limits)
        finally:
            os._exit(0)
    os.close(jobs_out)
    os.close(answers_in)
    return pid, os.fdopen(answers_out, "rb"), os.fdopen(jobs_in, "wb")


class Isolated:
    """A function that runs elsewhere, callable from any thread.

    Args:
        function: JSON in, JSON out; or anything, with an `adaptor`.
        adaptor: makes such a function of it, in the worker; importable itself where `function` is.
        seconds: of processor time of one call, and five times as many by the clock; then its process is killed, and
            the next call starts another.
        memory_bytes: that a call may add to its process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        adaptor: Callable[[Any], Function] | None = None,
        seconds: float = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._function, self._adaptor = function, adaptor
        self.seconds = seconds
        self._limits: dict[str, float] = {"seconds": seconds, "memory_bytes": memory_bytes}
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._free = threading.Semaphore(MAX_WORKERS)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        weakref.finalize(self, _close_all, self._idle)

    def __call__(self, value: Any) -> Any:
        """The result for a JSON value.

        Raises:
            Failure: it raised, hung or died.
            ConfigError: it cannot be run apart on this system.
        """
        if self._owner != os.getpid():  # a fork of the process that began: the workers are not its own
            self._begin()
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or _Worker(self._function, self._adaptor, self._limits)
            try:
                return worker.ask(value, self.seconds)
            finally:
                if worker.alive:
                    with self._lock:
                        self._idle.append(worker)

    def close(self) -> None:
        """End the idle processes; the next call starts a fresh one."""
        with self._lock:
            _close_all(self._idle)


def _close_all(idle: list[_Worker]) -> None:
    while idle:
        idle.pop().close()
