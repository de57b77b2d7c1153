from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_files import Types, write_gguf
from model_networks import random_network, small_config
from test_model_quantized import some_quantized

from kweek.errors import CheckpointError
from kweek.model.checkpoint import save_model
from kweek.model.summary import summarise


def test_parts_norms_and_types(tmp_path: Path) -> None:
    network = random_network(small_config())
    save_model(tmp_path, network, torch.bfloat16)
    summary = summarise(tmp_path)
    counts = network.config.num_parameters()
    assert summary.num_parameters == counts["total"] and summary.num_bytes == 2 * counts["total"]
    parts = summary.details["parts"]
    assert {name: part["num_parameters"] for name, part in parts.items()} == {
        name: number for name, number in counts.items() if name != "total"
    }
    first = summary.details["tensors"][0]
    stored = network.model.embed_tokens.weight.bfloat16().float()
    assert first["stored_as"] == "BF16" and first["shape"] == (96, 64)
    assert first["norm"] == pytest.approx(stored.norm().item(), rel=1e-5)
    assert first["root_mean_square"] == pytest.approx(stored.square().mean().sqrt().item(), rel=1e-5)


def test_packed_weights_count_their_scales(tmp_path: Path) -> None:
    network = random_network(small_config())
    packed = some_quantized(network)
    save_model(tmp_path, network, torch.float16, quantized_tensors=packed)
    entries = {entry["name"]: entry for entry in summarise(tmp_path).details["tensors"]}
    entry = entries["model.layers.0.mlp.down_proj.weight"]
    tensor = packed[entry["name"]]
    assert entry["stored_as"] == "int4 by 32" and entry["num_bytes"] == tensor.num_bytes + 16
    assert entry["norm"] == pytest.approx(tensor.dequantize().norm().item(), rel=1e-5)


def test_gguf(tmp_path: Path) -> None:
    network = random_network(small_config(vocab_size=288))
    write_gguf(tmp_path / "m.gguf", network, Types.Q8_0)
    summary = summarise(tmp_path / "m.gguf")
    assert summary.details["tensors"][0]["stored_as"] == "Q8_0"
    assert summary.details["tensors"][0]["num_bytes"] == 288 * 64 // 32 * 34
    assert summary.architecture == "qwen3"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        summarise(tmp_path / "nothing")
