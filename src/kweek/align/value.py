"""Regression of a value on every token: what a critic learns (Schulman et al. 2017, arXiv 1707.06347, equation 9).

    L = 1/2 (V(s_t) - R_t)^2

V(s_t) is read where the policy is: at the token before the one that is chosen.

Known bias. The square estimates the mean of the returns seen, whoever sampled them: after the policy has moved it
is out of date. PPO's reference code also clips how far a value may leave the old one; that depends on the scale of the
reward, slows the critic where it is most wrong, and helped in no controlled comparison (Andrychowicz et al. 2021,
arXiv 2006.05990, section 3.3), so it is not here.

Legend: B rows, T positions, D width, N = B T, C counted positions.
"""

from __future__ import annotations

from torch import Tensor

from kweek.data.batches import Batch
from kweek.errors import DataError
from kweek.model.network import Network
from kweek.train.objective import Loss

#: Stream: the return R_t.
RETURN = "return"


class ValueRegression:
    """The objective of a scorer per token: the sum over tokens of weight times loss.

    Weights are those of the segments, already divided by a count over the update. Parts: `value_error`, the
    weighted mean square (V - R)^2, and `value`, the weighted mean of V.
    """

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no returns.
        """
        if RETURN not in batch.streams:
            raise DataError(f"the batch has no stream {RETURN!r}", fix="write it into the segments")
        weights_N = batch.weights_BT.flatten()
        counted_C = weights_N.nonzero()[:, 0]
        value_C = network.logits(hidden_BTD.flatten(0, 1)[counted_C])[:, 0]
        weights_C = weights_N[counted_C].to(value_C.dtype)
        wanted_C = batch.streams[RETURN].flatten()[counted_C].to(value_C.dtype)
        error = weights_C @ (value_C - wanted_C) ** 2
        parts = {"value_error": error.item(), "value": float(weights_C @ value_C.detach())}
        return Loss(0.5 * error, None, parts)
