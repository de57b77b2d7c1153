from __future__ import annotations

import math
import struct
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import Types
from gguf_files import write_gguf as write_fixture
from gguf_mutations import damaged, header_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from model_networks import LAYOUTS, random_ids, random_network, small_config

from kweek.errors import CheckpointError
from kweek.model.config import RopeScaling
from kweek.model.gguf import check_file, load_gguf, open_gguf
from kweek.model.gguf_file import GGUFFile
from kweek.model.gguf_write import TensorToWrite, write_gguf

VOCABULARY = 288  # the bytes, one control token, and a multiple of 32
LLAMA3 = RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(name: str, tmp_path: Path) -> None:
    changes = LAYOUTS[name] | ({"rope_scaling": LLAMA3} if name == "llama3" else {})
    network = random_network(small_config(vocab_size=VOCABULARY, eos_token_id=0, **changes))
    write_fixture(tmp_path / "m.gguf", network)
    loaded, tokenizer = load_gguf(tmp_path / "m.gguf")
    assert loaded.config == network.config
    ids = random_ids(network.config, 2, 12)
    assert torch.equal(loaded(ids), network(ids))
    assert tokenizer.decode(tokenizer.encode("Kweek 12 ü")) == "Kweek 12 ü"
    assert tokenizer.eos_id == 0


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (Types.F16, 1e-3),
        (Types.BF16, 1e-2),
        (Types.Q8_0, 0.01),
        (Types.Q5_1, 0.05),
        (Types.Q5_0, 0.05),
        (Types.Q4_1, 0.1),
        (Types.Q4_0, 0.15),
    ],
)
def test_every_stored_type(kind: Types, tolerance: float, tmp_path: Path) -> None:
    network = random_network(small_config(vocab_size=VOCABULARY))
    values = write_fixture(tmp_path / "m.gguf", network, kind)
    loaded, _ = load_gguf(tmp_path / "m.gguf")
    for name, tensor in loaded.state_dict().items():
        if "norm" in name:
            continue
        assert np.linalg.norm(tensor.numpy() - values[name]) < tolerance * np.linalg.norm(values[name])
        raw = gguf.quants.quantize(values[name], kind)
        assert np.array_equal(tensor.numpy(), gguf.quants.dequantize(raw, kind)), name


