"""A second `kweek run` takes seconds; a changed key re-runs what depends on it and nothing else."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from harness import ROOT, evidence, kweek, run_folder

#: "Seconds": less than anyone leaves a terminal for, torch's own import included.
LIMIT_SECONDS = 15.0


def dependants(stages: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Every stage with all that its change must re-run: itself, and what reads it, directly or not."""
    result = {stage["name"]: {stage["name"]} for stage in stages}
    for _ in stages:
        for stage in stages:
            for role in stage["inputs"]:
                for reached in result.values():
                    if role["stage"] in reached:
                        reached.add(stage["name"])
    return result


def toggled(stage: dict[str, Any]) -> str:
    """An assignment that changes one key of a stage: the number of threads, which every kind has."""
    threads = next(key["value"] for key in stage["keys"] if key["key"] == "threads")
    return f"stages.{stage['name']}.threads={'all' if threads == 1 else 1}"


def planned_again(folder: Path, setting: str) -> set[str]:
    """Stages that the plan would run with a changed key."""
    made = json.loads(kweek("plan", "laptop", "--out", str(folder), "--set", setting, "--json").stdout)
    return {stage["name"] for stage in made["stages"] if not stage["cached"]}


def run_again(folder: Path, *words: str) -> tuple[float, dict[str, str]]:
    """Seconds that a run takes, and what became of every stage."""
    started = time.monotonic()
    out = kweek("run", "laptop", "--out", str(folder), *words, "--json").stdout
    summary = json.loads(out.splitlines()[-1])["summary"]
    return time.monotonic() - started, {stage["name"]: stage["status"] for stage in summary["stages"]}


def run(quick: bool) -> dict[str, Any]:
    """Run a finished recipe again; change a key of every stage in the plan, and one in earnest."""
    folder = ROOT / "runs" / "evidence-cache"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run_folder(), folder)
    first = sum(
        stage["seconds"]
        for stage in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["stages"]
    )
    seconds, statuses = run_again(folder)
    stages = json.loads(kweek("recipe", "show", "laptop", "--json").stdout)["stages"]
    expected = dependants(stages)
    wrong = {
        stage["name"]: sorted(again)
        for stage in stages
        if (again := planned_again(folder, toggled(stage))) != expected[stage["name"]]
    }
    # In earnest only near the end of the chain, where it costs a minute and not the whole run.
    late = min(stages, key=lambda s: (len(expected[s["name"]]) < 2, len(expected[s["name"]])))
    _, after = run_again(folder, "--set", toggled(late))
    ran = {name for name, status in after.items() if status == "done"}
    right = set(statuses.values()) == {"cached"} and not wrong and ran == expected[late["name"]]
    return {
        "ours": seconds,
        "reference": first,
        "unit": "s",
        "ratio": seconds / first,
        "interval": None,
        "n": len(stages),
        "seeds": [0],
        "details": {"second_run": statuses, "wrong": wrong, "changed": toggled(late), "ran": sorted(ran)},
        "passed": right and seconds <= LIMIT_SECONDS,
    }


evidence(
    "spine/cache",
    claim=f"a second run takes at most {LIMIT_SECONDS:.0f} s; a changed key re-runs only what depends on it",
    run=run,
)
