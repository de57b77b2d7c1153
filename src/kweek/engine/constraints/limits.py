"""What a grammar may cost, and the error for one that is wrong or costs more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kweek.errors import KweekError


class GrammarError(KweekError):
    """A grammar that cannot be meant, cannot be satisfied, or asks for more than its limits."""


class BeyondAutomaton(GrammarError):
    """A grammar that the own automaton does not cover; another provider may."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what strangers may ask for.

    Attributes:
        text_bytes: of the regular expression, schema or grammar as UTF-8.
        depth: of brackets within brackets.
        positions: letters of a regular expression once its repeats are written out.
        states: of the own automaton.
        seconds: for compiling, from asking to having; then the worker is killed.
        mask_seconds: for one mask in the trial that llguidance's grammars pass before they are used.
        memory_bytes: that a compilation may add to the worker.
    """

    text_bytes: int = 1 << 18  # the largest published tool lists have some 100 kB
    depth: int = 64  # schemas in use stay below 20; every parser below it survives 64
    positions: int = 100_000  # llguidance holds some 100 bytes for each
    states: int = 20_000  # 8 MB of table; a string of at most 1,000 characters has 8,000
    seconds: float = 5.0  # a hundred times what common grammars need, on a busy core too
    mask_seconds: float = 0.25  # a step of a large batch; common masks take less than a thousandth of it
    memory_bytes: int = 512 << 20  # ten times what the largest accepted grammars were seen to use

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise GrammarError(f"the limit {name} is {value}", fix="give a positive number")


def check_text(text: str, limits: Limits, *, brackets: str = "") -> None:
    """Refuse a text that is not Unicode, too long, or nested too deep; linear in its length.

    Args:
        text: a schema, regular expression or grammar.
        limits: the bounds.
        brackets: pairs that nest, such as "[]{}"; counted whether quoted or not.

    Raises:
        GrammarError: one of the three.
    """
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise GrammarError(f"character {error.start} is half of a surrogate pair, not text") from None
    if num_bytes > limits.text_bytes:
        raise GrammarError(
            f"it has {num_bytes:,} bytes, more than {limits.text_bytes:,}", fix="make the grammar smaller"
        )
    if brackets:
        depth, opening, closing = 0, set(brackets[::2]), set(brackets[1::2])
        for character in text:
            if character in opening:
                depth += 1
                if depth > limits.depth:
                    raise GrammarError(f"brackets nest deeper than {limits.depth}", fix="flatten the grammar")
            elif character in closing:
                depth = max(0, depth - 1)
