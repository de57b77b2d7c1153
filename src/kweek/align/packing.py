"""Packing without cross-talk, made sure of before training: a packed loss must equal the loss of each chat alone.

When documents of one row see each other the loss falls all the same, so nobody notices; a mask that one attention
kernel ignores, or positions that run on, are enough.

Legend: T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kweek.data.batches import Segment, collate, pack
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.train.objective import Likelihood

MAX_GAP = 1e-3  # nats per token; in fp32 the two orders of adding differ by about 1e-5
NUM_CHECKED = 4  # segments: one row of them takes milliseconds and shows what any would


@torch.no_grad()
def check_packing(network: Network, segments: Sequence[Segment], length: int) -> float:
    """Compare the negative log-likelihood of every token in a packed row with that in a row of its own.

    Args:
        network: as it will be trained; computes in its own precision.
        segments: what will be trained on; the shortest are taken, because several of them fit a row.
        length: of a row.

    Returns:
        The largest difference, in nats; 0.0 where no two segments fit one row.

    Raises:
        GuardError: it is larger than `MAX_GAP`.
    """
    row = max(pack(sorted(segments, key=len)[:NUM_CHECKED], length), key=len, default=[])
    if len(row) < 2:
        return 0.0
    packed_T = _nll(network, row)
    apart_T = torch.cat([_nll(network, [part]) for part in row])
    gap = float((packed_T - apart_T).abs().max())
    if not gap <= MAX_GAP:
        raise GuardError(
            f"packed and alone, the same token differs by {gap:.3g} nats: chats of one row see each other",
            fix="look at the attention mask and the positions; training with this would teach the wrong context",
        )
    return gap


def _nll(network: Network, row: Sequence[Segment]) -> torch.Tensor:
    """(T,) negative log-likelihood of the targets of a row, nats."""
    batch = collate([row])
    hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
    nll_T = Likelihood()(network, hidden_BTD, batch).nll_N
    assert nll_T is not None
    return nll_T
