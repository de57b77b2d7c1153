"""A worst-case agent is stopped, again and again: how long it takes, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, evidence

from kweek.stats.intervals import wilson
from kweek.system.stop import MARK, SECONDS, start, token
from kweek.system.supervisor import REFUSED

AGENT = ROOT / "evidence" / "worst_case_agent.py"
TIMES, QUICK_TIMES = 100, 10
VARIABLE = "KWEEK_EVIDENCE_STOP"  # in the environment of an agent and of all that it starts
WAIT = 30.0  # seconds for an agent to begin, on a machine that does something else as well


def living(mark: str) -> int:
    """Processes of an agent that have not ended."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += f"{VARIABLE}={mark}".encode() in entry.read_bytes()
        except OSError:
            continue
    return count


def once(number: int, folder: Path) -> dict[str, Any]:
    """Start an agent, stop it with the command that a user types, and look what is left."""
    mark = f"{os.getpid()}.{number}"
    agent = folder / "agent.py"
    agent.write_text(AGENT.read_text())
    words = [sys.executable, str(agent), str(folder), MARK, token(folder)]
    supervisor = start(words, folder, environment={**os.environ, VARIABLE: mark})
    begun = time.monotonic()
    while not (folder / "ready").exists() and time.monotonic() < begun + WAIT:
        if supervisor.poll() == REFUSED:
            return {"refused": True}
        time.sleep(0.02)
    time.sleep(0.2)  # the crowd replaces itself
    crowd = living(mark)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kweek", "stop", str(folder)], capture_output=True, text=True
    )
    returned = time.monotonic() - started
    left = living(mark)
    supervisor.wait(WAIT)
    return {"crowd": crowd, "seconds": returned, "left": left, "status": done.returncode, "said": done.stderr}


def run(quick: bool) -> dict[str, Any]:
    """So many agents, one after the other."""
    rows = []
    for number in range(QUICK_TIMES if quick else TIMES):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(once(number, Path(folder)))
        if rows[-1].get("refused"):
            waits = "for: a kernel that permits process namespaces"
            return {"ours": 0, "reference": 1, "unit": "agents stopped", "passed": False, "waits": waits}
    good = [
        row["status"] == 0 and not row["left"] and row["seconds"] <= SECONDS and row["crowd"] > 20
        for row in rows
    ]
    took = sorted(row["seconds"] for row in rows)
    return {
        "ours": sum(good),
        "reference": len(rows),
        "unit": f"agents of which nothing is left within {SECONDS:g} s",
        "ratio": sum(good) / len(rows),
        "interval": list(wilson(sum(good), len(rows))[1:]),
        "n": len(rows),
        "seeds": [0],
        "passed": all(good),
        "details": {
            "median_seconds": round(took[len(took) // 2], 3),
            "longest_seconds": round(took[-1], 3),
            "processes_when_stopped": sorted(row["crowd"] for row in rows)[len(rows) // 2],
            "left": sum(row["left"] for row in rows),
            "failed": [row for row, fine in zip(rows, good, strict=True) if not fine][:3],
            "kernel": os.uname().release,
        },
    }


evidence(
    "system/stop",
    claim="an agent that forks, ignores signals, kills what it can reach, rewrites its own files and pretends to be "
    "its supervisor has ended 2 seconds after `kweek stop` is typed, 100 of 100",
    run=run,
)
