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
from kweek.model.quantized import (
    BIT_WIDTHS,
    GROUP_SIZE,
    QuantizedTensor,
    code_range,
    pack,
    packed_bits,
    quantization_config,
    stored_bytes,
    unpack,
)
from kweek.model.summary import summarise


def some_codes(rows: int, columns: int, bits: int, seed: int) -> torch.Tensor:
    lowest, highest = code_range(bits)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lowest, highest + 1, (rows, columns), generator=generator)


@given(st.integers(1, 4), st.integers(1, 100), st.sampled_from(BIT_WIDTHS), st.integers(0, 2**31))
def test_packing_is_undone(rows: int, columns: int, bits: int, seed: int) -> None:
    codes = some_codes(rows, columns, bits, seed)
    words = pack(codes, bits)
    assert words.dtype == torch.int32 and words.shape == (rows, -(-columns * bits // 32))
    assert torch.equal(unpack(words, columns, bits).long(), codes)


@given(st.integers(1, 3), st.integers(1, 100), st.sampled_from(BIT_WIDTHS), st.integers(0, 2**31))
def test_a_packed_row_is_one_stream_of_bits(rows: int, columns: int, bits: int, seed: int) -> None:
    codes = some_codes(rows, columns, bits, seed)
    for row, words in zip(codes.tolist(), pack(codes, bits).tolist(), strict=True):
        stream = sum((code - code_range(bits)[0]) << (at * bits) for at, code in enumerate(row))
        assert [(stream >> (32 * at)) & 0xFFFFFFFF for at in range(len(words))] == [
            w % (1 << 32) for w in words
        ]


@given(st.integers(1, 64), st.sampled_from(BIT_WIDTHS))
def test_the_width_of_a_row_tells_the_bits(groups: int, bits: int) -> None:
    words = pack(torch.zeros(1, groups * GROUP_SIZE, dtype=torch.int8), bits).shape[1]
    assert packed_bits(words, groups * GROUP_SIZE) == bits
    assert packed_bits(words + 1, groups * GROUP_SIZE) != bits


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([[-8, -7, -6, -5, -4, -3, -2, -1]])).item() == 0x76543210
    assert pack(torch.tensor([[7] * 8])).item() == -1


def some_quantized(
    network: Any, seed: int = 0, widths: tuple[int, ...] = (4,), rest: tuple[str, ...] = ()
) -> dict[str, QuantizedTensor]:
    """Random codes for all projections and the matrices of `rest`, the numbers of bits taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in network.state_dict().items():
        if "_proj.weight" in name or name in rest:
            rows, columns = tensor.shape
            bits = widths[len(result) % len(widths)]
            scale = 0.4 / (1 << (bits - 1)) * torch.rand(rows, columns // GROUP_SIZE, generator=generator)
            result[name] = QuantizedTensor.from_codes(some_codes(rows, columns, bits, seed), scale, bits)
    return result


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


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


@pytest.mark.parametrize("rest", [(), (EMBEDDING,), (HEAD,), (EMBEDDING, HEAD)])
def test_folder_of_every_number_of_bits(rest: tuple[str, ...], tmp_path: Path) -> None:
    network = random_network(small_config(tied_embeddings=HEAD not in rest))
    packed = some_quantized(network, widths=BIT_WIDTHS, rest=rest)
    save_model(tmp_path, network, torch.float16, quantized_tensors=packed)
    loaded = load_model(tmp_path).state_dict()
    shapes = load_file(tmp_path / "model.safetensors")
    for name, tensor in network.state_dict().items():
        expected = packed[name].dequantize() if name in packed else tensor.half().float()
        assert torch.equal(loaded[name], expected), name
        if name in packed:
            parts = [shapes[f"{name.removesuffix('.weight')}.weight_{part}"] for part in ("packed", "scale")]
            size = sum(part.numel() * part.itemsize for part in parts)
            assert size == packed[name].num_bytes == stored_bytes(tuple(tensor.shape), packed[name].num_bits)
    summary = summarise(tmp_path)
    stored = {tensor["name"]: tensor["stored_as"] for tensor in summary.details["tensors"]}
    assert all(stored[name] == f"int{part.num_bits} by 32" for name, part in packed.items())


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
    with pytest.raises(ValueError, match="7 bits"):
        QuantizedTensor.from_codes(codes, torch.ones(1, 2), 7)


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
        ("config_groups.group_0.weights.num_bits", 7, "6 or 8 bits"),
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
    config["quantization_config"] = change(quantization_config({"x": 4}, ["lm_head"]), path, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "replacement", "words"),
    [
        ("weight_scale", None, "weight_scale is missing"),
        ("weight_packed", torch.zeros(64, 11, dtype=torch.int32), "weight_packed is"),
        ("weight_packed", torch.zeros(64, 10, dtype=torch.int32), "weight_packed is"),  # 3 bits with gaps
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


@pytest.mark.parametrize("widths", [(4,), (8,), (2,), (3,), (5,), (6,), (2, 3, 8, 5, 4, 6)])
def test_loads_in_transformers_with_compressed_tensors(widths: tuple[int, ...], tmp_path: Path) -> None:
    assert difference_to_transformers(tmp_path, widths, ()) < 1e-4


@pytest.mark.parametrize("rest", [(EMBEDDING,), (EMBEDDING, HEAD)])
def test_transformers_reads_a_packed_embedding_when_told_to_unpack(
    rest: tuple[str, ...], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    utils = pytest.importorskip("transformers.utils.quantization_config")
    told = utils.CompressedTensorsConfig(dequantize=True)
    assert (
        difference_to_transformers(tmp_path, (6,), rest, quantization_config=told) < 1e-2
    )  # it rounds to fp16


def difference_to_transformers(
    folder: Path, widths: tuple[int, ...], rest: tuple[str, ...], **options: Any
) -> float:
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    network = random_network(small_config(tied_embeddings=HEAD not in rest))
    packed = some_quantized(network, widths=widths, rest=rest)
    save_model(folder, network, torch.float16, quantized_tensors=packed)
    ours, ids = load_model(folder), random_ids(network.config, 2, 12)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return float((theirs(ids).logits - ours.logits(ours(ids))).abs().max())
