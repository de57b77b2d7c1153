"""Messages in any of the dialects there are, brought into the one form that templates know.

OpenAI's `role` and `content`, ShareGPT's `from` and `value`; calls of tools as `tool_calls`, as the older
`function_call`, as a turn of its own, or spelled inside the content; thinking beside the content or inside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kweek.data.chats_report import BadRow

Note = Callable[[str], None]
Plain = dict[str, Any]

#: What a source calls a role, and what it is.
ROLES = {
    **dict.fromkeys(("system", "developer", "user", "assistant", "tool")),
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
_UNOPENED = re.compile(r"^</think>\s", re.MULTILINE)  # a prompt may have opened the thinking
_REASONING = ("reasoning_content", "reasoning", "thinking")


def read_messages(value: Any, note: Note) -> list[Plain]:
    """Normalised messages of one chat.

    Args:
        value: a list of messages, or the columns of such a list.
        note: told what was changed.

    Raises:
        BadRow: a message that nobody can read; the order of turns is not looked at.
    """
    if isinstance(value, Mapping):  # how some tables hold a list of records
        value = _transposed(value)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow("no messages", "an empty list" if value == [] else f"{type(value).__name__}")
    messages: list[Plain] = []
    for number, raw in enumerate(value):
        if not isinstance(raw, Mapping):
            raise BadRow("a message that is no object", f"message {number} is {type(raw).__name__}")
        message = _message(raw, number, note)
        if message["role"] in ("system", "developer") and not message["content"].strip():
            note("empty system message left out")
            continue
        if message["role"] == "call":
            _attach(messages, message["tool_calls"])
        else:
            messages.append(message)
    _name_calls(messages)
    return messages


def read_tools(value: Any) -> list[Plain]:
    """Descriptions of tools in OpenAI's form, from objects or JSON text.

    Raises:
        BadRow: they do not parse.
    """
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow("descriptions of tools that do not parse", str(error)) from None
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, Sequence):
        raise BadRow("descriptions of tools that do not parse", f"{type(tools).__name__}")
    found = []
    for tool in tools:
        if isinstance(tool, str):
            found += read_tools(tool)
            continue
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow("descriptions of tools that do not parse", "one has no name")
        _all_words(function, "tools")
        found.append({"type": "function", "function": dict(function)})
    return found


def words(value: Any, what: str) -> str:
    """Text that can be written in UTF-8.

    Raises:
        BadRow: not text, or half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise BadRow("a value that is no text", f"{what} is {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("text that is no Unicode", f"half of a surrogate pair in {what}") from None
    return value


def _message(raw: Mapping[str, Any], number: int, note: Note) -> Plain:
    """One message; calls that stand in a turn of their own have the role "call"."""
    what = f"message {number}"
    said = next((raw[key] for key in ("role", "from") if raw.get(key) is not None), None)
    if not isinstance(said, str):
        raise BadRow("a message without a role", what)
    name = said.strip().lower()
    if name not in ROLES:
        raise BadRow("an unknown role", f"{said[:40]!r} in {what}")
    role = ROLES[name] or name
    content = _content(next((raw[key] for key in ("content", "value") if raw.get(key) is not None), ""), what)
    if role == "call":
        return {"role": "call", "tool_calls": _parse_calls(content, what)}
    message: Plain = {"role": role, "content": content}
    for key in ("tool_call_id", "name"):
        if raw.get(key):
            message[key] = words(raw[key], f"{key} of {what}")
    if role == "tool" and (match := _RESPONSE.fullmatch(content)):
        message["content"] = match[1]
    if role == "assistant":
        message |= _written(raw, content, what, note)
        if raw.get("weight") is not None:
            message["weight"] = weight_of(raw["weight"], what)
        elif raw.get("train") is False:
            message["weight"] = 0.0
    return message


def _content(value: Any, what: str) -> str:
    """Content as text; parts of text are joined."""
    if isinstance(value, str):
        return words(value, what)
    if not isinstance(value, Sequence):
        raise BadRow("a value that is no text", f"the content of {what} is {type(value).__name__}")
    texts = []
    for part in value:
        if isinstance(part, Mapping) and part.get("type", "text") == "text" and "text" in part:
            texts.append(words(part["text"], what))
        elif isinstance(part, str):
            texts.append(words(part, what))
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadRow("content other than text", f"{kind} in {what}")
    return "".join(texts)


def _written(raw: Mapping[str, Any], content: str, what: str, note: Note) -> Plain:
    """Content, reasoning and calls of an assistant's message, wherever they stand in it."""
    reasoning = next((words(raw[key], what) for key in _REASONING if raw.get(key)), "")
    calls = _parse_calls(raw["tool_calls"], what) if raw.get("tool_calls") else []
    if raw.get("function_call"):
        calls += _parse_calls([raw["function_call"]], what)
    opened = content.lstrip().startswith("<think>")
    if not reasoning and (opened or _UNOPENED.search(content)):
        before, closed, rest = content.partition("</think>")
        if not closed:
            raise BadRow("thinking that never ends", what)
        reasoning, content = before.lstrip().removeprefix("<think>").strip(), rest.lstrip()
        note("thinking inside the content taken for reasoning")
    if not calls and "<tool_call>" in content:
        found = _CALL.findall(content)
        if not found or len(found) != content.count("<tool_call>"):
            raise BadRow("a tool call that does not parse", f"no end of <tool_call> in {what}")
        calls = [call for text in found for call in _parse_calls(text, what)]
        content = _CALL.sub("", content).strip()
        note("calls inside the content taken for tool calls")
    written: Plain = {"content": content}
    if reasoning:
        written["reasoning_content"] = reasoning
    if calls:
        written["tool_calls"] = calls
    return written


def _parse_calls(value: Any, what: str) -> list[Plain]:
    """Calls of tools in OpenAI's form with arguments as objects, from objects or JSON text."""
    if isinstance(value, str):
        value = _json(value, what)
    calls = [value] if isinstance(value, Mapping) else value
    if not isinstance(calls, Sequence):
        raise BadRow("a tool call that does not parse", f"{type(calls).__name__} in {what}")
    parsed = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if (
            not isinstance(function, Mapping)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise BadRow("a tool call that does not parse", f"no name in {what}")
        arguments: Any = next(
            (function[k] for k in ("arguments", "parameters") if function.get(k) is not None), {}
        )
        if isinstance(arguments, str):
            arguments = _json(arguments, what) if arguments.strip() else {}
        if not isinstance(arguments, Mapping):
            raise BadRow("a tool call that does not parse", f"arguments are no object in {what}")
        _all_words(arguments, what)
        plain: Plain = {
            "type": "function",
            "function": {"name": words(function["name"], what), "arguments": dict(arguments)},
        }
        if isinstance(call.get("id"), str) and call["id"]:
            plain = {"id": words(call["id"], what), **plain}
        parsed.append(plain)
    return parsed


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("a tool call that does not parse", f"{str(error).splitlines()[0]} in {what}") from None


def _all_words(value: Any, what: str) -> None:
    """Check every text inside a JSON value."""
    if isinstance(value, str):
        words(value, what)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            words(key, what)
            _all_words(entry, what)
    elif isinstance(value, Sequence):
        for entry in value:
            _all_words(entry, what)


def weight_of(value: Any, what: str) -> float:
    """A weight in the loss.

    Raises:
        BadRow: not a finite number of at least 0.
    """
    if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise BadRow("a weight that is no number from 0 up", f"{value!r} in {what}")
    return float(value)


def _transposed(columns: Mapping[str, Any]) -> list[Plain]:
    """Records from columns of equal length."""
    lists = {key: entries for key, entries in columns.items() if isinstance(entries, list)}
    if not lists or len({len(entries) for entries in lists.values()}) != 1:
        raise BadRow("no messages", "an object instead of a list")
    length = len(next(iter(lists.values())))
    return [{key: entries[i] for key, entries in lists.items()} for i in range(length)]


def _attach(messages: list[Plain], calls: list[Plain]) -> None:
    """A call in a turn of its own belongs to the assistant's words right before it, if there are any."""
    if messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]:
        messages[-1]["tool_calls"] = calls
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})


def _name_calls(messages: Sequence[Plain]) -> None:
    """Give calls and results that have no id one, in order, as some templates demand (nine letters and digits)."""
    waiting: list[str] = []
    number = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            number += 1
            call.setdefault("id", f"call{number:05d}")
            waiting.append(call["id"])
        if message["role"] == "tool":
            if "tool_call_id" not in message and waiting:
                message["tool_call_id"] = waiting[0]
            if message.get("tool_call_id") in waiting:
                waiting.remove(message["tool_call_id"])
