"""A second judgement of an answer: is it what the item states as right, read by plain code that asks for no form?

The guard of the reward needs another function than the one that is trained on. Where the right answer is known there
always is one: the last number of the answer, or its words. It shares no code with any verifier, so what a verifier can
be fooled with (any string, a prefix, the form alone) does not fool both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from kweek.align.guards.known import Known
from kweek.align.rollout import Rollout

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
WORD = re.compile(r"\w+")


def states(rollout: Rollout) -> float:
    """1 where the last thing said is the right answer, else 0.

    A gold answer that is a number is held against the last number of the answer, as a number; any other against all
    words of the answer, without case and punctuation.
    """
    gold, said = rollout.item.gold.strip(), str(rollout.messages[-1].get("content") or "")
    if NUMBER.fullmatch(gold):
        found = NUMBER.findall(said)
        return float(bool(found) and _value(found[-1]) == _value(gold))
    return float(_words(said) == _words(gold))


def can_judge(known: Sequence[Known]) -> bool:
    """Whether `states` says of known pairs what everybody knows: it cannot where gold is no answer but, say, a test."""
    return bool(known) and all(states(better) == 1 and states(worse) == 0 for better, worse in known)


def _value(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
