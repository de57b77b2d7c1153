"""The plan's wall time lies within 30% of what the run takes; the plan says everything that it should."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from harness import ROOT, evidence, kweek

TOLERANCE = 0.3
LISTED = ("name", "kind", "cached", "flop", "seconds", "memory_bytes")


def fresh_run(seed: int, *words: str) -> dict[str, Any]:
    """Plan and run in an empty folder: seconds planned and taken, in all and by stage; what the plan lists."""
    # The seed's usual folder, so that the other evidence of the default recipe need not run it again.
    folder = ROOT / "runs" / (f"evidence-plan-{seed}" if words else f"laptop-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    common = ("laptop", "--out", str(folder), "--seed", str(seed), *words, "--json")
    plan = json.loads(kweek("plan", *common).stdout)
    started = time.monotonic()
    out = kweek("run", *common).stdout
    taken = time.monotonic() - started
    summary = json.loads(out.splitlines()[-1])["summary"]
    after = json.loads(kweek("plan", *common).stdout)
    lists = (
        all(key in stage for stage in plan["stages"] for key in LISTED)
        and plan["forecast"] is not None
        and plan["flop"] > 0
        and plan["memory_bytes"] > 0
        and not any(stage["cached"] for stage in plan["stages"])
        and all(stage["cached"] for stage in after["stages"])
    )
    return {
        "planned": plan["seconds"],
        "taken": taken,
        "ratio": taken / plan["seconds"],
        "lists_everything": lists,
        "stages": {s["name"]: [s["planned_seconds"], s["seconds"]] for s in summary["stages"]},
    }


def run(quick: bool) -> dict[str, Any]:
    """One short run when quick, else the default recipe with three seeds."""
    seeds = [0] if quick else [1, 2, 3]
    runs = [fresh_run(seed, *(("--budget", "3min") if quick else ())) for seed in seeds]
    ratios = [one["ratio"] for one in runs]
    return {
        "ours": sum(one["planned"] for one in runs) / len(runs),
        "reference": sum(one["taken"] for one in runs) / len(runs),
        "unit": "s",
        "ratio": sum(ratios) / len(ratios),
        "interval": [min(ratios), max(ratios)],
        "n": len(runs),
        "seeds": seeds,
        "details": {"runs": runs, "interval": "smallest and largest ratio of taken to planned"},
        "passed": all(
            abs(ratio - 1.0) <= TOLERANCE and one["lists_everything"]
            for ratio, one in zip(ratios, runs, strict=True)
        ),
    }


evidence(
    "spine/plan",
    claim="wall time within 30% of the plan; stages, FLOP, time, memory, forecast and what is cached are listed",
    run=run,
)
