"""Regular patterns over text: the tree between a syntax (regular expression, JSON Schema) and an automaton."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kweek.engine.constraints.utf8 import LAST, byte_sequences

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included, ascending and apart


@dataclass(frozen=True)
class Literal:
    """Exactly these bytes (UTF-8 of whole characters)."""

    data: bytes


@dataclass(frozen=True)
class Control:
    """One control token of the vocabulary, by its id."""

    token_id: int


@dataclass(frozen=True)
class Characters:
    """One character out of a set; an empty set matches nothing."""

    ranges: Ranges


@dataclass(frozen=True)
class Chain:
    """One after another."""

    parts: tuple[Pattern, ...]


@dataclass(frozen=True)
class Either:
    """One of several; of none it matches nothing."""

    options: tuple[Pattern, ...]


@dataclass(frozen=True)
class Repeat:
    """`low` to `high` times; `high` None is without end."""

    part: Pattern
    low: int
    high: int | None


@dataclass(frozen=True)
class Members:
    """Items in this order with a separator between those that are there; each with whether it must be.

    A node of its own because an expression without sharing takes a square of the items.
    """

    items: tuple[tuple[Pattern, bool], ...]
    separator: Pattern


Pattern = Literal | Control | Characters | Chain | Either | Repeat | Members


NOTHING = Either(())  # matches no text


def text(value: str) -> Literal:
    """A literal text."""
    return Literal(value.encode())


def chain(*parts: Pattern) -> Chain:
    """One after another."""
    return Chain(parts)


def optional(part: Pattern) -> Repeat:
    """Once or not at all."""
    return Repeat(part, 0, 1)


def normalised(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges ascending, joined where they touch, without surrogates (which no UTF-8 has)."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return _without(result, 0xD800, 0xDFFF)


def complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All characters that are not in the ranges."""
    result, start = [], 0
    for low, high in normalised(ranges):
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        result.append((start, LAST))
    return _without(result, 0xD800, 0xDFFF)


def _without(ranges: Iterable[tuple[int, int]], first: int, last: int) -> Ranges:
    kept = []
    for low, high in ranges:
        if low < first:
            kept.append((low, min(high, first - 1)))
        if high > last:
            kept.append((max(low, last + 1), high))
    return tuple(kept)


ANY: Ranges = complement(())  # every character
DOT: Ranges = complement([(10, 10)])  # every character but the newline


def num_positions(pattern: Pattern) -> int:
    """Bytes and character sets of a pattern with its repeats written out: its size as an automaton, roughly."""
    match pattern:
        case Literal(data):
            return len(data)
        case Control():
            return 1
        case Characters(ranges):
            return max(1, len(byte_sequences(ranges)))
        case Chain(parts) | Either(parts):
            return 1 + sum(num_positions(part) for part in parts)
        case Repeat(part, low, high):
            return 1 + num_positions(part) * max(1, low if high is None else high)
        case Members(items, separator):
            between = num_positions(separator)
            return 1 + sum(num_positions(item) + between for item, _ in items)


def rust_regex(pattern: Pattern) -> str:
    """The pattern as a regular expression of Rust's `regex` crate, every character written by its number.

    Raises:
        TypeError: the pattern holds members or control tokens, which no regular expression has.
    """
    match pattern:
        case Literal(data):
            return "".join(_escape(ord(character)) for character in data.decode())
        case Characters(ranges):
            if not ranges:
                return r"[^\x{0}-\x{10FFFF}]"
            return "[" + "".join(f"{_escape(low)}-{_escape(high)}" for low, high in ranges) + "]"
        case Chain(parts):
            return "".join(_group(part) for part in parts)
        case Either(options):
            return "|".join(_group(part) for part in options) if options else r"[^\x{0}-\x{10FFFF}]"
        case Repeat(part, low, high):
            return f"{_group(part)}{{{low},{'' if high is None else high}}}"
    raise TypeError(f"{type(pattern).__name__} is not regular-expression syntax")


def _group(pattern: Pattern) -> str:
    inner = rust_regex(pattern)
    return inner if isinstance(pattern, Characters) else f"(?:{inner})"


def _escape(point: int) -> str:
    character = chr(point)
    return character if character.isascii() and character.isalnum() else f"\\x{{{point:X}}}"


def trie(words: Sequence[bytes]) -> Either:
    """One of the words; the automaton finds their common beginnings itself."""
    return Either(tuple(Literal(word) for word in words))
