"""Advantages: how much better an answer, or one token of it, was than what could be expected.

R_i is the reward of answer i in a group of n answers to one item, mean and std are over the group.

- `group_mean`: R_i - mean. The mean holds R_i itself, so the expected gradient is the true one times (n - 1) / n: its
  direction is unbiased (Liu et al. 2025, arXiv 2503.20783, "Dr. GRPO").
- `group_scaled`: (R_i - mean) / (std + 1e-4) (Shao et al. 2024, arXiv 2402.03300, "GRPO"). Biased: items that are
  nearly always or nearly never solved weigh more than those in between.
- `leave_one_out`: R_i - mean of the others (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740, "RLOO").
  Unbiased; n / (n - 1) times `group_mean`.
- `whitened`: what is still to be earned from a token on (R_i less the divergence of this token and the later ones,
  where one is charged), less the mean over all tokens of the batch, divided by their std (Hu 2025, arXiv 2501.03262,
  "REINFORCE++"). Needs no groups. The bias of the std falls with the size of the batch; easy items
  push all their answers up, hard ones all down.
- `generalised`: the sum over later tokens of (gamma lambda)^l delta (Schulman et al. 2016, arXiv 1506.02438, equation
  16). Its bias is that of the critic, times what lambda < 1 lets through; at gamma = lambda = 1 there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
EPSILON = 1e-4  # beside a standard deviation: TRL's; a group of equal rewards stays at zero


def group_mean(rewards: Sequence[float]) -> list[float]:
    """Reward minus the group's mean; all zero when every reward is equal.

    >>> group_mean([1.0, 0.0, 0.0, 1.0])
    [0.5, -0.5, -0.5, 0.5]
    """
    if _equal(rewards):  # rounding would leave some 1e-17
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def group_scaled(rewards: Sequence[float]) -> list[float]:
    """The same in units of the group's standard deviation (n - 1 in the denominator)."""
    if _equal(rewards):
        return [0.0] * len(rewards)
    scale = float(np.std(rewards, ddof=1)) + EPSILON
    return [value / scale for value in group_mean(rewards)]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Reward minus the mean of the others; zero for a single answer, which has none.

    >>> leave_one_out([1.0, 0.0, 0.0])
    [1.0, -0.5, -0.5]
    """
    count, total = len(rewards), sum(rewards)
    if _equal(rewards):
        return [0.0] * count
    return [reward - (total - reward) / (count - 1) for reward in rewards]


def _equal(rewards: Sequence[float]) -> bool:
    """Whether nothing can be told apart."""
    return len(set(rewards)) < 2


def whitened(arrays: Sequence[Values]) -> list[Values]:
    """Values of all answers together, brought to mean 0 and standard deviation 1; the arrays keep their shapes."""
    together = np.concatenate([np.atleast_1d(values) for values in arrays]) if arrays else np.zeros(1)
    mean, scale = together.mean(), together.std() + EPSILON
    return [(values - mean) / scale for values in arrays]


def generalised(rewards: Values, values: Values, gamma: float, decay: float) -> tuple[Values, Values]:
    """Advantages and returns of the tokens of one answer.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, with V = 0 after the last token: an
    answer that ran into the limit is judged by what is there. The return A_t + V_t is what the critic learns.

    Args:
        rewards: (T,) of each token the model chose.
        values: (T,) the critic's expectation before each.
        gamma: discount of a token.
        decay: lambda.
    """
    advantages = np.zeros_like(values)
    following_value = following = 0.0
    for place in range(len(values) - 1, -1, -1):
        delta = rewards[place] + gamma * following_value - values[place]
        following = delta + gamma * decay * following
        advantages[place], following_value = following, values[place]
    return advantages, advantages + values
