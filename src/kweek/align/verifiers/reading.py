"""Where in a text the answer stands.

Every reading gives at most one answer, so that a list of guesses is not a right answer with others beside it.
"""

from __future__ import annotations

import re
from typing import Literal

Reading = Literal["whole", "boxed", "marked", "last"]

MAX_ANSWER_CHARS = 2_000  # a longer answer to a question with one answer is no answer
_BOXES = ("\\boxed{", "\\fbox{")
_MARK = re.compile(r"####|\b(?:final answer|answer)\b(?:\s{1,3}is\b)?\s{0,3}:?", re.IGNORECASE)
_WRAPPINGS = (
    ("**", "**"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("`", "`"),
    ("\\text{", "}"),
)


def final_answer(text: str, reading: Reading) -> str | None:
    """The answer in a text, None where there is none in the place asked for.

    Args:
        text: what the model said.
        reading: "whole" takes all of it; "boxed" what the last `\\boxed{…}` holds, braces balanced; "marked" the rest
            of the line after the last "####" or "answer is" / "answer:"; "last" leaves it to a verifier that knows
            what an answer looks like, and is the whole text here.

    >>> final_answer("so \\\\boxed{\\\\frac{1}{2}}.", "boxed")
    '\\\\frac{1}{2}'
    >>> final_answer("The answer is **12**.", "marked")
    '12'
    """
    if reading == "boxed":
        found = _boxed(text)
    elif reading == "marked":
        found = _marked(text)
    else:
        found = text.strip()
    return found if found and (reading == "last" or len(found) <= MAX_ANSWER_CHARS) else None


def _boxed(text: str) -> str | None:
    start, box = max((text.rfind(box), box) for box in _BOXES)
    if start < 0:
        return None
    depth = 1
    begin = start + len(box)
    for at in range(begin, min(len(text), begin + MAX_ANSWER_CHARS + 1)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return bare(text[begin:at])
    return None


def _marked(text: str) -> str | None:
    end = None
    for match in _MARK.finditer(text):
        end = match.end()
    if end is None:
        return None
    line = text[end : end + MAX_ANSWER_CHARS].lstrip().split("\n", 1)[0]
    return bare(line)


def bare(text: str) -> str:
    """A text without the blanks, full stop and emphasis around it.

    >>> bare(" **$12$**. ")
    '12'
    """
    before = None
    while text != before:
        before = text
        text = text.strip().removesuffix(".")
        for opening, closing in _WRAPPINGS:
            inner = text[len(opening) : len(text) - len(closing)]
            if inner and text.startswith(opening) and text.endswith(closing) and opening not in inner:
                text = inner
                break
    return text
