"""Tools through messages: calls are read, made, told about and counted."""

import json
import time

import pytest

from kweek.align.environment import Item
from kweek.align.environments.single_turn import SingleTurn
from kweek.align.environments.tool_using import ToolUsing
from kweek.align.environments.tools import CALCULATOR, MAX_RESULT_CHARS, BadCall, Tool, calculate
from kweek.align.verifier import whole_number
from kweek.errors import ConfigError
from kweek.system.tools.calls import calls_of

ITEMS = [Item(({"role": "user", "content": f"What is {i}*{i}?"},), str(i * i)) for i in range(40)]


def tool(run, **options):
    return Tool("t", "A tool.", {"type": "object"}, run, **options)


def call(name, arguments, identity="c1"):
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": identity, "type": "function", "function": function}],
    }


def attempt(tools=(CALCULATOR,), **options):
    made = ToolUsing(SingleTurn("squares", ITEMS, whole_number), list(tools), **options)
    item = next(item for item in made.items("key", 40, "train") if item.gold == "144")
    return made.begin(item)


def test_a_call_is_answered_and_the_answer_judged():
    episode = attempt()
    (result,) = episode.step(call("calculator", {"expression": "12*12"}))
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "144"}
    assert episode.step({"role": "assistant", "content": "144"}) == ()
    score = episode.score()
    assert score.value == 1.0 and score.parts == {"calls": 1.0, "unreadable calls": 0.0, "failed calls": 0.0}


def test_calls_spelled_in_the_text():
    episode = attempt()
    text = 'Let me see.<tool_call>{"name": "calculator", "arguments": {"expression": "12*12"}}</tool_call>'
    (result,) = episode.step({"role": "assistant", "content": text})
    assert result["content"] == "144"
    both = text + '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1/4"}}\n'
    assert [message["content"] for message in episode.step({"role": "assistant", "content": both})] == [
        "144",
        "0.25",
    ]


@pytest.mark.parametrize(
    ("message", "told", "counted"),
    [
        (call("calculator", "{"), "cannot be read: its arguments are no JSON", "unreadable calls"),
        (call("calculator", "[1]"), "no object", "unreadable calls"),
        (call(None, {}), 'no "name"', "unreadable calls"),
        (
            {"role": "assistant", "content": "<tool_call>calculator(12*12)</tool_call>"},
            "no JSON",
            "unreadable calls",
        ),
        ({"role": "assistant", "tool_calls": [3]}, "no function", "unreadable calls"),
        (call("browser", {}), "no tool 'browser', only calculator", "failed calls"),
        (call("calculator", {"expression": "__import__('os')"}), "is no expression", "failed calls"),
        (call("calculator", {"wrong": 1}), "TypeError", "failed calls"),
        (call("calculator", {}), "TypeError", "failed calls"),
    ],
)
def test_calls_that_fail_are_told_and_counted(message, told, counted):
    episode = attempt()
    (result,) = episode.step(message)
    assert result["role"] == "tool" and told in result["content"]
    episode.step({"role": "assistant", "content": "144"})
    assert episode.score().value == 1.0 and episode.score().parts[counted] == 1.0


def test_calls_without_end_end():
    episode = attempt(max_rounds=2)
    for _ in range(2):
        assert episode.step(call("calculator", {"expression": "1+1"}))
    assert episode.step(call("calculator", {"expression": "1+1"})) == ()
    assert episode.score().value == 0.0 and not episode.score().parsed
    many = attempt()
    results = many.step(
        {"role": "assistant", "content": '<tool_call>{"name": "calculator"}</tool_call>' * 1000}
    )
    assert len(results) == 9 and "only 8 calls" in results[-1]["content"]


def test_the_tools_are_in_the_prompt_and_the_splits_are_the_inner_ones():
    inner = SingleTurn("squares", ITEMS, whole_number)
    made = ToolUsing(inner, [CALCULATOR])
    for split in ("train", "validation", "test"):
        if inner.pool.count(split):
            with_tools, without = made.items("k", 40, split), inner.items("k", 40, split)
            assert [item.messages[1:] for item in with_tools] == [item.messages for item in without]
    system = made.items("k", 1, "train")[0].messages[0]
    assert (
        system["role"] == "system"
        and '"calculator"' in system["content"]
        and "<tool_call>" in system["content"]
    )


def test_a_system_message_stays():
    item = Item(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1?"}), "1")
    made = ToolUsing(SingleTurn("one", {"train": [item]}, whole_number), [CALCULATOR])
    (with_tools,) = made.items("k", 1, "train")
    assert with_tools.messages[0]["content"].startswith("Be brief.\n\n") and len(with_tools.messages) == 2
    episode = made.begin(with_tools)
    episode.step({"role": "assistant", "content": "1"})
    assert episode.score().value == 1.0


def test_tools_that_hang_raise_or_flood():
    assert tool(lambda x: f"{x}!", seconds=20.0).call({"x": 3}) == "3!"
    with pytest.raises(BadCall, match="took over"):
        tool(lambda: time.sleep(60), seconds=0.3).call({})
    with pytest.raises(BadCall, match="ZeroDivisionError"):
        tool(lambda: 1 // 0).call({})
    assert len(tool(lambda: "x" * 10**6).call({})) < MAX_RESULT_CHARS + 20


def test_odd_calls_are_read():
    assert calls_of({"content": "no call"}) == [] and calls_of({}) == []
    assert calls_of({"tool_calls": "x"})[0].wrong and calls_of({"tool_calls": {"a": 1}})[0].wrong
    given = calls_of({"tool_calls": [{"function": {"name": "t", "arguments": {"a": 1}}}]})[0]
    assert (given.name, given.arguments, given.wrong) == ("t", {"a": 1}, "")
    # Arguments cannot smuggle in another name.
    assert calls_of(call("a", '{}, "name": "b"'))[0].wrong
    with pytest.raises(ConfigError, match="no tools, or two"):
        ToolUsing(SingleTurn("squares", ITEMS, whole_number), [CALCULATOR, CALCULATOR])
    assert calculate("2*(3+0.5)") == "7"
