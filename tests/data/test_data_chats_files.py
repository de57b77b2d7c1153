"""Files of chats as people have them: every container, streamed, and one clear error or a counted skip for damage."""

from __future__ import annotations

import datetime
import gzip
import itertools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from chat_files import asked, lines, rows, said
from hypothesis import given
from hypothesis import strategies as st

from kweek.data.chats import Conversation, row_id
from kweek.data.chats_files import _elements, _lines, find_source, read_records
from kweek.errors import DataError

CHATS: list[dict[str, Any]] = [{"messages": [asked(f"Hi {i} ü"), said(f"Hello {i} 🦜")]} for i in range(200)]
CALLING: list[dict[str, Any]] = [
    {
        "messages": [
            asked("Hi"),
            said(
                "",
                tool_calls=[
                    {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}
                ],
            ),
            {"role": "tool", "content": "y", "tool_call_id": "a"},
            said("done"),
        ]
    }
    for name, arguments in (("look", {"q": "x"}), ("count", {"n": 2, "deep": {"a": [1]}}))
]


def jsonl(chats: list[Any]) -> bytes:
    return "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats).encode("utf-8")


def table(chats: list[Any]) -> pa.Table:
    return pa.Table.from_pylist(chats)


def write_arrow(path: Path, chats: list[Any], writer: Callable[..., Any] = pa.ipc.new_stream) -> None:
    with pa.OSFile(str(path), "wb") as sink, writer(sink, table(chats).schema) as out:
        out.write_table(table(chats), max_chunksize=50)


def save(folder: Path, chats: list[Any]) -> None:
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    half = len(chats) // 2
    for number, part in enumerate((chats[:half], chats[half:])):
        write_arrow(folder / f"data-0000{number}-of-00002.arrow", part)
    names = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": names}))
    (folder / "dataset_info.json").write_text("{}")


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": lambda path: path.write_bytes(jsonl(CHATS)) and None,
    "a.ndjson": lambda path: path.write_bytes(jsonl(CHATS).replace(b"\n", b"\r\n\r\n")) and None,
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(CHATS))) and None,
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(jsonl(CHATS))) and None,
    "lines.json": lambda path: path.write_bytes(jsonl(CHATS)) and None,
    "array.json": lambda path: path.write_text(json.dumps(CHATS)) and None,
    "pretty.json": lambda path: path.write_text(json.dumps(CHATS, indent=2)) and None,
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(CHATS).encode())) and None,
    "data.json": lambda path: path.write_text(json.dumps({"version": 1, "data": CHATS})) and None,
    "mark.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + jsonl(CHATS)) and None,
    "wide.jsonl": lambda path: path.write_bytes(jsonl(CHATS).decode().encode("utf-16")) and None,
    "a.parquet": lambda path: pq.write_table(table(CHATS), path, row_group_size=70),
    "stream.arrow": lambda path: write_arrow(path, CHATS),
    "file.arrow": lambda path: write_arrow(path, CHATS, pa.ipc.new_file),
    "saved": lambda path: save(path, CHATS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    found, report = rows(tmp_path / name)
    assert [row.messages for row in found if isinstance(row, Conversation)] == [
        tuple(c["messages"]) for c in CHATS
    ]
    assert (report.num_rows, report.num_skipped, report.format) == (len(CHATS), 0, "messages")
    assert len({row.origin for row in found}) == len(CHATS)


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "saved"])
def test_the_nulls_with_which_tables_fill_up_objects_are_gone(tmp_path: Path, name: str) -> None:
    """In a column of objects every object gets every key: without care, every call all arguments of the others."""
    path = tmp_path / name
    if name == "saved":
        save(path, CALLING)
    elif name == "a.parquet":
        pq.write_table(table(CALLING), path)
    else:
        write_arrow(path, CALLING)
    found, _ = rows(path)
    assert [row.messages for row in found if isinstance(row, Conversation)] == [
        tuple(c["messages"]) for c in CALLING
    ]


def test_pictures_in_a_table_are_not_read(tmp_path: Path) -> None:
    pq.write_table(table([{**chat, "picture": b"\xff" * 100} for chat in CHATS[:3]]), tmp_path / "a.parquet")
    assert all(set(r.value) == {"messages"} for r in read_records(tmp_path / "a.parquet"))


def test_values_that_json_has_not_are_text(tmp_path: Path) -> None:
    day = datetime.date(2026, 1, 2)
    held = [{"prompt": "Hi", "gold": "x", "data": {"day": day, "picture": b"\xff\xff"}}]
    pq.write_table(table(held), tmp_path / "a.parquet")
    ((row,), _) = rows(tmp_path / "a.parquet")
    assert row.data == {"day": "2026-01-02", "picture": "2 bytes"}  # type: ignore[union-attr]
    assert row_id(row)


