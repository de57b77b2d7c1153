"""Judges that misbehave, one that does not, and environments of them: for evidence on bad input.

Only the standard library is imported at the top, because a judge runs in a process of its own.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kweek.align.environments.single_turn import SingleTurn

NUMBER = re.compile(r"-?[0-9]{1,9}")


def exact(answer: str, gold: str) -> bool:
    """A judge as it should be."""
    return NUMBER.fullmatch(answer.strip()) is not None and int(answer) == int(gold)


def raises(answer: str, gold: str) -> bool:
    """Breaks on whatever is no number, as some verifiers of a known suite do."""
    return int(answer) == int(gold)


def hangs(answer: str, gold: str) -> bool:
    """An expression whose time doubles with every letter of what is no number."""
    if NUMBER.fullmatch(answer.strip()) is None:
        re.fullmatch(r"(a|a)*b", "a" * 60)
    return exact(answer, gold)


def sleeps(answer: str, gold: str) -> bool:
    """Waits for what never comes, without using the processor."""
    if NUMBER.fullmatch(answer.strip()) is None:
        time.sleep(3600)
    return exact(answer, gold)


def nan(answer: str, gold: str) -> float:
    """A mean over nothing."""
    return float(exact(answer, gold)) if NUMBER.fullmatch(answer.strip()) else float("nan")


def too_much(answer: str, gold: str) -> float:
    """Points out of ten."""
    return 10.0 * exact(answer, gold)


def says_yes(answer: str, gold: str) -> str:
    """A text is true, whatever it says."""
    return "yes" if exact(answer, gold) else "no"


def dies(answer: str, gold: str) -> bool:
    """Ends its process, as a crash below Python does."""
    if NUMBER.fullmatch(answer.strip()) is None:
        os._exit(1)
    return exact(answer, gold)


def eats(answer: str, gold: str) -> bool:
    """Takes all the memory there is."""
    if NUMBER.fullmatch(answer.strip()) is None:
        blocks = []
        while True:
            blocks.append(bytes(1 << 26))
    return exact(answer, gold)


def vowels(answer: str, gold: str) -> float:
    """The share of vowels: a reward that an untrained model can earn more of."""
    return sum(letter in "aeiou" for letter in answer) / max(1, len(answer))


BAD = {judge.__name__: judge for judge in (raises, hangs, sleeps, nan, too_much, says_yes, dies, eats)}


def _sums(judge: Any) -> SingleTurn:
    from kweek.align.environment import Item
    from kweek.align.environments.single_turn import SingleTurn

    items = [
        Item(({"role": "user", "content": f"What is {a}+{b}?"},), str(a + b))
        for a in range(10, 40)
        for b in range(1, 20)
    ]
    return SingleTurn("sums", items, judge, max_new_tokens=8)


def __getattr__(name: str) -> Any:
    """`judges:sums_of_NAME` is an environment of sums that this judge marks."""
    judge = {**BAD, "exact": exact, "vowels": vowels}.get(name.removeprefix("sums_of_"))
    if judge is None or not name.startswith("sums_of_"):
        raise AttributeError(f"there is no {name!r} in {__name__}")
    return _sums(judge)
