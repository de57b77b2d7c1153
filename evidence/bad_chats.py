"""Chats that nobody can learn from, each with words of the reason by which it must be counted; and good ones."""

from __future__ import annotations

from typing import Any


def good_chat(number: int) -> dict[str, Any]:
    """Different chats, each of which can be learnt."""
    return chat(
        {"role": "user", "content": f"What is {number} times 7?"},
        {"role": "assistant", "content": str(7 * number)},
    )


def chat(*turns: Any) -> dict[str, Any]:
    """A line of turns."""
    return {"messages": list(turns)}


ASKED, SAID = {"role": "user", "content": "Odd one?"}, {"role": "assistant", "content": "Yes."}


def _calling(call: Any) -> dict[str, Any]:
    return chat(
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": "1"},
        SAID,
    )


#: What is wrong with a chat -> the line, and words of the reason by which it is counted.
BAD_CHATS: dict[str, tuple[Any, str]] = {
    "no role": (chat({"content": "Hm?"}, SAID), "without a role"),
    "a role of null": (chat({"role": None, "content": "Hm?"}, SAID), "without a role"),
    "a role that is none": (chat({"role": "wizard", "content": "Hm?"}, SAID), "unknown role"),
    "an empty question": (chat({"role": "user", "content": " "}, SAID), "an empty turn of the user"),
    "an empty answer": (chat(ASKED, {"role": "assistant", "content": ""}), "an empty turn of the assistant"),
    "content of null": (chat(ASKED, {"role": "assistant", "content": None}), "an empty turn of the assistant"),
    "no messages": (chat(), "no messages"),
    "messages of null": ({"messages": None}, ""),
    "a message that is text": (chat("Odd one?", SAID), "no object"),
    "no answer": (chat(ASKED), ""),
    "two questions in a row": (chat(ASKED, ASKED, SAID), "two user turns"),
    "content that is a number": (chat(ASKED, {"role": "assistant", "content": 7}), "no text"),
    "half a surrogate pair": (chat(ASKED, {"role": "assistant", "content": "\ud800"}), "no Unicode"),
    "a call whose arguments do not parse": (
        _calling([{"function": {"name": "f", "arguments": '{"a": '}}]), "call that does not parse",
    ),
    "a call whose arguments are a list": (
        _calling([{"function": {"name": "f", "arguments": "[1]"}}]), "call that does not parse",
    ),
    "a call without a name": (_calling([{"function": {"arguments": "{}"}}]), "call that does not parse"),
    "a call that is a word": (_calling("calculator"), "call that does not parse"),
    "a call in the text without an end": (
        chat(ASKED, {"role": "assistant", "content": '<tool_call>{"name": "f"'}, SAID), "call that does not parse",
    ),
    "a call without a result": (
        chat(ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}, ASKED, SAID),
        "without a result",
    ),
    "a line that is no JSON": ('{"messages": [', ""),
    "a line that is a list": ("[1, 2]", ""),
}  # fmt: skip
