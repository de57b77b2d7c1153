"""Distillation as an objective: a network learns to predict what a larger one predicts.

The loss is the forward Kullback-Leibler divergence KL(teacher || pupil) of the full distributions at temperature 1
(Hinton et al. 2015, arXiv 1503.02531), with a share of the text's own next-token loss beside it. It needs the same
vocabulary on both sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.errors import ConfigError
from kweek.model.divergence import fused_divergence
from kweek.model.network import Network
from kweek.train.objective import Likelihood, Loss


class Distillation:
    """The divergence from a teacher, token by token, under the batch's weights.

    Args:
        text_share: weight of the text's own loss; the divergence has the rest. At 1 the teacher is not read.
    """

    def __init__(self, teacher: Network, text_share: float = 0.0) -> None:
        self.teacher, self.text_share = teacher, text_share
        self._text = Likelihood()

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            ConfigError: the teacher has another number of tokens.
        """
        if self.text_share == 1:
            return self._text(network, hidden_BTD, batch)
        teacher = self.teacher
        if network.config.vocab_size != teacher.config.vocab_size:
            raise ConfigError(
                f"the teacher predicts {teacher.config.vocab_size} tokens, the pupil {network.config.vocab_size}",
                fix="take a teacher with the tokenizer of the pupil",
            )
        with torch.no_grad():
            wanted_BTG = teacher(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        value, kl_N, nll_N = fused_divergence(
            hidden_BTD.flatten(0, 1),
            network.head_weight,
            wanted_BTG.flatten(0, 1),
            teacher.head_weight,
            batch.targets_BT.flatten(),
            batch.weights_BT.flatten(),
            self.text_share,
        )
        reading = batch.ids_BT.numel() * teacher.config.num_flops_per_token(batch.ids_BT.shape[1])
        parts = {"divergence": float(kl_N @ batch.weights_BT.flatten())}
        return Loss(value, nll_N, parts, reading)
