"""llama.cpp in a process of its own, which stands still while the other engine is measured.

With several threads its workers go on spinning for a while after every call, as their OpenMP is made to (waiting
actively is its fastest setting, measured): in one process they would take the core that the other engine computes on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from llama_api import LlamaCpp

SHORTEST_SECONDS = 0.2  # of one measurement: shorter ones measure the scheduler


class Beside:
    """A GGUF file in llama.cpp, for timing sequences that are decoded step by step after a prompt."""

    def __init__(self, path: Path, *, sequences: int, prompt: int, steps: int, threads: int) -> None:
        before = os.environ.get("OMP_WAIT_POLICY")
        os.environ["OMP_WAIT_POLICY"] = "active"
        try:
            methods = get_context("spawn")
            self._pipe, other = methods.Pipe()
            self._process = methods.Process(
                target=_serve, args=(other, path, sequences, prompt, steps, threads), daemon=True
            )
            self._process.start()
        finally:
            if before is None:
                del os.environ["OMP_WAIT_POLICY"]
            else:
                os.environ["OMP_WAIT_POLICY"] = before
        self._answer()

    def decode(self) -> float:
        """Tokens per second of all sequences together, over as many runs as take long enough."""
        os.kill(self._process.pid or 0, signal.SIGCONT)
        self._pipe.send(None)
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


def long_enough(run: Callable[[], float], num_tokens: int) -> float:
    """Tokens per second over as many runs (each gives its seconds) as take `SHORTEST_SECONDS` together."""
    seconds, runs = 0.0, 0
    while seconds < SHORTEST_SECONDS:
        seconds, runs = seconds + run(), runs + 1
    return runs * num_tokens / seconds


def _serve(pipe: Connection, path: Path, sequences: int, prompt: int, steps: int, threads: int) -> None:
    peer = LlamaCpp(path, sequences=sequences, context=prompt + steps + 8, threads=threads)
    for position in range(prompt):
        peer.decode([5] * sequences, [position] * sequences, range(sequences), [0] * sequences)

    def run() -> float:
        for sequence in range(sequences):
            peer.forget_after(sequence, prompt)
        started = time.perf_counter()
        for step in range(steps):
            peer.decode([7] * sequences, [prompt + step] * sequences, range(sequences), [1] * sequences)
        return time.perf_counter() - started

    pipe.send(0.0)
    while True:
        pipe.recv()
        pipe.send(long_enough(run, sequences * steps))
