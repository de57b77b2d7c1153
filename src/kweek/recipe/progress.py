"""How a run of reinforcement is written down: every update, the held-out score now and then, what guards say."""

from __future__ import annotations

import dataclasses
import time

from kweek.align.collecting import Collected
from kweek.align.environment import Environment
from kweek.align.guards.guard import Verdict
from kweek.align.metrics import Metrics
from kweek.align.sampling import sample
from kweek.protocols import LanguageModel
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.context import StageContext
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.trainer import Trained

HELD_OUT = 64  # items for the curve of greedy scores: within 12 points


class Progress:
    """Records every update, and the greedy score on held-out items now and then.

    Args:
        environment: whose items of the validation split are attempted.
        steps, every: updates in all, and between measurements.
        change: looks at how far the policy has gone, then and at the first update.

    Raises:
        DataError: the environment has no item in that split.
    """

    def __init__(
        self,
        ctx: StageContext,
        model: LanguageModel,
        tokenizer: Tokenizer,
        environment: Environment,
        *,
        steps: int,
        every: int,
        change: BeforeAfter,
    ) -> None:
        self._ctx, self._model, self._tokenizer, self._environment = ctx, model, tokenizer, environment
        self._steps, self._every, self._change = steps, every, change
        self._held_out = environment.items("rl/validation", HELD_OUT, "validation")
        self._last = time.monotonic()

    def on_step(self, totals: Trained, metrics: Metrics, batch: Collected) -> None:
        """See `Loop.on_step`."""
        ctx = self._ctx
        gold = None
        if metrics.step % self._every == 0 or metrics.step == self._steps:
            greedy = sample(
                self._model, self._tokenizer, self._environment, self._held_out, samples=1, key="greedy"
            )
            gold = sum(group[0].score.value for group in greedy) / len(greedy)
        if gold is not None or metrics.step == 1:
            self._change.look(metrics.step, batch.all_groups)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        ctx.records.append(
            "update", **dataclasses.asdict(metrics), gold=gold, seconds=seconds, flop=totals.flop
        )
        ctx.progress(metrics.step, self._steps, reward=metrics.reward, flop_per_second=metrics.flop / seconds)

    def on_verdict(self, guard: str, step: int, verdict: Verdict) -> None:
        """See `Loop.on_verdict`; what the guard of the sign sees at first has a record of its own."""
        figures, records = dict(verdict.figures), self._ctx.records
        if guard == "sign" and step == 0:
            records.append("sign", **figures, passed=True)
        else:
            text = verdict.text
            records.append("guard", name=guard, step=step, verdict=verdict.kind, text=text, figures=figures)
