"""llama.cpp in a process of its own, which stands still while the other engine is measured.

With several threads its workers go on spinning for a while after every call, as their OpenMP is made to (waiting
actively is its fastest setting, measured): in one process they would take the core that the other engine computes on.
"""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from llama_api import LlamaCpp


class Beside:
    """A GGUF file in llama.cpp, for timing batches that are decoded step by step."""

    def __init__(self, path: Path, *, sequences: int, context: int, threads: int) -> None:
        before = os.environ.get("OMP_WAIT_POLICY")
        os.environ["OMP_WAIT_POLICY"] = "active"
        try:
            methods = get_context("spawn")
            self._pipe, other = methods.Pipe()
            self._process = methods.Process(
                target=_serve, args=(other, path, sequences, context, threads), daemon=True
            )
            self._process.start()
        finally:
            if before is None:
                del os.environ["OMP_WAIT_POLICY"]
            else:
                os.environ["OMP_WAIT_POLICY"] = before
        self._answer()

    def decode(self, batch: int, prompt: int, steps: int) -> float:
        """Tokens per second of `steps` steps of `batch` sequences after a prompt."""
        os.kill(self._process.pid or 0, signal.SIGCONT)
        self._pipe.send((batch, prompt, steps))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _answer(self) -> float:
        while not self._pipe.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError("llama.cpp ended without an answer")
        found: float = self._pipe.recv()
        os.kill(self._process.pid or 0, signal.SIGSTOP)
        return found


def _serve(pipe: Connection, path: Path, sequences: int, context: int, threads: int) -> None:
    peer = LlamaCpp(path, sequences=sequences, context=context, threads=threads)
    pipe.send(0.0)
    while True:
        batch, prompt, steps = pipe.recv()
        peer.clear()
        for position in range(prompt):
            peer.decode([5] * batch, [position] * batch, range(batch), [0] * batch)
        started = time.perf_counter()
        for step in range(steps):
            peer.decode([7] * batch, [prompt + step] * batch, range(batch), [1] * batch)
        pipe.send(batch * steps / (time.perf_counter() - started))
