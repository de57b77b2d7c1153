"""Training runs that are killed at random moments and go on, against the same runs left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import ROOT

MARK = "KWEEK_EVIDENCE_RUN"  # in the environment of a killed run and of all that it starts
WAIT = 60.0  # seconds within which whatever a killed run has started must have ended


def train(kind: str, folder: Path, mark: str) -> subprocess.Popen[str]:
    """A training run of `killed_training.py`."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "evidence"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "evidence" / "killed_training.py"), kind, str(folder)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, MARK: mark},
    )  # fmt: skip


def left_behind(mark: str) -> int:
    """Processes that a killed run has started and that still live."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += f"{MARK}={mark}".encode() in entry.read_bytes()
        except OSError:
            continue
    return count


def ended(process: subprocess.Popen[str], most: int | None, generator: random.Random) -> list[dict[str, Any]]:
    """What a run says until it ends, or until it is killed some moments after the update number `most` of this life."""
    said: list[dict[str, Any]] = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(json.loads(line))
        if most is not None and len(said) >= most:
            time.sleep(generator.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            break
    assert process.stderr is not None
    for line in process.stdout.read().splitlines():  # said before the signal came
        if line.endswith("}"):
            said.append(json.loads(line))
    errors = process.stderr.read()
    if process.wait() not in (0, -signal.SIGKILL):
        said.append({"error": errors[-500:]})
    return said


def killed(kind: str, root: Path, kills: int) -> tuple[str, int]:
    """What is wrong with a run killed so many times, against one that was left alone; and how often it went on."""
    generator = random.Random(kind)
    alone = ended(train(kind, root / f"{kind}-alone", "alone"), None, generator)
    values: dict[int, float] = {}
    resumed, orphans, last = 0, 0, alone[-1]
    for number in range(kills + 1):
        mark = f"{kind}{os.getpid()}.{number}"
        most = generator.randint(1, 8) if number < kills else None
        said = ended(train(kind, root / f"{kind}-killed", mark), most, generator)
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
