"""What an answer earns: the judge's score, less what its length and its distance from the reference cost.

Rewards are maximised and penalties are numbers of at least 0 that this module subtracts: no setting carries a sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kweek.align.advantages import Values
from kweek.align.lessons import PerToken
from kweek.align.policy import Policy
from kweek.align.reference import divergence
from kweek.align.rollout import Rollout


@dataclass(frozen=True)
class Reward:
    """What one answer earned.

    Attributes:
        earned: score less the penalty on length.
        charged: weight times log p - log reference of every token, where the divergence is in the reward.
        masked: left out of gradient and baseline for its length.
    """

    earned: float
    charged: PerToken | None = None
    masked: bool = False

    @property
    def total(self) -> float:
        """Of the answer as a whole."""
        return self.earned if self.charged is None else self.earned - float(self.charged.sum())


def paid(rollout: Rollout, reward: Reward) -> Values:
    """The same token by token, of those that the model chose: the divergence at each, what was earned at the last."""
    per_token = np.zeros(rollout.num_sampled)
    if reward.charged is not None:
        per_token -= reward.charged[np.asarray(rollout.sampled, np.bool_)]
    per_token[-1:] += reward.earned
    return per_token


def rewards(
    rollouts: Sequence[Rollout],
    policy: Policy,
    limit: int,
    kl_weight: float,
    references: Sequence[PerToken] | None,
) -> list[Reward]:
    """One reward for each rollout.

    Args:
        limit: the most tokens that an episode may take.
        kl_weight: present weight of the divergence.
        references: log-probabilities under the reference model, where there is one.
    """
    found = []
    for index, rollout in enumerate(rollouts):
        charged = None
        if policy.kl == "reward" and references is not None:
            charged = kl_weight * divergence(rollout, references[index])
        masked = policy.overlong == "mask" and rollout.stop_reason == "length"
        earned = rollout.score.value
        if policy.overlong == "penalise":
            earned -= overlong_penalty(rollout, limit, policy.overlong_tokens)
        found.append(Reward(earned, charged, masked))
    return found


def overlong_penalty(rollout: Rollout, limit: int, ramp: int) -> float:
    """0 up to `ramp` tokens before the limit, then linearly up to 1 at the limit (Yu et al. 2025, equation 13)."""
    length = len(rollout.token_ids) - rollout.num_prompt_tokens
    return min(1.0, max(0.0, (length - (limit - ramp)) / ramp))
