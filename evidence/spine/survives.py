"""Killed at random instants and resumed, a run ends in the same bits; no fault of the writer loses anything."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import ROOT, evidence, kweek

RECIPE = str(Path(__file__).with_name("small_run.yaml"))
MODELS = ("base", "sft", "rl", "quantized")


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of every model's weights."""
    return {
        name: hashlib.sha256((folder / "artifacts" / name / "model.safetensors").read_bytes()).hexdigest()
        for name in MODELS
    }


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The recipe in a process group of its own, one thread so that the bits cannot depend on the schedule."""
    return subprocess.Popen(
        [sys.executable, "-m", "kweek", "run", RECIPE, "--out", str(folder), "--threads", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def killed_and_resumed(folder: Path, kills: int, whole: float, seed: int) -> int:
    """Kill the run `kills` times at instants spread over all of it, resuming each time; returns those that hit."""
    generator = random.Random(seed)
    hit = 0
    for _ in range(kills):
        process = start(folder)
        # Short lives early in a stage and longer ones in its middle; progress comes from what is kept.
        try:
            process.wait(generator.uniform(1.0, max(4.0, 3.0 * whole / kills)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            hit += 1
    process = start(folder)
    if process.wait() != 0:
        raise RuntimeError("the run did not end well after the kills")
    return hit


def interrupted(folder: Path) -> dict[str, Any]:
    """Ctrl-C saves and says how to go on; a second process is refused with the first's pid."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, "-m", "kweek", "run", RECIPE, "--out", str(folder), "--threads", "1"]
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(12)
    second = kweek("run", RECIPE, "--out", str(folder), check=False)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=60)
    return {
        "refused_with_pid": second.returncode == 2 and str(first.pid) in second.stderr,
        "status": first.returncode,
        "says_how_to_go_on": "to go on" in said,
    }


def run(quick: bool) -> dict[str, Any]:
    """Thirty kills (six when quick) over three runs or more, and every fault of the writer."""
    sys.path.insert(0, str(ROOT / "tests" / "store"))
    from writer_faults import check_every_call

    base = ROOT / "runs" / "evidence-survives"
    shutil.rmtree(base, ignore_errors=True)
    started = time.monotonic()
    if start(base / "undisturbed").wait() != 0:
        raise RuntimeError("the undisturbed run failed")
    whole = time.monotonic() - started
    expected = weights(base / "undisturbed")
    hits, same = 0, list[bool]()
    wanted = 6 if quick else 30
    while hits < wanted:  # about ten a run: the last lives of a run may end well before their kill
        folder = base / f"killed-{len(same)}"
        hits += killed_and_resumed(folder, min(10, wanted - hits), whole, len(same))
        same.append(weights(folder) == expected)
    scratch = base / "writer"
    scratch.mkdir(parents=True)
    faults = {kind: sum(check_every_call(scratch, kind).values()) for kind in ("artifact", "file")}
    manners = interrupted(base / "interrupted")
    return {
        "ours": sum(same),
        "reference": len(same),
        "unit": "killed runs that ended in the same bits",
        "ratio": sum(same) / len(same),
        "interval": [0.0, 3.0 / max(hits, 1)],
        "n": hits,
        "seeds": list(range(len(same))),
        "details": {
            "writer_faults": faults,
            "interrupt": manners,
            "interval": "rule of three on failures per kill",
        },
        "passed": all(same)
        and manners["refused_with_pid"]
        and manners["status"] == 130
        and manners["says_how_to_go_on"],
    }


evidence(
    "spine/survives",
    claim="thirty SIGKILLs at random instants: same final weights; any fault of the writer leaves the old or the new",
    run=run,
)
