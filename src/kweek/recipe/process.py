"""A stage's process as its parent sees it: started, listened to, asked to stop, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from kweek.recipe.folder import RunFolder

#: Environment variable with the parent's process id; with it the worker dies when its parent does.
PARENT_VARIABLE = "KWEEK_PARENT"
#: The word that asks a worker to stop at its next safe point, a line on its standard input.
STOP_WORD = b"stop\n"

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def child_environment(threads: int) -> dict[str, str]:
    """Environment of a stage's process: its threads, the parent's module path, nothing that phones home."""
    environment = dict(os.environ)
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    # Without a name here, torch asks the system's name service for it, over a socket.
    environment.setdefault("USER", environment.get("LOGNAME", "kweek"))
    environment.update(
        {
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # A file `json.py` in the user's folder must not become part of the worker.
            "PYTHONSAFEPATH": "1",
            "PYTHONHASHSEED": "0",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            # A thread that waits by spinning keeps the core that the others need: with one more busy process on
            # the machine, training fell from 20,000 to 400 tokens per second. Sleeping costs a tenth when idle.
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        }
    )
    return environment


class StageProcess:
    """One stage running in a process of its own.

    Args:
        folder: the run.
        stage: name of the stage.
        threads: CPU threads it may use.
        post: called from another thread with every event of the worker, and at its end with
            {"event": "exit", "code": int}.
    """

    def __init__(
        self, folder: RunFolder, stage: str, threads: int, post: Callable[[dict[str, Any]], None]
    ) -> None:
        self.stage, self.threads, self._post = stage, threads, post
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            # Ctrl-C in the terminal reaches the parent alone, which then asks.
            options["start_new_session"] = True
        with folder.stderr(stage).open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "kweek.recipe.worker", str(folder.path), stage],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment(threads),
                **options,
            )
        self._over = False
        self._reap = threading.Lock()
        self._reader = threading.Thread(target=self._listen, name=f"events of {stage}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:  # a line torn by a kill
                continue
            if isinstance(event, dict):
                self._post({**event, "stage": self.stage})
        self._post({"event": "exit", "stage": self.stage, "code": self._wait()})

    def _wait(self) -> int:
        """Wait for the worker's end, and end what it may have left running; returns its exit status.

        The group is killed before its leader is reaped: until then no other process can have its number.
        Without `waitid` (macOS) that moment cannot be had, and the lifelines of those left do it.
        """
        if sys.platform == "linux":
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
        with self._reap:
            self._over = True
            return self._process.wait()

    def ask_to_stop(self) -> None:
        """Ask the stage to save and stop at its next safe point."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has just ended
            self._process.stdin.write(STOP_WORD)
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the stage and whatever it started, at once."""
        with self._reap:
            if self._over:
                return
            if sys.platform == "win32":
                self._process.kill()
            else:
                # macOS answers a group of zombies with "not permitted".
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill what still runs and wait for it."""
        self.kill()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # a stop word that was never read
                pipe.close()
