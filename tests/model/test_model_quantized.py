from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_networks import random_ids, random_network, small_config
from safetensors.torch import load_file, save_file

from kweek.errors import CheckpointError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.quantized import GROUP_SIZE, QuantizedTensor, pack, quantization_config, unpack


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**31))
def test_packing_is_undone(rows: int, columns: int, seed: int) -> None:
    codes = torch.randint(-8, 8, (rows, columns), generator=torch.Generator().manual_seed(seed))
    words = pack(codes)
    assert words.dtype == torch.int32 and words.shape == (rows, -(-columns // 8))
    assert torch.equal(unpack(words, columns).long(), codes)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([[-8, -7, -6, -5, -4, -3, -2, -1]])).item() == 0x76543210
    assert pack(torch.tensor([[7] * 8])).item() == -1


def some_quantized(network: Any, seed: int = 0) -> dict[str, QuantizedTensor]:
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in network.state_dict().items():
        if "_proj.weight" in name:
            rows, columns = tensor.shape
            codes = torch.randint(-8, 8, (rows, columns), generator=generator)
            scale = 0.05 * torch.rand(rows, columns // GROUP_SIZE, generator=generator)
            result[name] = QuantizedTensor.from_codes(codes, scale)
    return result


@pytest.mark.parametrize("tied", [True, False])
def test_folder_of_packed_weights(tied: bool, tmp_path: Path) -> None:
    network = random_network(small_config(tied_embeddings=tied))
    packed = some_quantized(network)
    save_model(tmp_path, network, torch.float16, quantized_tensors=packed)
    loaded = load_model(tmp_path).state_dict()
    for name, tensor in network.state_dict().items():
        expected = packed[name].dequantize() if name in packed else tensor.half().float()
        assert torch.equal(loaded[name], expected), name
    assert "lm_head" in json.loads((tmp_path / "config.json").read_text())["quantization_config"]["ignore"]
    stored = sum(
        tensor.numel() * tensor.itemsize for tensor in load_file(tmp_path / "model.safetensors").values()
    )
    assert stored < 4 * network.config.num_parameters()["total"] * 0.25


def test_codes_and_scales() -> None:
    codes = torch.tensor([[-8, 7] * 32])
    tensor = QuantizedTensor.from_codes(codes, torch.tensor([[0.5, 2.0]]))
    assert torch.equal(tensor.codes().long(), codes)
    assert tensor.dequantize()[0, [0, 1, 32, 33]].tolist() == [-4.0, 3.5, -16.0, 14.0]
    assert tensor.num_bytes == 64 // 2 + 4
    with pytest.raises(ValueError, match="codes"):
        QuantizedTensor.from_codes(codes + 1, torch.ones(1, 2))
    with pytest.raises(ValueError, match="fit"):
        QuantizedTensor.from_codes(codes, torch.ones(1, 3))


def change(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    holder = document
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", "int-quantized", "int-quantized"),
        ("quant_method", "bitsandbytes", "bitsandbytes"),
        ("config_groups.group_0.weights.num_bits", 8, "4 bits"),
        ("config_groups.group_0.weights.symmetric", False, "symmetric"),
        ("config_groups.group_0.weights.strategy", "tensor", "by group or row"),
        ("config_groups.group_0.input_activations", {"num_bits": 8}, "activations"),
        ("config_groups", None, "config_groups"),
        ("config_groups", {}, "config_groups"),
        ("config_groups.group_0", "W4A16", "config_groups"),
    ],
)
def test_other_schemes_are_refused(path: str, value: Any, words: str, tmp_path: Path) -> None:
    save_model(tmp_path, random_network(small_config()))
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = change(quantization_config(["lm_head"]), path, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "replacement", "words"),
    [
        ("weight_scale", None, "weight_scale is missing"),
        ("weight_packed", torch.zeros(64, 11, dtype=torch.int32), "weight_packed is"),
        ("weight_packed", torch.zeros(64, 12, dtype=torch.int64), "do not fit together"),
        ("weight_scale", torch.zeros(64, 5, dtype=torch.float16), "does not fit"),
        ("weight_shape", torch.tensor([64, 95]), "do not fit together"),
        ("weight_shape", torch.tensor([64]), "do not fit together"),
        ("weight_g_idx", torch.zeros(3), "not part"),
    ],
)
def test_parts_that_contradict_each_other(
    suffix: str, replacement: torch.Tensor | None, words: str, tmp_path: Path
) -> None:
    network = random_network(small_config())
    save_model(tmp_path, network, torch.float16, quantized_tensors=some_quantized(network))
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"model.layers.0.mlp.down_proj.{suffix}"  # 64 x 96
    if replacement is None:
        del tensors[name]
    else:
        tensors[name] = replacement
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


def test_loads_in_transformers_with_compressed_tensors(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    network = random_network(small_config())
    save_model(tmp_path, network, torch.float16, quantized_tensors=some_quantized(network))
    ours, ids = load_model(tmp_path), random_ids(network.config, 2, 12)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert (theirs(ids).logits - ours.logits(ours(ids))).abs().max() < 1e-4
