"""The worker processes of a vocabulary as their parent sees them: started when needed, killed at the deadline."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from kweek.compute.child import start_module
from kweek.engine.constraints.frames import read_frame, write_frame
from kweek.engine.constraints.limits import GrammarError, Limits

if TYPE_CHECKING:
    from kweek.engine.constraints.vocabulary import Vocabulary

_START_SECONDS = 60.0  # for a process to import its modules on a machine that swaps; it takes 0.5 s
_MAX_WORKERS = 2  # one slow grammar then does not hold up the next; each takes some 100 MB
_STOP_SECONDS = 5.0


class _Worker:
    """One process, with the vocabulary in it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.process = start_module("kweek.engine.constraints.worker")
        lengths = np.array([len(piece) for piece in vocabulary.tokens], dtype=np.int32)
        head = {
            "eos": sorted(vocabulary.eos_ids),
            "control": sorted(vocabulary.control_ids),
            "names": vocabulary.control_names,
        }
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it died at once; asking it will show
            write_frame(self.process.stdin, head, [lengths.tobytes(), b"".join(vocabulary.tokens)])
        self.fresh = True

    def ask(self, message: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], list[bytes]]:
        """The answer.

        Raises:
            GrammarError: the worker ended instead; says of what.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.process.kill()

        clock = threading.Timer(limits.seconds + (_START_SECONDS if self.fresh else 0.0), kill)
        clock.daemon = True
        clock.start()
        try:
            write_frame(self.process.stdin, message)
            answer = read_frame(self.process.stdout)
        except (OSError, ValueError, KeyError):
            answer = None
        finally:
            clock.cancel()
        self.fresh = False
        if answer is not None and not late.is_set():
            return answer
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)  # for how it ended, if it did by itself
        self.close()
        if late.is_set():
            what = f"it does not compile within {limits.seconds:g} s"
        elif self.process.returncode == -signal.SIGSEGV:
            what = "it nests too deep for the compiler"
        else:
            what = f"the compiler broke down on it, likely for want of memory ({int(limits.memory_bytes) >> 20} MB)"
        raise GrammarError(what, fix="make the grammar smaller or less nested")

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)


class Workers:
    """Up to two workers of one vocabulary, started when first needed; they end with it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = weakref.ref(vocabulary)
        self._free = threading.Semaphore(_MAX_WORKERS)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        weakref.finalize(vocabulary, _close_all, self._idle)

    def compile(self, message: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], list[bytes]]:
        """The worker's answer to a job. May be called from any thread; waits for a worker that is free.

        Raises:
            GrammarError: the job was refused, took too long, or killed the worker.
        """
        vocabulary = self._vocabulary()
        assert vocabulary is not None
        with self._free:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            worker = worker or _Worker(vocabulary)
            head, blobs = worker.ask({**message, "limits": vars(limits)}, limits)
            if head.pop("retire"):
                worker.close()
            else:
                with self._lock:
                    self._idle.append(worker)
        if "error" in head:
            raise GrammarError(head["error"], where=head.get("where"), fix=head.get("fix"))
        return head, blobs

    def close(self) -> None:
        """End the workers that are idle; the next job starts a new one."""
        with self._lock:
            _close_all(self._idle)


def _close_all(idle: list[_Worker]) -> None:
    while idle:
        idle.pop().close()