def test_a_map_is_an_object(tmp_path: Path) -> None:
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    held = pa.table(
        {"messages": pa.array([[list(message.items()) for message in CHATS[0]["messages"]]], kind)}
    )
    pq.write_table(held, tmp_path / "a.parquet")
    found, _ = rows(tmp_path / "a.parquet")
    assert found[0].messages == tuple(CHATS[0]["messages"])  # type: ignore[union-attr]


def test_what_datasets_itself_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(CHATS)
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    assert [row.messages for row in rows(tmp_path / "one")[0]] == [tuple(c["messages"]) for c in CHATS]  # type: ignore[union-attr]
    whole.select([5, 3, 9]).save_to_disk(tmp_path / "chosen")
    assert [row.messages[0]["content"] for row in rows(tmp_path / "chosen")[0]] == [
        "Hi 5 ü",
        "Hi 3 ü",
        "Hi 9 ü",
    ]  # type: ignore[union-attr]
    datasets.DatasetDict(train=whole.select(range(4)), test=whole.select(range(4, 6))).save_to_disk(
        tmp_path / "many"
    )
    found, report = rows(tmp_path / "many")
    assert len(found) == 4
    assert list(report.notes) == ["split 'train' was read; there are others: test"]
    assert len(rows(tmp_path / "many", split="test")[0]) == 2
    with pytest.raises(DataError, match=r"no split 'validation' \(there are: test, train\)"):
        rows(tmp_path / "many", split="validation")


def test_folders_of_files_are_read_by_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines(tmp_path / "data" / "train-00000-of-00002.jsonl", CHATS[:3])
    lines(tmp_path / "data" / "train-00001-of-00002.jsonl", CHATS[3:5])
    lines(tmp_path / "data" / "test-00000-of-00001.jsonl", CHATS[5:6])
    (tmp_path / "README.md").write_text("text")
    found, report = rows(tmp_path)
    assert [row.origin for row in found][2:4] == [
        "data/train-00000-of-00002.jsonl:3",
        "data/train-00001-of-00002.jsonl:1",
    ]
    assert len(report.notes) == 1
    assert len(rows(tmp_path, split="test")[0]) == 1
    lines(tmp_path / "data" / "latest.jsonl", CHATS[6:8])  # no split, whatever its letters
    assert find_source(tmp_path, "").files == (tmp_path / "data" / "latest.jsonl",)


def test_a_folder_without_splits_is_read_whole(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", CHATS[:1])
    lines(tmp_path / "a.jsonl", CHATS[1:2])
    (tmp_path / ".hidden.jsonl").write_text("broken")
    assert [row.origin for row in rows(tmp_path)[0]] == ["a.jsonl:1", "b.jsonl:1"]


# -- damage


def test_broken_lines_are_counted_and_the_others_read(tmp_path: Path) -> None:
    good = jsonl(CHATS[:1])
    parts = [good, b'{"messages": \n', b"\xff\xfe\n", good, b"\n", b"[" * 100_000 + b"\n", b'"text"\n', good]
    (tmp_path / "a.jsonl").write_bytes(b"".join(parts) + b'{"messages": [{"role": "us')
    found, report = rows(tmp_path / "a.jsonl")
    assert [row.origin for row in found] == ["a.jsonl:1", "a.jsonl:4", "a.jsonl:8"]
    assert report.skipped == {
        "not valid JSON": 2,
        "not UTF-8": 1,
        "not an object": 1,
        "the last line is cut off": 1,
    }
    assert report.examples["not UTF-8"] == ["a.jsonl:3: byte 0xFF at 0"]


def test_a_last_line_without_its_end_is_read_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(CHATS[:2]).rstrip())
    assert len(rows(tmp_path / "a.jsonl")[0]) == 2


