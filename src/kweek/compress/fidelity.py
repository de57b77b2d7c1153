"""How near a network's predictions are to those of the original it was made from.

Bits per byte tell whether a text became likelier, which a compressed model can be by chance; the divergence from the
original's predictions cannot be lowered by chance, and shows a loss a hundred times smaller.
Shapes: B rows, T tokens, N real tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.model.network import Network
from kweek.stats.intervals import Interval, bootstrap

_TOKENS_AT_ONCE = 512  # whose logits fit into some hundred megabytes at vocabularies of 50,000


@dataclass(frozen=True)
class Fidelity:
    """Means over tokens, with 95% intervals by resampling rows.

    Attributes:
        divergence: KL(original || other), nats per token.
        agreement: share of tokens whose likeliest successor is the same.
        num_tokens: tokens compared.
    """

    divergence: Interval
    agreement: Interval
    num_tokens: int


class Reference:
    """An original network on a text, read once.

    Args:
        network: the original.
        batches: of the text; padding is left out.

    Raises:
        ValueError: no batches.
    """

    def __init__(self, network: Network, batches: Sequence[Batch]) -> None:
        if not batches:
            raise ValueError("there is no text to compare on")
        self.network, self.batches = network, list(batches)
        self.hidden = [_hidden(network, batch) for batch in self.batches]

    def divergence(self, other: Network) -> float:
        """KL(original || other), nats per token."""
        found = [self._tokens(at, other)[0] for at in range(len(self.batches))]
        return float(torch.cat(found).mean(dtype=torch.float64))

    def fidelity(self, other: Network, on_batch: Callable[[int, int], None] | None = None) -> Fidelity:
        """Divergence and agreement with intervals; `on_batch` is told how many batches of how many are done."""
        rows: list[tuple[float, float, float]] = []
        for at, batch in enumerate(self.batches):
            divergence_N, same_N = self._tokens(at, other)
            valid_BT = batch.weights_BT > 0
            owner_N = torch.arange(len(valid_BT))[:, None].expand_as(valid_BT)[valid_BT]
            for row in range(len(valid_BT)):
                mine = owner_N == row
                rows.append((float(divergence_N[mine].sum()), float(same_N[mine].sum()), float(mine.sum())))
            if on_batch is not None:
                on_batch(at + 1, len(self.batches))
        table = np.array(rows)
        return Fidelity(
            bootstrap(table, lambda sample: sample[:, 0].sum() / sample[:, 2].sum()),
            bootstrap(table, lambda sample: sample[:, 1].sum() / sample[:, 2].sum()),
            int(table[:, 2].sum()),
        )

    @torch.no_grad()
    def _tokens(self, at: int, other: Network) -> tuple[Tensor, Tensor]:
        """Of a batch's real tokens: KL(original || other) in nats, fp32, and whether both have one favourite; (N,)."""
        divergence, same = [], []
        pairs = (self.hidden[at], _hidden(other, self.batches[at]))
        for ours_ND, theirs_ND in zip(*(torch.split(part, _TOKENS_AT_ONCE) for part in pairs), strict=True):
            p_NV = torch.log_softmax(self.network.logits(ours_ND).float(), -1)
            q_NV = torch.log_softmax(other.logits(theirs_ND).float(), -1)
            divergence.append((p_NV.exp() * (p_NV - q_NV)).sum(-1))
            same.append(p_NV.argmax(-1) == q_NV.argmax(-1))
        return torch.cat(divergence), torch.cat(same)


@torch.no_grad()
def _hidden(network: Network, batch: Batch) -> Tensor:
    """Final hidden states of the real tokens, (N, D)."""
    hidden_BTD: Tensor = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
    return hidden_BTD[batch.weights_BT > 0]
