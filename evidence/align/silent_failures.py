"""The fifteen complaints that users of other suites have: each is a test that passes, and fails with the fault planted.

The table of `docs/silent-failures.md` names the tests of each; they are run as they stand, and once more with the fault
of `evidence/planted_faults.py` in the product, where at least one test of the complaint must fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from harness import ROOT, evidence

PAGE = ROOT / "docs" / "silent-failures.md"
COMPLAINTS = 15
FAULTY_SECONDS = 300  # with a fault that makes everything hang, this is how it is noticed
WHOLE_SECONDS = 3600
HANGS = 11  # the complaint whose fault never ends


def complaints() -> dict[int, tuple[str, list[str]]]:
    """By number: the complaint in a few words, and its tests."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\d+) \| \*\*(.+?)\*\*", line):
            found[int(row[1])] = row[2].rstrip(".:,"), re.findall(r"`(tests/\S+::\w+)`", line)
    return found


def outcomes(
    tests: list[str], fault: int | None = None, seconds: float = WHOLE_SECONDS
) -> dict[str, str] | None:
    """By test, "passed", "failed" or "skipped", the worst of its cases; None where they did not end in time."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "evidence"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path} | ({"PLANTED_FAULT": str(fault)} if fault else {})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-q", "-p", "no:cacheprovider", "-p", "planted_faults", f"--junit-xml={report}", *tests]
        words += ["-x"] if fault else []  # one that notices is enough
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, capture_output=True, text=True,
                timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
        if not report.exists():
            raise RuntimeError(done.stdout[-500:] + done.stderr[-500:])
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return worst(tests, [(case, {child.tag for child in case}) for case in cases])


def worst(tests: list[str], cases: list[tuple[ElementTree.Element, set[str]]]) -> dict[str, str]:
    """Of all cases of each test; a module that does not load fails for all of its tests."""
    found = dict.fromkeys(tests, "missing")
    rank = ("missing", "passed", "skipped", "failed")
    for case, tags in cases:
        said = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        name, where = case.get("name", "").partition("[")[0], case.get("classname", "").replace(".", "/")
        for test in tests:
            file, _, function = test.partition("::")
            whole = file.removesuffix(".py") in (where, case.get("name", "").replace(".", "/"))
            if whole and (name == function or "error" in tags) and rank.index(said) > rank.index(found[test]):
                found[test] = said
    return found


def run(quick: bool) -> dict[str, Any]:
    """All tests as they stand, then those of each complaint with its fault; the quick version plants three faults."""
    listed = complaints()
    assert sorted(listed) == list(range(1, COMPLAINTS + 1)) and all(tests for _, tests in listed.values())
    healthy = outcomes(sorted({test for _, tests in listed.values() for test in tests}))
    assert healthy is not None
    rows: list[dict[str, Any]] = []
    for number, (complaint, tests) in listed.items():
        row: dict[str, Any] = {
            "complaint": f"{number}. {complaint}", "tests": len(tests),
            "not_passed": {test: healthy[test] for test in tests if healthy[test] != "passed"},
        }  # fmt: skip
        if not quick or number in (2, 5, 8):
            faulty = outcomes(tests, number, FAULTY_SECONDS if number == HANGS else WHOLE_SECONDS)
            failed = [] if faulty is None else [test for test, said in faulty.items() if said == "failed"]
            row["noticed_by"] = (
                "it never ends" if faulty is None else [test.split("::")[1] for test in failed]
            )
        rows.append(row)
    good = [row for row in rows if not row["not_passed"] and row.get("noticed_by", True)]
    return {
        "ours": len(good),
        "reference": COMPLAINTS,
        "unit": "complaints whose tests pass, and notice the fault when it is planted",
        "ratio": len(good) / COMPLAINTS,
        "interval": None,
        "n": len(healthy),
        "seeds": [0],
        "passed": len(good) == COMPLAINTS,
        "details": {"complaints": rows, "exceptions": "argued in docs/silent-failures.md"},
    }


evidence(
    "align/silent_failures",
    claim="each of the fifteen complaints of users of other suites is a test, listed by name, that passes and that "
    "fails when the fault is planted; what of them cannot be a test is argued",
    run=run,
)