@pytest.mark.parametrize(
    "kind",
    [Types.Q2_K, Types.Q3_K, Types.Q4_K, Types.Q5_K, Types.Q6_K, Types.IQ4_NL, Types.IQ4_XS],
)
def test_types_that_only_llama_cpp_writes(kind: Types, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 200, (3, 2 * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.tensors["t"].shape == (3, 2 * block)
        assert np.array_equal(file.read("t"), gguf.quants.dequantize(raw, kind), equal_nan=True)


def test_more_rows_than_are_read_at_once(tmp_path: Path) -> None:
    network = random_network(small_config(vocab_size=9000, num_layers=1))
    write_fixture(tmp_path / "m.gguf", network, Types.F16)
    loaded, _ = load_gguf(tmp_path / "m.gguf")
    expected = network.model.embed_tokens.weight.half().float()
    assert torch.equal(loaded.model.embed_tokens.weight, expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expert_count": 4}, "experts"),
        ({"attention__sliding_window": 64}, "sliding windows"),
        ({"rope__dimension_count": 16}, "partial rotary"),
        ({"block_count": 3}, r"blk\.2\.\S+ is missing"),
        ({"feed_forward_length": 2**31 - 1}, "instead of"),
        ({"attention__head_count_kv": 3}, "do not divide"),
    ],
)
def test_unsupported_metadata(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    network = random_network(small_config(vocab_size=VOCABULARY))
    write_fixture(tmp_path / "m.gguf", network, **fields)
    with GGUFFile(tmp_path / "m.gguf") as file, pytest.raises(CheckpointError, match=words):
        check_file(file)


def test_foreign_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="architecture 'mamba'"):
        load_gguf(tmp_path / "m.gguf")


def header(num_tensors: int, num_fields: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"PK\3\4 not a model", "not a GGUF file"),
        (b"GGUF", "truncated"),
        (header(0, 0, version=1), "version 1"),
        (header(2**60, 0), "more than its size allows"),
        (header(0, 2**60), "more than its size allows"),
        (header(0, 1, struct.pack("<Q", 2**62)), "more than its size allows"),
        (header(0, 1, text(b"k") + struct.pack("<I", 77)), "type 77"),
        (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 4, 2**60)), "more than its size allows"),
        (header(0, 1, text(b"k") + struct.pack("<IIQ", 9, 8, 2**60)), "more than its size allows"),
        (header(0, 1, text(b"k") + struct.pack("<IIQIQIQ", 9, 9, 1, 9, 1, 9, 1)), "type 9"),
        (header(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 3)), "power of two"),
        (header(1, 0, text(b"t") + struct.pack("<IQIQ", 1, 2**62, 0, 0)), "beyond the end"),
        (header(1, 0, text(b"t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)), "beyond the end"),
        (header(1, 0, text(b"t") + struct.pack("<IQIQ", 1, 1, 0, 2**63)), "beyond the end"),
        (header(1, 0, text(b"t") + struct.pack("<IQIQ", 1, 33, 2, 0)), "not a multiple of 32"),
        (header(1, 0, text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "empty"),
        (header(1, 0, text(b"t") + struct.pack("<IQIQ", 9, 1, 0, 0)), "9 dimensions"),
    ],
)
def test_hostile_files(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_gguf(tmp_path / "m.gguf")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    network = random_network(small_config(vocab_size=VOCABULARY, num_layers=1))
    write_fixture(tmp_path / "m.gguf", network, Types.Q8_0)
    whole = (tmp_path / "m.gguf").read_bytes()
    for size in range(0, len(whole) - 33, 997):  # the last tensor may be followed by padding
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_gguf(tmp_path / "cut.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, list[tuple[int, str]], int]]:
    """Two small files with the places of their numbers."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    found = []
    for kind, changes in ((Types.Q4_0, {}), (Types.F32, LAYOUTS["llama3"] | {"rope_scaling": LLAMA3})):
        write_fixture(
            path, random_network(small_config(vocab_size=VOCABULARY, num_layers=1, **changes)), kind
        )
        found.append((path.read_bytes(), *header_numbers(path)))
    return found


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), which=st.integers(0, 1))
def test_any_damage_gives_a_model_or_one_error(
    seed: int,
    which: int,
    sound: list[tuple[bytes, list[tuple[int, str]], int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    content = damaged(*sound[which], seed)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with open_gguf(path):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2 * len(content)
        load_gguf(path)
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    finally:
        tracemalloc.stop()


def test_an_endless_name_is_said_in_part(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_fixture(path, random_network(small_config(vocab_size=VOCABULARY, num_layers=1)), Types.F32)
    with open_gguf(path) as (_, file):
        name = "\x01" * 5000
        with pytest.raises(CheckpointError, match=r"tensor '.* \.\.\. .* is missing") as caught:
            file.read(name)
    assert len(str(caught.value)) < 600


def raw_gguf(path: Path, fields: dict[str, Any], tensors: list[TensorToWrite]) -> Path:
    """A file with any metadata and tensors, however little they fit."""
    with path.open("wb") as stream:
        write_gguf(stream, fields, tensors)
    return path


def sound_parts(path: Path, **changes: Any) -> tuple[dict[str, Any], list[TensorToWrite]]:
    """Metadata and tensors of a sound file, to be spoilt."""
    network = random_network(small_config(vocab_size=VOCABULARY, num_layers=1, **changes))
    write_fixture(path, network)
    with GGUFFile(path) as file:
        fields = {key: file.fields[key] for key in file.fields}
        tensors = [
            TensorToWrite(name, info.shape, "F32", partial(pieces, file.read(name)))
            for name, info in file.tensors.items()
        ]
    return fields, tensors


def pieces(values: np.ndarray) -> list[bytes]:
    return [values.tobytes()]


def test_more_layers_than_tensors_cost_nothing(tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    raw_gguf(tmp_path / "m.gguf", fields | {"qwen3.block_count": 2**31}, tensors)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="2147483648 layers need more than"):
        load_gguf(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_large_heads_cost_nothing(tmp_path: Path) -> None:
    fields, tensors = sound_parts(
        tmp_path / "m.gguf", architecture="llama", qk_norm=False, rope_scaling=LLAMA3
    )
    sizes = {"llama.attention.key_length": 2**31, "llama.attention.value_length": 2**31}
    raw_gguf(tmp_path / "m.gguf", fields | sizes, tensors)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="instead of"):
        load_gguf(tmp_path / "m.gguf")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_tensors_that_share_bytes(tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    raw_gguf(tmp_path / "m.gguf", fields, tensors)
    content = (tmp_path / "m.gguf").read_bytes()
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    assert struct.unpack_from("<Q", content, at)[0] > 0
    (tmp_path / "m.gguf").write_bytes(content[:at] + struct.pack("<Q", 0) + content[at + 8 :])
    with pytest.raises(CheckpointError, match="share bytes"):
        load_gguf(tmp_path / "m.gguf")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    spoilt = [
        replace(t, pieces=partial(pieces, np.full(t.shape, np.nan, np.float32)))
        if t.name == "blk.0.ffn_up.weight"
        else t
        for t in tensors
    ]
    raw_gguf(tmp_path / "m.gguf", fields, spoilt)
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_up\.weight holds values that are not finite"):
        load_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split.count": 3}, "one part of several"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "2 tokens for an embedding of 288 rows"),
        ({"tokenizer.ggml.merges": ["a b"] * 2000}, "2000 merges for 288 tokens"),
        ({"tokenizer.ggml.token_type": [1] * 9}, "9 types for 288 tokens"),
        ({"tokenizer.ggml.eos_token_id": "end"}, "not a number"),
        ({"tokenizer.ggml.eos_token_id": 0.5}, "not a token id"),
        ({"qwen3.context_length": "long\nlong"}, "not a number"),
        ({"qwen3.rope.freq_base": math.inf}, "not a number"),
        ({"qwen3.attention.value_length": 16}, "values of another length"),
        ({"qwen3.rope.scaling.type": "yarn"}, "scaled rotary"),
        ({"general.architecture": "x\ny" * 99}, "is not supported"),
        ({"tokenizer.chat_template": "x" * (1 << 21)}, "holds a text of 2097152 bytes"),
    ],
)
def test_metadata_that_does_not_fit(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    raw_gguf(tmp_path / "m.gguf", fields | changes, tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_gguf(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_tensor_of_an_unknown_type_is_noticed_before_the_network_is_made(tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    raw_gguf(tmp_path / "m.gguf", fields, tensors)
    content = bytearray((tmp_path / "m.gguf").read_bytes())
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    struct.pack_into("<I", content, at, 39)  # MXFP4
    (tmp_path / "m.gguf").write_bytes(content)
    with GGUFFile(tmp_path / "m.gguf") as file, pytest.raises(CheckpointError, match="type 39"):
        check_file(file)


@pytest.mark.parametrize(
    "key", ["general.architecture", "general.alignment", "qwen3.block_count", "tokenizer.chat_template"]
)
def test_lists_in_the_place_of_one_value_are_not_decoded(key: str, tmp_path: Path) -> None:
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    path = raw_gguf(tmp_path / "m.gguf", fields | {key: ["ab"] * 20_000}, tensors)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"metadata {key} is a list"):
        load_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size
    tracemalloc.stop()


@pytest.mark.parametrize("count", [3, 60_000])
def test_memory_of_opening_stays_below_the_file(count: int, tmp_path: Path) -> None:
    """Short texts, the worst case: as Python objects they take six times their bytes."""
    fields, tensors = sound_parts(tmp_path / "m.gguf")
    lists = {f"list.{i}": ["ab"] * count for i in range(3)} | {"numbers": list(range(count))}
    path = raw_gguf(tmp_path / "m.gguf", fields | lists, tensors)
    tracemalloc.start()
    with open_gguf(path):
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size
