"""Training runs that are killed at random moments and go on, against the same runs left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from killed_training import train

from kweek.tokenize.tokenizer import Tokenizer

MARK = "KWEEK_EVIDENCE_RUN"  # in the environment of a killed run and of all that it starts
WAIT = 60.0  # seconds within which whatever a killed run has started must have ended


@dataclass(frozen=True)
class Life:
    """A process that trains, and what it says line by line."""

    pid: int
    said: TextIO

    @classmethod
    def begin(cls, kind: str, folder: Path, tokenizer: Tokenizer, mark: str) -> Life:
        """A fork of this one, which has loaded everything and has computed nothing."""
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(out)
                os.environ[MARK] = mark  # whatever it starts has it too
                sys.stdout = os.fdopen(into, "w")
                train(kind, folder, tokenizer)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(into)
        return cls(pid, os.fdopen(out))

    def end(self) -> int:
        """Wait for it; negative where a signal ended it."""
        self.said.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def left_behind(mark: str) -> int:
    """Processes that a killed run has started and that still live."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += f"{MARK}={mark}".encode() in entry.read_bytes()
        except OSError:
            continue
    return count


def ended(life: Life, most: int | None, generator: random.Random) -> list[dict[str, Any]]:
    """What a run says until it ends, or until it is killed some moments after the update number `most` of this life."""
    said: list[dict[str, Any]] = []
    for line in life.said:
        if not line.endswith("}\n"):
            continue  # the signal came while it was being said
        said.append(json.loads(line))
        if len(said) == most:
            time.sleep(generator.uniform(0, 0.3))
            os.kill(life.pid, signal.SIGKILL)  # what it has said by now is still read
    if (status := life.end()) not in (0, -signal.SIGKILL):
        said.append({"error": status})
    return said


def killed(kind: str, root: Path, kills: int, tokenizer: Tokenizer) -> tuple[str, int]:
    """What is wrong with a run killed so many times, against one that was left alone; and how often it went on."""
    generator = random.Random(kind)
    alone = ended(Life.begin(kind, root / f"{kind}-alone", tokenizer, "alone"), None, generator)
    values: dict[int, float] = {}
    resumed, orphans, last = 0, 0, alone[-1]
    for number in range(kills + 1):
        mark = f"{kind}{os.getpid()}.{number}"
        most = generator.randint(1, 8) if number < kills else None
        said = ended(Life.begin(kind, root / f"{kind}-killed", tokenizer, mark), most, generator)
        if number and said and said[0].get("step", 1) > 1:
            resumed += 1
        values |= {one["step"]: one["value"] for one in said if "step" in one}
        last = said[-1] if said else {}
        deadline = time.monotonic() + WAIT
        while (left := left_behind(mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        orphans += left
    expected = {one["step"]: one["value"] for one in alone if "step" in one}
    if not resumed:
        return "no life went on from a checkpoint", 0
    if orphans:
        return f"{orphans} processes outlived their run", resumed
    if "digest" not in last or last != alone[-1]:
        return f"ended in {last}, undisturbed in {alone[-1]}", resumed
    return "" if values == expected else "other rewards or losses on the way", resumed
