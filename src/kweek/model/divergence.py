"""How far the predictions of one network are from those of another, with a hand-written gradient.

Two heads and the divergence go through in chunks, as in `kweek.model.head`, since two sets of logits would be the
largest tensors of a step.
Shapes: N tokens, D width of the pupil, G width of the teacher, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kweek.model.head import CHUNK_ROWS, add_outer


class _FusedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        wanted_NG: Tensor,
        wanted_VG: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        text_share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        matrix_VD, matrix_VG = weight_VD.to(hidden_ND.dtype), wanted_VG.to(wanted_NG.dtype)
        kl_N, nll_N = torch.empty_like(weights_N), torch.empty_like(weights_N)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden_CD, weights_C1, targets_C1 = hidden_ND[rows], weights_N[rows, None], targets_N[rows, None]
            found_CV = torch.log_softmax(F.linear(hidden_CD, matrix_VD).float(), -1)
            wanted_CV = torch.log_softmax(F.linear(wanted_NG[rows], matrix_VG).float(), -1)
            nll_N[rows] = -found_CV.gather(-1, targets_C1)[:, 0]
            shares_CV = wanted_CV.exp()
            kl_N[rows] = (shares_CV * wanted_CV.sub_(found_CV)).sum(-1)
            # The gradient to the logits is weight * (pupil's shares - wanted shares), where what is wanted are the
            # teacher's shares and the token that followed.
            error_CV = found_CV.exp_().sub_(shares_CV, alpha=1 - text_share)
            truth_C1 = error_CV.new_full(targets_C1.shape, -text_share)
            error_CV = error_CV.scatter_add_(-1, targets_C1, truth_C1).to(hidden_ND.dtype)
            grad_hidden_ND[rows] = (error_CV @ matrix_VD) * weights_C1
            add_outer(grad_weight_VD, error_CV, (hidden_CD * weights_C1).to(error_CV.dtype))
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.mark_non_differentiable(kl_N, nll_N)
        return torch.lerp(kl_N, nll_N, text_share) @ weights_N, kl_N, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        grad_weight_VD = None if grad_weight_VD is None else grad_weight_VD * grad_loss
        return grad_hidden_ND * grad_loss, grad_weight_VD, None, None, None, None, None


def fused_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    wanted_NG: Tensor,
    wanted_VG: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    text_share: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted KL(teacher || pupil) of the next token, with gradients to the pupil's hidden states and head.

    Args:
        hidden_ND, weight_VD: the pupil's final hidden states and head.
        wanted_NG, wanted_VG: the teacher's; no gradient is taken to them.
        targets_N: the token that followed.
        weights_N: fp32, weight of each row in the sum.
        text_share: weight of the nll of the targets in the loss, beside 1 - that of KL.

    Returns:
        the loss, summed with the weights; KL (N,) and the pupil's nll of the targets (N,), nats, detached.
    """
    return _FusedDivergence.apply(  # type: ignore[no-untyped-call, no-any-return]
        hidden_ND, weight_VD, wanted_NG, wanted_VG, targets_N, weights_N, text_share
    )
