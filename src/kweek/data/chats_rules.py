"""What a chat must be like to be learnt from: who speaks after whom, and that every turn says something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kweek.data.chats_report import BadRow

Plain = dict[str, Any]


def check_turns(messages: Sequence[Plain]) -> None:
    """Refuse what no template renders as it was meant.

    Raises:
        BadRow: an empty turn, a system message after the beginning, two turns of one side in a row, a result without
            its call, a call without its result, or an answer before any question.
    """
    for number, message in enumerate(messages):
        role, what = message["role"], f"message {number}"
        before = messages[number - 1] if number else None
        last = before["role"] if before else ""
        if role in ("system", "developer"):
            if last not in ("", "system", "developer") or last == role:
                raise BadRow("a system message after the beginning", what)
            continue
        says_more = message.get("tool_calls") or message.get("reasoning_content")
        if role != "tool" and not message["content"].strip() and not says_more:
            raise BadRow(f"an empty turn of the {role}", what)
        if role == "user" and last == "user":
            raise BadRow("two user turns in a row", f"messages {number - 1} and {number}")
        if role == "assistant" and last == "assistant":
            raise BadRow("two assistant turns in a row", f"messages {number - 1} and {number}")
        if role == "assistant" and last not in ("user", "tool"):
            raise BadRow("an answer before any question", what)
        if role == "user" and before and before.get("tool_calls"):
            raise BadRow("a call of a tool without a result", f"message {number - 1}")
        if role == "tool":
            _check_result(messages, number)


def check_prompt(messages: Sequence[Plain]) -> None:
    """Refuse a prompt that asks nothing.

    Raises:
        BadRow: it ends with an answer or a system message; and as `check_turns`.
    """
    check_turns(messages)
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise BadRow("a prompt without a question at its end")


def check_answer(prompt: Sequence[Plain], answer: Sequence[Plain]) -> None:
    """Refuse an answer that is none.

    Raises:
        BadRow: it does not begin and end with the assistant; and as `check_turns` for prompt and answer together.
    """
    if not answer or answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        raise BadRow("an answer that is not the assistant's")
    check_turns([*prompt, *answer])


def up_to_last_answer(messages: Sequence[Plain]) -> list[Plain]:
    """The chat without what follows its last answer.

    Raises:
        BadRow: there is no answer in it.
    """
    end = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1) + 1
    if not end:
        raise BadRow("no answer in the chat")
    return list(messages[:end])


def _check_result(messages: Sequence[Plain], number: int) -> None:
    """A tool's result must follow its call, perhaps behind other results of the same turn."""
    start = number - 1
    while start >= 0 and messages[start]["role"] == "tool":
        start -= 1
    calls = messages[start].get("tool_calls", ()) if start >= 0 else ()
    if not calls:
        raise BadRow("a tool's result without a call", f"message {number}")
    named = messages[number].get("tool_call_id")
    if named is not None and named not in [call["id"] for call in calls]:
        raise BadRow("a tool's result for another call", f"message {number}")
