"""JSON Schema (draft 2020-12) as a regular pattern: everything but a few keywords, recursion to a depth.

Every text of the pattern is valid under the schema; not every valid text is one of the pattern. It is on one line,
properties come in the schema's order, strings are written without `\\u` escapes, and properties that the schema leaves
free are not written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from kweek.engine.constraints.limits import BeyondAutomaton, GrammarError, Limits, check_text
from kweek.engine.constraints.numbers import NUMBER, between
from kweek.engine.constraints.pattern import (
    NOTHING,
    Chain,
    Characters,
    Either,
    Literal,
    Members,
    Pattern,
    Repeat,
    chain,
    complement,
    normalised,
    optional,
    text,
    trie,
)
from kweek.engine.constraints.syntax import parse_regex

Schema = Mapping[str, Any]

#: One blank after ":" and ",", or none, and no other: free white space lets a small model go on forever.
_BLANK = optional(text(" "))
COMMA, COLON = chain(text(","), _BLANK), chain(text(":"), _BLANK)

_SILENT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "x-guidance"}
)
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "maxProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
_DATE = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_HEX = "[0-9a-f]"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
}
_ESCAPABLE = {34: '"', 92: "\\", 8: "b", 12: "f", 10: "n", 13: "r", 9: "t"}
_PLAIN = complement([(0, 0x1F), (34, 34), (92, 92)])  # characters that a JSON string holds as they are
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MAX_SUBSCHEMAS = 5_000  # compiled, each as often as it is referred to
_MAX_DIGITS = 19  # of a bound: all of 64 bits


def parse_json(source: str, limits: Limits) -> Any:
    """The value of a JSON text.

    Raises:
        GrammarError: it is not JSON, too long, or nested too deep.
    """
    check_text(_QUOTED.sub("", source), limits, brackets="[]{}")
    check_text(source, limits)

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(source, parse_constant=refuse)
    except ValueError as error:
        raise GrammarError(f"it is not JSON ({str(error)[:200]})") from None


def check_patterns(schema: Any, limits: Limits) -> None:
    """Refuse a schema that holds a regular expression beyond the limits, wherever it is.

    Raises:
        GrammarError: naming the expression.
    """
    for expression in _expressions(schema):
        parse_regex(expression, limits, search=True)


def _expressions(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(found := schema.get("pattern"), str):
            yield found
        if isinstance(found := schema.get("patternProperties"), Mapping):
            yield from found
        for value in schema.values():
            yield from _expressions(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _expressions(value)


def schema_pattern(schema: Any, limits: Limits, unroll: int) -> Pattern:
    """The pattern of a schema.

    Args:
        schema: a JSON value.
        limits: the bounds.
        unroll: how often a schema may stand inside itself; texts that nest deeper are left out. With 0 a schema that
            recurs is refused.

    Raises:
        BeyondAutomaton: it recurs and must not, or uses what is not supported here; says what.
        GrammarError: it is no schema, or its expressions are wrong.
    """
    return _Reader(schema, limits, unroll).value(schema, "#")


class _Reader:
    """Reads one schema; `where` is the path to the part that is read."""

    def __init__(self, root: Any, limits: Limits, unroll: int) -> None:
        self._root, self._limits, self._unroll = root, limits, unroll
        self._following = ["#"]  # references being followed; the whole schema is the first
        self._num_read = 0

    def value(self, schema: Any, where: str) -> Pattern:
        self._num_read += 1
        if self._num_read > _MAX_SUBSCHEMAS:
            raise BeyondAutomaton(f"over {_MAX_SUBSCHEMAS:,} parts once references are followed", where=where)
        if schema is False:
            raise BeyondAutomaton("nothing satisfies false", where=where)
        if schema is True or (isinstance(schema, Mapping) and not set(schema) - _SILENT):
            raise BeyondAutomaton("any value may stand here", where=where, fix='give it a "type"')
        if not isinstance(schema, Mapping):
            raise GrammarError("not a schema", where=where)
        for keyword, read in self._applicators().items():
            if keyword in schema:
                self._only(schema, {keyword}, where)
                return read(schema[keyword], f"{where}/{keyword}")
        if "const" in schema or "enum" in schema:
            return self._constants(schema, where)
        return self._typed(schema, where)

    def _applicators(self) -> Mapping[str, Callable[[Any, str], Pattern]]:
        return {"$ref": self._reference, "anyOf": self._any_of, "oneOf": self._one_of, "allOf": self._all_of}

    def _only(self, schema: Schema, keywords: set[str], where: str) -> None:
        """Refuse what stands beside the keywords and changes the meaning."""
        others = sorted(set(schema) - _SILENT - keywords)
        if others:
            raise BeyondAutomaton(f'"{others[0]}" is not supported here', where=where)

    def _reference(self, target: Any, where: str) -> Pattern:
        if not isinstance(target, str) or not target.startswith("#"):
            raise GrammarError(f"a reference to another document ({str(target)[:60]!r})", where=where)
        if self._following.count(target) > self._unroll:
            if self._unroll:
                return NOTHING  # what asks for more cannot be satisfied, and the automaton drops it
            raise BeyondAutomaton("the schema refers to itself", where=where)
        found = self._root
        for key in [unquote(part) for part in target[1:].split("/")[1:]]:
            key = key.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise GrammarError(f"a reference to nothing ({target[:60]!r})", where=where)
        if len(self._following) >= self._limits.depth:
            raise GrammarError(f"references nest deeper than {self._limits.depth}", where=where)
        self._following.append(target)
        pattern = self.value(found, target)
        self._following.pop()
        return pattern

    def _options(self, options: Any, where: str) -> tuple[Pattern, ...]:
        if not isinstance(options, list) or not options:
            raise GrammarError("not a list of schemas", where=where)
        return tuple(self.value(option, f"{where}/{index}") for index, option in enumerate(options))

    def _any_of(self, options: Any, where: str) -> Pattern:
        return Either(self._options(options, where))

    def _one_of(self, options: Any, where: str) -> Pattern:
        """As `anyOf`, where the types say that no value is of two of them."""
        patterns = self._options(options, where)
        types = [option.get("type") if isinstance(option, Mapping) else None for option in options]
        kinds = ["number" if kind == "integer" else kind for kind in types]
        if not all(isinstance(kind, str) for kind in kinds) or len(set(kinds)) < len(kinds):
            raise BeyondAutomaton("two of the options may hold at once", where=where, fix='use "anyOf"')
        return Either(patterns)

    def _all_of(self, options: Any, where: str) -> Pattern:
        patterns = self._options(options, where)
        if len(patterns) > 1:
            raise BeyondAutomaton("several schemas at once are not supported", where=where)
        return patterns[0]

    def _constants(self, schema: Schema, where: str) -> Pattern:
        self._only(schema, {"const", "enum", "type"}, where)
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list):
            raise GrammarError('"enum" is not a list', where=where)
        if "enum" in schema and "const" in schema:
            values = [value for value in values if value == schema["const"]]
        if "type" in schema:
            kinds = self._types(schema, where)
            values = [value for value in values if any(_is_a(value, kind) for kind in kinds)]
        try:
            words = [json.dumps(value, ensure_ascii=False, allow_nan=False).encode() for value in values]
        except ValueError:
            raise GrammarError("a constant that JSON cannot write", where=where) from None
        return trie(words)

    def _types(self, schema: Schema, where: str) -> list[str]:
        kinds = schema.get("type")
        if kinds is None:
            kinds = [kind for kind in ("object", "array", "string") if _KEYWORDS[kind] & set(schema)]
            if len(kinds) != 1:
                raise BeyondAutomaton("no type is given", where=where, fix='give it a "type"')
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not all(isinstance(k, str) and k in _KEYWORDS for k in kinds):
            raise GrammarError(f"unknown type {str(kinds)[:60]}", where=where)
        return kinds

    def _typed(self, schema: Schema, where: str) -> Pattern:
        kinds = self._types(schema, where)
        self._only(schema, {"type"}.union(*(_KEYWORDS[kind] for kind in kinds)), where)
        return Either(tuple(getattr(self, f"_{kind}")(schema, where) for kind in kinds))

    def _null(self, schema: Schema, where: str) -> Pattern:
        return text("null")

    def _boolean(self, schema: Schema, where: str) -> Pattern:
        return Either((text("true"), text("false")))

    def _number(self, schema: Schema, where: str) -> Pattern:
        if _KEYWORDS["integer"] & set(schema):
            raise BeyondAutomaton("bounds of fractions are not supported", where=where)
        return NUMBER

    def _integer(self, schema: Schema, where: str) -> Pattern:
        low: int | None = None
        high: int | None = None
        for keyword, exclusive in (("minimum", 0), ("exclusiveMinimum", 1)):
            if (bound := _bound(schema, keyword, where)) is not None:
                least = math.floor(bound) + 1 if exclusive else math.ceil(bound)
                low = least if low is None else max(low, least)
        for keyword, exclusive in (("maximum", 0), ("exclusiveMaximum", 1)):
            if (bound := _bound(schema, keyword, where)) is not None:
                most = math.ceil(bound) - 1 if exclusive else math.floor(bound)
                high = most if high is None else min(high, most)
        return between(low, high)

    def _string(self, schema: Schema, where: str) -> Pattern:
        low, high = _count(schema, "minLength", where) or 0, _count(schema, "maxLength", where)
        if "pattern" in schema or "format" in schema:
            self._only(schema, {"type", "pattern" if "pattern" in schema else "format"}, where)
            inner = self._content(schema, where)
        else:
            inner = Repeat(_quotable(Characters(complement(()))), low, high)
        return chain(text('"'), inner, text('"'))

    def _content(self, schema: Schema, where: str) -> Pattern:
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise GrammarError('"pattern" is not a text', where=where)
            return _quotable(parse_regex(schema["pattern"], self._limits, search=True))
        if schema["format"] not in list(_FORMATS):
            raise BeyondAutomaton(f"format {str(schema['format'])[:60]!r} is not supported", where=where)
        return parse_regex(_FORMATS[schema["format"]], self._limits)

    def _array(self, schema: Schema, where: str) -> Pattern:
        low, high = _count(schema, "minItems", where) or 0, _count(schema, "maxItems", where)
        if high == 0 and low == 0:
            return text("[]")
        item = self.value(schema.get("items", True), f"{where}/items")
        if high is not None and high < max(low, 1):
            raise GrammarError(f"at least {low} and at most {high} items", where=where)
        more = Repeat(chain(COMMA, item), max(low - 1, 0), None if high is None else high - 1)
        filled = chain(item, more)
        return chain(text("["), filled if low else optional(filled), text("]"))

    def _object(self, schema: Schema, where: str) -> Pattern:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise GrammarError('"properties" is not an object, or "required" not a list', where=where)
        # An object of which nothing is said is any object; of one with properties, no others are written.
        extra = schema.get("additionalProperties", "properties" not in schema)
        if missing := [str(name)[:60] for name in required if name not in properties]:
            raise BeyondAutomaton(f'"{missing[0]}" is required but not among the properties', where=where)
        if properties and extra is not False and extra is not True:
            raise BeyondAutomaton("properties beside free names are not supported", where=where)
        if not properties and extra is not False:
            value = self.value(extra, f"{where}/additionalProperties")
            entry = chain(self._string({}, where), COLON, value)
            most = _count(schema, "maxProperties", where)
            if most == 0:
                return text("{}")
            more = Repeat(chain(COMMA, entry), 0, None if most is None else most - 1)
            return chain(text("{"), optional(chain(entry, more)), text("}"))
        self._only(schema, {"type", "properties", "required", "additionalProperties"}, where)
        items: list[tuple[Pattern, bool]] = []
        for name, inner in properties.items():
            key = text(json.dumps(name, ensure_ascii=False))
            value = self.value(inner, f"{where}/properties/{name[:60]}")
            items.append((chain(key, COLON, value), name in required))
        return chain(text("{"), Members(tuple(items), COMMA), text("}"))


def _is_a(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a schema's type."""
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int():
            return kind in ("integer", "number")
        case float():
            return kind == "number" or (kind == "integer" and value.is_integer())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
        case _:
            return kind == "object"


