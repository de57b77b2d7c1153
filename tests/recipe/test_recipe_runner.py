"""The runner with real processes: cache, what re-runs, side by side, failures, stop and go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from toy_recipes import TOY, recipe_of

from kweek.errors import DataError, Interrupted, StoreError
from kweek.recipe.folder import RunFolder
from kweek.recipe.runner import StageFailed, run_recipe
from kweek.recipe.schema import Recipe
from kweek.store.records import Records


def run(recipe: Recipe, out: Path, threads: int = 2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return run_recipe(recipe, out, threads=threads, listen=events.append, command="kweek run toy"), events


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in summary["stages"]}


def changed(text: str, old: str, new: str) -> Recipe:
    assert old in text
    return recipe_of(text.replace(old, new))


def test_a_run_and_its_summary(toy: Recipe, run_dir: Path) -> None:
    summary, events = run(toy, run_dir)
    assert statuses(summary) == {"numbers": "done", "left": "done", "right": "done"}
    assert summary["recipe"] == "toy"
    assert summary["seed"] == 3
    assert summary["status"] == "done"
    assert summary["sizes"] == {"left": 80, "right": 28}
    assert summary["next"] == [f"kweek chat {run_dir}"]
    line = summary["stages"][0]
    assert set(line) == {
        "name", "kind", "status", "seconds", "cpu_seconds", "flop", "artifact", "planned_seconds"
    }  # fmt: skip
    assert (line["flop"], line["artifact"], line["planned_seconds"]) == (4.0, "artifacts/numbers", 0.2)
    assert line["seconds"] > 0
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    assert events[0]["event"] == "run"
    assert events[-1] == {"event": "summary", "summary": summary}
    walked = [event for event in events if event["event"] == "progress" and event["stage"] == "left"]
    assert walked[-1]["done"] == walked[-1]["total"] == 20
    assert walked[-1]["values"] == {"loss": 0.05}
    assert len(Records.read(run_dir / "records" / "left.jsonl")) == 20
    assert "stray output" in (run_dir / "state" / "numbers" / "stderr.txt").read_text()
    ledger = RunFolder(run_dir).finished("numbers", _print(run_dir, "numbers")).ledger
    assert ledger["peak_memory_bytes"] > 1e6
    assert sorted(p.name for p in (run_dir / "state" / "left").iterdir()) == ["stage.json", "stderr.txt"]


def _print(run_dir: Path, stage: str) -> str:
    return json.loads((run_dir / "run.json").read_text())["fingerprints"][stage]


def test_cache_and_what_a_change_reruns(toy: Recipe, run_dir: Path) -> None:
    run(toy, run_dir)
    assert statuses(run(toy, run_dir)[0]) == dict.fromkeys(["numbers", "left", "right"], "cached")
    records = run_dir / "records" / "right.jsonl"
    assert len(Records.read(records)) == 7
    again, _ = run(changed(TOY, "steps: 7", "steps: 6"), run_dir)
    assert statuses(again) == {"numbers": "cached", "left": "cached", "right": "done"}
    assert len(Records.read(records)) == 6
    again, _ = run(changed(TOY, "count: 4", "count: 3"), run_dir)
    assert set(statuses(again).values()) == {"done"}
    again, _ = run(changed(TOY, "seed: 3", "seed: 4").model_copy(), run_dir)
    assert set(statuses(again).values()) == {"done"}


def test_a_damaged_artifact_is_made_again(toy: Recipe, run_dir: Path) -> None:
    run(toy, run_dir)
    walk = run_dir / "artifacts" / "left" / "walk.txt"
    good = walk.read_bytes()
    walk.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # same size, other content
    assert statuses(run(toy, run_dir)[0]) == {"numbers": "cached", "left": "done", "right": "cached"}
    assert walk.read_bytes() == good


def test_stages_run_side_by_side_only_when_threads_reach(toy: Recipe, run_dir: Path) -> None:
    def overlaps(events: list[dict[str, Any]]) -> int:
        running: set[str] = set()
        most = 0
        for event in events:
            if event["event"] == "stage":
                (running.add if event["status"] == "running" else running.discard)(event["stage"])
                most = max(most, len(running))
        return most

    assert overlaps(run(toy, run_dir)[1]) == 2
    assert overlaps(run(changed(TOY, "seed: 3", "seed: 5"), run_dir, threads=1)[1]) == 1
    both_all = TOY.replace("kind: toy_stages.walk\n    threads: 1", "kind: toy_stages.walk")
    assert overlaps(run(recipe_of(both_all), run_dir)[1]) == 1


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("user", DataError, "docs/a.txt:3: no documents. Add some."),
        ("bug", StageFailed, "ZeroDivisionError: division by zero"),
        ("killed", StageFailed, "SIGKILL"),
        ("silent", StageFailed, "ended without its artifact"),
    ],
)
def test_failures_are_one_line(run_dir: Path, how: str, error: type[Exception], text: str) -> None:
    recipe = recipe_of(f"name: t\nstages:\n  bad: {{kind: toy_stages.trouble, how: {how}}}\n")
    with pytest.raises(error) as caught:
        run(recipe, run_dir)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert statuses(summary) == {"bad": "failed"}
    assert summary["next"] == ["kweek run toy"]
    if how == "bug":
        assert "Traceback" in (run_dir / "state" / "bad" / "stderr.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_killed_stage_started_is_ended(run_dir: Path) -> None:
    with pytest.raises(StageFailed, match="SIGKILL"):
        run(recipe_of("name: t\nstages:\n  bad: {kind: toy_stages.trouble, how: parent}\n"), run_dir)
    child = Path("/proc") / (run_dir / "state" / "bad" / "child").read_text() / "cmdline"
    end = time.monotonic() + 5
    while child.exists() and child.read_bytes() and time.monotonic() < end:
        time.sleep(0.01)
    assert not (child.exists() and child.read_bytes())


def test_budget_reaches_only_who_uses_it_and_outside_files_count(run_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "text.txt"
    outside.write_text("one")
    text = f"name: t\nbudget: 2min\nstages:\n  s: {{kind: toy_stages.spender, folder: {outside}}}\n"
    text += "  n: {kind: toy_stages.numbers}\n"
    run(recipe_of(text), run_dir)
    spent = run_dir / "artifacts" / "s" / "spent.json"
    assert json.loads(spent.read_text()) == [120.0, None, 2, "one"]
    summary, _ = run(recipe_of(text.replace("2min", "1e12FLOP")), run_dir)
    assert statuses(summary) == {"s": "done", "n": "cached"}
    assert json.loads(spent.read_text()) == [None, 1e12, 2, "one"]
    outside.write_text("two")
    summary, _ = run(recipe_of(text.replace("2min", "1e12FLOP")), run_dir)
    assert statuses(summary) == {"s": "done", "n": "cached"}


def test_second_process_is_refused(toy: Recipe, run_dir: Path) -> None:
    from kweek.store.lock import RunLock

    with RunLock(run_dir), pytest.raises(StoreError, match=str(os.getpid())):
        run(toy, run_dir)


SLOW = TOY.replace("steps: 7", "steps: 60\n    pause: 0.02")


def test_interrupt_saves_and_goes_on(run_dir: Path) -> None:
    events: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        events.append(event)
        far = event["event"] == "progress" and event["stage"] == "right" and event["done"] >= 8
        if far and not any(e["event"] == "stopping" for e in events):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(SLOW), run_dir, threads=2, listen=listen, command="kweek run toy")
    assert signal.getsignal(signal.SIGINT) is before
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert statuses(summary)["right"] == "stopped"
    assert summary["next"] == ["kweek run toy"]
    saved = json.loads((run_dir / "state" / "right" / "walk.json").read_text())["step"]
    assert 8 <= saved < 60
    resumed, later = run(recipe_of(SLOW), run_dir)
    assert resumed["status"] == "done"
    assert min(e["done"] for e in later if e["event"] == "progress" and e["stage"] == "right") > saved
    assert [r["step"] for r in Records.read(run_dir / "records" / "right.jsonl")] == list(range(1, 61))


def test_state_of_another_fingerprint_is_discarded(run_dir: Path) -> None:
    first = run_of_process(SLOW, run_dir)
    wait_for(run_dir / "state" / "right" / "walk.json")
    kill_group(first)
    other = SLOW.replace("count: 4", "count: 5").replace("pause: 0.02", "pause: 0.0")
    run(recipe_of(other), run_dir)
    fresh = run_dir.parent / "fresh"
    fresh.mkdir()
    (fresh / "machine.json").write_text((run_dir / "machine.json").read_text())
    run(recipe_of(other), fresh)
    for name in ("left", "right"):
        walk = Path("artifacts") / name / "walk.txt"
        assert (run_dir / walk).read_bytes() == (fresh / walk).read_bytes()


def run_of_process(text: str, run_dir: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own, to be killed."""
    script = (
        "import sys, pathlib; from kweek.recipe.schema import parse;"
        "from kweek.recipe.text import parse_yaml;"
        "from kweek.recipe.runner import run_recipe;"
        "run_recipe(parse(parse_yaml(sys.argv[1], 'toy.yaml')), pathlib.Path(sys.argv[2]), threads=2)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", script, text, str(run_dir)], env=environment, start_new_session=True
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def wait_for(path: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def wait_for_records(path: Path, number: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while number and not (path.exists() and len(Records.read(path)) >= number):
        assert time.monotonic() < end, f"{path} did not grow"
        time.sleep(0.005)


def children_of_run(run_dir: Path) -> list[int]:
    """Processes whose command line names the run folder as a worker's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"kweek.recipe.worker" in words and str(run_dir).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_with_their_parent(run_dir: Path) -> None:
    process = run_of_process(SLOW.replace("pause: 0.02", "pause: 0.5"), run_dir)
    wait_for(run_dir / "records" / "right.jsonl")
    assert children_of_run(run_dir)
    kill_group(process)
    end = time.monotonic() + 5
    while children_of_run(run_dir) and time.monotonic() < end:
        time.sleep(0.01)
    assert not children_of_run(run_dir)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_kills_at_random_instants_leave_the_same_bits(run_dir: Path) -> None:
    """SIGKILL the parent, or a worker, at instants spread over the run; the end is that of a calm run."""
    calm = run_dir.parent / "calm"
    calm.mkdir()
    (calm / "machine.json").write_text((run_dir / "machine.json").read_text())
    text = SLOW.replace("steps: 60\n    pause: 0.02", "steps: 40\n    pause: 0.02")
    run(recipe_of(text), calm)
    seen = set()
    draw = random.Random(7)
    records = run_dir / "records" / "right.jsonl"
    for number in range(7):
        (run_dir / "run.json").unlink(missing_ok=True)
        process = run_of_process(text, run_dir)
        wait_for(run_dir / "run.json")
        wait_for_records(records, 4 * number)
        time.sleep(draw.random() * 0.05)
        for worker in children_of_run(run_dir) if number % 3 == 2 else []:
            os.kill(worker, signal.SIGKILL)
        kill_group(process)
        seen.add(len(Records.read(records)))
    assert len(seen) >= 4, "the kills did not fall into the stage"
    summary, _ = run(recipe_of(text), run_dir)
    assert summary["status"] == "done"
    for name in ("numbers/numbers.json", "left/walk.txt", "right/walk.txt"):
        assert (run_dir / "artifacts" / name).read_bytes() == (calm / "artifacts" / name).read_bytes()
    steps = [record["step"] for record in Records.read(run_dir / "records" / "right.jsonl")]
    assert steps == list(range(1, 41))


def test_second_interrupt_kills_at_once(run_dir: Path) -> None:
    stubborn = SLOW.replace("pause: 0.02", "pause: 30")
    asked = threading.Event()

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "stage" and event["stage"] == "right" and event["status"] == "running":
            threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        if event["event"] == "stopping":
            asked.set()
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    began = time.monotonic()
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(stubborn), run_dir, threads=2, listen=listen)
    assert asked.is_set()
    assert time.monotonic() - began < 15
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "interrupted"
