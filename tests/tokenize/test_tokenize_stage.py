"""The stage: a tokenizer artifact from a corpus artifact, the same one every time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.protocols import never, silent
from kweek.recipe.context import StageContext
from kweek.recipe.stages.tokenizer import Config, estimate, run, sample_documents
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.tokenize.tokenizer import Tokenizer

PEAK = Peak(1e11, None, 1e10, 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two sources: the language reference that every Python brings, and one nine times smaller."""
    path = tmp_path_factory.mktemp("corpus") / "corpus"
    texts = [("topics", text) for text in topics.values()]
    texts += [("small", f"{name}: see the reference under {name}.\n" * 20) for name in topics]
    columns = {"id": [hashlib.sha256(text.encode()).hexdigest()[:32] for _, text in texts]}
    columns |= {"text": [text for _, text in texts], "source": [source for source, _ in texts]}
    table = pa.table(columns)
    with ArtifactWriter(path, kind="corpus", fingerprint="f", lineage={}) as out:
        for split in ("train", "validation", "test"):
            pq.write_table(table, out.path(f"{split}.parquet"), row_group_size=50)
    return Artifact.open(path)


def run_stage(corpus: Artifact, folder: Path, config: Config) -> Artifact:
    records, state = Records(folder / "records.jsonl"), folder / "state"
    state.mkdir(parents=True)
    records.append("bytes_per_token", source="left by a killed attempt", value=0.0)
    with ArtifactWriter(
        folder / "tokenizer", kind="tokenizer", fingerprint="t", lineage={"corpus": "f"}
    ) as out:
        run(
            StageContext(
                name="tokenizer", config=config, inputs={"corpus": corpus}, out=out, records=records, state=state,
                progress=silent, should_stop=never, ledger=Ledger(), seed=0, threads=1,
                budget_seconds=None, budget_flop=None, machine_peak=PEAK,
            )
        )  # fmt: skip
    return Artifact.open(folder / "tokenizer")


def test_stage_writes_a_tokenizer_and_measures_it_by_source(corpus: Artifact, tmp_path: Path) -> None:
    config = Config(vocab_size=1024, sample_bytes=300_000, task_share=0.2)
    artifact = run_stage(corpus, tmp_path / "a", config)
    tokenizer = Tokenizer.load(artifact.path)
    assert tokenizer.vocab_size == artifact.metrics["vocab_size"] == 1024
    assert tokenizer.chat_template
    records = Records.read(tmp_path / "a" / "records.jsonl")
    ratios = {record["source"]: record["value"] for record in records}
    assert ratios == artifact.metrics["bytes_per_token"]
    assert set(ratios) == {"topics", "small", "tasks"}
    assert all(1.5 < value < 10 for value in ratios.values())
    again = run_stage(corpus, tmp_path / "b", config)
    assert again.files == artifact.files


def test_tasks_in_the_sample_shorten_the_tasks(corpus: Artifact, tmp_path: Path) -> None:
    without, with_them = (
        run_stage(
            corpus, tmp_path / str(share), Config(vocab_size=512, sample_bytes=200_000, task_share=share)
        )
        for share in (0.0, 0.3)
    )
    gain = {
        s: with_them.metrics["bytes_per_token"][s] / v for s, v in without.metrics["bytes_per_token"].items()
    }
    assert gain["tasks"] > 1.15
    assert gain["topics"] > 0.85


def test_sample_is_proportional_and_deterministic(corpus: Artifact) -> None:
    sample = list(sample_documents(corpus, 100_000))
    assert sample == list(sample_documents(corpus, 100_000))
    size = sum(len(text.encode()) for text in sample)
    assert 100_000 <= size < 160_000  # each source ends with the document that fills its share
    small = sum(len(text) for text in sample if ": see the reference under " in text[:80])
    rows = pq.read_table(corpus.file("train.parquet"), columns=["source", "text"]).to_pylist()
    share = sum(len(r["text"]) for r in rows if r["source"] == "small") / sum(len(r["text"]) for r in rows)
    assert abs(small / 100_000 - share) < 0.02
    assert list(sample_documents(corpus, 10**9)) == [row["text"] for row in rows]


def test_estimate_names_the_vocabulary() -> None:
    cost = estimate(Config(vocab_size=2048), PEAK, {})
    assert cost.values == {"vocab_size": 2048}
    assert (cost.flop, cost.seconds < 10) == (0.0, True)


@pytest.mark.parametrize("size", [100, 1000, 2**21])
def test_sizes_that_cannot_be_are_refused_before_the_run(size: int) -> None:
    with pytest.raises(ValidationError):
        Config(vocab_size=size)
