from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from kweek.cli.main import app, main
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network

CONFIG = ModelConfig(96, 64, 96, 2, 4, 2, head_dim=32, max_positions=128)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = Network(CONFIG)
    initialise(network, torch.Generator().manual_seed(0))
    save_model(tmp_path / "model", network)
    return tmp_path / "model"


def kweek(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_model_show(folder: Path) -> None:
    said = kweek("model", "show", str(folder)).output
    assert f"{CONFIG.num_parameters()['total']:,} parameters" in said
    assert "model.layers.1.mlp.down_proj.weight" in said
    shown = json.loads(kweek("model", "show", str(folder), "--json").output)
    assert shown["num_parameters"] == CONFIG.num_parameters()["total"]


def test_flops_of_a_folder_and_of_the_same_sizes(folder: Path) -> None:
    at_path = json.loads(kweek("flops", str(folder), "--context", "32", "--json").output)
    assert at_path["flop_per_token"]["forward"] == CONFIG.num_flops_per_token(32)
    sizes = ["vocab_size=96", "hidden_size=64", "intermediate_size=96", "num_layers=2", "num_heads=4"]
    sizes += ["num_kv_heads=2", "head_dim=32"]
    by_hand = json.loads(kweek("flops", "--config", *sizes, "--context", "32", "--json").output)
    assert by_hand["flop_per_token"] == at_path["flop_per_token"]
    assert "training per token" in kweek("flops", str(folder)).output


def test_flops_derives_the_rest_from_the_width() -> None:
    sizes = ["vocab_size=1000", "hidden_size=256", "num_layers=2", "architecture=llama"]
    counted = json.loads(kweek("flops", *sizes, "--json").output)
    assert counted["num_parameters"]["total"] == ModelConfig(
        1000, 256, 672, 2, 4, 4, architecture="llama", qk_norm=False
    ).num_parameters()["total"]  # fmt: skip


def test_yardsticks() -> None:
    table = json.loads(kweek("flops", "yardsticks", "--json").output)
    assert all(row["ratio"] > 0 and row["source"] for row in table)
    assert "claimed" in kweek("flops", "yardsticks").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flops"], "give one checkpoint"),
        (["flops", "hidden_sizes=3"], "mean hidden_size"),
        (["flops", "hidden_size=64", "num_layers=2"], "vocab_size is missing"),
        (["flops", "hidden_size=x", "num_layers=2", "vocab_size=2"], "hidden_size: 'x' is not"),
        (["flops", "hidden_size=64", "num_layers=0", "vocab_size=2"], "not a whole number"),
        (["flops", "nowhere"], "no such folder"),
        (["model", "show", "nowhere"], "no such folder"),
        (["get", "unknown"], "neither a known model"),
    ],
)
def test_errors_are_one_line_and_status_two(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
