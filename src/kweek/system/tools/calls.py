"""Calls of tools in what a model writes.

A call comes as OpenAI's `tool_calls`, or as text between `<tool_call>` and `</tool_call>` with a JSON object of "name"
and "arguments", the form of the Hermes, Qwen and SmolLM families.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.protocols import Message

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_CALL = re.compile(rf"{OPENING}\s*(.*?)\s*(?:{CLOSING}|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One call as the model wrote it: a name with arguments, or what is wrong with it."""

    id: str
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""


def calls_of(message: Message) -> list[Call]:
    """The calls of an assistant's message, those that cannot be read among them."""
    listed = message.get("tool_calls")
    if listed:
        given = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]
        return [_listed(call, number) for number, call in enumerate(given)]
    content = message.get("content")
    if not isinstance(content, str) or OPENING not in content:
        return []
    return [_read(match[1], f"call_{number}") for number, match in enumerate(_CALL.finditer(content))]


def _listed(call: Any, number: int) -> Call:
    """An entry of `tool_calls`; its arguments are a text of JSON, as OpenAI has them, or an object."""
    name = f"call_{number}"
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return Call(name, wrong="it has no function")
    identity = call.get("id") if isinstance(call.get("id"), str) else name
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            return Call(str(identity), wrong=f"its arguments are no JSON ({str(error)[:60]})")
    return _checked({"name": function.get("name"), "arguments": arguments}, str(identity))


def _read(text: str, identity: str) -> Call:
    try:
        return _checked(json.loads(text), identity)
    except (ValueError, RecursionError) as error:
        return Call(identity, wrong=f"it is no JSON ({str(error)[:60]})")


def _checked(call: Any, identity: str) -> Call:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return Call(identity, wrong='it has no "name"')
    arguments = call.get("arguments", {})
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        return Call(identity, wrong='its "arguments" are no object')
    return Call(identity, call["name"], arguments)
