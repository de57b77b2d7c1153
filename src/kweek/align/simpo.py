"""Simple preference optimisation, without a reference model (Meng et al. 2024, arXiv 2405.14734, equation 6).

    L = -log sigmoid(beta log pi(y+|x) / |y+| - beta log pi(y-|x) / |y-| - gamma)

The implied reward is the mean log-probability per token, by which an answer is likely to be chosen when it is
generated; gamma asks for a margin between the two.

Known bias. Nothing holds the policy where it began: learning rate and number of updates are the only brakes, and
chosen answers may lose likelihood. The mean removes the preference for long answers and brings one for answers that
go on with easy tokens: a repeated phrase raises it. Pairs may carry reference log-probabilities all the same; they
do not enter the loss, but let `kweek.align.displacement` see what the answers gained.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kweek.align.compared import compared
from kweek.data.batches import Batch
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.train.objective import Loss


class SimPO:
    """The objective; an update's loss is the weighted mean over its pairs.

    Args:
        beta: scale of the implied reward; 2 is the lower end of what the paper found good.
        gamma: target margin in units of that reward; the paper's best lay between 0.1 and 0.8 of beta.

    Raises:
        ConfigError: beta is not positive or gamma negative.
    """

    def __init__(self, beta: float = 2.0, gamma: float = 1.0) -> None:
        if not beta > 0:
            raise ConfigError(f"beta is {beta}, not above 0", where="beta")
        if gamma < 0:
            raise ConfigError(f"gamma is {gamma}, below 0", where="gamma")
        self.beta, self.gamma = beta, gamma

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no pairs, or half a pair.
        """
        found = compared(network, hidden_BTD, batch)
        chosen_P, rejected_P = (
            found.chosen_P / found.chosen_length_P,
            found.rejected_P / found.rejected_length_P,
        )
        margin_P = self.beta * (chosen_P - rejected_P)
        loss = -found.mean(F.logsigmoid(margin_P - self.gamma))
        return Loss(loss, None, found.parts(margin_P.detach()), found.flop)
