"""Where a gain in reasoning came from: was it elicited, or learnt?

The rule. A stage is compared with the stage before it on the same held-out tasks, by paired 95% intervals:

- *no gain shown*: pass@1 is not shown to be higher;
- *learnt*: pass@1 is shown to be higher than that of the stage before at its better strategy (plain, or with thinking
  forced), and pass@k is shown to be higher too: there are tasks that it now solves and did not solve in k attempts;
- *elicited*: a gain of pass@1 of which either is not shown. What the model does now lay within its reach: forced to
  think, or asked often enough, it did as much before.

pass@k bounds what choosing among a model's own answers can reach (Yue et al. 2025, arXiv 2504.13837).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kweek.stats.paired import Paired, paired_difference

Word = Literal["no gain shown", "elicited", "learnt"]


class Scores(NamedTuple):
    """A model on held-out tasks, one figure for each: chance of a right answer at once, in k attempts, when forced."""

    once: Sequence[float]
    often: Sequence[float]
    forced: Sequence[float]


@dataclass(frozen=True)
class Origin:
    """One stage against the one before.

    Attributes:
        gain: of pass@1.
        beyond: of pass@1 over the better strategy of the stage before.
        reach: of pass@k.
        word: the verdict.
        text: the verdict in a sentence.
    """

    gain: Paired
    beyond: Paired
    reach: Paired
    word: Word
    text: str


def origin(before: Scores, after: Scores, k: int) -> Origin:
    """The verdict by the rule.

    Args:
        k: attempts of `often`, for the words.
    """
    gain = paired_difference(after.once, before.once)
    # Forcing can also do harm; then the plain answers are the better strategy.
    better = before.forced if sum(before.forced) > sum(before.once) else before.once
    beyond = paired_difference(after.once, better)
    reach = paired_difference(after.often, before.often)
    word: Word = (
        "no gain shown" if gain.lo <= 0 else "learnt" if beyond.lo > 0 and reach.lo > 0 else "elicited"
    )
    return Origin(gain, beyond, reach, word, _sentence(word, gain, beyond, reach, k))


def _sentence(word: Word, gain: Paired, beyond: Paired, reach: Paired, k: int) -> str:
    said = f"pass@1 {_points(gain)}: {word}"
    if word == "no gain shown":
        return f"{said}."
    reached = f"pass@{k} {_points(reach)}"
    if word == "learnt":
        return f"{said}. It solves what it did not solve in {k} attempts ({reached}), thinking forced or not."
    if beyond.lo <= 0:
        return f"{said}. Forced to think, the stage before does as well ({_points(beyond)} beyond it)."
    return f"{said}. In {k} attempts the stage before reached as much ({reached})."


def _points(found: Paired) -> str:
    return f"{100 * found.difference:+.1f} points [{100 * found.lo:+.1f}, {100 * found.hi:+.1f}]"
