"""How well rewards rank pairs that were held out, and how much of that is length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kweek.align.pairs import Pair
from kweek.align.reward import RewardModel
from kweek.stats.intervals import Interval, bootstrap, wilson

EQUAL = 0.1  # lengths within a tenth of the longer one count as equal: no reader sees the difference


@dataclass(frozen=True)
class Ranking:
    """A reward model on pairs it has not seen; intervals at 95%.

    Attributes:
        accuracy: share of pairs in which the chosen answer has the higher reward; a tie is no success.
        num_pairs: of all.
        longer: the accuracy of a rule that knows nothing but length: the longer answer is the better one.
        length_correlation: Pearson's, of reward and length over all answers; None where one of them does not vary.
        within_pairs: the same of the differences within pairs, from which prompts drop out.
        equal_length: the accuracy over pairs of (nearly) equal length, which length cannot explain; None without any.
        num_equal: those pairs.
    """

    accuracy: Interval
    num_pairs: int
    longer: Interval
    length_correlation: Interval | None
    within_pairs: Interval | None
    equal_length: Interval | None
    num_equal: int


def ranking(
    chosen: Sequence[float],
    rejected: Sequence[float],
    chosen_lengths: Sequence[int],
    rejected_lengths: Sequence[int],
) -> Ranking:
    """The report of parallel rewards and lengths (in counted tokens), one per pair.

    Raises:
        ValueError: no pairs.
    """
    rows = np.stack(
        [np.asarray(part, np.float64) for part in (chosen, rejected, chosen_lengths, rejected_lengths)], 1
    )
    won, longer = rows[:, 0] > rows[:, 1], rows[:, 2] > rows[:, 3]
    equal = np.abs(rows[:, 2] - rows[:, 3]) <= EQUAL * rows[:, 2:].max(1)
    return Ranking(
        wilson(int(won.sum()), len(rows)),
        len(rows),
        wilson(int(longer.sum()), len(rows)),
        _correlation(rows, lambda part: (part[:, :2].ravel(), part[:, 2:].ravel())),
        _correlation(rows, lambda part: (part[:, 0] - part[:, 1], part[:, 2] - part[:, 3])),
        wilson(int(won[equal].sum()), int(equal.sum())) if equal.any() else None,
        int(equal.sum()),
    )


def rank_pairs(model: RewardModel, pairs: Sequence[Pair]) -> Ranking:
    """The report of a reward model on pairs held out."""
    chosen, rejected = ([getattr(one, side) for one in pairs] for side in ("chosen", "rejected"))
    lengths = ([sum(answer.loss_mask) for answer in side] for side in (chosen, rejected))
    return ranking(model.rewards(chosen), model.rewards(rejected), *lengths)


Columns = npt.NDArray[np.float64]


def _correlation(rows: Columns, take: Callable[[Columns], tuple[Columns, Columns]]) -> Interval | None:
    """Pearson's correlation of what `take` takes from the rows, resampled by pairs."""

    def pearson(part: Columns) -> float:
        x, y = take(part)
        return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0

    x, y = take(rows)
    return bootstrap(rows, pearson) if x.std() > 0 and y.std() > 0 else None
