"""Policy gradients on the stored batch: every answer a rollout, sampled by the stored old policy.

Every pair is a group of two answers with the stored rewards. What the package makes of it goes through its rewards,
advantages, divisors and objective; the formulas here follow the papers, token by token, and share nothing with it but
the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import loss_references as papers
import numpy as np
import torch
from loss_batch import Stored
from torch import Tensor

from kweek.align.algorithms import ALGORITHMS, dapo, gspo
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.lessons import Lesson, policy_segments
from kweek.align.policy import Policy
from kweek.align.prepared import prepare
from kweek.align.rollout import Rollout
from kweek.align.surrogate import objective_for, weights_suffice
from kweek.data.batches import Segment
from kweek.model.network import Network
from kweek.protocols import Score
from kweek.train.objective import Likelihood, Objective

LIMIT = 16  # the most tokens of an answer
Units = Sequence[Sequence[Segment]]


class Answer(NamedTuple):
    """One side of a pair; lists are by token."""

    ids: Sequence[int]
    own: list[int]  # places of the chosen tokens
    old: list[float]
    reference: Sequence[float]
    values: list[float]
    reward: float


class PolicyCase(NamedTuple):
    """The arguments of `loss_cases.Case`, but for the network."""

    name: str
    objective: Objective
    units: Units
    reference: Callable[[Any], Tensor]
    trl: str | None


#: Those that TRL computes too, at the same constants, by the names of its values.
TRL = {"grpo": "grpo", "dr_grpo": "dr_grpo", "dapo, no penalty": "dapo", "gspo, wide": "gspo"}


def policy_cases(stored: Stored) -> list[PolicyCase]:
    """Every algorithm by its name; GSPO with wider bounds too, so that not everything is clipped."""
    policies: dict[str, Policy] = {name: make() for name, make in ALGORITHMS.items()}
    policies["gspo, wide"] = gspo(clip=(0.3, 0.3))
    policies["dapo, no penalty"] = dapo(overlong="keep", overlong_tokens=0)
    groups = answers(stored)
    found = []
    for name, policy in policies.items():
        segments = policy_segments(
            lessons(groups, policy), policy, LIMIT, as_weights=weights_suffice(policy, 1.0)
        )
        units: Units = [[part] for part in segments]
        found.append(
            PolicyCase(
                name, objective_for(policy), units,
                lambda net, policy=policy: formula(net, groups, policy), TRL.get(name),
            )
        )  # fmt: skip
    return [*found, _expert(groups)]


def _expert(groups: list[list[Answer]]) -> PolicyCase:
    """Expert iteration, where a reward above 0 is right."""
    parts = demonstrations(select([[_rollout(answer) for answer in group] for group in groups], right=0.0))
    total = np.float32(sum(part.weights.sum() for part in parts))
    right = [answer for group in groups for answer in group if answer.reward >= 0]

    def reference(network: Network) -> Tensor:
        logs = [papers.token_logprobs(network, answer.ids)[t] for answer in right for t in answer.own]
        return -torch.stack(logs).mean()

    units = [[replace(part, weights=part.weights / total)] for part in parts]
    return PolicyCase("expert iteration", Likelihood(), units, reference, None)


def answers(stored: Stored) -> list[list[Answer]]:
    """The pairs as groups."""
    return [
        [
            Answer(
                side.token_ids, [t for t, own in enumerate(side.loss_mask) if own], stored.old[number][place],
                reference, stored.old_values[number][place], stored.rewards[number][place],
            )
            for place, (side, reference) in enumerate(
                ((pair.chosen, pair.chosen_reference), (pair.rejected, pair.rejected_reference))
            )
        ]
        for number, pair in enumerate(stored.pairs)
    ]  # fmt: skip


def lessons(groups: list[list[Answer]], policy: Policy) -> list[Lesson]:
    """What the package makes of the groups; stored log-probabilities and values stand for reference and critic."""
    rollouts = [[_rollout(answer) for answer in group] for group in groups]
    flat = [answer for group in groups for answer in group]
    known = {id(r): a for r, a in zip((r for g in rollouts for r in g), flat, strict=True)}

    class Reference:
        """The stored log-probabilities."""

        def logprobs(self, asked: Sequence[Rollout]) -> list[Any]:
            return [np.where(r.sampled, np.asarray(known[id(r)].reference, np.float32), 0) for r in asked]

        def num_flops(self, asked: Sequence[Rollout]) -> float:
            return 0.0

    class Critic:
        """The stored values."""

        def values(self, asked: Sequence[Rollout]) -> list[Any]:
            return [np.array([known[id(r)].values[t] for t in known[id(r)].own]) for r in asked]

        def num_flops(self, asked: Sequence[Rollout]) -> float:
            return 0.0

    reference: Any = Reference() if policy.needs_reference else None
    critic: Any = Critic() if policy.advantage == "generalised" else None
    return prepare(rollouts, policy, LIMIT, policy.kl_weight, reference, critic).lessons


def _rollout(answer: Answer) -> Rollout:
    size = len(answer.ids)
    own = [t in answer.own for t in range(size)]
    old = [x if o else 0.0 for x, o in zip(answer.old, own, strict=True)]
    item = Item(({"role": "user", "content": "?"},))
    return Rollout(item, answer.ids, min(answer.own), own, old, (), Score(answer.reward, True), "stop", 0.0)


def formula(network: Network, groups: list[list[Answer]], policy: Policy) -> Tensor:
    """The loss by the paper of the policy."""
    flat = [answer for group in groups for answer in group]
    gains = _advantages(groups, policy)
    tokens = sum(len(answer.own) for answer in flat)
    total = torch.zeros((), dtype=torch.float64)
    for answer, gain in zip(flat, gains, strict=True):
        now = papers.token_logprobs(network, answer.ids)
        own = answer.own
        divisor = {"tokens": tokens, "sequence": len(flat) * len(own), "constant": len(flat) * LIMIT}
        mean = torch.stack([now[t] - answer.old[t] for t in own]).mean()
        for t, a in zip(own, gain, strict=True):
            if policy.clip is None:
                term = a * now[t]
            else:
                r = torch.exp(mean if policy.ratio == "sequence" else now[t] - answer.old[t])
                low, high = policy.clip
                term = torch.minimum(r * a, r.clamp(1 - low, 1 + high) * a)
            if policy.kl == "loss":
                d = answer.reference[t] - now[t]
                term = term - policy.kl_weight * (torch.exp(d) - d - 1)
            total = total - term / divisor[policy.normaliser]
    return total


def _advantages(groups: list[list[Answer]], policy: Policy) -> list[list[float]]:
    """By answer and chosen token."""
    if policy.advantage in ("generalised", "whitened"):
        by_token = _from_values if policy.advantage == "generalised" else _to_come
        raw = [by_token(answer, policy) for group in groups for answer in group]
        spread = [a for answer in raw for a in answer]
        mean, deviation = _mean(spread), math.sqrt(_mean([(a - _mean(spread)) ** 2 for a in spread]))
        return [[(a - mean) / (deviation + 1e-4) for a in answer] for answer in raw]
    found = []
    for group in groups:
        rewards = [_earned(answer, policy) for answer in group]
        for answer, reward in zip(group, rewards, strict=True):
            centre, scale = _mean(rewards), 1.0
            if policy.advantage == "group_scaled":
                scale = math.sqrt(sum((r - centre) ** 2 for r in rewards) / (len(rewards) - 1)) + 1e-4
            if policy.advantage == "leave_one_out":
                centre = (sum(rewards) - reward) / (len(rewards) - 1)
            found.append([(reward - centre) / scale] * len(answer.own))
    return found


def _to_come(answer: Answer, policy: Policy) -> list[float]:
    """The reward less the divergence of every chosen token and those after it (REINFORCE++)."""
    gaps = [answer.old[t] - answer.reference[t] for t in answer.own]
    return [answer.reward - policy.kl_weight * sum(gaps[i:]) for i in range(len(gaps))]


def _earned(answer: Answer, policy: Policy) -> float:
    """Reward less the divergence of the answer, and less the penalty on its length."""
    reward = answer.reward
    if policy.kl == "reward":
        reward -= policy.kl_weight * sum(answer.old[t] - answer.reference[t] for t in answer.own)
    if policy.overlong == "penalise":
        over = len(answer.ids) - min(answer.own) - (LIMIT - policy.overlong_tokens)
        reward -= min(1.0, max(0.0, over / policy.overlong_tokens))
    return reward


def _from_values(answer: Answer, policy: Policy) -> list[float]:
    """Generalised advantages, by their definition as a sum over later tokens."""
    paid = [-policy.kl_weight * (answer.old[t] - answer.reference[t]) for t in answer.own]
    paid[-1] += answer.reward
    values = [*(answer.values[t] for t in answer.own), 0.0]
    deltas = [p + policy.gamma * values[i + 1] - values[i] for i, p in enumerate(paid)]
    return [
        sum((policy.gamma * policy.decay) ** (later - i) * deltas[later] for later in range(i, len(deltas)))
        for i in range(len(deltas))
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
