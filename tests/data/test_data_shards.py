"""Token shards: what is written is read, at any offset, and damage is recognised."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.data.shards import Shard, write_shard
from kweek.errors import DataError, KweekError
from kweek.store.artifact import ArtifactWriter


def make(
    folder: Path, documents: list[list[int]], vocab_size: int = 1000, sources: list[str] | None = None
) -> Path:
    with ArtifactWriter(folder / "shard", kind="tokens", fingerprint="f") as out:
        write_shard(out, documents, vocab_size=vocab_size, tokenizer="t", sources=sources, folder="train")
    return folder / "shard" / "train"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 99_999), max_size=30), st.sampled_from("abc")), max_size=12),
    st.sampled_from([100_000, 1 << 31]),
)
def test_what_is_written_is_read(documents: list[tuple[list[int], str]], vocab_size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        shard = Shard.open(make(Path(name), [d for d, _ in documents], vocab_size, [s for _, s in documents]))
        assert len(shard) == len(documents)
        assert [shard[i].tolist() for i in range(len(shard))] == [d for d, _ in documents]
        assert [shard.source(i) for i in range(len(shard))] == [s for _, s in documents]
        joined = [token for d, _ in documents for token in d]
        assert shard.tokens.tolist() == joined
        assert shard.num_tokens == len(joined)
        for position in range(len(joined)):
            owner = shard.document_at(position)
            assert shard.offsets[owner] <= position < shard.offsets[owner + 1]


def test_small_vocabularies_take_two_bytes(tmp_path: Path) -> None:
    shard = Shard.open(make(tmp_path, [[1, 65_535], [2]], 1 << 16))
    assert shard.info.dtype == "uint16"
    assert (tmp_path / "shard" / "train" / "tokens.bin").read_bytes() == b"\x01\x00\xff\xff\x02\x00"
    assert isinstance(shard.tokens, np.memmap)
    assert not shard[0].flags.writeable
    with pytest.raises(IndexError):
        shard[2]
    with pytest.raises(IndexError):
        shard.document_at(3)


@pytest.mark.parametrize("documents", [[[1000]], [[-1]], [[5], [1, 2, 70_000]]])
def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, documents: list[list[int]]) -> None:
    with pytest.raises(DataError, match="outside the vocabulary"):
        make(tmp_path, documents)


@pytest.mark.parametrize("sources", [["a"], ["a", "b", "c"]])
def test_every_document_has_one_source(tmp_path: Path, sources: list[str]) -> None:
    with pytest.raises(DataError, match="source"):
        make(tmp_path, [[1], [2]], sources=sources)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "sources.bin", "shard.json"])
@pytest.mark.parametrize("damage", [_truncate, _lengthen, Path.unlink])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = make(tmp_path, [[1, 2, 3], [4]], sources=["a", "b"])
    damage(folder / name)
    if (name, damage) == ("shard.json", _truncate):  # its last byte is the line end, which JSON does not need
        damage(folder / name)
    with pytest.raises(DataError, match=name):
        Shard.open(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("dtype", "float64"),
        ("dtype", "uint32"),
        ("num_tokens", -1),
        ("num_tokens", 1e3),
        ("num_documents", True),
        ("num_documents", 1 << 61),
        ("sources", ["a"]),
        ("sources", "ab"),
        ("tokenizer", None),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, key: str, value: object) -> None:
    folder = make(tmp_path, [[1, 2, 3], [4]], sources=["a", "b"])
    plain = json.loads((folder / "shard.json").read_text())
    (folder / "shard.json").write_text(json.dumps({**plain, key: value}))
    with pytest.raises(DataError):
        Shard.open(folder)


@pytest.mark.parametrize("offsets", [[0, 5, 4], [1, 3, 4], [0, 3, 5], [0, -1, 4]])
def test_offsets_that_lead_elsewhere_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    folder = make(tmp_path, [[1, 2, 3], [4]])
    (folder / "offsets.bin").write_bytes(np.array(offsets, "<i8").tobytes())
    with pytest.raises(DataError, match="damaged"):
        Shard.open(folder)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(["tokens.bin", "offsets.bin", "sources.bin", "shard.json"]))
def test_any_bytes_in_a_file_are_an_error_or_a_shard(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = make(Path(parent), [[1, 2, 3], [4]], sources=["a", "b"])
        (folder / name).write_bytes(content)
        try:
            shard = Shard.open(folder)
        except KweekError:
            return
        for i in range(len(shard)):
            assert len(shard[i]) >= 0
            assert shard.source(i) in ("a", "b")
