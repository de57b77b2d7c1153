"""Formats: each is recognised, read into the same messages, and refused with a reason where it cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_files import asked, lines, rows, said
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.data.chats import Conversation, Judgement, Preference, Task, question, row_id
from kweek.data.chats_formats import FORMATS, detect
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import Report
from kweek.errors import ConfigError, DataError, KweekError

CHAT = (asked("Hi"), said("Hello"))
TOOL = {"name": "look", "description": "Look up.", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "look", "arguments": {"q": "x"}}
CALLED = {"id": "call00001", "type": "function", "function": CALL}
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"

#: A record of every format, and the row that must come of it.
EXAMPLES: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "messages": [
        ({"messages": [*CHAT]}, Conversation(CHAT)),
        ({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}, Conversation(CHAT)),
        (
            {"messages": [*CHAT, asked("bye")], "weight": 0.5},
            Conversation(CHAT, weight=0.5),
        ),
        (
            {"messages": [asked("Hi"), said("Hello", weight=0), asked("?"), said("!", train=False)]},
            Conversation((asked("Hi"), said("Hello", weight=0.0), asked("?"), said("!", weight=0.0))),
        ),
        (
            {"messages": [asked("Hi"), said([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])]},
            Conversation(CHAT),
        ),
        (
            {"messages": [asked("Hi"), {"role": "assistant", "content": None, "reasoning": "hm", "x": None}]},
            Conversation((asked("Hi"), said("", reasoning_content="hm"))),
        ),
        (
            {"messages": [asked("Hi"), said("<think>\nhm\n</think>\n\nHello")]},
            Conversation((asked("Hi"), said("Hello", reasoning_content="hm"))),
        ),
        (
            {"messages": [asked("Hi"), said("hm\n</think>\n\nHello")]},
            Conversation((asked("Hi"), said("Hello", reasoning_content="hm"))),
        ),
        (
            {"messages": [asked("Hi"), said("A tag like </think> ends it.")]},
            Conversation((asked("Hi"), said("A tag like </think> ends it."))),
        ),
        (
            {
                "messages": [
                    asked("Hi"),
                    {"role": "assistant", "tool_calls": [{"id": "a", "function": {**CALL, "arguments": '{"q": "x"}'}}]},
                    {"role": "tool", "content": "y", "tool_call_id": "a"},
                    said("y!"),
                ],
                "tools": [TOOL],
            },
            Conversation(
                (
                    asked("Hi"),
                    said("", tool_calls=[{**CALLED, "id": "a"}]),
                    {"role": "tool", "content": "y", "tool_call_id": "a"},
                    said("y!"),
                ),
                ({"type": "function", "function": TOOL},),
            ),
        ),
        (
            {
                "messages": [
                    asked("Hi"),
                    {"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": '{"q": "x"}'}},
                    {"role": "function", "name": "look", "content": "y"},
                    said("y!"),
                ],
                "functions": [TOOL],
            },
            Conversation(
                (
                    asked("Hi"),
                    said("", tool_calls=[CALLED]),
                    {"role": "tool", "content": "y", "name": "look", "tool_call_id": "call00001"},
                    said("y!"),
                ),
                ({"type": "function", "function": TOOL},),
            ),
        ),
    ],
    "sharegpt": [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, Conversation(CHAT)),
        (
            {"conversation": [{"from": "user", "value": "Hi"}, {"from": "ChatGPT", "value": "Hello"}], "system": "S"},
            Conversation(({"role": "system", "content": "S"}, *CHAT)),
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": " "},
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": json.dumps(CALL)},
                    {"from": "observation", "value": "y"},
                    {"from": "gpt", "value": "y!"},
                ],
                "tools": json.dumps([TOOL]),
            },
            Conversation(
                (
                    asked("Hi"),
                    said("", tool_calls=[CALLED]),
                    {"role": "tool", "content": "y", "tool_call_id": "call00001"},
                    said("y!"),
                ),
                ({"type": "function", "function": TOOL},),
            ),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": f"I look.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
                    {"from": "tool", "value": "<tool_response>\ny\n</tool_response>"},
                    {"from": "gpt", "value": "y!"},
                ]
            },
            Conversation(
                (
                    asked("Hi"),
                    said("I look.", tool_calls=[CALLED]),
                    {"role": "tool", "content": "y", "tool_call_id": "call00001"},
                    said("y!"),
                )
            ),
        ),
    ],
    "alpaca": [
        ({"instruction": "Hi", "input": "", "output": "Hello"}, Conversation(CHAT)),
        (
            {"instruction": "Hi", "input": "you", "output": "Hello", "system": "S", "history": [["a", "b"]]},
            Conversation(
                ({"role": "system", "content": "S"}, asked("a"), said("b"), asked("Hi\n\nyou"), said("Hello"))
            ),
        ),
    ],
    "completion": [
        ({"prompt": "Hi", "completion": "Hello"}, Conversation(CHAT)),
        ({"prompt": [asked("Hi")], "completion": [said("Hello")]}, Conversation(CHAT)),
    ],
    "question": [({"question": "Hi", "answer": "Hello"}, Conversation(CHAT))],
    "preference": [
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, Preference(CHAT[:1], CHAT[1:], (said("No"),))),
        (
            {"prompt": "Hi", "chosen": [*CHAT], "rejected": [asked("Hi"), said("No")], "score_chosen": 8,
             "score_rejected": 3.5},
            Preference(CHAT[:1], CHAT[1:], (said("No"),), margin=4.5),
        ),
        (
            {"chosen": [*CHAT, asked("?"), said("a")], "rejected": [*CHAT, asked("?"), said("b")]},
            Preference((*CHAT, asked("?")), (said("a"),), (said("b"),)),
        ),
        (
            {"prompt": [asked("Hi")], "chosen": said("Hello"), "rejected": [said("No")], "margin": 1},
            Preference(CHAT[:1], CHAT[1:], (said("No"),), margin=1.0),
        ),
        (
            {"system": "S", "question": "Hi", "chosen": "Hello", "rejected": "No"},
            Preference(({"role": "system", "content": "S"}, asked("Hi")), CHAT[1:], (said("No"),)),
        ),
    ],
    "transcripts": [
        (
            {"chosen": f"{HH} Well.", "rejected": f"{HH} No."},
            Preference((*CHAT, asked("Why?")), (said("Well."),), (said("No."),)),
        )
    ],
    "ultrafeedback": [
        (
            {
                "instruction": "Hi",
                "completions": [
                    {"response": "No", "overall_score": 2.0},
                    {"response": "Hello", "overall_score": 9},
                    {"response": "Hm", "overall_score": 4},
                    {"response": "broken", "overall_score": None},
                ],
            },
            Preference(CHAT[:1], CHAT[1:], (said("No"),), margin=7.0),
        )
    ],
    "labels": [
        (
            {"kind": "pair", "order": ["a", "b"], "prompt": [asked("Hi")], "chosen": [said("Hello")],
             "rejected": [said("No")], "choice": "1"},
            Preference(CHAT[:1], CHAT[1:], (said("No"),)),
        )
    ],
    "judgement": [
        ({"prompt": "Hi", "completion": "Hello", "label": True}, Judgement(CHAT[:1], CHAT[1:], True)),
        ({"prompt": [asked("Hi")], "completion": [said("Hello")], "label": 0}, Judgement(CHAT[:1], CHAT[1:], False)),
    ],
    "task": [
        (
            {"messages": [asked("Hi")], "gold": "x", "verifier": "number", "data": {"a": 1}, "level": 2},
            Task(CHAT[:1], "x", "number", "2", {"a": 1}),
        ),
        ({"messages": [asked("Hi")], "ground_truth": ["72"], "dataset": "gsm8k"}, Task(CHAT[:1], "72", "gsm8k")),
        (
            {"prompt": [asked("Hi")], "reward_model": {"style": "rule", "ground_truth": "7"}, "data_source": "s"},
            Task(CHAT[:1], "7", "s"),
        ),
        ({"prompt": "Hi", "gold": 7}, Task(CHAT[:1], "7")),
    ],
    "prompt": [
        ({"prompt": "Hi"}, Task(CHAT[:1])),
        ({"prompt": [asked("Hi")], "system": "S"}, Task(({"role": "system", "content": "S"}, *CHAT[:1]))),
    ],
}  # fmt: skip


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS)


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, all_ in EXAMPLES.items() for i in range(len(all_))]
)
def test_examples_are_recognised_and_read(tmp_path: Path, name: str, number: int) -> None:
    record, wanted = EXAMPLES[name][number]
    form = detect(record)
    assert form is not None
    assert form.name == name
    found, report = rows(lines(tmp_path / "a.jsonl", [record]))
    assert found == [type(wanted)(**{**vars(wanted), "origin": "a.jsonl:1"})]
    assert (report.format, report.detected, report.num_rows) == (name, True, 1)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {"messages": []}, "no messages"),
    ("messages", {"messages": None}, "no messages"),
    ("messages", {"messages": ["Hi", "Hello"]}, "a message that is no object"),
    ("messages", {"messages": [{"content": "Hi"}, *CHAT]}, "a message without a role"),
    ("messages", {"messages": [{"role": None, "content": "Hi"}, *CHAT]}, "a message without a role"),
    ("messages", {"messages": [{"role": "wizard", "content": "Hi"}, *CHAT]}, "an unknown role"),
    ("messages", {"messages": [asked(" "), said("Hello")]}, "an empty turn of the user"),
    ("messages", {"messages": [asked("Hi"), said("")]}, "an empty turn of the assistant"),
    ("messages", {"messages": [asked("Hi"), said(None)]}, "an empty turn of the assistant"),
    ("messages", {"messages": [asked("Hi"), asked("you"), said("Hello")]}, "two user turns in a row"),
    ("messages", {"messages": [*CHAT, said("again")]}, "two assistant turns in a row"),
    ("messages", {"messages": [said("Hello")]}, "an answer before any question"),
    ("messages", {"messages": [asked("Hi")]}, "no answer in the chat"),
    (
        "messages",
        {"messages": [asked("Hi"), {"role": "system", "content": "S"}, said("Hello")]},
        "a system message after the beginning",
    ),
    ("messages", {"messages": [asked("Hi"), said([{"type": "image"}])]}, "content other than text"),
    ("messages", {"messages": [asked("Hi"), said(7)]}, "a value that is no text"),
    ("messages", {"messages": [asked("Hi"), said("\ud800")]}, "text that is no Unicode"),
    ("messages", {"messages": [asked("Hi"), said("<think>hm")]}, "thinking that never ends"),
    ("messages", {"messages": [*CHAT], "weight": -1}, "a weight that is no number from 0 up"),
    ("messages", {"messages": [*CHAT], "weight": float("nan")}, "a weight that is no number from 0 up"),
    ("messages", {"messages": [*CHAT], "tools": "[{"}, "descriptions of tools that do not parse"),
    ("messages", {"messages": [*CHAT], "tools": [{"x": 1}]}, "descriptions of tools that do not parse"),
    (
        "messages",
        {"messages": [asked("Hi"), said("", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]},
        "a tool call that does not parse",
    ),
    (
        "messages",
        {"messages": [asked("Hi"), said("", tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}])]},
        "a tool call that does not parse",
    ),
    (
        "messages",
        {"messages": [asked("Hi"), said("", tool_calls=[{"function": {}}])]},
        "a tool call that does not parse",
    ),
    ("messages", {"messages": [asked("Hi"), said("<tool_call>{")]}, "a tool call that does not parse"),
    (
        "messages",
        {"messages": [asked("Hi"), said("<tool_call>{]</tool_call>")]},
        "a tool call that does not parse",
    ),
    (
        "messages",
        {"messages": [asked("Hi"), {"role": "tool", "content": "x"}, said("Hello")]},
        "a tool's result without a call",
    ),
    (
        "messages",
        {"messages": [asked("Hi"), said("", tool_calls=[CALLED]), asked("well?"), said("no")]},
        "a call of a tool without a result",
    ),
    (
        "messages",
        {
            "messages": [
                asked("Hi"),
                said("", tool_calls=[CALLED]),
                {"role": "tool", "content": "x", "tool_call_id": "another"},
                said("no"),
            ]
        },
        "a tool's result for another call",
    ),
    (
        "alpaca",
        {"instruction": "Hi", "output": "Hello", "history": ["a"]},
        "a history that is no list of pairs",
    ),
    ("preference", {"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    ("preference", {"prompt": "Hi", "chosen": "a", "rejected": None}, "no answer in the chat"),
    ("preference", {"chosen": "a", "rejected": "b"}, "a prompt without a question at its end"),
    (
        "preference",
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2},
        "the chosen answer has the lower score",
    ),
    (
        "preference",
        {"prompt": "Ho", "chosen": [*CHAT], "rejected": [asked("Hi"), said("No")]},
        "prompt and answers belong to different questions",
    ),
    (
        "preference",
        {"chosen": [*CHAT], "rejected": [asked("Ho"), said("No")]},
        "a prompt without a question at its end",
    ),
    (
        "transcripts",
        {"chosen": "\n\nHuman: Hi", "rejected": f"{HH} No"},
        "a prompt without a question at its end",
    ),
    (
        "ultrafeedback",
        {"instruction": "Hi", "completions": [{"response": "a", "overall_score": 3}]},
        "fewer than two answers with a score",
    ),
    (
        "ultrafeedback",
        {"instruction": "Hi", "completions": [{"response": c, "overall_score": 3} for c in "ab"]},
        "a tie",
    ),
    (
        "judgement",
        {"prompt": "Hi", "completion": "Hello", "label": "good"},
        "a label that is neither true nor false",
    ),
    ("judgement", {"prompt": "Hi", "completion": None, "label": True}, "no 'completion'"),
    ("task", {"messages": [*CHAT], "gold": "x"}, "a task that holds its answer already"),
    ("task", {"prompt": "Hi", "gold": {"a": 1}}, "a right answer that is no text"),
    ("prompt", {"prompt": [*CHAT]}, "a task that holds its answer already"),
    ("prompt", {"prompt": " "}, "an empty turn of the user"),
    ("labels", {"kind": "pair", "order": [], "choice": "tie", "chosen": None}, "a tie"),
    ("labels", {"kind": "pair", "order": [], "choice": "skip", "chosen": None}, "passed over by the person"),
    ("labels", {"kind": "pair", "order": [], "choice": "1", "repeat": True}, "judged a second time"),
]


@pytest.mark.parametrize(("name", "record", "reason"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_meant_is_counted_with_its_reason(
    tmp_path: Path, name: str, record: dict[str, Any], reason: str
) -> None:
    good = EXAMPLES[name][0][0]
    path = lines(tmp_path / "a.jsonl", [good, record, good])
    found, report = rows(path, format=name)
    assert len(found) == 2
    assert dict(report.skipped) == {reason: 1}
    assert report.examples[reason][0].startswith("a.jsonl:2")
    assert (report.num_records, report.num_rows, report.num_skipped) == (3, 2, 1)
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        rows(path, format=name, on_bad="stop")


def test_records_of_another_format_are_counted(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", [{"messages": [*CHAT]}, {"instruction": "Hi", "output": "Hello"}, [1], {"x": 1}]
    )
    _, report = rows(path)
    assert report.skipped == {"of another format": 1, "not an object": 1, "no messages": 1}


def test_what_is_changed_is_noted(tmp_path: Path) -> None:
    record = {
        "messages": [{"role": "system", "content": ""}, asked("Hi"), said("<think>a</think>b"), asked("?")]
    }
    _, report = rows(lines(tmp_path / "a.jsonl", [record]))
    assert set(report.notes) == {
        "empty system message left out",
        "thinking inside the content taken for reasoning",
        "turns after the last answer left out",
    }
    assert report.to_dict()["notes"] == dict.fromkeys(report.notes, 1)


def test_nothing_from_a_file_is_trusted(tmp_path: Path) -> None:
    """Else a file could write control tokens."""
    record = {"messages": [asked("Hi"), said("Hello", trusted=True, reasoning_content="<tool>")]}
    found, _ = rows(lines(tmp_path / "a.jsonl", [record]))
    assert "trusted" not in found[0].messages[1]  # type: ignore[union-attr]


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"alpha": 1, "beta": 2}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: the format is not known \(keys: alpha, beta\)"):
        rows(path)
    with pytest.raises(ConfigError, match="no format 'shared'"):
        rows(path, format="shared")
    with pytest.raises(DataError, match=r"nothing in it can be used as conversation .* 1 x no messages"):
        rows(path, format="messages")


def test_ids_depend_on_content_alone() -> None:
    one = Conversation(CHAT, origin="a:1")
    assert row_id(one) == row_id(Conversation(CHAT, origin="b:7", weight=2.0))
    assert row_id(one) != row_id(Conversation((*CHAT, *CHAT)))
    assert row_id(Judgement(CHAT[:1], CHAT[1:], True)) != row_id(Judgement(CHAT[:1], CHAT[1:], False))
    assert question(Conversation(({"role": "system", "content": "S"}, *CHAT))) == "Hi"


KEYS = [
    "messages",
    "role",
    "content",
    "from",
    "value",
    "conversations",
    "prompt",
    "chosen",
    "rejected",
    "label",
]
KEYS += [
    "completion",
    "completions",
    "instruction",
    "output",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "tools",
]
KEYS += [
    "history",
    "kind",
    "order",
    "gold",
    "data",
    "type",
    "text",
    "weight",
    "answers",
    "overall_score",
    "response",
]
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=6)
SCALARS |= st.sampled_from(
    ["user", "assistant", "gpt", "human", "tool", "system", "pair", "text", "{}", "\n\nHuman: a"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=100)
@given(st.lists(VALUES, max_size=4), st.sampled_from([None, *FORMATS]))
def test_whatever_is_in_a_file_every_record_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], name: str | None
) -> None:
    path = lines(tmp_path_factory.mktemp("any") / "a.jsonl", records)
    report = Report()
    try:
        found = list(read_chats(path, report, format=name))
    except KweekError:
        return
    assert report.num_records == len(records)
    assert report.num_rows == len(found) == len(records) - report.num_skipped
    json.dumps(report.to_dict()).encode("utf-8")


def mutated(value: Any, draw: Any) -> Any:
    """A value with one thing inside it replaced, dropped or doubled."""
    children = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not children or draw(st.integers(0, 3)) == 0:
        return draw(
            SCALARS | st.sampled_from([[], {}, [None], {"role": "user"}, "<tool_call>", "</think>\n"])
        )
    copy = value.copy()
    at = draw(st.sampled_from(children))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        del copy[at]
    elif kind == 1 and isinstance(copy, list):
        copy.insert(at, copy[at])
    else:
        copy[at] = mutated(copy[at], draw)
    return copy


@settings(max_examples=100)
@given(st.data())
def test_whatever_is_wrong_with_a_good_record_it_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(list(EXAMPLES)))
    records = [json.loads(json.dumps(record)) for record, _ in EXAMPLES[name]]
    for number in range(len(records)):
        for _ in range(data.draw(st.integers(1, 3))):
            records[number] = mutated(records[number], data.draw)
    path = lines(tmp_path_factory.mktemp("bad") / "a.jsonl", [*records, EXAMPLES[name][0][0]])
    found, report = rows(path, format=name)
    assert report.num_records == len(records) + 1
    assert report.num_rows == len(found) == len(records) + 1 - report.num_skipped
    for row in found:
        learnt = {key: value for key, value in vars(row).items() if key != "data"}  # the judge's business
        json.dumps(learnt, ensure_ascii=False).encode("utf-8")
        assert question(row).strip()
        assert len(row_id(row)) == 32
