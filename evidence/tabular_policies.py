"""Policy gradients on problems small enough to know the answer: one token is the whole answer, so a policy is a table.

Where the divergence is charged in the reward, the optimum is pi_ref exp(r / weight) / Z (Ziegler et al. 2019, equation
2); there all answers to a prompt earn the same, so that sampling has no noise left (rewards are shifted so that the
prompts are worth the same too: not every algorithm has a baseline for each). Without a divergence it is the best
answer, and nothing else. GRPO is tried without its divergence: in the loss it leaves rewards that differ, and their
noise. Expert iteration is told which answer is right. Rollouts are drawn from the network as it then is, and pass the
package's rewards, advantages, objective and loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from tabular import ACTIONS, PROMPTS, Solved, Table, policy_all, table_network

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
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.rollout import Group, Rollout
from kweek.align.sft import ChatBatches
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.protocols import Score
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

STEPS, SAMPLES, RATE = 600, 32, 1e-2
ROUNDS = 30  # of expert iteration
WEIGHT = 0.3  # of the divergence
LIMIT = 32  # longer than any ramp before the limit on length


def solve(name: str, policy: Policy, seed: int, minibatches: int = 1) -> Solved:
    """Train a table by an algorithm; its distance from the optimum."""
    network = table_network(seed)
    start, size = copy.deepcopy(network), PROMPTS + ACTIONS
    rewards = np.random.default_rng(seed).uniform(0, 1, (PROMPTS, size))
    wanted, optimum = np.eye(size)[rewards.argmax(1)], "the best answer"
    if policy.kl == "reward":
        unnormalised = policy_all(start) + rewards / policy.kl_weight
        worth = np.logaddexp.reduce(unnormalised, -1, keepdims=True)
        wanted, optimum = np.exp(unnormalised - worth), "pi_ref exp(r / weight) / Z"
        rewards = rewards - policy.kl_weight * worth
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(_trainer(scorer_from(network, per_token=True), 3 * RATE))
    learner = Learner(
        _trainer(network, RATE), policy, limit=LIMIT, critic=critic, minibatches=minibatches, seed=seed,
        reference=Reference(start) if policy.needs_reference else None,
    )  # fmt: skip
    generator = np.random.default_rng([seed, 1])
    for step in range(STEPS):
        groups = [_group(network, p, rewards[p], generator) for p in range(PROMPTS)]
        learner.learn(groups, step=step, factor=1 - step / STEPS)
    return Solved(name, optimum, float(np.abs(np.exp(policy_all(network)) - wanted).max()))


def expert(seed: int) -> Solved:
    """Rounds of sampling, and of learning what was right."""
    network, size = table_network(seed), PROMPTS + ACTIONS
    right = np.eye(size)[np.random.default_rng(seed).integers(0, size, PROMPTS)]
    trainer, generator = _trainer(network, RATE), np.random.default_rng([seed, 1])
    for number in range(ROUNDS):
        parts = demonstrations(select([_group(network, p, right[p], generator) for p in range(PROMPTS)]))
        if parts:
            for batch in ChatBatches(parts, batch_size=len(parts), epochs=STEPS // ROUNDS, seed=number)():
                trainer.step([batch], 1.0)
    distance = float(np.abs(np.exp(policy_all(network)) - right).max())
    return Solved("expert iteration", "the right answer", distance)


def _group(network: Network, place: int, rewards: Table, generator: np.random.Generator) -> Group:
    """Answers to one prompt, drawn from the table."""
    logs = policy_all(network)[place]
    shares = np.exp(logs) / np.exp(logs).sum()
    item = Item(({"role": "user", "content": str(place)},))
    return [
        Rollout(
            item, [ACTIONS + place, int(a)], 1, [False, True], [0.0, float(logs[a])], (),
            Score(float(rewards[a]), True), "stop", 0.0,
        )
        for a in generator.choice(len(shares), SAMPLES, p=shares)
    ]  # fmt: skip


def _trainer(network: Network, rate: float) -> Trainer:
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


def _problem(name: str, policy: Policy, minibatches: int = 1) -> Callable[[int], Solved]:
    return lambda seed: solve(name, policy, seed, minibatches)


#: By seed, as those of `tabular`.
PROBLEMS: tuple[Callable[[int], Solved], ...] = (
    _problem("REINFORCE", reinforce()),
    _problem("GRPO without divergence", grpo(kl="none", kl_weight=0.0), 2),
    _problem("Dr. GRPO", dr_grpo(), 2),
    _problem("DAPO", dapo(), 2),
    _problem("GSPO", gspo(), 2),
    _problem("RLOO", rloo(kl_weight=WEIGHT)),
    _problem("REINFORCE++", reinforce_plus_plus(kl_weight=WEIGHT), 2),
    _problem("PPO", ppo(kl_weight=WEIGHT), 2),
    expert,
)
