"""Tool calls: which tools there are and how a call of one is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.pattern import Chain, Control, Either, Pattern, chain, rust_regex, text
from kweek.engine.constraints.pattern import Literal as Bytes
from kweek.engine.constraints.schema import COLON, COMMA, check_patterns, schema_pattern

_MAX_TOOLS = 1_000  # no model knows more than some hundred
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}

Piece = bytes | int  # text, or the id of a control token


@dataclass(frozen=True)
class ToolForm:
    """How a call is written.

    Attributes:
        prefix, suffix: what stands around it; "{name}" in them is the tool's name. Where they spell the name of a
            control token, that token is meant, as in a chat template.
        body: "call" for {"name": ..., "arguments": ...}, "arguments" for the arguments alone.
    """

    prefix: str = ""
    suffix: str = ""
    body: Literal["call", "arguments"] = "call"

    def __post_init__(self) -> None:
        if self.body not in ("call", "arguments"):
            raise GrammarError(f"a body of {self.body!r}", fix='use "call" or "arguments"')
        if self.body == "arguments" and "{name}" not in self.prefix + self.suffix:
            raise GrammarError(
                "nothing in the form says which tool is called", fix='put "{name}" into prefix'
            )


#: {"name": ..., "arguments": ...} and nothing else.
JSON_FORM = ToolForm()


@dataclass(frozen=True)
class Call:
    """One tool as its call is written: pieces before, a JSON object under a schema, pieces after."""

    name: str
    before: list[Piece]
    arguments: Any
    after: list[Piece]
    body: str


def read_tools(source: Any) -> list[tuple[str, Any]]:
    """Names and argument schemas of tools in OpenAI's form, or in the inner part of it.

    Raises:
        GrammarError: naming the tool that is not one.
    """
    if not isinstance(source, list) or not source:
        raise GrammarError("the tools are not a list with at least one in it")
    if len(source) > _MAX_TOOLS:
        raise GrammarError(f"{len(source):,} tools, more than {_MAX_TOOLS:,}")
    tools: dict[str, Any] = {}
    for index, entry in enumerate(source):
        where = f"tools[{index}]"
        inner = entry.get("function", entry) if isinstance(entry, Mapping) else None
        if not isinstance(inner, Mapping):
            raise GrammarError("not a tool", where=where)
        name, arguments = inner.get("name"), inner.get("parameters")
        if not isinstance(name, str) or not name:
            raise GrammarError("a tool without a name", where=where)
        if name in tools:
            raise GrammarError(f"two tools are called {name[:60]!r}", where=where)
        arguments = _NO_ARGUMENTS if arguments in (None, {}) else arguments
        if not isinstance(arguments, Mapping):
            raise GrammarError("the parameters are not a schema", where=where)
        tools[name] = arguments
    return list(tools.items())


def calls_pattern(calls: list[Call], limits: Limits, unroll: int) -> Pattern:
    """One of the calls.

    Raises:
        BeyondAutomaton, GrammarError: as `schema_pattern`.
    """
    options: list[Pattern] = []
    for call in calls:
        check_patterns(call.arguments, limits)
        arguments = schema_pattern(call.arguments, limits, unroll)
        if call.body == "call":
            name = text(json.dumps(call.name, ensure_ascii=False))
            arguments = chain(
                text('{"name"'), COLON, name, COMMA, text('"arguments"'), COLON, arguments, text("}")
            )
        options.append(Chain((*_pieces(call.before), arguments, *_pieces(call.after))))
    return Either(tuple(options))


def _pieces(pieces: list[Piece]) -> list[Pattern]:
    return [Control(piece) if isinstance(piece, int) else Bytes(piece) for piece in pieces]


def calls_rules(calls: list[Call]) -> tuple[str, dict[str, Any]]:
    """One of the calls in llguidance's variant of Lark, and the schemas it refers to: a rule for each call."""
    rules = ["start: " + " | ".join(f"call{index}" for index in range(len(calls)))]
    schemas: dict[str, Any] = {}
    for index, call in enumerate(calls):
        words = [_lark(piece) for piece in call.before]
        if call.body == "call":
            name = json.dumps(call.name, ensure_ascii=False)
            head = chain(text('{"name"'), COLON, text(name), COMMA, text('"arguments"'), COLON)
            words += [_lark_pattern(head), f"@arguments{index}", _lark(b"}")]
        else:
            words.append(f"@arguments{index}")
        words += [_lark(piece) for piece in call.after]
        rules.append(f"call{index}: " + " ".join(words))
        schemas[f"arguments{index}"] = call.arguments
    return "\n".join(rules), schemas


def _lark(piece: Piece) -> str:
    return f"<[{piece}]>" if isinstance(piece, int) else _lark_pattern(Bytes(piece))


def _lark_pattern(pattern: Pattern) -> str:
    return f"/{rust_regex(pattern)}/"
