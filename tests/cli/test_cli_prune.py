"""`kweek prune` as a user types it: the table, JSON, a kill in the middle, one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kweek.cli.main import app, main
from kweek.cli.prune import _tokens
from kweek.errors import ConfigError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize import bpe

TEXT = "one two three four five six seven eight nine ten more words that a small model may learn to say"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    (folder / "text").mkdir()
    texts = []
    for number in range(150):
        order = [
            torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(9 * number + i))
            for i in range(5)
        ]
        texts.append("\n".join(" ".join(WORDS[i] for i in row.tolist()) + f" {number}." for row in order))
        (folder / "text" / f"{number}.txt").write_text(texts[-1])
    tokenizer = bpe.train(texts, 320)
    network = Network(
        ModelConfig(320, 64, 128, 2, 2, 2, head_dim=32, max_positions=128, eos_token_id=tokenizer.eos_id)
    )
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_model(folder / "model", network)
    tokenizer.save(folder / "model")
    return folder / "model"


def kweek(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_table_and_json(model: Path, tmp_path: Path) -> None:
    words = (
        "prune",
        model,
        "--ffn",
        "0.5",
        "--distil",
        "2k",
        "--text",
        model.parent / "text",
        "--out",
        tmp_path / "o",
    )
    said = kweek(*words)
    for part in (
        "original",
        "cut",
        "distilled",
        "parameters",
        "bits per byte",
        "KL, nats/token",
        "spent: prune",
    ):
        assert part in said
    shown = json.loads(kweek(*words, "--json"))
    assert [row["name"] for row in shown["rows"]] == ["original", "cut", "distilled"]
    assert load_model(shown["path"]).config.intermediate_size == 64


def test_the_weight_of_the_text_reaches_the_distillation(model: Path, tmp_path: Path) -> None:
    words = ("prune", model, "--distil", "2k", "--text", model.parent / "text", "--json", "--text-share")
    spent = {
        share: sum(
            json.loads(kweek(*words, share, "--out", tmp_path / share))["ledger"]["flop"]["distil"].values()
        )
        for share in ("0.9", "1")
    }
    assert spent["1"] < 0.8 * spent["0.9"], "without the teacher's reading a step costs three quarters"


def test_a_killed_distillation_goes_on(model: Path, tmp_path: Path) -> None:
    words = ["prune", model, "--ffn", "0.5", "--distil", "40k", "--text", model.parent / "text"]
    command = [sys.executable, "-m", "kweek", *map(str, words), "--out"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
    }
    out = tmp_path / "stopped"
    process = subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(".stopped.distilling")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "The same command goes on" in said
    assert len(list(tmp_path.glob(".stopped.distilling/*.safetensors"))) == 1
    for target in (out, tmp_path / "whole"):
        subprocess.run([*command, str(target)], env=environment, check=True, capture_output=True, timeout=300)
    one, other = (load_model(target).state_dict() for target in (out, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to cut"),
        (["--ffn", "2"], "2 is not a share to keep"),
        (["--kv-heads", "3"], "3 cannot be kept of 2"),
        (["--layers", "0"], "0 cannot be kept of 2"),
        (["--ffn", "0.5", "--distil", "lots"], "'lots' is not a number of tokens"),
        (["--ffn", "0.5", "--distil", "2k", "--text-share", "2"], "2 is not a share"),
        (["--ffn", "0.5", "--text-share", "1"], "nothing is to be distilled"),
        (["--ffn", "0.5", "--text", "nowhere"], "no such folder"),
        (["--ffn", "0.5", "--teacher", "nowhere"], "nothing to distil"),
    ],
)
def test_errors_are_one_line(
    words: list[str], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prune", str(model), *words, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "out").exists()


def test_numbers_of_tokens() -> None:
    assert [_tokens(text) for text in ("512", "500k", "1.5M", "2B", "10_000")] == [
        512, 500_000, 1_500_000, 2_000_000_000, 10_000,
    ]  # fmt: skip
    for text in ("", "k", "0", "-3k", "1e400", "5 km", "nan"):
        with pytest.raises(ConfigError):
            _tokens(text)
