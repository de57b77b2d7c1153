"""How a run of reinforcement is written down: every update, and the held-out score now and then."""

from __future__ import annotations

import dataclasses
import time

from kweek.align.collecting import Collected
from kweek.align.metrics import Metrics
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.context import StageContext
from kweek.recipe.policy_guards import HeldOut
from kweek.train.trainer import Trained

HELD_OUT = 64  # items for the curve of greedy scores: within 12 points


class Progress:
    """Records every update, and the greedy score on held-out items now and then.

    Args:
        held_out: items that are answered then.
        steps, every: updates in all, and between measurements.
        change: looks at how far the policy has gone, then and at the first update.
    """

    def __init__(
        self, ctx: StageContext, held_out: HeldOut, *, steps: int, every: int, change: BeforeAfter
    ) -> None:
        self._ctx, self._held_out, self._change = ctx, held_out, change
        self._steps, self._every = steps, every
        self._last = time.monotonic()

    def on_step(self, totals: Trained, metrics: Metrics, batch: Collected) -> None:
        """See `Loop.on_step`."""
        ctx = self._ctx
        gold = None
        if metrics.step % self._every == 0 or metrics.step == self._steps:
            gold = self._held_out.reward()
        if gold is not None or metrics.step == 1:
            self._change.look(metrics.step, batch.all_groups)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        ctx.records.append(
            "update", **dataclasses.asdict(metrics), gold=gold, seconds=seconds, flop=totals.flop
        )
        ctx.progress(metrics.step, self._steps, reward=metrics.reward, flop_per_second=metrics.flop / seconds)
