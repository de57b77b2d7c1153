"""Regular expressions and schemas that nobody means well with, drawn by seed: for `engine/grammar.py` and a test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Draw = random.Random

_OTHER_DIALECTS = [
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!ab)",
    "(a)\\1",
    "\\k<x>",
    "(?P=x)",
    "\\b",
    "\\p{L}",
    "(?i)",
    "(?>a)",
    "a++",
    "(?(1)a|b)",
    "(?R)",
    "(*COMMIT)",
    "\\Q..\\E",
    "[[:alpha:]]",
    "[a&&b]",
    "\\N{BEE}",
    "(?#c)",
    "\\G",
    "\\",
]
_COUNTS = [
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "minContains",
]
_APPLICATORS = [
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "contains",
    "prefixItems",
    "dependentSchemas",
    "properties",
]
_KEYWORDS = [
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "$ref",
    "$defs",
    "anyOf",
    "allOf",
    "pattern",
    "format",
    "additionalProperties",
    "minLength",
    "x-guidance",
    "$id",
    "unknown",
    "\udfff",
    "prefixItems",
    "title",
]


def hostile(seed: int) -> tuple[str, Any]:
    """("regex", text) or ("schema", text, bytes or value), the two in turn, every family equally often."""
    draw = Draw(f"hostile {seed}")
    families: list[Callable[[Draw], Any]] = SCHEMAS if seed % 2 else EXPRESSIONS
    return ("schema" if seed % 2 else "regex"), families[seed // 2 % len(families)](draw)


# -- regular expressions


def _counted(draw: Draw) -> str:
    """Repeats of repeats of repeats."""
    text = draw.choice(["a", "[a-z]", ".", r"\w", "(?:é|日)"])
    for _ in range(draw.randint(1, 5)):
        low = draw.choice([0, 1, 2, 10, 100, 1000, 65536, 10**9])
        text = f"({text}){{{low},{draw.choice(['', low, low * 2, low + 1])}}}"
    return text


def _ambiguous(draw: Draw) -> str:
    """Alternatives that overlap, repeated without end."""
    parts = "|".join(
        draw.choices(["a", "aa", "a*", "a?", "(a|b)", ".a", "a.", "[ab]", r"\w", ""], k=draw.randint(2, 9))
    )
    text = f"({parts}){draw.choice('*+')}"
    return f"({text}b?){draw.choice('*+')}" * draw.randint(1, 6) + "c"


def _lookback(draw: Draw) -> str:
    """Automata of two to the power of n states."""
    n = draw.choice([3, 8, 12, 16, 20, 40, 200, 2000])
    return (
        draw.choice(["(a|b)*a(a|b){%d}", "(.*a.{%d})*", "(a?){%d}a*", "[^b]*a[^c]{%d}", r"(\w*\d\w{%d}|x)*"])
        % n
    )


def _deep(draw: Draw) -> str:
    n = draw.choice([10, 60, 64, 65, 1000, 50_000])
    return "(" * n + "a" + ")" * draw.choice([n, n, n - 1, n + 1]) + draw.choice(["", "*", "+" * n])


def _unsupported(draw: Draw) -> str:
    """What is not regular, or another dialect."""
    return "x" * draw.randint(0, 3) + "".join(draw.choices(_OTHER_DIALECTS, k=draw.randint(1, 3))) + "(a|b)*"


def _garbage(draw: Draw) -> str:
    alphabet = "()[]{}|*+?.^$\\-,:=!<>0123456789abdswxu \n\x00é日𝄞\u202e" + chr(0xD800) * (
        draw.random() < 0.1
    )
    return "".join(draw.choices(alphabet, k=draw.choice([3, 10, 40, 300])))


def _long(draw: Draw) -> str:
    n = draw.choice([100, 3_000, 30_000, 300_000])
    unit = draw.choice(["a?", "(a|b)", "[^x]", "é", "a|", "a{2}", ".*"])
    return unit * (n // len(unit)) + "z" * draw.randint(0, 1)


def _characters(draw: Draw) -> str:
    """Classes of thousands of ranges, over all of Unicode."""
    ranges = []
    for _ in range(draw.choice([1, 50, 2000])):
        low = draw.randrange(0x10FF00)
        if not 0xD700 <= low <= 0xDFFF:
            ranges.append(f"\\u{{{low:x}}}-\\u{{{low + draw.randrange(200):x}}}")
    return f"[{draw.choice(['', '^'])}{''.join(ranges)}]{draw.choice(['', '*', '{3}', '{1,40}'])}"


def _mutated(draw: Draw) -> str:
    """An expression in use with some characters changed."""
    text = list(draw.choice([r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?Z$", r"[\w.+-]+@[\w-]+(\.[\w-]+)+",
                             r"(https?|ftp)://[^\s/$.?#][^\s]*", r"\+?(\d{1,3}[ -]?){2,5}\d{2,4}"]))  # fmt: skip
    for _ in range(draw.randint(0, 4)):
        text[draw.randrange(len(text))] = draw.choice("()[]{}*+?|\\^$.é0")
    return "".join(text)


EXPRESSIONS = [_counted, _ambiguous, _lookback, _deep, _unsupported, _garbage, _long, _characters, _mutated]


# -- schemas


def _nested(draw: Draw) -> Any:
    n = draw.choice([5, 30, 63, 64, 200, 5_000])
    opening, closing = draw.choice([('{"type":"array","items":', "}"), ('{"anyOf":[', "]}"),
                                    ('{"type":"object","properties":{"a":', "}}"), ("[", "]")])  # fmt: skip
    return opening * n + '{"type":"null"}' + closing * n


def _referring(draw: Draw) -> Any:
    """Chains, circles and doublings of references, and references to nothing."""
    n = draw.choice([1, 5, 40, 400])
    many = draw.randint(1, 3)
    wraps: list[Callable[[list[Any]], Any]] = [
        lambda r: r[0],
        lambda r: {"anyOf": r},
        lambda r: {"allOf": r},
        lambda r: {"type": "array", "items": {"anyOf": r}},
        lambda r: {"type": "object", "properties": {f"p{i}": x for i, x in enumerate(r)}, "required": ["p0"]},
    ]
    wrap = draw.choice(wraps)
    definitions = {f"d{i}": wrap([{"$ref": f"#/$defs/d{i + 1}"}] * many) for i in range(n)}
    ends: list[Any] = [{"type": "null"}, {}, True, False]
    ends += [{"$ref": target} for target in ("#/$defs/d0", "#", "#/no", "file:///x", 3)]
    last = draw.choice(ends)
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{n}": last}}


def _listing(draw: Draw) -> Any:
    """Huge enumerations and many properties."""
    n = draw.choice([10, 500, 5_000, 40_000])
    match draw.randrange(4):
        case 0:
            return {
                "enum": [draw.choice([i, str(i), f"{i}" * 20, [i], {"a": i}, None, i / 7]) for i in range(n)]
            }
        case 1:
            return {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(n // 20)}}
        case 2:
            return {"type": "object", "properties": {}, "required": [f"k{i}" for i in range(n // 20)]}
        case _:
            return {
                "anyOf": [
                    {"type": "object", "properties": {f"k{i % 7}": {"const": i}}} for i in range(n // 10)
                ]
            }


def _bounded(draw: Draw) -> Any:
    """Counts and bounds of any size and sense."""
    numbers = [
        0,
        -1,
        1,
        3.5,
        1e308,
        -1e-308,
        10**18,
        10**30,
        10**400,
        "1",
        None,
        True,
        1000,
        100_000,
        2**31,
        0.1,
    ]
    schema: dict[str, Any] = {key: draw.choice(numbers) for key in draw.sample(_COUNTS, draw.randint(1, 5))}
    kinds = ["string", "array", "integer", "number", "object"]
    schema["type"] = draw.choice([*kinds, kinds, "text", 3])
    return {**schema, "items": draw.choice([{"type": "string"}, {"type": "null"}, True, schema.copy()])}


def _patterned(draw: Draw) -> Any:
    expression = draw.choice(EXPRESSIONS)(draw)
    string = {"type": "string", "pattern": expression, **({"maxLength": 10} if draw.random() < 0.3 else {})}
    shapes = [
        string,
        {"type": "object", "patternProperties": {expression: string}},
        {"type": "object", "properties": {"a": string, "b": string}, "required": ["a"]},
        {"anyOf": [string, string]},
        {"allOf": [string, {"type": "string", "pattern": "a.*"}]},
    ]
    return draw.choice(shapes)


def _combined(draw: Draw, depth: int = 4) -> Any:
    """Applicators within applicators, contradictions among them."""
    if depth == 0 or draw.random() < 0.2:
        required = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "b"]}
        integer = {"type": "integer", "minimum": 3}
        leaves = [required, integer, {"type": "string"}, {"const": 1}, {"enum": []}, True, False, {}]
        return draw.choice(leaves)
    inner = [_combined(draw, depth - 1) for _ in range(draw.randint(1, 4))]
    key = draw.choice(_APPLICATORS)
    if key in ("not", "if", "contains"):
        return {key: inner[0], "then": inner[-1]}
    if key in ("properties", "dependentSchemas"):
        return {
            "type": "object",
            key: {f"p{i}": x for i, x in enumerate(inner)},
            "additionalProperties": draw.choice(inner),
        }
    return {key: inner, **({"type": "object"} if draw.random() < 0.3 else {})}


def _wrong_types(draw: Draw) -> Any:
    """Keywords with values that they never have, options of the library, keys from nowhere."""
    values = [3, "x", None, [], {}, [[]], {"a": []}, True, -1, [None], {"": {}}, "\ud800", "\x00", 1e999]
    return {key: draw.choice(values) for key in draw.sample(_KEYWORDS, draw.randint(1, 6))}


def _broken(draw: Draw) -> Any:
    """JSON text and bytes that are none, or hardly."""
    text = json.dumps(
        {"type": "object", "properties": {"é": {"type": "string", "format": "date"}}, "required": ["é"]}
    )
    data = bytearray(text.encode())
    for _ in range(draw.randint(0, 5)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    cut = data[: draw.randint(0, len(data))] if draw.random() < 0.3 else data
    return (
        bytes(cut)
        if draw.random() < 0.7
        else cut.decode("utf-8", draw.choice(["replace", "surrogateescape"]))
    )


SCHEMAS = [_nested, _referring, _listing, _bounded, _patterned, _combined, _wrong_types, _broken]
