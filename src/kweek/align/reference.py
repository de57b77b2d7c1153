"""The model that a policy is kept near, and how far it has gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kweek.align.lessons import PerToken, full_logprobs
from kweek.align.rollout import Rollout
from kweek.engine.engine import Engine
from kweek.errors import ConfigError
from kweek.model.network import Network


class Reference:
    """A frozen network that scores what the policy sampled.

    Args:
        network: usually a copy of the policy as it began. It must not be trained.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._engine = Engine(network)

    def require_same_vocabulary(self, policy: Network) -> None:
        """Raises ConfigError for a reference that predicts other tokens than the policy."""
        if self.network.config.vocab_size != policy.config.vocab_size:
            raise ConfigError(
                f"the reference predicts {self.network.config.vocab_size} tokens, the policy "
                f"{policy.config.vocab_size}",
                where="reference",
                fix="take the model that the policy began as",
            )

    def logprobs(self, rollouts: Sequence[Rollout]) -> list[PerToken]:
        """Log-probability of every token, nats, 0 where the policy did not choose it."""
        scored = self._engine.score([rollout.token_ids for rollout in rollouts])
        return [
            np.where(rollout.sampled, np.asarray(values, np.float32), np.float32(0))
            for rollout, values in zip(rollouts, scored, strict=True)
        ]

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What scoring them costs."""
        lengths = [len(rollout.token_ids) for rollout in rollouts]
        return sum(length * self.network.config.num_flops_per_token(length) for length in lengths)


def divergence(rollout: Rollout, reference: PerToken) -> PerToken:
    """log p - log reference of every chosen token.

    The sum over an answer is an unbiased estimate of KL(p || reference); it may be negative, its expectation is not.
    """
    return full_logprobs(rollout) - reference
