"""The calculator: a tool called in the middle of a thought, whose result enters as tokens that nobody sampled.

The model writes `<tool>12*3<result>`; the calculator appends `36</result>`. It adds, subtracts and multiplies
whole numbers of at most six digits and knows nothing else, so it needs no sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from kweek.tokenize.tokenizer import Tokenizer

EXPRESSION = re.compile(r"\s*(-?\d{1,6})\s*([-+*])\s*(-?\d{1,6})\s*")
UNREADABLE = "?"  # what the calculator answers to anything else; the model sees it and may try again


def calculate(expression: str) -> str:
    """The value of one sum, difference or product of two whole numbers, or `?`.

    >>> calculate("12*3"), calculate("7-9"), calculate("2**9")
    ('36', '-2', '?')
    """
    match = EXPRESSION.fullmatch(expression)
    if match is None:
        return UNREADABLE
    left, sign, right = int(match[1]), match[2], int(match[3])
    return str(left + right if sign == "+" else left - right if sign == "-" else left * right)


class Calculator:
    """A `TokenInterceptor`: answers the call that the last token has just closed.

    It reads the call from all ids so far, so a call opened in the prompt is answered too.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._open, self._result, self._close = (
            tokenizer.special[name] for name in ("<tool>", "<result>", "</result>")
        )
        self.trigger_ids = frozenset({self._result})
        # Samples of one question call the same things: the tokenizer costs more than the sum.
        self._answer = lru_cache(maxsize=4096)(self._answered)

    def __call__(self, token_ids: Sequence[int]) -> list[int]:
        if not token_ids or token_ids[-1] != self._result:
            return []
        expression: list[int] = []
        for token in reversed(token_ids[:-1]):
            if token == self._open:
                return [*self._answer(tuple(reversed(expression)))]
            if token in (self._result, self._close) or len(expression) > 32:
                break
            expression.append(token)
        return [*self._tokenizer.encode(UNREADABLE), self._close]  # a result was asked for without a call

    def _answered(self, expression: tuple[int, ...]) -> tuple[int, ...]:
        text = self._tokenizer.decode(list(expression))
        return (*self._tokenizer.encode(calculate(text)), self._close)
