"""What a stage changes in the answers of its model: asked before it learns, measured while it does, asked after."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from kweek.align.answers import Answer, continued, of_rollout
from kweek.align.collecting import Judge
from kweek.align.distance import Distance
from kweek.align.environment import Environment, Item
from kweek.align.rollout import Rollout
from kweek.align.sampling import Drawing, sample
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.recipe.changes import record_answers, record_distribution, record_divergence, record_groups
from kweek.recipe.context import StageContext
from kweek.tokenize.tokenizer import Tokenizer

ASKED = 64  # held-out prompts: shares within 12 points, and a second of work
MOVED = 48  # answers that are sampled where a stage has none: the distance to about half a nat
EACH = 4  # samples of each prompt that the distance is measured on where a stage has rollouts of its own


class BeforeAfter:
    """Asks the model of a stage as it begins, and again when it is done; see `kweek.recipe.changes` for the records.

    Args:
        network: the stage's own, with the weights that it begins with.
        environment: whose items of the validation split are answered greedily, and judged.
        judge: what the stage learns from in place of the environment's own judgement, which is then recorded as gold.
        measured: whether the distance from the start is measured here; a stage with a reference has it in its figures.
        of: role of the input that the network comes from.
    """

    def __init__(
        self,
        ctx: StageContext,
        network: Network,
        tokenizer: Tokenizer,
        environment: Environment,
        *,
        judge: Judge | None = None,
        measured: bool = True,
        of: str = "model",
    ) -> None:
        self._ctx, self._network, self._tokenizer = ctx, network, tokenizer
        self._engine, self._environment, self._judge = Engine(network), environment, judge
        self._chats = ctx.inputs[of].kind != "pretrain"  # otherwise it has read documents, and no chat
        self._items = environment.items("rl/validation", ASKED, "validation")
        self._distance = Distance(copy.deepcopy(network)) if measured else None
        self._before, self._gold = self._asked(first=True)

    def start_here(self) -> None:
        """Measure the distance from the weights as they are now, with rows of new tokens prepared, for example."""
        self._distance = Distance(copy.deepcopy(self._network))

    def look(self, step: int, groups: Sequence[Sequence[Rollout]]) -> None:
        """Record how far the policy had gone that sampled these rollouts, those of update `step`."""
        self._moved(step, [rollout for group in groups for rollout in group[:EACH]])

    def look_by_sampling(self, step: int) -> None:
        """The same of the model as it is, after `step` updates, for a stage that does not sample."""
        items = self._items[:MOVED]
        found = self._sampled(items, key="moved", drawing=Drawing())
        self._moved(step, found)

    def finish(self) -> None:
        """Ask again, and record what changed. The records `update` of the stage, if it has any, are complete."""
        ctx = self._ctx
        record_groups(ctx.records)
        of = f"{len(self._items)} held-out prompts, greedy"
        after, gold = self._asked()
        record_answers(ctx.records, self._before, after, of)
        if self._judge is not None:
            record_distribution(ctx.records, "gold", {"before": self._gold, "after": gold}, of=of)

    def _asked(self, first: bool = False) -> tuple[list[Answer], list[float]]:
        """Answers as the stage judges them, and what the environment says of each."""
        if first and not self._chats:
            found, flop = continued(self._engine, self._tokenizer, self._environment, self._items)
            self._count(flop)
            return found, [answer.reward for answer in found]
        rollouts = self._sampled(self._items, key="greedy", drawing=None)
        gold = [rollout.score.value for rollout in rollouts]
        if self._judge is not None:
            rewards = [score.value for score in self._judge(rollouts)]
            self._count(self._judge.num_flops(rollouts))
        else:
            rewards = gold
        return [
            of_rollout(self._tokenizer, rollout, reward)
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ], gold

    def _sampled(self, items: Sequence[Item], key: str, drawing: Drawing | None) -> list[Rollout]:
        groups = sample(
            self._engine, self._tokenizer, self._environment, items, samples=1, key=key, drawing=drawing,
            max_positions=self._network.config.max_positions,
        )  # fmt: skip
        rollouts = [group[0] for group in groups]
        self._count(sum(rollout.flop for rollout in rollouts))
        return rollouts

    def _moved(self, step: int, rollouts: Sequence[Rollout]) -> None:
        if self._distance is not None and len(rollouts) > 1:
            record_divergence(self._ctx.records, step, self._distance.of(rollouts))
            self._count(self._distance.num_flops(rollouts))

    def _count(self, flop: float) -> None:
        self._ctx.ledger.add("measure", flop, "fp32")
