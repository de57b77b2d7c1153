"""The default recipe from nothing: wall time, peak memory, both cores used, no socket opened."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import ROOT, evidence

from kweek.store import files

LIMIT_SECONDS = 15 * 60
LIMIT_BYTES = 4 * 2**30


def resident_bytes(parent: int) -> int:
    """Memory of a process and all its descendants that no other process shares (plus half of what is shared)."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        ppid = int(re.search(r"PPid:\s+(\d+)", text)[1])  # type: ignore[index]
        children.setdefault(ppid, []).append(int(status.parent.name))
    total, queue = 0, [parent]
    while queue:
        pid = queue.pop()
        queue += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * int(re.search(r"Pss:\s+(\d+)", rollup)[1])  # type: ignore[index]
    return total


def run(quick: bool) -> dict[str, Any]:
    """Run it under `strace -f -e trace=socket` where that exists."""
    # The folder of seed 0, so that the other evidence of the default recipe need not run it again.
    folder = ROOT / "runs" / ("evidence-run-time" if quick else "laptop")
    shutil.rmtree(folder, ignore_errors=True)
    trace = ROOT / "runs" / "evidence-sockets.txt"
    trace.parent.mkdir(exist_ok=True)
    words = [
        sys.executable,
        "-m",
        "kweek",
        "run",
        "laptop",
        "--out",
        str(folder),
        *(("--budget", "2min") if quick else ()),
    ]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=socket", "-o", str(trace)]
    tracer = strace if shutil.which("strace") else []
    started = time.monotonic()
    process = subprocess.Popen([*tracer, *words], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(1.0)
    seconds = time.monotonic() - started
    calls = trace.read_text().splitlines() if tracer else []
    sockets = [line for line in calls if "socket(" in line]
    summary = files.read_json(folder / "summary.json")
    cpu = sum(stage["cpu_seconds"] for stage in summary["stages"])
    return {
        "ours": seconds,
        "reference": LIMIT_SECONDS,
        "unit": "s",
        "ratio": seconds / LIMIT_SECONDS,
        "interval": [seconds, seconds],
        "n": 1,
        "seeds": [0],
        "details": {
            "peak_bytes": peak,
            "cpu_seconds": cpu,
            "cores_busy": cpu / seconds,
            "sockets": sockets[:5],
            "traced": bool(tracer),
            "stages": {
                stage["name"]: [stage["seconds"], stage["cpu_seconds"]] for stage in summary["stages"]
            },
        },
        "passed": process.returncode == 0
        and seconds <= LIMIT_SECONDS
        and peak <= LIMIT_BYTES
        and bool(tracer)
        and not sockets
        and cpu / seconds > 1.4,
    }


evidence(
    "spine/run_time",
    claim="at most 15 minutes and 4 GiB on two cores, no socket opened (traced), both cores used",
    run=run,
)
