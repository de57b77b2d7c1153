"""The process in which guests run: `worker.py GUEST`, requests on standard input, reports on standard output.

Every program gets a fresh instance. The process is there to be killed: a guest that sleeps sits in its host, where
nothing interrupts it. What the host itself may hold is bounded too, as far as the system offers that.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kweek.sandbox.ns.request import frame, read_frame
from kweek.sandbox.wasm.build import new_engine

_TICK_SECONDS = 0.005  # from look to look at the clocks
_HOST_BYTES = 256 << 20  # for the host's own tables and buffers, beside the guest's memory
_ABORTED, _KILLED = -6, -9  # as the signals of a process


class Program:
    """One program at work, and what has come of it so far."""

    def __init__(self, request: list[Any]) -> None:
        """`request` is source, input, folder, microseconds, those of the processor, and bytes of memory and output."""
        self.source, self.stdin, self.folder, *numbers = request
        self._microseconds: int
        self._microseconds, self._cpu, self.memory, self._left = numbers
        self.said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self.reason, self.peak = "", 0
        self._started, self._cpu_started, self._bytes = (
            time.monotonic(),
            time.process_time(),
            resident_bytes(),
        )

    def take(self, stream: str, data: bytes) -> int:
        """Keep what the guest says, as long as there is room; returns what the guest is to see of it."""
        self.said[stream].append(data[: self._left])
        if len(data) > self._left:
            self.reason = self.reason or "output_bytes"
            self._left = 0
            return -1
        self._left -= len(data)
        return len(data)

    def late(self) -> bool:
        """Whether its time is over, also while it sleeps."""
        return (time.monotonic() - self._started) * 1e6 > self._microseconds

    def interrupted(self) -> bool:
        """Whether it must stop: it flooded its output, or has used up its processor time."""
        if (time.process_time() - self._cpu_started) * 1e6 > self._cpu:
            self.reason = self.reason or "cpu_seconds"
        return bool(self.reason)

    def measure(self) -> None:
        """Note what the guest holds; its memory never shrinks, so before it is let go of is the most."""
        self.peak = max(0, resident_bytes() - self._bytes)

    def report(self, status: int) -> bytes:
        """How it ended, as the caller takes it."""
        return frame(
            [
                b"done",
                _KILLED if self.reason else status,
                self.reason.encode(),
                int(self.reason == "output_bytes"),
                int((time.monotonic() - self._started) * 1e6),
                int((time.process_time() - self._cpu_started) * 1e6),
                self.peak,
                *(b"".join(self.said[stream]) for stream in ("stdout", "stderr")),
                [],
            ]
        )


class Clock(threading.Thread):
    """Interrupts the program whose processor time is over, and ends the process over one that sleeps."""

    def __init__(self, engine: Any) -> None:
        super().__init__(daemon=True)
        self._engine, self._lock = engine, threading.Lock()
        self._program: Program | None = None

    def watch(self, program: Program | None) -> None:
        """Look after a program from now on, or after none."""
        with self._lock:
            self._program = program

    def run(self) -> None:
        """Look at the clocks, for ever."""
        while True:
            time.sleep(_TICK_SECONDS)
            with self._lock:
                program = self._program
                if program is None:
                    continue
                if program.late():
                    program.reason = "seconds"
                    write(program.report(_KILLED))
                    os._exit(0)
                if program.interrupted():
                    self._engine.increment_epoch()


def execute(wasmtime: Any, engine: Any, component: Any, program: Program) -> int:
    """Run a program in a fresh instance; returns its exit status."""
    wasi = wasmtime.WasiConfig()
    wasi.stdout_custom = lambda data: program.take("stdout", data)
    wasi.stderr_custom = lambda data: program.take("stderr", data)
    wasi.preopen_dir(os.fsdecode(program.folder), "/work", False)
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=program.memory)
    store.set_epoch_deadline(1)
    store.set_wasi(wasi)
    linker = wasmtime.component.Linker(engine)
    linker.add_wasip2()
    try:
        run = linker.instantiate(store, component).get_func(store, "run")
        return int(run(store, program.source.decode(), program.stdin))
    except wasmtime.ExitTrap as end:
        return int(end.code)
    except (wasmtime.WasmtimeError, wasmtime.Trap):
        return _ABORTED
    finally:
        program.measure()


def resident_bytes() -> int:
    """Memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def restrain(memory: int) -> None:
    """Bound what this process can write to, guest and host together; nothing where there is no such limit (Windows)."""
    try:
        import resource
    except ImportError:
        return
    now = resident_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory + _HOST_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def write(data: bytes) -> None:
    """A whole report to the caller."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main() -> None:
    """Serve until the caller closes the pipe."""
    wasmtime = importlib.import_module("wasmtime")
    importlib.import_module("wasmtime.component")
    engine = new_engine()
    component = wasmtime.component.Component.deserialize_file(engine, sys.argv[-1])
    clock = Clock(engine)
    clock.start()
    write(frame(b"ready"))
    while request := read_frame(0):
        assert isinstance(request, list)
        program = Program(request)
        restrain(program.memory)
        clock.watch(program)
        status = execute(wasmtime, engine, component, program)
        clock.watch(None)
        write(program.report(status))


if __name__ == "__main__":
    main()
