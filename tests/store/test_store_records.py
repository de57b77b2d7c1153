"""Records: appended, rewound, read while they grow, and torn by a crash."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import StoreError
from kweek.store.records import Records


def fields(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "time"} for record in records]


def test_records_are_there_at_once(tmp_path: Path) -> None:
    records = Records(tmp_path / "a.jsonl")
    assert Records.read(records.path) == []
    before = time.time()
    records.append("train", step=1, loss=2.5)
    records.append("train", step=2, loss=math.nan, text="zwei\nlines")
    found = Records.read(records.path)
    assert fields(found) == [
        {"kind": "train", "step": 1, "loss": 2.5},
        {"kind": "train", "step": 2, "loss": None, "text": "zwei\nlines"},
    ]
    assert before - 1 <= found[0]["time"] <= found[1]["time"] <= time.time() + 1


def test_rewinding_keeps_what_it_is_told_and_appending_goes_on(tmp_path: Path) -> None:
    records = Records(tmp_path / "a.jsonl")
    for step in range(5):
        records.append("train", step=step)
    first = records.path.read_bytes().splitlines()[0]
    records.rewind(lambda record: record["step"] < 2)
    records.append("train", step=2)
    assert [record["step"] for record in Records.read(records.path)] == [0, 1, 2]
    assert records.path.read_bytes().splitlines()[0] == first


@given(cut=st.integers(1, 30))
def test_a_torn_last_line_is_left_out_and_does_not_swallow_the_next(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "a.jsonl"
    Records(path).append("train", step=1)
    Records(path).append("train", step=2, text="x" * 30)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [record["step"] for record in Records.read(path)] == [1]
    Records(path).append("train", step=3)
    assert [record["step"] for record in Records.read(path)] == [1, 3]


@pytest.mark.parametrize("line", [b"{broken", b"[1, 2]", b"\xff\xfe", b""])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    records = Records(tmp_path / "a.jsonl")
    records.append("train", step=1)
    with records.path.open("ab") as file:
        file.write(line + b"\n")
    records.append("train", step=2)
    with pytest.raises(StoreError, match=r"a\.jsonl:2: "):
        Records.read(records.path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot append"):
        Records(tmp_path / "no" / "a.jsonl").append("train")
