"""Messages as clients send them, to messages as chat templates know them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kweek.serve.refusal import Refusal

#: What a message may hold; whatever else is null is left out, as clients send back what they were sent.
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id"})


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: content as text, arguments of tool calls as objects.

    Raises:
        Refusal: a field that no message has, or content that is not text, with its place.
    """
    found = []
    for number, message in enumerate(messages):
        fields = {key: value for key, value in message.items() if value is not None}
        if unknown := sorted(set(fields) - _MESSAGE_FIELDS):
            raise Refusal(
                f"The field {unknown[0]!r} is not supported in a message.",
                param=f"messages.{number}.{unknown[0]}",
                code="unknown_parameter",
            )
        if not isinstance(fields.get("role"), str):
            raise Refusal("A message has a role.", param=f"messages.{number}.role", code="invalid_value")
        where = f"messages.{number}.content"
        fields["content"] = _read_content(fields["content"], where) if "content" in fields else None
        if "tool_calls" in fields:
            fields["tool_calls"] = _read_calls(fields["tool_calls"], f"messages.{number}.tool_calls")
        found.append(fields)
    return found


def _read_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refusal("Content is a text or a list of texts.", param=where, code="invalid_value")
    for part in content:
        if not (
            isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        ):
            raise Refusal("This model reads text only.", param=where, code="invalid_value")
    return "\n".join(part["text"] for part in content)


def _read_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    try:
        return [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in calls
        ]
    except (TypeError, KeyError, ValueError, RecursionError):
        raise Refusal(
            "A tool call has a function with a name and its arguments as JSON.",
            param=where,
            code="invalid_value",
        ) from None
