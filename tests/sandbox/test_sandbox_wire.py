from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.sandbox.ns.request import Request, frame, read_frame, receive, send
from kweek.sandbox.ns.wire import decode, encode

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers(-(1 << 63), 1 << 63) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
).filter(lambda value: depth(value) <= 8)


def depth(value: Any) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=60))
def test_bytes_are_one_value_or_an_error(data: bytes) -> None:
    try:
        value = decode(data)
    except ValueError:
        return
    assert encode(value) == data


@given(VALUES, st.integers(0, 200), st.binary(min_size=1, max_size=1))
def test_a_damaged_message_is_an_error_or_another_value(value: Any, place: int, byte: bytes) -> None:
    data = bytearray(encode(value))
    data[place % len(data)] = byte[0]
    with contextlib.suppress(ValueError):
        decode(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"i1",
        b"i-0e",
        b"i01e",
        b"i e",
        b"5:abc",
        b"-1:",
        b"le",
        b"l",
        b"i1ei2e",
        b"l" * 100,
        b"x",
        b"3:abcd",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    if data == b"le":
        assert decode(data) == []
        return
    with pytest.raises(ValueError, match=r".+"):
        decode(data)


def test_a_pipe_that_ends_within_a_message() -> None:
    for kept in (3, 9):
        reader, writer = os.pipe()
        os.write(writer, frame([b"abc", 5])[:kept])
        os.close(writer)
        with pytest.raises(ValueError, match="ends before"):
            read_frame(reader)
        os.close(reader)


def test_the_end_of_a_pipe_is_no_message() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    assert read_frame(reader) is None
    os.close(reader)


def test_a_large_request_goes_through_a_pipe() -> None:
    values: dict[str, Any] = dict.fromkeys(("stage", "group", "filter", "stdin"), b"x")
    values |= {name: [] for name in ("binds", "hidden", "links", "argv", "environment")}
    numbers = (
        "parent",
        "outer_user",
        "microseconds",
        "cpu_microseconds",
        "memory",
        "disk",
        "processes",
        "output",
    )
    values |= dict.fromkeys(numbers, -1) | {"files": [[b"a", b"z" * (3 << 20)]]}
    reader, writer = os.pipe()
    data = send(Request(**values))
    sender = threading.Thread(target=lambda: os.fdopen(writer, "wb").write(data))
    sender.start()
    got = receive(reader)
    sender.join()
    os.close(reader)
    assert got.files == values["files"] and got.parent == -1
    with pytest.raises(ValueError, match="not the fields"):
        Request(parent=1)
