"""The stage `corpus` as the runner calls it."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.data.corpus import read_documents
from kweek.errors import DataError
from kweek.protocols import never
from kweek.recipe.context import StageContext
from kweek.recipe.stages import corpus
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records

WORDS = [
    "bee",
    "hive",
    "wax",
    "honey",
    "queen",
    "drone",
    "comb",
    "pollen",
    "nectar",
    "flower",
    "dance",
    "sting",
]


def run(
    config: corpus.Config, folder: Path, seed: int = 0
) -> tuple[Artifact, list[dict[str, Any]], list[float]]:
    """The artifact, the records and the progress of one run in this process."""
    seen: list[float] = []

    def progress(done: float, total: float, note: str = "", **values: float) -> None:
        seen.append(done / total)

    with ArtifactWriter(folder / "artifact", kind="corpus", fingerprint="f") as out:
        corpus.run(
            StageContext(
                name="corpus",
                config=config,
                inputs={},
                out=out,
                records=Records(folder / "records.jsonl"),
                state=folder,
                progress=progress,
                should_stop=never,
                ledger=Ledger(),
                seed=seed,
                threads=1,
                budget_seconds=None,
                budget_flop=None,
                machine_peak=Peak(1e10, None, 1e9, 1),
            )
        )
    return Artifact.open(folder / "artifact"), Records.read(folder / "records.jsonl"), seen


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    root = tmp_path / "documents"
    root.mkdir()
    for number in range(150):
        (root / f"{number}.txt").write_text(" ".join(random.Random(number).choices(WORDS, k=300)))
    (root / "bad.txt").write_bytes(b"\0" * 100)
    return root


def test_a_folder(documents: Path, tmp_path: Path) -> None:
    artifact, records, seen = run(corpus.Config(folder=str(documents)), tmp_path)
    files = {
        "train.parquet",
        "validation.parquet",
        "test.parquet",
        "funnel.json",
        "rejected.jsonl",
        "duplicates.jsonl",
    }
    assert set(artifact.files) == files
    assert {d.source for d in read_documents(artifact.file("train.parquet"))} == {"folder"}
    assert json.loads(artifact.file("rejected.jsonl").read_text()) == {
        "path": "bad.txt",
        "reason": "binary content",
    }
    assert [r["path"] for r in records if r["kind"] == "rejected"] == ["bad.txt"]
    funnel = [
        {k: v for k, v in r.items() if k not in ("kind", "time")} for r in records if r["kind"] == "funnel"
    ]
    assert funnel == json.loads(artifact.file("funnel.json").read_text())
    assert artifact.metrics["rejected"] == 1
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    again, records_again, _ = run(corpus.Config(folder=str(documents)), tmp_path)
    assert again.files == artifact.files
    assert len(records_again) == len(records)


def test_built_in_sources_in_the_mix_asked_for(tmp_path: Path) -> None:
    weights = {"python-docs": 0.75, "python-source": 0.25}
    config = corpus.Config(sources=weights, mix_bytes=400_000)
    artifact, records, _ = run(config, tmp_path)
    mixed = {r["source"]: r["bytes"] for r in records if r["kind"] == "funnel" and r["step"] == "mixed"}
    assert mixed["python-docs"] == pytest.approx(300_000, rel=0.1)
    assert mixed["python-source"] == pytest.approx(100_000, rel=0.7)
    assert not any(r["kind"] == "note" for r in records)
    assert {d.licence for d in read_documents(artifact.file("train.parquet"))} == {"PSF-2.0"}


def test_too_small_names_the_folder_and_the_rejected(tmp_path: Path) -> None:
    root = tmp_path / "documents"
    root.mkdir()
    (root / "a.txt").write_text(
        "A text that is long enough to be kept but by no means enough to train a model. " * 4
    )
    (root / "b.txt").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"documents: .*too small.*1 files or records were rejected"):
        run(corpus.Config(folder=str(root)), tmp_path)
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("folder", "sources"),
    [(None, {"wikipedia": 1.0}), (None, {"folder": 1.0}), ("here", {"python-docs": 1.0})],
)
def test_sources_that_do_not_fit(folder: str | None, sources: dict[str, float]) -> None:
    with pytest.raises(DataError, match="sources"):
        corpus.Config(folder=folder, sources=sources).weights()


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        corpus.Config(foldr="x")  # type: ignore[call-arg]


def test_the_fingerprint_of_what_is_outside(documents: Path) -> None:
    config = corpus.Config(folder=str(documents))
    first = corpus.external(config)
    assert corpus.external(config) == first
    assert corpus.external(corpus.Config()) != first
    os.utime(documents / "3.txt", ns=(time.time_ns(), time.time_ns()))
    touched = corpus.external(config)
    (documents / "151.txt").write_text("more")
    assert len({first, touched, corpus.external(config)}) == 3
    with pytest.raises(DataError, match="no such folder"):
        corpus.external(corpus.Config(folder=str(documents / "none")))


def test_the_estimate_grows_with_the_folder(documents: Path) -> None:
    peak = Peak(1e10, None, 1e9, 1)
    small = corpus.estimate(corpus.Config(folder=str(documents)), peak, {})
    (documents / "more.txt").write_text("more text\n" * 1_000_000)
    large = corpus.estimate(corpus.Config(folder=str(documents)), peak, {})
    assert large.values["num_bytes"] - small.values["num_bytes"] == 10_000_000
    assert large.seconds > small.seconds > 0
    assert corpus.estimate(corpus.Config(), peak, {}).flop == 0
