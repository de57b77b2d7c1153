"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    h = log pi(y+|x) / pi_ref(y+|x) - log pi(y-|x) / pi_ref(y-|x)
    L = -log sigmoid(beta h - m)

Where preferences follow Bradley and Terry with a reward r, the loss is lowest at pi proportional to pi_ref exp(r /
beta), the optimum of a reward with a KL penalty (their equations 4 and 6). With label smoothing e, for a share e of
pairs that are labelled the wrong way round (cDPO: Mitchell 2023, "A note on DPO with noisy preferences"):

    L = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)

The optional margin m of a pair asks for more than a better rank (ODPO: Amini et al. 2024, arXiv 2402.10571).

Known bias. Only the difference h is pulled: the chosen answer may become less likely, as long as the rejected one
falls faster, and what gains is something that is in no pair (Pal et al. 2024, arXiv 2402.13228; Razin et al. 2024,
arXiv 2410.08847). `kweek.align.displacement` watches for it; `anchor` works against it. The sums over tokens favour
long answers, whose h has the larger spread. A pair that everybody agrees on pulls for ever: without smoothing h has
no finite optimum. And pairs say nothing about answers unlike those that they hold.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kweek.align.compared import compared
from kweek.data.batches import Batch
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.train.objective import Loss


class DPO:
    """The objective; an update's loss is the weighted mean over its pairs.

    Args:
        beta: how dear it is to leave the reference; 0.1 is the paper's for dialogue.
        label_smoothing: share of pairs taken to be labelled the wrong way round; 0 is plain DPO.
        anchor: weight of the chosen answer's own mean nll beside it (Pang et al. 2024, arXiv 2404.19733,
            where it is 1); 0 is plain DPO.

    Raises:
        ConfigError: a value that cannot be meant.
    """

    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0, anchor: float = 0.0) -> None:
        if not beta > 0:
            raise ConfigError(f"beta is {beta}, not above 0", where="beta")
        if not 0 <= label_smoothing < 0.5:
            raise ConfigError(
                f"{label_smoothing} is not in [0, 0.5)",
                where="label_smoothing",
                fix="swap chosen and rejected if more than half of the labels are wrong",
            )
        if anchor < 0:
            raise ConfigError(f"anchor is {anchor}, below 0", where="anchor")
        self.beta, self.label_smoothing, self.anchor = beta, label_smoothing, anchor

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no pairs, half a pair, or no reference.
        """
        found = compared(network, hidden_BTD, batch)
        margin_P = self.beta * (found.chosen_gain_P - found.rejected_gain_P)
        asked_P = margin_P - found.pairs.margin_P.to(margin_P.dtype)
        right_P, wrong_P = F.logsigmoid(asked_P), F.logsigmoid(-asked_P)
        loss_P = -(1 - self.label_smoothing) * right_P - self.label_smoothing * wrong_P
        parts = dict(found.parts(margin_P.detach()))
        if self.anchor:
            anchor_P = -found.chosen_P / found.chosen_length_P
            loss_P = loss_P + self.anchor * anchor_P
            parts["anchor"] = float(found.mean(anchor_P.detach()))
        return Loss(found.mean(loss_P), None, parts, found.flop)
