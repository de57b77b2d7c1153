"""Rows of the common task for algorithms that sample by themselves: they are told the gold score of what they say.

One row is told what a reward model says instead, learnt from the pairs that the preference algorithms have. An answer
with a token that is no letter earns less than any other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kweek.align.algorithms import (
    dapo,
    dr_grpo,
    grpo,
    gspo,
    ppo,
    reinforce,
    reinforce_plus_plus,
    rloo,
)  # fmt: skip
from kweek.align.critic import Critic
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.learner import Learner
from kweek.align.pairs import PairBatches
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.reward import BradleyTerry, reward_segments
from kweek.align.rollout import Group, Rollout
from kweek.align.sequences import micro_batches
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scorer_from, scores
from kweek.protocols import Request, Score
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

Reward = Callable[[int, Sequence[Sequence[int]]], list[float]]
SAMPLES = 32  # of each prompt per update: as many answers as the pairs of the others have
LIMIT = 32


def policy_rows(task: Any) -> dict[str, Callable[[Any, int], dict[str, float]]]:
    """By name; `task` is the module `common_task`, which this one is part of."""

    def by(policy: Policy, minibatches: int = 1) -> Callable[[Any, int], dict[str, float]]:
        return lambda drawn, updates: _policy(task, drawn, updates, policy, minibatches, gold(task, drawn))

    def judged(drawn: Any, updates: int) -> dict[str, float]:
        scorer = scorer_from(task.begin(drawn))
        epochs = 1 + updates * task.BATCH // task.NUM_PAIRS
        pairs = PairBatches(
            drawn.pairs, batch_size=task.BATCH, epochs=epochs, seed=drawn.seed, segments=reward_segments
        )
        flop = task.learn(scorer, BradleyTerry(), pairs, updates)
        found = _policy(task, drawn, updates, rloo(), 1, learnt(task, scorer))
        return found | {"flop": found["flop"] + flop}

    return {
        "REINFORCE": by(reinforce()),
        "RLOO": by(rloo()),
        "REINFORCE++": by(reinforce_plus_plus()),
        "GRPO": by(grpo()),
        "Dr. GRPO": by(dr_grpo(), 2),
        "DAPO": by(dapo(), 2),
        "GSPO": by(gspo(), 2),
        "PPO": by(ppo(), 2),
        "expert iteration": lambda drawn, updates: _expert(task, drawn, updates),
        "RLOO, reward model as judge": judged,
    }


def gold(task: Any, drawn: Any) -> Reward:
    """The gold score."""
    places = {answer: number for number, answer in enumerate(task.ANSWERS)}
    least = float(drawn.gold.min()) - 1

    def reward(prompt: int, answers: Sequence[Sequence[int]]) -> list[float]:
        found = (places.get(tuple(answer)) for answer in answers)
        return [least if place is None else float(drawn.gold[prompt, place]) for place in found]

    return reward


def learnt(task: Any, scorer: Scorer) -> Reward:
    """What a reward model says; it knows of no answer with a token that is no letter."""

    def reward(prompt: int, answers: Sequence[Sequence[int]]) -> list[float]:
        found = [float(x) for x in scores(scorer, [[*task.prompt(prompt), *answer] for answer in answers])]
        return [
            value if max(answer) < task.LETTERS else min(found) - 1
            for value, answer in zip(found, answers, strict=True)
        ]

    return reward


def sample(task: Any, engine: Engine, reward: Reward, step: int, seed: int) -> list[Group]:
    """Answers to every prompt."""
    groups = []
    for place in range(task.PROMPTS):
        requests = [
            Request(task.prompt(place), task.LENGTH, 1.0, ((seed * 100_000 + step) * 100 + place) * 100 + n)
            for n in range(SAMPLES)
        ]
        done = engine.generate(requests)
        values = reward(place, [completion.token_ids for completion in done])
        item = Item(({"role": "user", "content": str(place)},))
        groups.append(
            [
                Rollout(
                    item, [*task.prompt(place), *c.token_ids], 1, [False, *c.sampled], [0.0, *c.logprobs], (),
                    Score(value, True), "stop", c.flop,
                )
                for c, value in zip(done, values, strict=True)
            ]
        )  # fmt: skip
    return groups


def _policy(
    task: Any, drawn: Any, updates: int, policy: Policy, minibatches: int, reward: Reward
) -> dict[str, float]:
    network = task.begin(drawn)
    start = copy.deepcopy(network)
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(_trainer(scorer_from(network, per_token=True), 3 * task.RATE))
    learner = Learner(
        _trainer(network, task.RATE), policy, limit=LIMIT, critic=critic, minibatches=minibatches, seed=drawn.seed,
        reference=Reference(start) if policy.needs_reference else None,
    )  # fmt: skip
    engine, flop = Engine(network), 0.0
    for step in range(updates // minibatches):
        groups = sample(task, engine, reward, step, drawn.seed)
        learned = learner.learn(groups, step=step, factor=1 - step * minibatches / updates)
        flop += learned.flop + sum(rollout.flop for group in groups for rollout in group)
    return dict(task.measured(drawn, network, flop))


def _expert(task: Any, drawn: Any, updates: int) -> dict[str, float]:
    """The best eighth of the answers to each prompt, learnt in one update."""
    network = task.begin(drawn)
    trainer, engine, flop = _trainer(network, task.RATE), Engine(network), 0.0
    reward = gold(task, drawn)
    for step in range(updates):
        groups = sample(task, engine, reward, step, drawn.seed)
        kept = []
        for group in groups:
            limit = sorted(rollout.score.value for rollout in group)[-SAMPLES // 8]
            kept += select([group], most=SAMPLES, right=limit)
        parts = demonstrations(kept)
        count = sum(float(part.weights.sum()) for part in parts)
        units = [[replace(part, weights=part.weights / np.float32(count))] for part in parts]
        flop += trainer.step(micro_batches(units, 64), 1 - step / updates).flop
        flop += sum(rollout.flop for group in groups for rollout in group)
    return dict(task.measured(drawn, network, flop))


def _trainer(network: Network, rate: float) -> Trainer:
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))
