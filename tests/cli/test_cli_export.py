from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kweek.cli.main import app, main
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize.bpe import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train(["the cat sat on the mat, 12 times"] * 40, 288)
    network = Network(
        ModelConfig(tokenizer.vocab_size, 64, 96, 2, 2, 2, head_dim=32, eos_token_id=tokenizer.eos_id)
    )
    initialise(network, torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("models") / "small"
    save_model(path, network)
    tokenizer.save(path)
    return path


def kweek(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    said = kweek("export", str(folder), "--gguf", str(tmp_path / "m.gguf"))
    assert "25 tensors in F32: exact" in said and "bits per parameter" in said
    said = kweek("export", str(tmp_path / "m.gguf"), "--hf", str(tmp_path / "back"))
    assert "model.safetensors" in said
    ours, back = load_model(folder).state_dict(), load_model(tmp_path / "back").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in ours.items())


def test_types_as_json(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    found = json.loads(kweek("export", str(folder), "--gguf", str(target), "--type", "q4_0", "--json"))
    assert found["types"] == {"Q8_0": 2, "Q4_0": 14, "F32": 9}
    assert found["num_bytes"] == target.stat().st_size and 0 < found["errors"]["Q4_0"] < 0.15


def test_edge(folder: Path, tmp_path: Path) -> None:
    said = kweek("export", str(folder), "--edge", str(tmp_path / "edge"), "--licence", "mit")
    assert "with Modelfile, README.md, model.gguf, start.sh" in said
    assert (tmp_path / "edge" / "README.md").read_text().rstrip().endswith("mit")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "FOLDER"], "give one of --gguf"),
        (["export", "FOLDER", "--gguf", "OUT", "--edge", "OUT"], "give one of --gguf"),
        (["export", "FOLDER", "--gguf", "OUT", "--licence", "mit"], "--licence is for"),
        (["export", "FOLDER", "--hf", "OUT"], "folder already"),
        (["export", "FILE", "--gguf", "OUT"], "this is a file"),
        (["export", "FILE", "--hf", "OUT", "--type", "f16"], "--hf writes fp32"),
        (["export", "FILE", "--hf", "OUT"], "not a GGUF file"),
        (["export", "nowhere", "--gguf", "OUT"], "no such folder"),
        (["export", "FOLDER", "--gguf", "OUT/no/where.gguf"], "check that the folder exists"),
    ],
)
def test_errors_are_one_line_and_status_two(
    words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.gguf").write_bytes(b"no model")
    names = {"FOLDER": str(folder), "FILE": str(tmp_path / "file.gguf"), "OUT": str(tmp_path / "out")}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said.lower() in lines[0].lower()
    assert not (tmp_path / "out").exists()
