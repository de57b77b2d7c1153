"""Regression of a value on every token: what a critic learns (Schulman et al. 2017, arXiv 1707.06347, section 5).

    L = 1/2 (V(s_t) - R_t)^2

V(s_t) is read where the policy is: at the token before the one that is chosen. With `clip` the value may not leave
the one that the rollouts were judged with by more than that in one update, as the policy's ratio may not (PPO's
reference code; the paper's equation 9 has the plain square):

    L = 1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)

Known bias. The square estimates the mean of the returns seen, whoever sampled them: after the policy has moved it
is out of date. Clipping depends on the scale of the reward, slows the critic where it is most wrong, and helped in
no controlled comparison (Andrychowicz et al. 2021, arXiv 2006.05990, section 3.3): it is off unless asked for.

Legend: B rows, T positions, D width, N = B T, C counted positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.errors import ConfigError, DataError
from kweek.model.network import Network
from kweek.train.objective import Loss

#: Streams: the return R_t, and the value V_old that the critic gave when the rollouts were judged.
RETURN, OLD_VALUE = "return", "old_value"


class ValueRegression:
    """The objective of a scorer per token: the sum over tokens of weight times loss.

    Weights are those of the segments, already divided by a count over the update. Parts: `value_error`, the
    weighted mean square (V - R)^2, and `value`, the weighted mean of V.

    Args:
        clip: how far a value may leave the old one, in units of the reward; None does not clip.

    Raises:
        ConfigError: clip is not positive.
    """

    def __init__(self, clip: float | None = None) -> None:
        if clip is not None and not clip > 0:
            raise ConfigError(f"clip is {clip}, not above 0", where="clip")
        self.clip = clip

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no returns, or no old values to clip at.
        """
        needed = (RETURN,) if self.clip is None else (RETURN, OLD_VALUE)
        for name in needed:
            if name not in batch.streams:
                raise DataError(f"the batch has no stream {name!r}", fix="write it into the segments")
        weights_N = batch.weights_BT.flatten()
        counted_C = weights_N.nonzero()[:, 0]
        value_C = network.logits(hidden_BTD.flatten(0, 1)[counted_C])[:, 0]
        weights_C = weights_N[counted_C].to(value_C.dtype)
        wanted_C = batch.streams[RETURN].flatten()[counted_C].to(value_C.dtype)
        square_C = (value_C - wanted_C) ** 2
        loss_C = square_C
        if self.clip is not None:
            old_C = batch.streams[OLD_VALUE].flatten()[counted_C].to(value_C.dtype)
            near_C = old_C + (value_C - old_C).clamp(-self.clip, self.clip)
            loss_C = torch.maximum(square_C, (near_C - wanted_C) ** 2)
        parts = {
            "value_error": float(weights_C @ square_C.detach()),
            "value": float(weights_C @ value_C.detach()),
        }
        return Loss(0.5 * (weights_C @ loss_C), None, parts)
