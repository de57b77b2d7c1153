"""The objective of every policy gradient: a clipped, weighted surrogate over the tokens that the model chose.

    loss = - sum_t share_t f(ratio_t, A_t)  +  kl_weight sum_t share_t (exp(d_t) - d_t - 1)  +  sum_t weight_t nll_t

with d = log reference - log p. f is A log p without a ratio, else min(ratio A, clip(ratio) A), bounded below by
dual_clip A where A is negative. Tokens that were not chosen have share 0; the last sum is ordinary likelihood, of
supervised text that is trained on beside the policy.

A batch carries the streams `share` (1 over the divisor, times the correction of truncation), `advantage`, `old` (log p
under the policy that sampled, nats) and, where a divergence is in the loss, `reference`.

Legend: B rows, T positions, D width, N = B T, S segments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.align.policy import Policy
from kweek.data.batches import Batch
from kweek.model.head import token_nll, token_nll_flop
from kweek.model.network import Network
from kweek.train.objective import Likelihood, Loss, Objective

MAX_LOG_RATIO = (
    20.0  # nats: beyond it a ratio's exponential would overflow, and clipping has decided long before
)


def objective_for(policy: Policy, temperature: float = 1.0) -> Objective:
    """The objective of a policy: where the weights are known beforehand, the cheaper likelihood."""
    if weights_suffice(policy, temperature):
        return Likelihood()
    return Surrogate(policy, temperature)


def weights_suffice(policy: Policy, temperature: float) -> bool:
    """Whether the gradient is that of a likelihood weighted by A / divisor, whatever the present policy."""
    return policy.ratio == "none" and policy.kl != "loss" and temperature == 1


class Surrogate:
    """See the module.

    Args:
        policy: its ratio, clipping and divergence.
        temperature: at which was sampled; the policy is the softmax of the logits divided by it.

    Attributes:
        kl_weight: present coefficient of the divergence; a controller moves it.
    """

    def __init__(self, policy: Policy, temperature: float = 1.0) -> None:
        self.policy, self.temperature = policy, temperature
        self.kl_weight = policy.kl_weight
        self._text = Likelihood()

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`. `nll_N` is at the temperature of sampling where a token was chosen."""
        if "share" not in batch.streams:  # all of it is supervised text
            return self._text(network, hidden_BTD, batch)
        hidden_ND = hidden_BTD.flatten(0, 1)
        chosen_N = batch.streams["share"].flatten() > 0
        if self.temperature != 1:
            scale_N = torch.where(chosen_N, 1 / self.temperature, 1.0)
            hidden_ND = hidden_ND * scale_N[:, None].to(hidden_ND.dtype)
        nll_N = token_nll(hidden_ND, network.head_weight, batch.targets_BT.flatten())
        share_N = _stream(batch, "share", nll_N)
        likelihood = nll_N @ batch.weights_BT.flatten().to(nll_N.dtype)
        surrogate = self._lost(nll_N, chosen_N, batch) @ share_N
        value = surrogate + likelihood
        parts = {
            "surrogate": surrogate.item(),
            "likelihood": likelihood.item(),
            "entropy": float(nll_N.detach() @ share_N),
        }
        if self.policy.kl == "loss":
            distance_N = ((_stream(batch, "reference", nll_N) + nll_N) * chosen_N).clamp(max=MAX_LOG_RATIO)
            divergence = (distance_N.exp() - distance_N - 1) @ share_N
            value = value + self.kl_weight * divergence
            parts["kl"] = divergence.item()
        flop = token_nll_flop(network.head_weight, _num_counted(value, nll_N), len(nll_N))
        return Loss(value, nll_N.detach(), parts, flop)

    def _lost(self, nll_N: Tensor, chosen_N: Tensor, batch: Batch) -> Tensor:
        """-f of every token, 0 where none was chosen."""
        advantage_N = _stream(batch, "advantage", nll_N)
        if self.policy.ratio == "none":
            return advantage_N * nll_N * chosen_N
        log_N = (-nll_N - _stream(batch, "old", nll_N)) * chosen_N
        if self.policy.ratio == "sequence":
            log_N = mean_by_sequence(log_N, chosen_N, batch)
        ratio_N = log_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        assert self.policy.clip is not None
        low, high = self.policy.clip
        gained_N = torch.minimum(ratio_N * advantage_N, ratio_N.clamp(1 - low, 1 + high) * advantage_N)
        if self.policy.dual_clip is not None:
            bounded_N = torch.maximum(gained_N, self.policy.dual_clip * advantage_N)
            gained_N = torch.where(advantage_N < 0, bounded_N, gained_N)
        return -gained_N * chosen_N


def _num_counted(value: Tensor, nll_N: Tensor) -> int:
    """Tokens that the loss has a gradient to: not those of a prompt, and none that clipping has left out."""
    if not value.requires_grad:
        return 0
    (grad_N,) = torch.autograd.grad(value, nll_N, retain_graph=True)
    return int(grad_N.count_nonzero())


def _stream(batch: Batch, name: str, like: Tensor) -> Tensor:
    """(N,) of every target, in the precision of `like`."""
    return batch.streams[name].flatten().to(like.dtype)


def mean_by_sequence(values_N: Tensor, chosen_N: Tensor, batch: Batch) -> Tensor:
    """The mean over the chosen tokens of its segment, at every position; segments lie whole in a batch."""
    assert batch.sequence_BT is not None
    owner_N = batch.sequence_BT.flatten() + 1  # padding, -1, has a sum of its own
    size = int(owner_N.max()) + 1
    sums_S = values_N.new_zeros(size).index_add(0, owner_N, values_N * chosen_N)
    counts_S = values_N.new_zeros(size).index_add(0, owner_N, chosen_N.to(values_N.dtype))
    return (sums_S / counts_S.clamp(min=1))[owner_N]
