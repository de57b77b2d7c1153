"""`kweek shrink` as a user would type it, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kweek.align.domain import Domain, Exercise
from kweek.align.worked import of_problem
from kweek.cli.main import app
from kweek.data import stories
from kweek.engine.open import open_model
from kweek.errors import ConfigError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.store.artifact import Artifact
from kweek.tokenize import bpe


def kweek(*words: str):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A model, a task that every answer solves, and one that none does."""
    folder = tmp_path_factory.mktemp("shrink")
    tokenizer = bpe.train(stories.sample_texts("cli-shrink", 60, "train") * 3, 320)
    network = Network(ModelConfig(tokenizer.vocab_size, 64, 96, 3, 2, 1, head_dim=32, max_positions=512))
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_model(folder / "model", network)
    tokenizer.save(folder / "model")
    for name, gold in (("easy", r"(?s).*"), ("hopeless", "never said")):
        exercises = {
            split: [
                Exercise(
                    ({"role": "user", "content": worked.question},),
                    {"role": "assistant", "content": worked.solution}, gold,
                )
                for worked in map(of_problem, stories.problems("cli-shrink", count, split))
            ]
            for split, count in (("train", 16), ("validation", 2), ("test", 60))
        }  # fmt: skip
        Domain(name, "regex", True, 3, exercises).save(folder / name)
    return folder


def words(places: Path, task: str, out: str, *more: str) -> list[str]:
    return [
        "shrink", str(places / "model"), "--task", str(places / task), "--target", "0.8", "--out",
        str(places / out), "--questions", "60", "--heal", "2", "--threads", "1", *more,
    ]  # fmt: skip


def test_the_smallest_of_those_that_do_is_written(places):
    said = kweek(*words(places, "easy", "small", "--bits", "4,8", "--layers", "0.67,1", "--json"))
    search = json.loads(said.stdout)
    (only,) = search["judged"]
    assert only["name"] == "model, 2 layers, 4 bits" and only["verdict"] == "meets" and only["asked"] == 50
    found = Artifact.open(places / "small")
    assert load_model(found.path).config.num_layers == 2 and found.metrics["bits"] == 4
    assert open_model(found.path / "model.gguf").vocab_size == load_model(places / "model").config.vocab_size
    assert (found.path / "tools.json").exists()
    assert abs(only["num_bytes"] - (found.path / "model.safetensors").stat().st_size) == 0


def test_where_none_does_it_says_so_and_writes_nothing(places):
    with pytest.raises(ConfigError, match="no candidate is shown"):
        kweek(*words(places, "hopeless", "none", "--bits", "8", "--layers", "1"))
    assert not (places / "none").exists()


@pytest.mark.parametrize(("option", "value"), [("--bits", "four"), ("--layers", "0"), ("--layers", "1.5")])
def test_lists_that_are_none_are_refused(places, option, value):
    with pytest.raises(ConfigError, match=option):
        kweek(*words(places, "easy", "no", option, value))
