"""Run evidence scripts, keep their results, and render the table of claims: `make evidence`.

    python evidence/run.py [NAME ...] [--quick]

NAME is AREA/NAME or AREA; all scripts when none is given. Results go to evidence/results/AREA/NAME.json and from
there into docs/evidence.md. A quick result never replaces a full one, nor one that waits for other
hardware a measured one: it is shown and forgotten. The exit status
is 1 when a script broke down before it had a result; a claim that failed is a result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from table import render

from kweek.store.files import read_json, write_json, write_text

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TABLE = HERE.parent / "docs" / "evidence.md"


def scripts(names: list[str]) -> list[Path]:
    """The scripts that the names mean, in order of their names; ends the program for a name without a script."""
    found = sorted(path for path in HERE.glob("*/*.py") if path.parent != RESULTS)
    if not names:
        return found
    chosen = [path for path in found if {name_of(path), path.parent.name} & set(names)]
    for name in names:
        if not any(name in (name_of(path), path.parent.name) for path in chosen):
            sys.exit(f"no evidence is called {name}; there are: {', '.join(map(name_of, found))}")
    return chosen


def name_of(script: Path) -> str:
    """AREA/NAME of a script."""
    return f"{script.parent.name}/{script.stem}"


def measure(script: Path, quick: bool) -> dict[str, Any]:
    """The result that a script prints as its last line, or an account of how it broke down."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, str(script), *(["--quick"] if quick else [])],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    try:
        result = json.loads(lines[-1]) if done.returncode == 0 else None
    except (IndexError, ValueError):
        result = None
    if isinstance(result, dict):
        return result
    error = f"the script ended with status {done.returncode} and no result"
    return {"name": name_of(script), "claim": None, "pass": False, "quick": quick, "error": error}


def keep(result: dict[str, Any]) -> bool:
    """Store a result, unless it is a quick one and a full one is there; returns whether it was stored."""
    path = RESULTS / f"{result['name']}.json"
    if path.exists():
        before = read_json(path)
        if result.get("quick") and not before.get("quick"):
            return False
        if result.get("waits") and not before.get("waits"):
            return False
        result["claim"] = result["claim"] or before.get("claim")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return True


def main() -> int:
    """Measure, keep, render; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="the versions that take minutes")
    options = parser.parse_args()
    quick = options.quick or os.environ.get("QUICK") == "1"
    broken = 0
    for script in scripts(options.names):
        print(f"{name_of(script)} ...", flush=True)
        result = measure(script, quick)
        broken += "error" in result
        stored = "" if keep(result) else " (the result before stays)"
        verdict = "pass" if result["pass"] else f"waits {result['waits']}" if result.get("waits") else "FAIL"
        print(f"{name_of(script)}: {result.get('error') or verdict}{stored}")
    results = [read_json(path) for path in sorted(RESULTS.glob("*/*.json"))]
    TABLE.parent.mkdir(exist_ok=True)
    write_text(TABLE, render(results))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
