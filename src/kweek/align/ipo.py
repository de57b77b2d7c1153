"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17).

    h = log pi(y+|x) / pi_ref(y+|x) - log pi(y-|x) / pi_ref(y-|x)
    L = (h - 1 / (2 tau))^2

The margin h is led to a finite value, however sure the preference: to 1 / (2 tau) where all agree and to (2p - 1) /
(2 tau) where a share p does, for two answers that are only compared with one another. DPO, whose margin grows
without end on pairs that all agree on, needs a stop instead.

Known bias. As published, h is a sum over tokens, so that a long answer needs less of a change per token than a
short one to reach the same margin; `per_token` takes means instead, which is what TRL computes and, as its authors
were told, what the paper's own results used. The square also pulls back pairs whose margin is larger than asked,
right though they rank. Chosen answers may lose likelihood as under DPO.
"""

from __future__ import annotations

from torch import Tensor

from kweek.align.compared import compared
from kweek.data.batches import Batch
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.train.objective import Loss


class IPO:
    """The objective; an update's loss is the weighted mean over its pairs.

    Args:
        tau: the smaller, the larger the margin that is asked for, 1 / (2 tau) nats; 0.1, that is 5 nats, as common.
        per_token: compare means over tokens instead of sums; off, as in the paper's formula.

    Raises:
        ConfigError: tau is not positive.
    """

    def __init__(self, tau: float = 0.1, per_token: bool = False) -> None:
        if not tau > 0:
            raise ConfigError(f"tau is {tau}, not above 0", where="tau")
        self.tau, self.per_token = tau, per_token

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no pairs, half a pair, or no reference.
        """
        found = compared(network, hidden_BTD, batch)
        chosen_P, rejected_P = found.chosen_gain_P, found.rejected_gain_P
        if self.per_token:
            chosen_P, rejected_P = chosen_P / found.chosen_length_P, rejected_P / found.rejected_length_P
        margin_P = chosen_P - rejected_P
        loss = found.mean((margin_P - 1 / (2 * self.tau)) ** 2)
        return Loss(loss, None, found.parts(self.tau * margin_P.detach()), found.flop)
