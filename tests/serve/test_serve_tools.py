"""Tool calls: shown to the model, prescribed, found in what it writes, and taken back in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.serve.refusal import Refusal
from kweek.serve.tool_calls import ToolCalls, chosen

openai = pytest.importorskip("openai", reason="the extra `test` has the openai client")


CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
PLACE = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 3},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Weather.", "parameters": PLACE, "strict": True},
    },
    {"type": "function", "function": {"name": "clock"}},
]


def taken_apart(pieces):
    calls = ToolCalls()
    shown = "".join(calls.take(piece)[0] for piece in pieces) + calls.finish()
    return shown, [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls.found
    ]


@pytest.mark.parametrize(
    ("text", "shown", "count"),
    [
        ("just text < and <tool", "just text < and <tool", 0),
        (f"Look: {CALL}", "Look: ", 1),
        (f"{CALL}\n{CALL}\n", "", 2),
        (f"{CALL} done", " done", 1),
        ("<tool_call>no json</tool_call>", "<tool_call>no json</tool_call>", 0),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', 0),
        ('<tool_call>{"name": "f", "arg', '<tool_call>{"name": "f", "arg', 0),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "<tool_call>" + "[" * 100_000 + "</tool_call>", 0),
    ],
)
def test_calls_are_found_and_nothing_else_is_lost(text, shown, count):
    found_text, found = taken_apart([text])
    assert found_text == shown and found == [("f", {"x": "é"})] * count


@given(st.lists(st.integers(1, 12), max_size=30))
def test_however_it_is_cut(lengths):
    text = f"a <tool {CALL}\n{CALL} b<tool_call>x"
    pieces, at = [], 0
    for length in lengths:
        pieces.append(text[at : at + length])
        at += length
    pieces.append(text[at:])
    calls = ToolCalls()
    for piece in pieces:
        shown, _ = calls.take(piece)
        assert "tool_call" not in shown
    assert taken_apart(pieces)[0].split() == ["a", "<tool", "b<tool_call>x"]
    assert len(calls.found) == 2


def test_a_choice_of_tools():
    assert chosen(TOOLS, "auto") is None and chosen(TOOLS, "none") is None
    assert chosen(TOOLS, "required") == TOOLS
    assert chosen(TOOLS, {"type": "function", "function": {"name": "clock"}}) == TOOLS[1:]
    for wrong in ("any", {"type": "function", "function": {"name": "x"}}, {"function": 3}):
        with pytest.raises(Refusal):
            chosen(TOOLS, wrong)


@pytest.fixture(scope="module")
def client(tool_server):
    return openai.OpenAI(base_url=tool_server.url, api_key="none", max_retries=0)


def ask(client, tool_server, choice, **more):
    return client.chat.completions.create(
        model=tool_server.model, messages=[{"role": "user", "content": "x"}], tools=TOOLS, tool_choice=choice,
        temperature=1.0, seed=1, max_tokens=200, **more,
    )  # fmt: skip


def test_a_call_that_must_be_made_is_made_and_valid(client, tool_server):
    weather = {"type": "function", "function": {"name": "weather"}}
    for choice, names in (("required", {"weather", "clock"}), (weather, {"weather"})):
        answer = ask(client, tool_server, choice).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        (call,) = answer.message.tool_calls
        assert call.function.name in names and call.id.startswith("call_")
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "clock" or (
            arguments["city"] in ("Paris", "Rome") and 1 <= arguments["days"] <= 3
        )
        streamed = [c.choices[0] for c in ask(client, tool_server, choice, stream=True)]
        (found,) = [call for chunk in streamed for call in chunk.delta.tool_calls or []]
        assert found.index == 0
        said = found.function.name, found.function.arguments
        assert said == (call.function.name, call.function.arguments), "the same seed, the same call"
        assert streamed[-1].finish_reason == "tool_calls"
        assert not any(chunk.delta.content for chunk in streamed)


def test_a_call_and_its_result_go_back_in(client, tool_server):
    message = ask(client, tool_server, "required").choices[0].message
    messages = [{"role": "user", "content": "x"}, message.model_dump()]
    messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"})
    answer = client.chat.completions.create(
        model=tool_server.model, messages=messages, tools=TOOLS, max_tokens=5, temperature=0
    )
    ids = tool_server.call("POST", "/tokenize", {"messages": messages})[1]
    assert answer.usage.prompt_tokens > ids["count"], "the tools are in the prompt too"


def test_a_model_without_tools_says_so(server):
    body = {"model": server.model, "messages": [{"role": "user", "content": "x"}], "tools": TOOLS}
    status, found, _ = server.call("POST", "/v1/chat/completions", body)
    assert status == 400 and found["error"]["param"] == "tools"
    assert server.call("POST", "/v1/chat/completions", body | {"tool_choice": "none"})[0] == 200
