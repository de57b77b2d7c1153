"""Whatever a client sends is a body or a refusal, never a fault; so are the messages in it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.serve.bodies import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, parse
from kweek.serve.messages import read_messages
from kweek.serve.refusal import Refusal

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", 10**30, 1e308]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
KINDS = [ChatBody, CompletionBody, DetokenizeBody, TokenizeBody]
FIELDS = sorted({name for kind in KINDS for name in kind.model_fields})


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_any_object_is_a_body_or_a_refusal(kind, fields):
    try:
        assert isinstance(parse(kind, json.dumps(fields).encode()), Body)
    except Refusal as refusal:
        assert refusal.status == 400
        json.dumps(refusal.body(), allow_nan=False).encode()


@given(st.binary(max_size=50))
def test_any_bytes_are_a_refusal(data):
    with pytest.raises(Refusal):
        parse(ChatBody, data)


MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "name", "refusal", "x"]),
    VALUES
    | st.just([{"type": "text", "text": "a"}])
    | st.just([{"function": {"arguments": "{}", "name": "f"}}]),
    max_size=4,
)


@given(st.lists(MESSAGES, max_size=3))
def test_any_messages_are_read_or_refused(messages):
    try:
        for message in read_messages(messages):
            assert isinstance(message["role"], str) and isinstance(message["content"], str | None)
    except Refusal as refusal:
        assert refusal.param.startswith("messages.")


def test_messages_as_the_client_sends_them_back():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "refusal": None, "audio": None, "tool_calls": [call]},
    ]
    first, second = read_messages(messages)
    assert first == {"role": "user", "content": "a\nb"}
    assert second["tool_calls"][0]["function"]["arguments"] == {"x": 1} and "refusal" not in second
    with pytest.raises(Refusal, match="text only"):
        read_messages([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_fields_without_effect_are_taken_and_unknown_ones_named():
    body = parse(
        ChatBody,
        b'{"model": "m", "messages": [{"role": "user"}], "user": "me", "store": true, "audio": null}',
    )
    assert body.temperature == 1.0
    with pytest.raises(Refusal, match="'audio' is not supported"):
        parse(ChatBody, b'{"model": "m", "messages": [{"role": "user"}], "audio": {}}')


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(Refusal, match="not JSON"):
        parse(CompletionBody, b'{"model": "m", "prompt": "\\ud800"}')
    assert parse(CompletionBody, b'{"model": "m", "prompt": "\\ud83e\\udd9c"}').prompt == "🦜"
