"""Head and cross-entropy together, in chunks of rows, with a hand-written gradient.

The logits of a batch are the largest tensor of a training step, and autograd keeps several copies of them.
Here a chunk of rows goes through the product, the softmax and both gradient products at once, and only the
two gradients are kept. Shapes: N tokens, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Fastest at vocabularies of 1,000 to 8,000: fewer rows waste passes over the head, more leave the cache.
CHUNK_ROWS = 256
#: Below this a probability has lost digits, so its logarithm is computed anew from the logits.
_SMALL = 1e-30


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk_rows: int
    ) -> tuple[Tensor, Tensor]:
        matrix_VD = weight_VD.to(hidden_ND.dtype)
        nll_N = torch.empty_like(weights_N)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden_ND.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            hidden_CD, targets_C1, weights_C1 = hidden_ND[rows], targets_N[rows, None], weights_N[rows, None]
            shares_CV, nll_N[rows] = _shares_and_nll(hidden_CD, matrix_VD, targets_C1)
            # The gradient to the logits is weight * (softmax - one-hot). The weight of a row is put on the
            # narrow side of both products, which spares a pass over the logits.
            error_CV = shares_CV.scatter_add_(-1, targets_C1, shares_CV.new_full(targets_C1.shape, -1.0))
            torch.mm(error_CV, matrix_VD, out=grad_hidden_ND[rows])
            grad_hidden_ND[rows] *= weights_C1
            add_outer(grad_weight_VD, error_CV, (hidden_CD * weights_C1).to(hidden_CD.dtype))
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.mark_non_differentiable(nll_N)
        return nll_N @ weights_N, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        if grad_loss != 1:
            grad_hidden_ND = grad_hidden_ND * grad_loss
            grad_weight_VD = None if grad_weight_VD is None else grad_weight_VD * grad_loss
        return grad_hidden_ND, grad_weight_VD, None, None, None


class _TokenNLL(torch.autograd.Function):
    """The logits are formed again for the gradient: kept, they would be the largest tensor of the step."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_rows: int) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.chunk_rows = chunk_rows
        return _nll(hidden_ND, weight_VD, targets_N, chunk_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        matrix_VD = weight_VD.to(hidden_ND.dtype)
        grad_hidden_ND = torch.zeros_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        counted = grad_N.nonzero()[:, 0]  # rows without a gradient, those of a prompt, need no logits
        for rows in torch.split(counted, ctx.chunk_rows):
            hidden_CD, grad_C1 = hidden_ND[rows], grad_N[rows, None].to(hidden_ND.dtype)
            error_CV = torch.softmax(F.linear(hidden_CD, matrix_VD), -1)
            error_CV.scatter_add_(-1, targets_N[rows, None], error_CV.new_full(grad_C1.shape, -1.0))
            grad_hidden_ND[rows] = (error_CV @ matrix_VD).mul_(grad_C1)
            add_outer(grad_weight_VD, error_CV, hidden_CD * grad_C1)
        return grad_hidden_ND, grad_weight_VD, None, None


def add_outer(total_VD: Tensor | None, error_CV: Tensor, weighted_CD: Tensor) -> None:
    """Add error^T weighted to a gradient, where one is wanted: a frozen head needs none."""
    if total_VD is None:
        return
    if total_VD.dtype == error_CV.dtype:
        total_VD.addmm_(error_CV.t(), weighted_CD)
    else:
        total_VD += error_CV.t() @ weighted_CD


def _nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_rows: int) -> Tensor:
    matrix_VD = weight_VD.to(hidden_ND.dtype)
    chunks = zip(torch.split(hidden_ND, chunk_rows), torch.split(targets_N[:, None], chunk_rows), strict=True)
    return torch.cat([_shares_and_nll(hidden, matrix_VD, targets)[1] for hidden, targets in chunks])


def token_nll(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Negative log-likelihood of every target (N,), nats, with gradients to hidden states and head.

    For objectives that are no weighted sum known beforehand. The head's product is made twice, so where the weights
    are known `fused_cross_entropy` is cheaper; arguments as there.
    """
    return _TokenNLL.apply(  # type: ignore[no-untyped-call, no-any-return]
        hidden_ND, weight_VD, targets_N, chunk_rows
    )


def token_nll_flop(weight_VD: Tensor, num_counted: int, num_rows: int) -> float:
    """What the head costs more (or, below zero, less) by `token_nll` than the products that a count assumes.

    These are three for every row, to the logits and to both gradients, or two where the head is frozen.

    Args:
        weight_VD: the head.
        num_counted: rows with a gradient, whose logits are formed twice; the others take no part in the backward pass.
        num_rows: all rows.
    """
    assumed = 3 if weight_VD.requires_grad else 2
    return 2.0 * weight_VD.numel() * (assumed * num_counted - (assumed - 1) * num_rows)


def _shares_and_nll(hidden_CD: Tensor, matrix_VD: Tensor, targets_C1: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of the logits (C, V) in their dtype, and the nll of the targets (C,)."""
    logits_CV = F.linear(hidden_CD, matrix_VD)
    shares_CV = torch.softmax(logits_CV, -1, out=logits_CV)
    exact = torch.promote_types(logits_CV.dtype, torch.float32)
    chosen_C = shares_CV.gather(-1, targets_C1).squeeze(-1).to(exact)
    nll_C = chosen_C.log().neg_()
    tiny_C = chosen_C < _SMALL
    if tiny_C.any():
        again = F.linear(hidden_CD[tiny_C], matrix_VD).to(exact)
        nll_C[tiny_C] = F.cross_entropy(again, targets_C1[tiny_C].squeeze(-1), reduction="none")
    return shares_CV, nll_C


def fused_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood of targets, and its gradients to hidden states and head.

    Products and softmax are in the dtype of `hidden_ND`; in bf16 an nll has about three digits.

    Args:
        hidden_ND: final hidden states.
        weight_VD: the head; its gradient has its own dtype.
        targets_N: the right next token of each row, in [0, V).
        weights_N: fp32, weight of each row in the sum; 0 leaves a row out. No gradient is taken to it.
        chunk_rows: rows per chunk.

    Returns:
        the loss, sum of weight * nll (a scalar to call `backward` on), and the nll (N,) in nats, detached.
    """
    if torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad):
        loss, nll_N = _FusedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, targets_N, weights_N, chunk_rows
        )
        return loss, nll_N
    nll_N = _nll(hidden_ND, weight_VD, targets_N, chunk_rows)
    return nll_N @ weights_N, nll_N
