"""The path from two columns of preferences to an update, walked by known pairs: policies and reward models alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kweek.align.guards.direction import Probe
from kweek.align.guards.sign import EVERY, SignGuard
from kweek.align.pairs import Pair
from kweek.align.sequences import ScoreTokens
from kweek.data.batches import Batch
from kweek.train.trainer import Trainer

Updates = Callable[[], Sequence[Batch]]  # the micro-batches of one update


def pair_sign(
    trainer: Trainer,
    known: Updates,
    data: Updates,
    margins: Callable[[], Sequence[float]],
    *,
    every: int = EVERY,
) -> SignGuard:
    """The guard of the sign for training on pairs.

    An update on the known pairs must raise their margins, and one on the user's data must not lower them: columns that
    were swapped show before the first update. As the run goes on the margins must not fall below where they began, an
    update on the data must not lower them while they have not risen, and
    its pairs, of which the loop passes on the part `ranked` and the number `pairs`, not turn against those before.

    Args:
        trainer: with its objective.
        known: one update on known pairs, made as those of the data are (`micro_batches(pair_segments(known), ...)`).
        data: one update on the data that comes next; the more pairs, the surer.
        margins: of the known pairs: `answer_margins`, or for a reward model the differences of its rewards.
        every: see `SignGuard`.
    """

    def update(batches: Updates) -> Callable[[], object]:
        return lambda: trainer.step(batches(), 1.0)

    probes = [
        Probe("an update on known pairs", [trainer], update(known), margins, again=False),
        Probe("an update on the data", [trainer], update(data), margins, "data", own=False),
    ]
    return SignGuard(probes, watched=margins, every=every)


def answer_margins(pairs: Sequence[Pair], score: ScoreTokens) -> list[float]:
    """Log-probability of the chosen answer less that of the rejected one, of each pair, nats over their own tokens."""
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    sums = [
        sum(lp for lp, own in zip(logprobs, side.loss_mask, strict=True) if own)
        for side, logprobs in zip(sides, score([side.token_ids for side in sides]), strict=True)
    ]
    return [chosen - rejected for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)]
