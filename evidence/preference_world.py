"""Preferences in the small world: a labeller who likes what is right and also what is long, and who errs.

What is wanted, gold, is a right answer and nothing else. Pairs come from somebody else: a labeller who gives points
for a right answer and for every token, and prefers by chance according to the difference (Bradley and Terry).
Writing down the steps makes answers longer and more often right, so up to a point both agree; beyond it they do
not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import small_world

from kweek.align import algorithms
from kweek.align.collecting import Collector, Course
from kweek.align.dpo import DPO
from kweek.align.environment import Item
from kweek.align.guards.guard import Step, Verdict
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.pairs import Pair, PairBatches, pair, with_reference
from kweek.align.ranking import Ranking, rank_pairs
from kweek.align.reference import Reference
from kweek.align.reward import RewardModel, train_reward_model
from kweek.align.rollout import Rollout
from kweek.align.sampling import Drawing, sample
from kweek.align.sources import Synchronous
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

WORLD = small_world.World()
RIGHT, PER_TOKEN = 1.5, 0.12  # points of the labeller
Judged = tuple[list[float], list[float]]  # reward and gold of every item


@dataclass(frozen=True)
class Data:
    """What one seed learns from and is measured on.

    Attributes:
        agreement: how often the labeller prefers the right answer, where one of two is right.
        validation, test: items held out; the peak of a curve is chosen on the first, everything is measured on the
            second.
    """

    seed: int
    pairs: list[Pair]
    held_out: list[Pair]
    agreement: float
    validation: list[Item]
    test: list[Item]


def points(rollout: Rollout) -> float:
    """What the labeller thinks of an answer."""
    return RIGHT * rollout.score.value + PER_TOKEN * rollout.num_sampled


def answer_ids(rollout: Rollout) -> Sequence[int]:
    """The tokens after the prompt."""
    return rollout.token_ids[rollout.num_prompt_tokens :]


def draw(seed: int, num_items: int, num_held_out: int) -> Data:
    """Four answers of the starting policy to every item, compared two by two."""
    engine, words = Engine(small_world.started(seed)), small_world.tokenizer()
    items = WORLD.items(f"pairs/{seed}", num_items, "train")
    groups = sample(engine, words, WORLD, items, samples=4, key=f"pairs/{seed}", drawing=Drawing())
    chance, made, agreed = keyed_generator("labeller", seed), [], []
    for group in groups:
        for one, other in (group[:2], group[2:]):
            if answer_ids(one) == answer_ids(other):
                continue
            if chance.random() > 1 / (1 + np.exp(points(other) - points(one))):
                one, other = other, one
            made.append(pair(one.token_ids[: one.num_prompt_tokens], answer_ids(one), answer_ids(other)))
            if one.score.value != other.score.value:
                agreed.append(one.score.value > other.score.value)
    held = WORLD.items("held out", num_held_out, "validation")
    cut, half = len(made) * 9 // 10, num_held_out // 3
    return Data(seed, made[:cut], made[cut:], float(np.mean(agreed)), held[:half], held[half:])


def trainer_of(network: Network, rate: float) -> Trainer:
    """Without weight decay."""
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


def judged(network: Network, items: Sequence[Item], judge: RewardModel | None = None) -> Judged:
    """One sampled answer to every item, always with the same seeds: what the judge and what gold say."""
    groups = sample(
        Engine(network), small_world.tokenizer(), WORLD, items, samples=1, key="measured", drawing=Drawing()
    )
    rollouts = [group[0] for group in groups]
    rewards = [score.value for score in judge(rollouts)] if judge is not None else [0.0] * len(rollouts)
    return rewards, [rollout.score.value for rollout in rollouts]


def by_dpo(data: Data, epochs: int = 2) -> tuple[Network, Mapping[str, float]]:
    """The policy after DPO, and the means of its last ten updates' parts."""
    network = small_world.started(data.seed)
    pairs = with_reference(data.pairs, Engine(network).score)
    trainer, parts = trainer_of(network, 5e-4), []
    trainer.objective = DPO(0.1)
    batches = PairBatches(pairs, batch_size=32, epochs=epochs, seed=data.seed)
    fit(
        trainer, batches, batches.num_steps, WarmupStableDecay(batches.num_steps, decay=1.0),
        on_step=lambda totals, result, speed: parts.append(result.parts),
    )  # fmt: skip
    last = parts[-10:]
    return network, {name: float(np.mean([part[name] for part in last])) for name in last[0]}


def reward_model(data: Data, epochs: int = 2) -> tuple[RewardModel, Ranking]:
    """A reward model from the same pairs, beginning as the policy does, and its report on pairs held out."""
    scorer, words = scorer_from(small_world.started(data.seed)), small_world.tokenizer()
    train_reward_model(scorer, data.pairs, seed=data.seed, learning_rate=1e-3, epochs=epochs)
    model = RewardModel(scorer, words, words)
    return model, rank_pairs(model, data.held_out)


@dataclass
class Watch:
    """A guard that only looks: reward and gold on held-out items, and the divergence, every few updates."""

    measure: Callable[[], tuple[Judged, Judged]]
    every: int
    looks: list[dict[str, Any]] = field(default_factory=list)
    name: str = "watch"

    def _look(self, step: int, kl: float) -> None:
        (reward, gold), (test_reward, test_gold) = self.measure()
        self.looks.append(
            {
                "step": step, "kl": kl, "reward": float(np.mean(reward)), "gold": float(np.mean(gold)),
                "test_reward": test_reward, "test_gold": test_gold,
            }
        )  # fmt: skip

    def before(self) -> Verdict:
        """See `Guard`."""
        self._look(0, 0.0)
        return Verdict()

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        if step.number % self.every == 0:
            self._look(step.number, step.metrics["kl"])
        return Verdict()

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""


def by_rlhf(
    data: Data, model: RewardModel, steps: int, kl_weight: float, every: int, rate: float = 5e-4
) -> tuple[Network, list[dict[str, Any]]]:
    """RLOO on what the reward model says: the policy, and what was seen on the way."""
    network, words = small_world.started(data.seed), small_world.tokenizer()
    policy = algorithms.rloo(kl="reward" if kl_weight else "none", kl_weight=kl_weight)
    reference = Reference(copy.deepcopy(network))
    learner = Learner(trainer_of(network, rate), policy, limit=WORLD.max_new_tokens, reference=reference)
    course = Course(steps, prompts=24, samples=8)
    collector = Collector(WORLD, words, course, f"rlhf/{data.seed}", judge=model)
    watch = Watch(lambda: (judged(network, data.validation, model), judged(network, data.test, model)), every)
    Loop(learner, Synchronous(collector, Engine(network)), course, guards=[watch]).run()
    return network, watch.looks
