"""The command line as a user meets it, in processes of its own: statuses, one-line errors, stopping, JSON."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kweek.store.environment import describe_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

TOYS = Path(__file__).parents[1] / "recipe"
RECIPE = """
name: toy
description: numbers and walks
stages:
  numbers: {kind: toy_stages.numbers, threads: 1}
  walk: {kind: toy_stages.walk, threads: 1, inputs: {numbers: numbers}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the recipe and a run folder whose machine is measured already."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    peak = {"fp32_flop_per_second": 1e10, "bf16_flop_per_second": None, "memory_bytes_per_second": 1e9}
    stored = {
        "time": time.time(),
        "cpu": describe_environment()["cpu"],
        "peaks": {str(n): {**peak, "threads": n} for n in (1, 2)},
    }
    (tmp_path / "runs" / "toy" / "machine.json").write_text(json.dumps(stored))
    return tmp_path


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TOYS), *(p for p in sys.path if p)])
    return subprocess.Popen(
        [sys.executable, "-m", "kweek", *words], cwd=place, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"},
    )  # fmt: skip


def kweek(place: Path, *words: str) -> tuple[int, str, str]:
    process = start(place, *words)
    out, errors = process.communicate(timeout=240)
    return process.returncode, out, errors


def test_help_is_quick_and_lists_the_verbs(place: Path) -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code, out, _ = kweek(place, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert code == 0
    assert min(spent) < 0.5, "seconds of CPU time"
    for verb in ("run", "plan", "chat", "recipe", "model", "get", "flops"):
        assert f"\n  {verb} " in out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; import kweek.cli.main;"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'scipy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_version(place: Path) -> None:
    assert kweek(place, "--version")[1].startswith("kweek 0.")


def test_a_whole_run(place: Path) -> None:
    code, out, errors = kweek(place, "run", "toy.yaml", "--threads", "2")
    assert (code, errors) == (0, "")
    for text in (
        "Plan of toy",
        "Downloads: nothing.",
        "walk: started",
        "walk: done",
        "Report: runs/toy/report.html",
    ):
        assert text in out
    assert "Next: python -m kweek chat runs/toy" in out
    assert (place / "runs" / "toy" / "report.html").stat().st_size > 1000
    code, out, _ = kweek(place, "run", "toy.yaml", "--threads", "2", "--json")
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["event"] for event in events] == ["plan", "run", "stage", "stage", "report", "summary"]
    assert {e["status"] for e in events if e["event"] == "stage"} == {"cached"}
    assert events[-1]["summary"] == json.loads((place / "runs" / "toy" / "summary.json").read_text())
    code, out, _ = kweek(place, "plan", "toy.yaml", "--threads", "2")
    assert code == 0
    assert "cached" in out
    assert "To do: 0 FLOP" in out
    changed = json.loads(
        kweek(place, "plan", "toy.yaml", "--set", "stages.walk.steps=9", "--threads=2", "--json")[1]
    )
    assert [stage["cached"] for stage in changed["stages"]] == [True, False]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("run", "labtop"), "kweek: no recipe 'labtop'. Write 'laptop', the nearest valid name."),
        (
            ("run", "absent.yaml"),
            "kweek: absent.yaml: cannot be read (No such file or directory). Check the path.",
        ),
        (
            ("run", "toy.yaml", "--set", "stages.walk.stepz=3"),
            "kweek: --set: stages.walk.stepz: unknown key 'stepz'. Write 'steps', the nearest valid name.",
        ),
        (
            ("plan", "toy.yaml", "--set", "stages.wolk.steps=3"),
            "kweek: --set stages.wolk.steps: nothing is called 'wolk' here. Write 'walk', the nearest valid name.",
        ),
        (("plan", "toy.yaml", "--set", "stage.walk.steps=3"), "Write 'stages', the nearest valid name."),
        (("plan", "toy.yaml", "--set", "stages.walk.steps"), "Write stages.NAME.KEY=VALUE."),
        (("plan", "toy.yaml", "--set", "stages.walk.steps=many"), 'expected a valid integer, found "many"'),
        (("plan", "toy.yaml", "--set", "name.x=1"), "'name' has no keys. Set name itself."),
        (("plan", "toy.yaml", "--budget", "long"), "kweek: --budget: budget: 'long' is not a budget."),
        (("plan", "toy.yaml", "--corpus", "absent"), "kweek: --corpus: absent does not exist."),
        (("plan", "toy.yaml", "--corpus", "toy.yaml"), "toy.yaml is not a folder."),
        (("plan", "toy.yaml", "--corpus", "."), "the recipe has no stage of the kind corpus. Leave it out."),
    ],
)
def test_user_errors_are_one_line(place: Path, words: tuple[str, ...], line: str) -> None:
    code, out, errors = kweek(place, *words)
    assert (code, out) == (2, "")
    assert line in errors
    assert errors.count("\n") == 1


def test_faults_of_stages(place: Path) -> None:
    for how, code, text in (("user", 2, "docs/a.txt:3: no documents."), ("bug", 1, "state/bad/stderr.txt")):
        (place / "bad.yaml").write_text(
            f"name: toy\nstages:\n  bad: {{kind: toy_stages.trouble, how: {how}}}\n"
        )
        found, _, errors = kweek(place, "run", "bad.yaml", "--threads", "1")
        assert found == code
        assert text in errors
        assert errors.count("\n") == 1
    assert "Traceback" in kweek(place, "run", "bad.yaml", "--threads", "1", "--debug")[2]


def test_interrupt_and_second_process(place: Path) -> None:
    words = ("run", "toy.yaml", "--threads", "2", "--set", "stages.walk.pause=0.5")
    first = start(place, *words)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("walk: started"):
            break
    code, _, errors = kweek(place, *words)
    assert code == 2
    assert f"already in use by process {first.pid}" in errors
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 130
    assert "to go on: python -m kweek run toy.yaml --threads 2 --set stages.walk.pause=0.5" in errors
    assert kweek(place, *words)[0] == 0


def test_recipes_are_shown(place: Path) -> None:
    shown = json.loads(kweek(place, "recipe", "show", "toy.yaml", "--json")[1])
    assert shown["name"] == "toy"
    keys = {key["key"]: key for key in shown["stages"][1]["keys"]}
    assert keys["steps"]["reason"] == "a second or so"
    text = kweek(place, "recipe", "show", "toy.yaml")[1]
    for part in ("stages.walk", "inputs.numbers = numbers", "steps = 20", "length of the chain"):
        assert part in text
    names = [row["name"] for row in json.loads(kweek(place, "recipe", "list", "--json")[1])]
    assert "laptop" in names
