"""Regular expressions as text: a parser of the part that is regular, with clear words for the rest.

Read: literals, `.`, classes, groups (named ones too), `|`, `* + ? {m} {m,} {m,n}` (a lazy `?` after them changes no
language and is passed over), `\\d \\w \\s` in their ASCII meaning (as JSON Schema's ECMA 262 has them), `\\xHH`,
`\\uHHHH`, `\\u{H}`, `\\x{H}`, and `^` and `$` where they are at an end anyway. Refused by name: look-arounds,
backreferences, word boundaries, flags, atomic groups, possessive quantifiers, Unicode properties.
"""

from __future__ import annotations

import re

from kweek.engine.constraints.limits import GrammarError, Limits, check_text
from kweek.engine.constraints.pattern import (
    ANY,
    DOT,
    Chain,
    Characters,
    Either,
    Literal,
    Pattern,
    Ranges,
    Repeat,
    complement,
    normalised,
    num_positions,
)
from kweek.engine.constraints.utf8 import LAST

_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 13), (32, 32))
_SETS = {
    "d": _DIGIT, "D": complement(_DIGIT), "w": _WORD, "W": complement(_WORD), "s": _SPACE, "S": complement(_SPACE),
}  # fmt: skip
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "a": 7, "0": 0}
_REFUSED_ESCAPES = {
    **dict.fromkeys("bBAzZG", "anchors and word boundaries are not supported"),
    **dict.fromkeys("pP", "Unicode properties are not supported"),
    **dict.fromkeys("123456789kg", "backreferences are not regular"),
}
_REFUSED_GROUPS = {
    "=": "look-aheads are not supported", "!": "look-aheads are not supported",
    "<=": "look-behinds are not supported", "<!": "look-behinds are not supported",
    ">": "atomic groups are not supported", "P=": "backreferences are not regular",
    "(": "conditions are not regular", "#": "comments are not supported",
}  # fmt: skip
_NAME = re.compile(r"P?<([A-Za-z_]\w*)>")
_COUNT = re.compile(r"\{(\d+)(,(\d*))?\}")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|[xu]\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_ANYTHING = Repeat(Characters(ANY), 0, None)


def parse_regex(source: str, limits: Limits, *, search: bool = False) -> Pattern:
    """The pattern that a regular expression means.

    Args:
        source: the expression.
        limits: bounds on its length, depth and size.
        search: whether it need only occur in the text (JSON Schema's `pattern`) rather than be all of it.

    Raises:
        GrammarError: with the place and what is wrong or not supported there.
    """
    check_text(source, limits)
    parser = _Parser(source, limits, search)
    pattern = parser.alternatives(0)
    if parser.place < len(source):
        raise parser.error("unbalanced )")
    if (size := num_positions(pattern)) > limits.positions:
        raise GrammarError(
            f"its repeats written out have {size:,} characters, more than {limits.positions:,}",
            fix="repeat less often",
        )
    return pattern


