"""Policy gradients on the tables of `tabular`: sampled answers of one token, each with a known reward.

Without a divergence the best policy always gives the best answer; with one charged to the reward it is the reference
times exp(reward / weight), as for DPO.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from tabular import ACTIONS, PROMPTS, RATE, Solved, Table, policy_all, table_network

from kweek.align import algorithms
from kweek.align.critic import Critic
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.learner import Learner
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.rollout import Group, Rollout
from kweek.align.sft import ChatBatches
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.protocols import Score
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

BATCHES, SAMPLES = 250, 16
TOLERANCE = 0.01  # of probabilities: the data are sampled


def sampled(network: Network, rewards: Table, generator: torch.Generator, samples: int) -> list[Group]:
    """A group of answers to every prompt, drawn from the full softmax; what is no action earns nothing."""
    logs = torch.from_numpy(policy_all(network))
    drawn = torch.multinomial(logs.exp(), samples, replacement=True, generator=generator)
    return [
        [
            Rollout(
                Item(()), [ACTIONS + p, int(a)], 1, [False, True], [0.0, float(logs[p, a])], (),
                Score(float(rewards[p, a]) if a < ACTIONS else 0.0, True), "stop", 0.0,
            )
            for a in drawn[p]
        ]
        for p in range(PROMPTS)
    ]  # fmt: skip


def trainer_of(network: Network) -> Trainer:
    """Without weight decay."""
    rates = LearningRates(RATE, RATE, RATE, RATE)
    return Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0))


def _rewards(seed: int) -> Table:
    """Between 0 and 1, the best at least 0.2 above the next."""
    table = np.random.default_rng(seed).uniform(0, 0.8, (PROMPTS, ACTIONS))
    best = table.argmax(1)
    table[np.arange(PROMPTS), best] += 0.2
    return table


def best_arm(name: str, make: Callable[[], Policy], seed: int) -> Solved:
    """One minus the smallest probability of a best answer, after training."""
    rewards, network, policy = _rewards(seed), table_network(seed), make()
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(trainer_of(scorer_from(network, per_token=True)))
    learner = Learner(trainer_of(network), policy, limit=1, critic=critic)
    _learn(learner, rewards, seed, BATCHES, SAMPLES)
    return Solved(name, "the best answer, always", _missing(network, rewards), TOLERANCE)


def with_divergence(seed: int) -> Solved:
    """RLOO with a divergence in the reward."""
    weight, rewards, network = 0.5, _rewards(seed), table_network(seed)
    before = policy_all(network)
    policy = algorithms.rloo(kl_weight=weight)
    learner = Learner(trainer_of(network), policy, limit=1, reference=Reference(table_network(seed)))
    _learn(learner, rewards, seed, 2 * BATCHES, 4 * SAMPLES)
    worth = np.pad(rewards, ((0, 0), (0, before.shape[1] - ACTIONS)))
    wanted = before + worth / weight
    wanted -= np.logaddexp.reduce(wanted, -1, keepdims=True)
    distance = float(np.abs(np.exp(policy_all(network)) - np.exp(wanted)).max())
    return Solved("RLOO, with divergence", "pi_ref exp(r / weight) / Z", distance, TOLERANCE)


def _learn(learner: Learner, rewards: Table, seed: int, batches: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for step in range(batches):
        groups = sampled(learner.trainer.network, rewards, generator, samples)
        learner.learn(groups, step=step, factor=1 - step / batches)


def expert(seed: int) -> Solved:
    """Expert iteration where one answer to each prompt is right."""
    rewards, network = _rewards(seed), table_network(seed)
    right = (rewards == rewards.max(1, keepdims=True)).astype(float)
    trainer, generator = trainer_of(network), torch.Generator().manual_seed(seed)
    for number in range(20):
        parts = demonstrations(select(sampled(network, right, generator, SAMPLES)))
        if parts:
            for batch in ChatBatches(parts, batch_size=len(parts), epochs=10, seed=number)():
                trainer.step([batch], 1.0)
    return Solved("expert iteration", "the right answer, always", _missing(network, right), TOLERANCE)


def _missing(network: Network, rewards: Table) -> float:
    shares = np.exp(policy_all(network))
    return float(1 - shares[np.arange(PROMPTS), rewards.argmax(1)].min())


def problems() -> list[Callable[[int], Solved]]:
    """Every algorithm of the family."""
    plain = {"kl": "none", "kl_weight": 0.0}
    policies: dict[str, Callable[[], Policy]] = {
        "REINFORCE": algorithms.reinforce,
        "GRPO": partial(algorithms.grpo, **plain),
        "Dr. GRPO": algorithms.dr_grpo,
        "DAPO": partial(algorithms.dapo, overlong="keep", overlong_tokens=0),
        "GSPO": algorithms.gspo,
        "RLOO": partial(algorithms.rloo, **plain),
        "REINFORCE++": partial(algorithms.reinforce_plus_plus, **plain),
        "PPO": partial(algorithms.ppo, **plain),
    }
    found = [partial(best_arm, name, make) for name, make in policies.items()]
    return [*found, with_divergence, expert]
