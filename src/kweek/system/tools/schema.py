"""Whether a JSON value is what a JSON Schema (draft 2020-12) says, and in words for a model where it is not.

For the arguments of tools: `$ref` leads to places in the same schema, `format` and keywords that there are not say
nothing, as the standard has it. Schemas and values come from strangers, so both are bounded in depth and number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_MAX_FAULTS = 5  # as many as a model can mend at once
_MAX_DEPTH = 64  # of a value and its schema together; published schemas stay below 20
_MAX_STEPS = 100_000  # schemas within schemas can be built that take forever
_MAX_SHOWN = 60  # characters of a wrong value
_MAX_PATTERN_TEXT = 10_000  # characters that a regular expression of a stranger is let loose on

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: _is_integer(value),
}


class TooMuch(Exception):
    """A schema or a value that takes too long to compare."""


def faults(value: Any, schema: Any) -> list[str]:
    """What is wrong with a value, one clause each with its place; empty when nothing is.

    >>> faults({"n": "3"}, {"properties": {"n": {"type": "integer"}}, "required": ["n", "m"]})
    ["m is missing", 'n: "3" is not of type integer']
    """
    checker = _Checker(schema)
    found: list[str] = []
    try:
        for fault in checker.check(value, schema, "", 0):
            found.append(fault)
            if len(found) == _MAX_FAULTS:
                break
    except TooMuch as error:
        return [str(error)]
    return found


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value) and value == int(value)
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON: 1 is 1.0, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    return bool(left == right)


class _Checker:
    """One comparison: `where` is the path within the value."""

    def __init__(self, root: Any) -> None:
        self._root, self._steps = root, 0

    def check(self, value: Any, schema: Any, where: str, depth: int) -> Iterator[str]:
        self._steps += 1
        if depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            raise TooMuch("it takes too long to compare with the schema")
        if schema is False:
            yield f"{where or 'it'} may not be there"
        if not isinstance(schema, Mapping):
            return
        yield from self._kind(value, schema, where)
        if isinstance(value, Mapping):
            yield from self._object(value, schema, where, depth)
        elif isinstance(value, list):
            yield from self._array(value, schema, where, depth)
        elif isinstance(value, str):
            yield from _string(value, schema, where)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from _number(value, schema, where)
        yield from self._combined(value, schema, where, depth)

    def _fits(self, value: Any, schema: Any, depth: int) -> bool:
        return next(self.check(value, schema, "", depth + 1), None) is None

    def _kind(self, value: Any, schema: Mapping[str, Any], where: str) -> Iterator[str]:
        if (kinds := schema.get("type")) is not None:
            listed = kinds if isinstance(kinds, list) else [kinds]
            if not any(_TYPES[kind](value) for kind in listed if kind in _TYPES):
                yield f"{_at(where)}{_shown(value)} is not of type {' or '.join(map(str, listed))}"
        if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
            yield f"{_at(where)}{_shown(value)} is none of {_shown(schema['enum'])}"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{_at(where)}{_shown(value)} is not {_shown(schema['const'])}"

    def _object(
        self, value: Mapping[str, Any], schema: Mapping[str, Any], where: str, depth: int
    ) -> Iterator[str]:
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{_within(where, name)} is missing"
        for name, needed in schema.get("dependentRequired", {}).items():
            if name in value:
                yield from (
                    f"{_within(where, other)} is missing beside {name}"
                    for other in needed
                    if other not in value
                )
        yield from _counted(len(value), schema, ("minProperties", "maxProperties"), "properties", where)
        for name, entry in value.items():
            place = _within(where, name)
            matching = [inner for pattern, inner in patterns.items() if _matches(pattern, name)]
            if name in properties:
                matching.append(properties[name])
            if not matching and "additionalProperties" in schema:
                if schema["additionalProperties"] is False:
                    known = ", ".join(map(str, properties)) or "none"
                    yield f"{_shown(name)} is no property of {where or 'it'}; there are: {known}"
                else:
                    matching = [schema["additionalProperties"]]
            if "propertyNames" in schema:
                yield from self.check(name, schema["propertyNames"], place, depth + 1)
            for inner in matching:
                yield from self.check(entry, inner, place, depth + 1)

    def _array(self, value: list[Any], schema: Mapping[str, Any], where: str, depth: int) -> Iterator[str]:
        first = schema.get("prefixItems", [])
        yield from _counted(len(value), schema, ("minItems", "maxItems"), "items", where)
        for index, entry in enumerate(value):
            inner = first[index] if index < len(first) else schema.get("items", True)
            yield from self.check(entry, inner, f"{where}[{index}]", depth + 1)
        if schema.get("uniqueItems") is True:
            seen: list[Any] = []
            for entry in value:
                self._steps += len(seen)
                if any(_same(entry, other) for other in seen):
                    yield f"{_at(where)}{_shown(entry)} is there twice"
                    break
                seen.append(entry)
                if self._steps > _MAX_STEPS:
                    raise TooMuch("it takes too long to compare with the schema")
        if "contains" in schema:
            count = sum(self._fits(entry, schema["contains"], depth) for entry in value)
            most = schema.get("maxContains", len(value))
            if not schema.get("minContains", 1) <= count <= most:
                yield f"{_at(where)}{count} items are as the schema wants some to be"

    def _combined(self, value: Any, schema: Mapping[str, Any], where: str, depth: int) -> Iterator[str]:
        if isinstance(reference := schema.get("$ref"), str):
            yield from self.check(value, self._target(reference), where, depth + 1)
        for inner in schema.get("allOf", ()):
            yield from self.check(value, inner, where, depth + 1)
        if "anyOf" in schema:
            yield from self._any(value, schema["anyOf"], where, depth)
        if "oneOf" in schema:
            fitting = sum(self._fits(value, inner, depth) for inner in schema["oneOf"])
            if not fitting:
                yield from self._any(value, schema["oneOf"], where, depth)
            elif fitting > 1:
                yield f"{_at(where)}{_shown(value)} is more than one of the forms that exclude each other"
        if "not" in schema and self._fits(value, schema["not"], depth):
            yield f"{_at(where)}{_shown(value)} is what it must not be"
        if "if" in schema:
            branch = "then" if self._fits(value, schema["if"], depth) else "else"
            yield from self.check(value, schema.get(branch, True), where, depth + 1)
        for name, inner in schema.get("dependentSchemas", {}).items():
            if isinstance(value, Mapping) and name in value:
                yield from self.check(value, inner, where, depth + 1)

    def _any(self, value: Any, options: list[Any], where: str, depth: int) -> Iterator[str]:
        first = ""
        for inner in options:
            fault = next(self.check(value, inner, where, depth + 1), None)
            if fault is None:
                return
            first = fault
        yield first if len(options) == 1 else f"{_at(where)}{_shown(value)} is none of the forms allowed"

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise TooMuch(f"the schema refers to {_shown(reference)}, outside itself")
        place = self._root
        for part in reference[1:].split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            elif isinstance(place, Mapping) and name in place:
                place = place[name]
            else:
                raise TooMuch(f"the schema refers to {_shown(reference)}, which it has not")
        return place


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _within(where: str, name: str) -> str:
    return f"{where}.{name}" if where else str(name)


def _matches(pattern: str, text: str) -> bool:
    if len(text) > _MAX_PATTERN_TEXT:
        raise TooMuch(f"{len(text):,} characters are too many to compare with a pattern")
    try:
        return re.search(pattern, text) is not None
    except re.error:
        raise TooMuch(f"the schema's pattern {_shown(pattern)} is no regular expression") from None


def _counted(
    count: int, schema: Mapping[str, Any], names: tuple[str, str], what: str, where: str
) -> Iterator[str]:
    least, most = schema.get(names[0], 0), schema.get(names[1], math.inf)
    if not least <= count <= most:
        bound = f"at least {least}" if count < least else f"at most {most}"
        yield f"{_at(where)}{count} {what}; {bound} are allowed"


def _string(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    yield from _counted(len(value), schema, ("minLength", "maxLength"), "characters", where)
    if isinstance(pattern := schema.get("pattern"), str) and not _matches(pattern, value):
        yield f"{_at(where)}{_shown(value)} does not match {pattern}"


def _number(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    bounds: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("minimum", lambda bound: value >= bound, "less than"),
        ("maximum", lambda bound: value <= bound, "more than"),
        ("exclusiveMinimum", lambda bound: value > bound, "not more than"),
        ("exclusiveMaximum", lambda bound: value < bound, "not less than"),
    )
    for name, holds, words in bounds:
        if name in schema and not holds(schema[name]):
            yield f"{_at(where)}{_shown(value)} is {words} {_shown(schema[name])}"
    if (step := schema.get("multipleOf")) and not _is_integer(value / step):
        yield f"{_at(where)}{_shown(value)} is no multiple of {_shown(step)}"