class _Parser:
    """Recursive descent; recursion is bounded by the depth of groups."""

    def __init__(self, source: str, limits: Limits, search: bool) -> None:
        self.source, self.limits, self.search, self.place = source, limits, search, 0

    def error(self, what: str) -> GrammarError:
        start = max(0, self.place - 10)
        return GrammarError(f"{what}, at character {self.place} ({self.source[start : self.place + 10]!r})")

    def at(self, word: str) -> bool:
        """Whether `word` comes next; then it is passed."""
        if self.source.startswith(word, self.place):
            self.place += len(word)
            return True
        return False

    def alternatives(self, depth: int) -> Pattern:
        if depth > self.limits.depth:
            raise self.error(f"groups nest deeper than {self.limits.depth}")
        options = [self.branch(depth)]
        while self.at("|"):
            options.append(self.branch(depth))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def branch(self, depth: int) -> Pattern:
        parts: list[Pattern] = []
        free_start, free_end = (self.search and depth == 0,) * 2
        if depth == 0 and self.at("^"):
            free_start = False
        while self.place < len(self.source) and self.source[self.place] not in "|)":
            if self.source[self.place] == "$" and depth == 0 and self._ends_branch():
                self.place += 1
                free_end = False
                break
            parts.append(self.quantified(self.atom(depth)))
        inner: Pattern = parts[0] if len(parts) == 1 else Chain(tuple(parts))
        if free_start or free_end:
            inner = Chain((*([_ANYTHING] * free_start), inner, *([_ANYTHING] * free_end)))
        return inner

    def _ends_branch(self) -> bool:
        return self.source[self.place + 1 : self.place + 2] in ("", "|")

    def quantified(self, atom: Pattern) -> Pattern:
        bounds = self._bounds()
        if bounds is None:
            return atom
        low, high = bounds
        if high is not None and high < low:
            raise self.error(f"a repeat of at least {low} and at most {high}")
        if self.at("+"):
            raise self.error("possessive quantifiers are not supported")
        self.at("?")
        if self._bounds() is not None:
            raise self.error("a repeat of a repeat; put the inner one in brackets")
        return Repeat(atom, low, high)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.at(sign):
                return bounds
        if found := _COUNT.match(self.source, self.place):
            if len(found[0]) > 24:
                raise self.error("a count with too many digits")
            self.place = found.end()
            low = int(found[1])
            return low, (low if found[2] is None else int(found[3]) if found[3] else None)
        return None

    def atom(self, depth: int) -> Pattern:
        character = self.source[self.place]
        if character in "*+?":
            raise self.error("nothing to repeat")
        if character in "^$":
            raise self.error("an anchor inside the expression")
        self.place += 1
        match character:
            case "(":
                return self.group(depth)
            case "[":
                return Characters(self.character_class())
            case ".":
                return Characters(DOT)
            case "\\":
                return Characters(self.escape(in_class=False))
            case _:
                return Literal(character.encode())

    def group(self, depth: int) -> Pattern:
        if self.at("?") and not self.at(":"):
            if name := _NAME.match(self.source, self.place):
                self.place = name.end()
            else:
                for sign, what in _REFUSED_GROUPS.items():
                    if self.source.startswith(sign, self.place):
                        raise self.error(what)
                raise self.error("flags inside the expression are not supported")
        elif self.source[self.place - 1] == "(" and self.at("*"):
            raise self.error("verbs are not supported")
        inner = self.alternatives(depth + 1)
        if not self.at(")"):
            raise self.error("a group that is not closed")
        return inner

    def escape(self, *, in_class: bool) -> Ranges:
        """The characters that what follows a backslash means."""
        if self.place >= len(self.source):
            raise self.error("a backslash at the end")
        letter = self.source[self.place]
        if in_class and letter == "b":
            self.place += 1
            return ((8, 8),)
        if letter in _REFUSED_ESCAPES:
            raise self.error(_REFUSED_ESCAPES[letter])
        if found := _HEX.match(self.source, self.place):
            self.place = found.end()
            point = int(next(digits for digits in found.groups() if digits), 16)
            if point > LAST or 0xD800 <= point <= 0xDFFF:
                raise self.error(f"U+{point:04X} is not a character")
            return ((point, point),)
        self.place += 1
        if letter in _SETS:
            return _SETS[letter]
        if letter in _CONTROLS:
            return ((_CONTROLS[letter],) * 2,)
        if letter.isascii() and letter.isalnum():
            raise self.error(f"an unknown escape \\{letter}")
        return ((ord(letter),) * 2,)

    def character_class(self) -> Ranges:
        negated = self.at("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while True:
            if self.place >= len(self.source):
                raise self.error("a class that is not closed")
            if not first and self.at("]"):
                break
            if self.source.startswith(("[:", "&&", "--", "~~", "||"), self.place):
                raise self.error("operations in classes are not supported")
            first = False
            ranges += self._class_item()
        if negated:
            return complement(ranges)
        return normalised(ranges)

    def _class_item(self) -> Ranges:
        low = self._class_character()
        dash = self.source[self.place : self.place + 1] == "-"
        if not dash or self.source[self.place + 1 : self.place + 2] in ("]", ""):
            return low
        self.place += 1
        high = self._class_character()
        single = len(low) == len(high) == 1 and low[0][0] == low[0][1] and high[0][0] == high[0][1]
        if not single or high[0][0] < low[0][0]:
            raise self.error("a range without two ends in order")
        return ((low[0][0], high[0][0]),)

    def _class_character(self) -> Ranges:
        character = self.source[self.place]
        self.place += 1
        return self.escape(in_class=True) if character == "\\" else ((ord(character),) * 2,)
