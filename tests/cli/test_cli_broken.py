"""Models that cannot be right, opened as the verbs open them: one clear error, before anything is computed."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from kweek.cli.chat import find_model
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import CheckpointError, KweekError
from kweek.evaluate.problems import attempt
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.store.artifact import ArtifactWriter
from kweek.system.session import Session
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("broken", 300, "train"), 384)


@pytest.fixture
def network(tokenizer):
    torch.manual_seed(0)
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 1, 1, 1, head_dim=32, max_positions=128))
    for parameter in network.parameters():
        parameter.data.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.1)
    return network


@pytest.fixture
def artifact(tmp_path, network, tokenizer):
    with ArtifactWriter(tmp_path / "model", kind="model", fingerprint="f") as out:
        save_model(out, network)
        tokenizer.save(out)
    return tmp_path / "model"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_no_changed_bit_of_a_folder_with_a_manifest_goes_unnoticed(artifact, file):
    assert find_model(artifact, None) == (artifact, False)
    whole = (artifact / file).read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        (artifact / file).write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"content differs.* remove artifact\.json"):
            find_model(artifact, None)
    (artifact / file).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="where the manifest says"):
        find_model(artifact, None)
    (artifact / "artifact.json").unlink()
    assert find_model(artifact, None) == (artifact, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named_when_they_are_read(tmp_path, network, value):
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight[3, 5] = value
    save_model(tmp_path, network)
    with pytest.raises(CheckpointError, match=r"down_proj\.weight holds values that are not finite"):
        load_model(tmp_path)


def test_a_template_that_is_not_text_is_named(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: the chat template cannot be read"):
        Tokenizer.load(tmp_path)


def test_an_answer_that_failed_is_an_error_of_the_chat_and_no_wrong_answer(network, tokenizer):
    with torch.no_grad():
        network.model.norm.weight[0] = np.nan
    session = Session(Engine(network), tokenizer, 128)
    with pytest.raises(KweekError, match="not a number"):
        session.ask("hi")
    assert session.messages == []

    class Asker:
        def request(self, item, temperature, seed):
            from kweek.protocols import Request

            return Request([1, 2], 3)

    with pytest.raises(KweekError, match="not a number"):
        attempt(Engine(network), Asker(), stories.problems("broken", 1, "validation"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_model_larger_than_memory_is_one_line(tmp_path, network, tokenizer):
    """The weights are a hole in the file: they take no disk."""
    save_model(tmp_path, network)
    tokenizer.save(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    rows, at = 1 << 26, 0
    for name in sorted(header.keys() - {"__metadata__"}, key=lambda key: header[key]["data_offsets"]):
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            header[name]["shape"][0] = rows
        size = 4 * int(np.prod(header[name]["shape"]))
        header[name]["data_offsets"] = [at, at + size]
        at += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": rows}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "kweek", "chat", str(tmp_path), "-m", "hi"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "not enough memory" in done.stderr
