"""The four things that a verifier can say of an answer."""

from __future__ import annotations

from kweek.protocols import Score

RIGHT = Score(1.0, parsed=True)
WRONG = Score(0.0, parsed=True)
UNREADABLE = Score(0.0, parsed=False)  # the answer is not of the form asked for


def failed(what: str, *, parsed: bool = False) -> Score:
    """No judgement: the verifier failed, or the gold answer is no answer. It earns nothing and is counted."""
    return Score(0.0, parsed=parsed, error=what)


def judged(right: bool) -> Score:
    """Right or wrong."""
    return RIGHT if right else WRONG
