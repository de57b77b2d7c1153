"""A calculator for models without a vocabulary of its own: a call is ordinary text in the middle of an answer.

The model writes `<<48/2=`, the calculator appends `24>>`: the annotation of GSM8K's worked solutions (Cobbe et al.
2021, arXiv 2110.14168). Any tokenizer spells it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kweek.system.arithmetic import MAX_LENGTH, Unreadable, evaluate, written
from kweek.system.calculator import UNREADABLE
from kweek.tokenize.tokenizer import Tokenizer

_OPEN_CALL = re.compile(rf"<<([^<>=]{{1,{MAX_LENGTH}}})=\Z")
_CALL = re.compile(r"(<<[^<>=]+=)([^<>=]*>>)")
_MAX_TOKENS = MAX_LENGTH + 4  # no token is shorter than a character, so these hold every call


def pieces(text: str) -> list[tuple[str, bool]]:
    """A worked solution in parts: what the model writes itself (true) and what the calculator says (false).

    >>> pieces("It is <<2+3=5>>5.")
    [('It is <<2+3=', True), ('5>>', False), ('5.', True)]
    """
    parts: list[tuple[str, bool]] = []
    at = 0
    for match in _CALL.finditer(text):
        parts += [(text[at : match.end(1)], True), (match[2], False)]
        at = match.end()
    return [*parts, (text[at:], True)] if at < len(text) else parts


class InlineCalculator:
    """A `TokenInterceptor` over calls that are spelled as text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.trigger_ids = frozenset(
            index for index in range(tokenizer.vocab_size) if tokenizer.token_bytes(index).endswith(b"=")
        )

    def __call__(self, token_ids: Sequence[int]) -> list[int]:
        if not token_ids or token_ids[-1] not in self.trigger_ids:
            return []
        call = _OPEN_CALL.search(self._tokenizer.decode(list(token_ids[-_MAX_TOKENS:])))
        if call is None:
            return []
        try:
            value = written(evaluate(call[1]))
        except Unreadable:
            value = UNREADABLE
        return self._tokenizer.encode(f"{value}>>")
