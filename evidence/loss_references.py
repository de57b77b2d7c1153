"""Every loss once more, in plain float64 torch from the formula of its paper, one sequence at a time and unpacked.

Nothing of `kweek.align` is used: log-probabilities come from a softmax over all logits of one sequence after
another, and each loss is a loop over its cases. Slow, and easy to read beside the papers. Names: lc, lr
log-probability of the chosen and the rejected answer; kc, kr the reference model's; nc, nr tokens that count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kweek.model.network import Network
from kweek.model.scorer import Scorer


def logits(network: Network, ids: Sequence[int]) -> Tensor:
    """At every token, of the one that follows, (T, V)."""
    return network.logits(network(torch.tensor([list(ids)])))[0].double()


def token_logprobs(network: Network, ids: Sequence[int]) -> list[Tensor]:
    """log pi of every token given those before it; the first has 0."""
    said = logits(network, ids)
    normalised = said - torch.logsumexp(said, -1, keepdim=True)
    return [torch.zeros((), dtype=torch.float64), *(normalised[i, ids[i + 1]] for i in range(len(ids) - 1))]


def logprob(network: Network, ids: Sequence[int], mask: Sequence[bool]) -> Tensor:
    """log pi of the counted tokens together."""
    terms = token_logprobs(network, ids)
    return torch.stack([term for term, own in zip(terms, mask, strict=True) if own]).sum()


def _log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def dpo(lc: Tensor, lr: Tensor, kc: float, kr: float, beta: float, smoothing: float, margin: float) -> Tensor:
    """Rafailov et al. 2023, equation 7; smoothing as Mitchell 2023; margin as Amini et al. 2024."""
    asked = beta * (lc - kc) - beta * (lr - kr) - margin
    return -(1 - smoothing) * _log_sigmoid(asked) - smoothing * _log_sigmoid(-asked)


def ipo(lc: Tensor, lr: Tensor, kc: float, kr: float, tau: float) -> Tensor:
    """Azar et al. 2023, equation 17, expanded."""
    h = lc + kr - lr - kc
    return h**2 - h / tau + 1 / (4 * tau**2)


def simpo(lc: Tensor, lr: Tensor, nc: int, nr: int, beta: float, gamma: float) -> Tensor:
    """Meng et al. 2024, equation 6."""
    return -_log_sigmoid(beta / nc * lc - beta / nr * lr - gamma)


def kto(policy: Tensor, reference: float, good: bool, z: float, beta: float, weight: float) -> Tensor:
    """Ethayarajh et al. 2024, section 4.1: lambda - v."""
    reward = policy - reference
    value = weight / (1 + torch.exp(-beta * (reward - z) if good else -beta * (z - reward)))
    return weight - value


def bradley_terry(rc: Tensor, rr: Tensor, margin: float, centring: float) -> Tensor:
    """Touvron et al. 2023 (Llama 2), equation 2, with the centring of Eisenstein et al. 2023."""
    return torch.log(1 + torch.exp(rr - rc + margin)) + centring * (rc + rr) ** 2


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """Agarwal et al. 2024 (GKD), equation 1, of the shares of one token; at 0 and 1 the forward and the reverse KL."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * torch.log(a / b)).sum()

    if beta in (0, 1):
        return kl(p, q) if beta == 0 else kl(q, p)
    mixture = beta * p + (1 - beta) * q
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def judgements(scorer: Scorer, ids: Sequence[int]) -> Tensor:
    """What a scorer says at every token, (T,)."""
    hidden = scorer(torch.tensor([list(ids)]))[0].double()
    result = hidden @ scorer.score.weight[0].double()
    return result if scorer.score.bias is None else result + scorer.score.bias.double()


def value(now: Tensor, wanted: float) -> Tensor:
    """PPO's value loss."""
    return 0.5 * (now - wanted) ** 2


def step(logit: Tensor, right: bool) -> Tensor:
    """Cross-entropy of one step's label."""
    return torch.log1p(torch.exp(-logit if right else logit))
