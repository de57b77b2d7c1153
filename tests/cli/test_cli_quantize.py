"""`kweek quantize` and `kweek chat --blind` as a user would type them, on small models."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from kweek.cli.main import app, main
from kweek.data import stories
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.tokenize.bpe import train
from kweek.tokenize.tokenizer import Tokenizer


def kweek(*words: str, said: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"}, input=said)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a corpus and a model."""
    folder = tmp_path_factory.mktemp("run")
    texts = stories.sample_texts("cli-quantize", 60, "train")
    tokenizer = train(texts, 320)
    network = Network(ModelConfig(tokenizer.vocab_size, 64, 96, 2, 2, 1, head_dim=32))
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    with ArtifactWriter(folder / "artifacts/rl", kind="reinforce", fingerprint="m") as out:
        save_model(out, network)
        tokenizer.save(out)
    with ArtifactWriter(folder / "artifacts/corpus", kind="corpus", fingerprint="c") as out:
        for split in ("train", "validation", "test"):
            documents = {"source": ["a", "b"] * 30, "text": [f"{split} {text}" * 3 for text in texts]}
            pq.write_table(pa.table(documents), out.path(f"{split}.parquet"))
    (folder / "run.json").write_text("{}")
    stages = [{"name": "rl", "kind": "reinforce", "status": "done"}]
    (folder / "summary.json").write_text(json.dumps({"stages": stages}))
    return folder


def test_a_run_in_four_bits(run: Path, tmp_path: Path) -> None:
    told = json.loads(
        kweek("quantize", str(run), "--method", "rtn", "--out", str(tmp_path / "q"), "--json").output
    )
    network, original = load_model(tmp_path / "q"), load_model(run / "artifacts/rl")
    assert network.config == original.config
    assert Tokenizer.load(tmp_path / "q").fingerprint() == Tokenizer.load(run / "artifacts/rl").fingerprint()
    assert Artifact.open(tmp_path / "q").lineage == {"model": "m"}
    before, after = told["rows"]
    assert after["num_bytes"] == (tmp_path / "q/model.safetensors").stat().st_size < before["num_bytes"] / 2
    assert after["bits_lost"][0] == pytest.approx(after["bits_per_byte"][0] - before["bits_per_byte"][0])
    assert 0 < after["divergence"][0] < 0.5 < after["agreement"][0] <= 1
    assert after["problems"] == 200 and after["engine"] == "q4"
    assert "corpus of this run" in told["text"]
    assert all(row["speed"]["decode"] > 0 for row in told["rows"])


def test_under_a_size_with_finishing_the_table_says_it_all(run: Path, tmp_path: Path) -> None:
    words = ["quantize", str(run), "--size", "50kB", "--finish", "1", "--out", str(tmp_path / "q")]
    said = kweek(*words).output
    assert (tmp_path / "q/model.safetensors").stat().st_size <= 50_000
    for word in (
        "bits per byte",
        "KL",
        "same first choice",
        "its tasks",
        "prefill",
        "decode",
        "energy",
        "matrices of",
    ):
        assert word in said
    assert "estimated" in said or "measured" in said


def test_other_text_is_said_to_be_used(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("\n\n".join(stories.sample_texts("notes", 400, "test")))
    words = ["--method", "rtn", "--text", str(text), "--out", str(tmp_path / "q"), "--json"]
    assert json.loads(kweek("quantize", str(run), *words).output)["text"] == str(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bits", "7"], "no codes of 7 bits"),
        (["--size", "much"], "not a size"),
        (["--size", "80MB", "--bits", "4"], "--size decides the bits itself"),
        (["--size", "3kB", "--method", "rtn"], "with 2 bits everywhere"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_errors_are_one_line(
    words: list[str], told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(run), "--out", str(tmp_path / "q"), *words])
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kweek:")]
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "q").exists()


def test_a_blind_trial(run: Path, tmp_path: Path) -> None:
    kweek("quantize", str(run), "--method", "rtn", "--bits", "2", "--out", str(tmp_path / "q"), "--json")
    models = [str(run), str(tmp_path / "q")]
    record = tmp_path / "pairs.jsonl"
    words = ["chat", "--blind", *models, "--record", str(record), "--max-tokens", "12", "--temperature", "1"]
    said = kweek(*words, said="Hello?\nx\n1\nAnd?\nt\n\n").output
    shown = said[: said.index("preferred:")]
    assert not any(name in shown for name in models), "nothing tells who is who before the end"
    records = Records.read(record)
    assert len(records) == 2 and {*records[0]["order"]} == set(models)
    assert "Wilson" not in said and "decided" in said and str(record) in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no model is named"),
        (["--blind", "a", "a"], "the same model"),
        (["x", "--blind", "a", "b"], "takes two"),
    ],
)
def test_chat_without_sense(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", *words])
    assert told in capsys.readouterr().err
