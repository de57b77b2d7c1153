"""Did reinforcement teach, or only bring out what was there?

The control opens the model's answer with a tool call before reinforcement has chosen anything. What that
alone gains was there already and is called elicited; what the reinforced model gains beyond it was taught.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kweek.stats.paired import Paired, paired_difference


@dataclass(frozen=True)
class Verdict:
    """One line of alignment in figures (shares of problems solved) and in words."""

    line: str
    before: float
    gain: float
    gain_lo: float
    gain_hi: float
    elicited: float
    taught: float
    taught_lo: float
    taught_hi: float
    text: str


def verdict(line: str, before: dict[str, Any], after: dict[str, Any]) -> Verdict:
    """Split the gain of a line into elicited and taught, each a paired difference on the same problems."""
    start, forced, end = (
        [float(x) for x in report[which]["correct"]]
        for report, which in ((before, "held_out"), (before, "forced_tool"), (after, "held_out"))
    )
    gain = paired_difference(end, start)
    # Forcing the tool can also do harm; then nothing was there to be elicited.
    bringing_out = paired_difference(forced, start)
    best_before = forced if bringing_out.difference > 0 else start
    taught = paired_difference(end, best_before)
    elicited = gain.difference - taught.difference
    return Verdict(
        line=line,
        before=sum(start) / len(start),
        gain=gain.difference,
        gain_lo=gain.lo,
        gain_hi=gain.hi,
        elicited=elicited,
        taught=taught.difference,
        taught_lo=taught.lo,
        taught_hi=taught.hi,
        text=in_words(gain, elicited, taught),
    )


def in_words(gain: Paired, elicited: float, taught: Paired) -> str:
    """The verdict as a sentence; a difference whose interval holds zero is not claimed."""
    points = f"{100 * gain.difference:+.1f} points [{100 * gain.lo:+.1f}, {100 * gain.hi:+.1f}]"
    if gain.lo <= 0:
        return f"No gain is shown: {points}."
    if taught.lo <= 0:
        return f"{points}: elicited. Forcing the tool gives as much; no skill beyond it is shown."
    if elicited < 0.1 * gain.difference:
        return f"{points}: taught. Forcing the tool would have gained next to nothing."
    return (
        f"{points}: {100 * elicited:.1f} points were elicited (forcing the tool gives them too) and "
        f"{100 * taught.difference:.1f} [{100 * taught.lo:.1f}, {100 * taught.hi:.1f}] were taught."
    )
