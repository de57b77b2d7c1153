"""The writer of single files: whole or not at all, strict JSON, errors with a remedy."""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import StoreError
from kweek.store.files import (
    FileOps,
    encode_json,
    open_atomic,
    read_json,
    use_file_ops,
    write_bytes,
    write_json,
    write_text,
)


def test_bytes_text_and_json_come_back(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", memoryview(b"\x00\xff" * 100_000))
    assert (tmp_path / "a").read_bytes() == b"\x00\xff" * 100_000
    write_text(tmp_path / "b", "één\r\nregel\n")
    assert (tmp_path / "b").read_bytes() == "één\r\nregel\n".encode()
    write_json(tmp_path / "c", {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(tmp_path / "c") == {"b": [1, 2.5, None], "a": "ü"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_block_that_raises_replaces_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyError), open_atomic(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyError("the caller's own")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_libraries_write_through_it(tmp_path: Path) -> None:
    table = pa.table({"id": ["x", "y"], "n": [1, 2]})
    with open_atomic(tmp_path / "t.parquet") as file:
        pq.write_table(table, file)
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    with open_atomic(tmp_path / "a.npy") as file:
        np.save(file, np.arange(5))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]
    with (
        open_atomic(tmp_path / "t.gz") as file,
        gzip.GzipFile(fileobj=file, mode="wb", filename="") as packed,
    ):
        packed.write(b"text")
    assert gzip.decompress((tmp_path / "t.gz").read_bytes()) == b"text"
    with open_atomic(tmp_path / "t.txt") as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        text.write("ä")
        text.flush()
    assert (tmp_path / "t.txt").read_bytes() == "ä".encode()


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as outer:
        outer.write(b"outer")
        write_text(tmp_path / "a", "inner")  # must not sweep the other's temporary file
        assert (tmp_path / "a").read_text() == "inner"
    assert (tmp_path / "a").read_text() == "outer"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_dead_writer_are_swept_and_others_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.1234abcd.tmp").write_bytes(b"torn")
    (tmp_path / ".ab.1234abcd.tmp").write_bytes(b"another file's")
    write_text(tmp_path / "a", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ab.1234abcd.tmp", "a"]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    class Slow(FileOps):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:7])

    with use_file_ops(Slow()):
        write_bytes(tmp_path / "a", bytes(range(256)))
    assert (tmp_path / "a").read_bytes() == bytes(range(256))


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "Free space"), (errno.EIO, "Check the disk"), (errno.EROFS, "read-only")],
)
def test_a_disk_that_refuses_gives_one_line_with_the_remedy(tmp_path: Path, code: int, remedy: str) -> None:
    class Refusing(FileOps):
        def write(self, descriptor: int, data: memoryview) -> int:
            raise OSError(code, os.strerror(code))

    with use_file_ops(Refusing()), pytest.raises(StoreError) as caught:
        write_text(tmp_path / "a", "x")
    message = str(caught.value)
    assert str(tmp_path / "a") in message
    assert remedy in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot create the file: No such file.*Check that the folder"):
        write_text(tmp_path / "no" / "a", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n "a": 1,\n "b": }\n', r":3: broken JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "broken JSON"),
        (b"", ":1: broken JSON"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(caught.value)


def test_json_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read_json(tmp_path / "a.json")


def test_json_is_strict(tmp_path: Path) -> None:
    value = {
        "nan": math.nan,
        "inf": np.float32("inf"),
        "n": np.int64(3),
        "x": np.float32(0.5),
        "row": np.arange(3),
        "path": Path("a") / "b",
        "set": {"b", "a"},
        "pair": (1, True),
    }
    assert json.loads(encode_json(value)) == {
        "nan": None,
        "inf": None,
        "n": 3,
        "x": 0.5,
        "row": [0, 1, 2],
        "path": str(Path("a") / "b"),
        "set": ["a", "b"],
        "pair": [1, True],
    }
    with pytest.raises(TypeError, match="object"):
        encode_json({"a": object()})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_value_round_trips(value: Any) -> None:
    try:
        encoded = encode_json(value).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert json.loads(encoded) == value
