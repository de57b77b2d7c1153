"""Traces: lines that follow one another, a torn last line, damage that shows, one writer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import StoreError
from kweek.store.files import FileOps, use_file_ops
from kweek.system.cost import Cost
from kweek.system.trace import ROOT, Event, Trace, TraceError, read_trace


def event(number, kind="message", **more):
    return Event(f"0.{number}", ROOT, kind, "somebody", data={"content": f"word {number}"}, **more)


def test_what_was_written_is_read_and_found_by_its_place(tmp_path):
    path = tmp_path / "run" / "trace.jsonl"
    with Trace(path) as trace:
        trace.add(Event(ROOT, "", "branch", "system"))
        trace.add(event(0, cost=Cost(5.0, tokens_out=2)))
        trace.add(event(1, "tool", phase="begun"), durable=True)
    found = read_trace(path)
    assert [one.id for one in found] == ["0", "0.0", "0.1"] and found[1].cost == Cost(5.0, tokens_out=2)
    with Trace(path) as again:
        assert again.past("0.1")[0].phase == "begun" and not again.past("0.2")
        assert again.cost == Cost(5.0, tokens_out=2)
        again.add(event(2))
    assert len(read_trace(path)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:1], *lines[2:]],  # a line is missing
        lambda lines: [lines[0], lines[1].replace("word 1", "word 9"), *lines[2:]],  # a line is another
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], json.dumps({"previous": ""}), *lines[2:]],
    ],
)
def test_a_line_that_was_changed_or_taken_out_shows(tmp_path, damage):
    path = tmp_path / "trace.jsonl"
    with Trace(path) as trace:
        for number in range(4):
            trace.add(event(number))
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(TraceError, match=r"trace\.jsonl:"):
        read_trace(path)


def test_a_line_that_is_no_event_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({"kind": "party", "previous": ""}) + "\n")
    with pytest.raises(TraceError, match=r"trace.jsonl:1.*no event"):
        read_trace(path)
    with pytest.raises(StoreError, match="no such trace"):
        read_trace(tmp_path / "nothing.jsonl")


def test_a_last_line_cut_off_by_a_crash_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "trace.jsonl"
    with Trace(path) as trace:
        trace.add(event(0))
        trace.add(event(1))
    path.write_bytes(path.read_bytes()[:-9])
    assert [one.id for one in read_trace(path)] == ["0.0"]
    with Trace(path) as trace:
        trace.add(event(1))
        trace.add(event(2))
    assert [one.id for one in read_trace(path)] == ["0.0", "0.1", "0.2"]


def test_two_writers_are_one_too_many_and_a_frozen_trace_takes_nothing(tmp_path):
    path = tmp_path / "trace.jsonl"
    with Trace(path) as trace:
        trace.add(event(0))
        with pytest.raises(StoreError, match="another process writes"):
            Trace(path)
        with pytest.raises(TraceError, match="not in its trace"):
            Trace(path, frozen=True).add(event(1))
    Trace(path).close()


def test_what_changes_the_world_is_on_the_disk_itself_before(tmp_path):
    synced = []

    class Watching(FileOps):
        def fsync_path(self, path):
            synced.append(path.read_bytes())
            super().fsync_path(path)

    with use_file_ops(Watching()), Trace(tmp_path / "trace.jsonl") as trace:
        trace.add(event(0))
        assert not synced
        trace.add(event(1, "tool", phase="begun"), durable=True)
    assert len(synced) == 1 and synced[0].endswith(b"\n") and b'"begun"' in synced[0]


@given(
    st.dictionaries(
        st.text(max_size=9), st.recursive(st.text() | st.integers() | st.booleans() | st.none(), st.lists)
    )
)
def test_any_data_survives(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    with Trace(path) as trace:
        trace.add(Event("0.0", ROOT, "tool", "\u2028\n", data=data))
        trace.add(event(1))
    assert read_trace(path)[0].data == data
