from __future__ import annotations

from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.errors import CheckpointError
from kweek.model.gguf import interleave, split_halves
from kweek.model.gguf_blocks import TYPE_IDS, encode, encode_codes, lossless_type, num_bytes
from kweek.model.gguf_file import GGUFFile
from kweek.model.gguf_write import TensorToWrite, Value, write_gguf
from kweek.model.quantized import QuantizedTensor, code_range

SHAPES = {"matrix": (3, 64), "list": (5,), "odd": (7, 33)}


def write(path: Path, fields: dict[str, Value], tensors: list[TensorToWrite]) -> Path:
    with path.open("wb") as stream:
        write_gguf(stream, fields, tensors)
    return path


def values_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensor(name: str, values: torch.Tensor, type_name: str) -> TensorToWrite:
    return TensorToWrite(
        name, tuple(values.shape), type_name, partial(lambda v: [encode(v, type_name, name)], values)
    )


def test_the_formats_own_reader_finds_everything(tmp_path: Path) -> None:
    fields: dict[str, Value] = {
        "general.architecture": "qwen3", "a.text": "naïve\n", "a.number": 7, "a.real": 0.25, "a.yes": True,
        "a.texts": ["x", "", "ü"], "a.numbers": [-1, 3], "a.nothing": [],
    }  # fmt: skip
    tensors = [tensor(name, values_of(shape), "F32") for name, shape in SHAPES.items()]
    path = write(tmp_path / "m.gguf", fields, tensors)
    reader = gguf.GGUFReader(path)
    for key, value in fields.items():
        assert reader.fields[key].contents() == value
    assert len(reader.tensors) == len(SHAPES)
    for found in reader.tensors:
        assert found.data_offset % 32 == 0
        assert np.array_equal(found.data, values_of(SHAPES[found.name]).numpy())
    with GGUFFile(path) as file:
        assert {key: file.fields[key] for key in file.fields} == fields
        assert all(np.array_equal(file.read(name), values_of(shape)) for name, shape in SHAPES.items())


def test_numbers_have_the_types_that_llama_cpp_wants(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {"n": 2, "f": 1e-6, "l": [1], "b": False}, [])
    kinds = {key: field.types for key, field in gguf.GGUFReader(path).fields.items()}
    kind = gguf.GGUFValueType
    assert kinds["n"] == [kind.UINT32] and kinds["f"] == [kind.FLOAT32] and kinds["b"] == [kind.BOOL]
    assert kinds["l"] == [kind.ARRAY, kind.INT32]


@pytest.mark.parametrize("type_name", sorted(TYPE_IDS))
def test_rounding_is_llama_cpps(type_name: str, tmp_path: Path) -> None:
    values = values_of((6, 96)) * torch.logspace(-3, 2, 6).unsqueeze(1)
    path = write(tmp_path / "m.gguf", {}, [tensor("t", values, type_name)])
    kind = gguf.GGMLQuantizationType[type_name]
    expected = gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind)
    with GGUFFile(path) as file:
        assert file.tensors["t"].num_bytes == num_bytes((6, 96), type_name)
        assert np.array_equal(file.read("t"), expected)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    rows=st.integers(1, 4),
    blocks=st.integers(1, 4),
    per_group=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_codes_become_blocks_of_the_same_values(
    bits: int, rows: int, blocks: int, per_group: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns = 32 * blocks * per_group
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = code_range(bits)
    codes = torch.randint(lowest, highest + 1, (rows, columns), generator=generator)
    scale = (torch.randn(rows, blocks, generator=generator) * 10.0 ** (seed % 7 - 5)).half()
    stored = QuantizedTensor.from_codes(codes, scale, bits)
    type_name = lossless_type(bits, columns, blocks)
    assert type_name is not None
    entry = TensorToWrite(
        "t", (rows, columns), type_name, lambda: [encode_codes(stored.codes(), stored.scale_RG, type_name)]
    )
    path = write(tmp_path_factory.mktemp("codes") / "m.gguf", {}, [entry])
    with GGUFFile(path) as file:
        assert np.array_equal(file.read("t"), stored.dequantize().numpy())


def test_groups_that_do_not_fill_blocks_have_no_lossless_type() -> None:
    assert lossless_type(4, 64, 2) == "Q4_0" and lossless_type(3, 64, 1) == "Q4_0"
    assert lossless_type(5, 64, 2) == "Q5_0" and lossless_type(6, 64, 2) == "Q8_0"
    assert lossless_type(4, 48, 1) is None  # a row of one and a half blocks
    assert lossless_type(4, 96, 2) is None  # groups of 48
    assert lossless_type(4, 64, 4) is None  # groups of 16


@pytest.mark.parametrize("head_dim", [2, 16, 64])
def test_orders_of_heads_are_inverse(head_dim: int) -> None:
    rows = values_of((3 * head_dim, 5))
    assert torch.equal(split_halves(interleave(rows, head_dim), head_dim), rows)
    # llama.cpp turns rows 0 and 1; Hugging Face rows 0 and half a head further.
    assert torch.equal(interleave(rows, head_dim)[1], rows[head_dim // 2])


@pytest.mark.parametrize(
    ("values", "type_name", "words"),
    [
        (torch.tensor([[70000.0] * 32]), "F16", "more than fp16"),
        (torch.full((1, 32), torch.nan), "Q8_0", "not finite"),
        (torch.full((1, 32), torch.inf), "F32", "not finite"),
    ],
)
def test_what_cannot_be_written(values: torch.Tensor, type_name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        encode(values, type_name, "blk.0.ffn_up.weight")


def test_names_and_numbers_beyond_the_format(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="longer than 63"):
        write(tmp_path / "m.gguf", {}, [tensor("n" * 64, values_of((2,)), "F32")])
    for value in (-1, 1 << 32, [1 << 31], 1e300):
        with pytest.raises(CheckpointError, match="32 bits"):
            write(tmp_path / "m.gguf", {"key": value}, [])