def _bound(schema: Schema, keyword: str, where: str) -> int | float | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GrammarError(f'"{keyword}" is not a number', where=where)
    if abs(value) >= 10**_MAX_DIGITS:
        raise BeyondAutomaton(f'"{keyword}" has over {_MAX_DIGITS} digits', where=where)
    return value


def _count(schema: Schema, keyword: str, where: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GrammarError(f'"{keyword}" is not a count', where=where)
    return value


def _quotable(pattern: Pattern) -> Pattern:
    """A pattern of texts as a pattern of what stands for them between the quotation marks of JSON."""
    match pattern:
        case Characters(ranges):
            escapes = [letter for point, letter in _ESCAPABLE.items() if _holds(ranges, point)]
            plain = Characters(_common(ranges))
            if not escapes:
                return plain
            letters = Characters(normalised((ord(letter), ord(letter)) for letter in escapes))
            return Either((plain, chain(text("\\"), letters)))
        case Chain(parts):
            return Chain(tuple(map(_quotable, parts)))
        case Either(options):
            return Either(tuple(map(_quotable, options)))
        case Repeat(part, low, high):
            return Repeat(_quotable(part), low, high)
        case Literal(data):
            return chain(*(_quotable(Characters(((ord(c), ord(c)),))) for c in data.decode()))
        case _:
            raise TypeError(f"{type(pattern).__name__} does not come from a regular expression")


def _holds(ranges: tuple[tuple[int, int], ...], point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)


def _common(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The part of some ranges that a JSON string holds as it is."""
    pairs = [
        (max(low, first), min(high, last))
        for low, high in ranges
        for first, last in _PLAIN
        if max(low, first) <= min(high, last)
    ]
    return normalised(pairs)
