"""Bad input: everything a folder or a recipe can have wrong with it, through the command line as a user meets it.

Two kinds of case. Fatal: the run must end with status 2 and one line that names the place and the remedy.
Not fatal: a bad file among good ones must be counted and listed with its reason, nothing of it used, in the
memory that the good ones take alone. Every case runs the real `kweek run` in a process of its own.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import evidence

RECIPE = "name: documents\nstages:\n  corpus:\n    kind: corpus\n"
WORDS = [
    f"{a}{b}" for a in ("bee", "wax", "hive", "comb", "honey", "queen") for b in ("", "s", "like", "ing", "y")
]
GIB = 1 << 30
MEMORY_LIMIT = 64 << 20  # what all bad files together may add to the stage's peak
SECONDS = 120  # a run that takes longer hangs, as it would on an opened pipe

Fill = Callable[[Path], None]


def good_files(folder: Path) -> None:
    """A megabyte of different texts, more than the least that a corpus needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(300):
        words = random.Random(number).choices(WORDS, k=600)
        (folder / f"good{number}.txt").write_text(" ".join(words))


def prose(number: int = 0) -> str:
    return " ".join(random.Random(f"prose{number}").choices(WORDS, k=400))


def _long_line(folder: Path) -> None:
    block = b"all in one line " * (1 << 16)
    with (folder / "line.txt").open("wb") as file:
        for _ in range(GIB // len(block)):
            file.write(block)


def _long_line_packed(folder: Path) -> None:
    block = b"all in one line " * (1 << 16)
    with gzip.open(folder / "bomb.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(GIB // len(block)):
            file.write(block)


def _truncated(folder: Path) -> None:
    packed = gzip.compress("\n".join(prose(number) for number in range(500)).encode())
    (folder / "cut.txt.gz").write_bytes(packed[: len(packed) * 2 // 3])


def _secret(folder: Path) -> None:
    (folder / "secret.txt").write_text(prose())
    (folder / "secret.txt").chmod(0)


def _loop(folder: Path) -> None:
    (folder / "again").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")


def _socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind("s.txt")
    os.chdir(here)


#: file -> (how it is made, what its reason must say)
NOT_FATAL: dict[str, tuple[Fill, str]] = {
    "binary.txt": (
        lambda f: (f / "binary.txt").write_bytes(bytes(range(256)) * 100) and None,
        "binary content",
    ),
    "invalid.txt": (
        lambda f: (f / "invalid.txt").write_bytes("Пчела вылетает из улья.".encode("koi8-r") * 50) and None,
        "no known encoding",
    ),
    "line.txt": (_long_line, "a line of over"),
    "bomb.txt.gz": (_long_line_packed, "a line of over"),
    "cut.txt.gz": (_truncated, "truncated"),
    "secret.txt": (_secret, "Permission denied"),
    "pipe.txt": (lambda f: os.mkfifo(f / "pipe.txt"), "not a file"),
    "s.txt": (_socket, "not a file"),
    "null.txt": (lambda f: (f / "null.txt").symlink_to("/dev/zero"), "not a file"),
    "self.txt": (_loop, "in a circle"),
    "again": (lambda f: None, "not followed"),
    "records.jsonl:2": (
        lambda f: (f / "records.jsonl").write_text(f'{{"text": "{prose(1)}"}}\n{{"text": \n') and None,
        "not valid JSON",
    ),
    "table.parquet": (
        lambda f: (f / "table.parquet").write_text(prose(2)) and None,
        "not a readable Parquet",
    ),
    "empty.txt": (lambda f: (f / "empty.txt").touch(), "empty"),
}


def fatal_cases(root: Path) -> Iterator[tuple[str, list[str], str, list[str]]]:
    """(name, words after `run RECIPE`, recipe text, what the one line must say)."""
    for name in ("empty", "binary", "small", "good"):
        (root / name).mkdir(parents=True)
    (root / "binary" / "a.txt").write_bytes(bytes(range(256)) * 100)
    (root / "small" / "a.txt").write_text(prose())
    good_files(root / "good")
    yield (
        "empty folder",
        ["--corpus", str(root / "empty")],
        RECIPE,
        ["empty:", "no file", "Put documents in it"],
    )
    yield "no folder", ["--corpus", str(root / "none")], RECIPE, ["none", "--corpus", "Name a folder"]
    yield "only a binary file", ["--corpus", str(root / "binary")], RECIPE, ["binary:", "1 files or records"]
    yield (
        "corpus too small",
        ["--corpus", str(root / "small")],
        RECIPE,
        ["small:", "too small", "200,000", "Add"],
    )
    yield "unknown key", [], RECIPE + "    foldr: x\n", ["recipe.yaml:5", "foldr", "folder"]
    yield "wrong type", [], RECIPE + "    mix_bytes: many\n", ["recipe.yaml:5", "mix_bytes", "integer"]
    yield "unknown key set", ["--set", "stages.corpus.foldr=x"], RECIPE, ["--set", "foldr", "folder"]
    yield (
        "unknown source",
        ["--set", "stages.corpus.sources={web: 1}"],
        RECIPE,
        ["sources", "web", "python-docs"],
    )


def without_override() -> None:
    """Before the command starts: the superuser loses the right to read what permissions forbid."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None).prctl
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def kweek_run(root: Path, name: str, recipe: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """`kweek run` on a recipe of its own in a folder of its own."""
    place = root / name
    place.mkdir()
    (place / "recipe.yaml").write_text(recipe)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "kweek",
            "run",
            str(place / "recipe.yaml"),
            "--out",
            str(place / "run"),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=without_override,
    )


def fatal(root: Path) -> dict[str, str]:
    """What was wrong with the answer to each fatal case; empty where nothing was."""
    found: dict[str, str] = {}
    for number, (name, words, recipe, said) in enumerate(fatal_cases(root / "folders")):
        done = kweek_run(root, f"fatal{number}", recipe, words)
        lines = done.stderr.strip().splitlines()
        missing = [word for word in said if word not in done.stderr]
        if done.returncode != 2:
            found[name] = f"status {done.returncode}: {done.stderr[-300:]}"
        elif len(lines) != 1 or not lines[0].startswith("kweek: "):
            found[name] = f"{len(lines)} lines: {done.stderr[:300]}"
        elif missing:
            found[name] = f"the line lacks {missing}: {lines[0]}"
        else:
            found[name] = ""
    return found


def outcome(root: Path, name: str, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Rejected files with reasons, and the artifact's metrics."""
    done = kweek_run(root, name, RECIPE, ["--corpus", str(folder)])
    if done.returncode != 0:
        raise SystemExit(f"the run with {name} files failed: {done.stderr[-500:]}")
    artifact = root / name / "run" / "artifacts" / "corpus"
    lines = map(json.loads, (artifact / "rejected.jsonl").read_text().splitlines())
    metrics = json.loads((artifact / "artifact.json").read_text())["metrics"]
    return {line["path"]: line["reason"] for line in lines}, metrics


def reading_memory(folder: Path) -> int:
    """Peak memory in bytes of a process that reads all documents of a folder and keeps none."""
    script = (
        "import resource, sys; from pathlib import Path; from kweek.data.readers import read_folder\n"
        "for document in read_folder(Path(sys.argv[1]), reject=lambda rejection: None): pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    words = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def run(quick: bool) -> dict[str, Any]:
    """All cases; the quick version is the whole one."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        verdicts = fatal(root)
        good_files(root / "plain")
        good_files(root / "mixed")
        for fill, _ in NOT_FATAL.values():
            fill(root / "mixed")
        _, plain_metrics = outcome(root, "none", root / "plain")
        rejected, metrics = outcome(root, "bad", root / "mixed")
        plain_memory, memory = reading_memory(root / "plain"), reading_memory(root / "mixed")
    for file, (_, said) in NOT_FATAL.items():
        reason = rejected.get(file)
        good = reason is not None and said in reason
        verdicts[file] = "" if good else f"reason {reason!r} does not say {said!r}"
    one_good_record = 1  # the first line of records.jsonl
    verdicts["good files all used"] = (
        "" if metrics["read_documents"] == plain_metrics["read_documents"] + one_good_record else str(metrics)
    )
    verdicts["rejections counted"] = "" if metrics["rejected"] == len(NOT_FATAL) else str(sorted(rejected))
    verdicts["memory"] = (
        "" if memory - plain_memory <= MEMORY_LIMIT else f"{memory - plain_memory:,} bytes more"
    )
    passed = sum(not wrong for wrong in verdicts.values())
    return {
        "ours": passed,
        "reference": len(verdicts),
        "unit": "cases answered with one clear line, or with an entry in the list of rejected files",
        "ratio": passed / len(verdicts),
        "interval": None,
        "n": len(verdicts),
        "seeds": [0],
        "passed": passed == len(verdicts),
        "details": {
            "wrong": {case: wrong for case, wrong in verdicts.items() if wrong},
            "cases": sorted(verdicts),
            "peak_memory_bytes_of_reading": {"good files": plain_memory, "with the bad ones": memory},
        },
    }


evidence(
    "spine/bad_input",
    claim="bad input gives one clear line with place and remedy, or is counted, listed and passed over; "
    "all the bad files, two of them a line of 1 GiB, add at most 64 MiB of memory",
    run=run,
)