def test_a_record_too_long_to_hold_is_counted(tmp_path: Path) -> None:
    huge = json.dumps({"messages": [asked("x" * (9 << 20)), said("y")]}).encode()
    (tmp_path / "a.jsonl").write_bytes(jsonl(CHATS[:1]) + huge + b"\n" + jsonl(CHATS[1:2]))
    found, report = rows(tmp_path / "a.jsonl")
    assert [row.origin for row in found] == ["a.jsonl:1", "a.jsonl:3"]
    assert report.skipped == {"a record of over 8 MiB": 1}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl: there are no records in it"),
        ("a.jsonl", b"\xd0\xcf\n" * 3, r"a\.jsonl:1: no chats in it: not UTF-8"),
        ("a.json", b'[{"messages": [', r"a\.json:1: not valid JSON after record 0"),
        (
            "a.json",
            jsonl(CHATS[:3]).replace(b"\n", b",\n").replace(b"{", b"[{", 1) + b"[}",
            r"json:4: .* record 3",
        ),
        ("a.json", b"[1 2]", r"a\.json:1: not valid JSON after record 1 \(expected ','\)"),
        (
            "a.json",
            b"[\n\n" + jsonl(CHATS[:1]),
            r"a\.json:4: not valid JSON after record 1 \(the file is cut off\)",
        ),
        ("a.json", b'{"messages": [', r"a\.json: not valid JSON"),
        ("a.json", b"[\xff]", r"a\.json: the file is damaged or of another kind"),
        ("a.parquet", b"PAR1 and nothing more", r"a\.parquet: the file is damaged or of another kind"),
        ("a.parquet.gz", b"x", r"a\.parquet\.gz: the file is damaged or of another kind"),
        ("a.arrow", b"", r"a\.arrow: the file is damaged or of another kind"),
        ("a.csv", b"a,b", r"a\.csv: a file of the kind '\.csv' is not read"),
        ("a.jsonl.gz", gzip.compress(jsonl(CHATS))[:-20], r"a\.jsonl\.gz: the gzip archive is truncated"),
        (
            "a.jsonl.zst",
            zstandard.compress(jsonl(CHATS))[:-20],
            r"a\.jsonl\.zst: the zstd archive is truncated",
        ),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        rows(tmp_path / name)


def test_files_that_end_too_early_are_an_error(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", CHATS)
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="damaged"):
        rows(tmp_path / "a.arrow")


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        rows(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no chats"):
        rows(tmp_path / "empty")
    save(tmp_path / "saved", CHATS)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: a file of the data set is missing"):
        rows(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(
        '{"_data_files": [], "_indices_files": [{"filename": "i"}]}'
    )
    with pytest.raises(DataError, match="chosen by an index"):
        rows(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("[]")
    with pytest.raises(DataError, match="describes no saved data set"):
        rows(tmp_path / "saved")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow"])
def test_a_large_file_is_not_held(tmp_path: Path, name: str) -> None:
    chats = [{"messages": [asked(f"{i} " + "x" * 4000), said("y")]} for i in range(5000)]
    if name == "a.jsonl":
        lines(tmp_path / name, chats)
    elif name == "a.json":
        (tmp_path / name).write_text(json.dumps(chats))
    elif name == "a.parquet":
        pq.write_table(table(chats), tmp_path / name, row_group_size=500)
    else:
        write_arrow(tmp_path / name, chats)
    del chats
    tracemalloc.start()
    count = sum(1 for _ in read_records(tmp_path / name))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5000
    assert peak < 8 << 20  # of 20 MB


# -- the parsers of JSON, whatever the blocks

JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.sampled_from(["]", ",", "[", "\\", '"', "\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def blocks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    st.lists(JSON, max_size=6),
    st.sampled_from([None, 1]),
    st.lists(st.integers(0, 200), max_size=6),
    st.booleans(),
)
def test_arrays_come_apart_wherever_blocks_end(
    values: list[Any], indent: int | None, cuts: list[int], escaped: bool
) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=escaped).encode("utf-8", "replace")
    found = list(_elements(iter(blocks_of(data, cuts)), "a", Path("a")))
    assert [record.value for record in found] == json.loads(data)
    places = [int(record.where.split(":")[1].split()[0]) for record in found]
    assert places == sorted(places)


@given(st.lists(JSON, max_size=6), st.lists(st.integers(0, 200), max_size=6))
def test_lines_come_apart_wherever_blocks_end(values: list[Any], cuts: list[int]) -> None:
    data = "".join(json.dumps(value) + "\n" for value in values).encode("utf-8")
    found = list(_lines(iter(blocks_of(data, cuts)), "a"))
    assert [(record.where, record.value) for record in found] == [
        (f"a:{i}", v) for i, v in enumerate(values, 1)
    ]


@given(st.binary(max_size=300))
def test_any_bytes_as_an_array_end_in_records_or_one_error(data: bytes) -> None:
    try:
        for record in _elements(iter(blocks_of(b"[" + data, [5, 50])), "a", Path("a")):
            assert record.fault is None
    except (DataError, UnicodeDecodeError):
        pass
