"""Tools that are called through messages: descriptions in, calls out, results as messages of the role "tool".

A call comes as OpenAI's `tool_calls`, or as text between `<tool_call>` and `</tool_call>` with a JSON object of "name"
and "arguments", the form of the Hermes, Qwen and SmolLM families. A call that cannot be read is told to the model, and
counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.compute.isolation import Failure, Isolated
from kweek.protocols import Message
from kweek.system.arithmetic import Unreadable, evaluate, written

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MAX_RESULT_CHARS = 2_000  # a longer result would fill the context of a small model
MAX_CALLS = 8  # in one message
_CALL = re.compile(rf"{OPENING}\s*(.*?)\s*(?:{CLOSING}|\Z)", re.DOTALL)


class BadCall(Exception):
    """A call that cannot be read or made; its text is for the model."""


@dataclass(frozen=True)
class Tool:
    """Something that a model may call.

    Attributes:
        name, description, parameters: as in OpenAI's API; parameters are a JSON Schema of an object.
        run: takes the arguments by name, gives a text.
        seconds: of one call, in a process of its own; None runs it here, for tools that are known to be quick.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[..., str] = field(repr=False)
    seconds: float | None = None

    def __post_init__(self) -> None:
        apart = None if self.seconds is None else Isolated(self.run, adaptor=by_name, seconds=self.seconds)
        object.__setattr__(self, "_apart", apart)

    def call(self, arguments: Mapping[str, Any]) -> str:
        """The result, shortened where it is long. Raises BadCall."""
        apart: Isolated | None = getattr(self, "_apart", None)
        try:
            result = str(self.run(**arguments) if apart is None else apart(dict(arguments)))
        except Failure as error:
            raise BadCall(str(error)) from None
        except Exception as error:
            raise BadCall(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from None
        return result if len(result) <= MAX_RESULT_CHARS else result[:MAX_RESULT_CHARS] + " … (cut)"

    @property
    def described(self) -> dict[str, Any]:
        """As a request of OpenAI's API describes it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def by_name(run: Callable[..., str]) -> Callable[[Any], Any]:
    """A tool's function as its process runs it."""
    return lambda arguments: str(run(**arguments))


def calculate(expression: str) -> str:
    """The value of a sum, difference, product or quotient, with brackets.

    Raises:
        ValueError: it is no such expression.
    """
    try:
        return written(evaluate(expression))
    except Unreadable:
        raise ValueError(f"{expression[:40]!r} is no expression of numbers, + - * / and brackets") from None


CALCULATOR = Tool(
    "calculator",
    "Compute an expression of numbers, + - * / and brackets.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    calculate,
)


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
