"""What an update lowers: an objective turns the hidden states of a batch into a loss with named parts.

The trainer is blind to the algorithm. Most algorithms write weights into the batch and lower their sum of weighted
negative log-likelihoods, the objective `Likelihood`; one whose weights depend on the present network (a clipped ratio,
a pair) is an `Objective` of its own. Every sum is already divided, by whoever built the micro-batches, by a count over
the whole update: losses of micro-batches add up, and how they were cut does not show.

Legend: B rows, T positions, N = B T, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.model.head import fused_cross_entropy
from kweek.model.network import Network


@dataclass(frozen=True)
class Loss:
    """What an objective makes of one micro-batch.

    Attributes:
        value: scalar to call `backward` on.
        nll_N: of every target, nats, detached; None for an objective that predicts no tokens.
        parts: shares of the value and other figures, by name, that add up over the micro-batches of an update.
        flop: what was computed beside the forward and backward pass of the network itself.
    """

    value: Tensor
    nll_N: Tensor | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    flop: float = 0.0


class Objective(Protocol):
    """Turns a batch and what the network makes of it into a loss."""

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """Args:
        network: whose head and other parameters the loss may use.
        hidden_BTD: its final hidden states for the batch, with their graph.
        batch: with the streams and labels that the objective needs.
        """
        ...


class Likelihood:
    """The sum over tokens of weight times negative log-likelihood: next token, chats, a policy gradient."""

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`."""
        loss, nll_N = fused_cross_entropy(
            hidden_BTD.flatten(0, 1),
            network.head_weight,
            batch.targets_BT.flatten(),
            batch.weights_BT.flatten(),
        )
        return Loss(loss, nll_N)


class Imitation:
    """The same sum, with head and softmax only where something is learnt.

    Of a chat the model learns its own words, of a question with a worked answer about half. With a vocabulary of 49,152
    and a width of 576 the head is a fifth of the network, so a tenth of the work falls away.
    """

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`; the nll of what is not learnt is nan, because nobody formed it."""
        weights_N = batch.weights_BT.flatten()
        learnt_N = weights_N != 0
        loss, learnt_nll_N = fused_cross_entropy(
            hidden_BTD.flatten(0, 1)[learnt_N],
            network.head_weight,
            batch.targets_BT.flatten()[learnt_N],
            weights_N[learnt_N],
        )
        nll_N = torch.full_like(weights_N, torch.nan)
        nll_N[learnt_N] = learnt_nll_N
        return Loss(loss, nll_N, flop=-self.num_flops_spared(network, batch))

    def num_flops_spared(self, network: Network, batch: Batch) -> float:
        """Of what the network counts for a batch: the head, where nothing is learnt."""
        products = 3 if network.head_weight.requires_grad else 2  # forward, to the hidden states, to the head
        return int((batch.weights_BT == 0).sum()) * products * 2.0 * network.head_weight.numel()
