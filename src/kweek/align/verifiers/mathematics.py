"""Mathematical answers that are equal, however they are written: 1/2 and 0.5, x(x+1) and x^2+x, 2<x and x>2.

Both are read by `kweek.align.verifiers.expression`, which runs nothing, and compared by sympy in a process that is
killed when it takes too long. No signal is used: verifiers that bound themselves by SIGALRM fail outside the main
thread, and a trainer that took their failure for 0 learnt from noise (verl, pull request 5635). A gold answer that
cannot be read is an error and never right (as it was in open-r1, issue 215).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from kweek.align.verifiers.expression import Tree, parse
from kweek.align.verifiers.expression_words import Unreadable
from kweek.align.verifiers.extras import require
from kweek.align.verifiers.mathematics_worker import compare
from kweek.align.verifiers.numbers import quantity
from kweek.align.verifiers.reading import Reading, final_answer
from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.compute.isolation import Failure, Isolated
from kweek.protocols import Score

_SECONDS = 3.0  # sympy takes some milliseconds for nearly all answers
_MEMORY_BYTES = 512 << 20


@dataclass(frozen=True)
class Mathematics:
    """1 when the answer is mathematically the gold one.

    Read are numbers, expressions, equations and inequalities, ± and lists, points, intervals and their unions, sets
    and matrices, in plain text or LaTeX. An equation for one unknown (x = 5) is as good as its right-hand side.

    Attributes:
        reading: where the answer stands; "whole" by default, "boxed" for models that were taught to box.
        seconds: for comparing two answers; then it is an error.

    Raises:
        ConfigError: sympy is not installed.
    """

    reading: Reading = "whole"
    seconds: float = _SECONDS

    def __post_init__(self) -> None:
        require("sympy", "verifiers", "judging symbolic mathematics")

    def __call__(self, answer: str, gold: str) -> Score:
        try:
            wanted = parse(gold)
        except Unreadable as error:
            return failed(f"the gold answer {gold[:40]!r} cannot be read: {error}")
        said = final_answer(answer, self.reading)
        if said is None:
            return UNREADABLE
        try:
            tree = parse(said)
        except Unreadable:
            return UNREADABLE
        return self._compared(tree, wanted, said, gold)

    def _compared(self, said: Tree, wanted: Tree, answer: str, gold: str) -> Score:
        one, other = quantity(answer), quantity(gold)
        if one and other and not one.unit and not other.unit:
            return judged(one.value == other.value)  # two plain numbers need no algebra
        try:
            found = _comparison(self.seconds)([said, wanted])
        except Failure as error:
            return failed(f"the comparison gave nothing: {error}", parsed=True)
        if found == "gold":
            return failed(f"the gold answer {gold[:40]!r} has no value", parsed=True)
        return UNREADABLE if found == "answer" else judged(bool(found))


@functools.cache
def _comparison(seconds: float) -> Isolated:
    """The workers of all verifiers with one time limit."""
    return Isolated(compare, seconds=seconds, memory_bytes=_MEMORY_BYTES)
