"""The small operations between the matrix products, each one step with a hand-written gradient.

Autograd differentiates such chains link by link, and every link is a pass over memory: at width 128 on a CPU they
took a third of a training step. `evidence/spine/trains_fast.py` measures what remains. Every function works with
or without gradients and in any floating dtype; sums of squares are formed in the dtype of their input.
Shapes: N rows (B times T), D width, F ffn, H heads, K key heads, M = H + K, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _inverse_root_mean_square(x: Tensor, epsilon: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_at_least_fp32(x.dtype))
    return norm.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gain_D: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        inverse_N1 = _inverse_root_mean_square(x_ND, epsilon)
        ctx.save_for_backward(x_ND, gain_D, inverse_N1)
        return (x_ND * inverse_N1).mul_(gain_D).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gain_D, inverse_N1 = ctx.saved_tensors
        grad_ND = grad_ND.to(x_ND.dtype)
        grad_x_ND, grad_gain_D = _norm_gradients(grad_ND, x_ND, gain_D, inverse_N1)
        return grad_x_ND, grad_gain_D, None, None


def _norm_gradients(grad: Tensor, x: Tensor, gain: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x * inverse * gain to x and to gain, over the last dimension."""
    shift = (grad * gain).mul_(inverse)
    unit = x * inverse
    along = torch.linalg.vecdot(shift, unit).unsqueeze(-1).mul_(1 / x.shape[-1])
    grad_gain = (grad * unit).flatten(0, -2).sum(0)
    return shift.addcmul_(unit, along, value=-1), grad_gain


def rms_norm(x: Tensor, gain_D: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / rms(x) * gain over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4).

    Args:
        dtype: of the result; that of x by default.
    """
    return _RMSNorm.apply(x, gain_D, epsilon, dtype or x.dtype)  # type: ignore[no-untyped-call, no-any-return]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the pairs (i, i + E/2) of the last dimension; `sine` has its first half negated.

    The inverse is the same with `-sine`.
    """
    return (x * cosine).addcmul_(x.roll(x.shape[-1] // 2, -1), sine)


class _Heads(torch.autograd.Function):
    """Projected rows to rotated heads. Saves its input and the inverse norms, nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_BTZ: Tensor,
        gains: Tensor | None,
        cosine: Tensor,
        sine: Tensor,
        sizes: tuple[int, int, int],
        epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_heads, num_kv_heads, head_dim = sizes
        heads = qkv_BTZ.unflatten(-1, (-1, head_dim)).transpose(1, 2)
        rotated, v = heads.split((num_heads + num_kv_heads, num_kv_heads), dim=1)
        inverse = None
        if gains is not None:
            inverse = _inverse_root_mean_square(rotated, epsilon).to(qkv_BTZ.dtype)
            gain_ME = _gain_by_head(gains, sizes)
            unit = torch.empty(rotated.shape, dtype=rotated.dtype, device=rotated.device)
            rotated = torch.mul(rotated, inverse, out=unit).mul_(gain_ME)
        ctx.save_for_backward(qkv_BTZ, gains, cosine, sine, inverse)
        ctx.sizes = sizes
        q, k = rotate(rotated.contiguous(), cosine, sine).split((num_heads, num_kv_heads), dim=1)
        return q.contiguous(), k.contiguous(), v.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        qkv_BTZ, gains, cosine, sine, inverse = ctx.saved_tensors
        num_heads, num_kv_heads, head_dim = ctx.sizes
        grad = rotate(torch.cat((grad_q, grad_k), dim=1), cosine, -sine)
        x = qkv_BTZ.unflatten(-1, (-1, head_dim)).transpose(1, 2)[:, : num_heads + num_kv_heads]
        grad_gains = None
        if gains is not None:
            gain_ME = _gain_by_head(gains, ctx.sizes)
            shift = (grad * gain_ME).mul_(inverse)
            unit = x * inverse
            along = torch.linalg.vecdot(shift, unit).unsqueeze(-1).mul_(1 / head_dim)
            by_head = (grad * unit).sum((0, 2))
            grad_gains = torch.stack((by_head[:num_heads].sum(0), by_head[num_heads:].sum(0))).to(gains.dtype)
            grad = shift.addcmul_(unit, along, value=-1)
        grad_qkv = torch.empty_like(qkv_BTZ)
        heads = grad_qkv.unflatten(-1, (-1, head_dim)).transpose(1, 2)
        heads[:, : num_heads + num_kv_heads] = grad
        heads[:, num_heads + num_kv_heads :] = grad_v
        return grad_qkv, grad_gains, None, None, None, None


def _gain_by_head(gains_2E: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    return gains_2E.repeat_interleave(torch.tensor(sizes[:2]), dim=0).unsqueeze(1)


def project_heads(
    qkv_BTZ: Tensor,
    gains_2E: Tensor | None,
    cosine: Tensor,
    sine: Tensor,
    sizes: tuple[int, int, int],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut fused projections into heads, normalise and rotate queries and keys.

    Args:
        qkv_BTZ: queries, keys and values side by side, Z = (H + 2K) E.
        gains_2E: gains of the norms of queries and of keys, None for a layout without them.
        cosine, sine: (T, E), or (B, 1, T, E) where rows differ in position.
        sizes: H, K and E.

    Returns:
        contiguous q (B, H, T, E), k and v (B, K, T, E).
    """
    return _Heads.apply(qkv_BTZ, gains_2E, cosine, sine, sizes, epsilon)  # type: ignore[no-untyped-call, no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, bias: Tensor) -> Tensor:
        batch, heads, time, size = q_BHTE.shape
        groups = batch * k_BKTE.shape[1]
        # the heads that share a key head stand below one another: one product per key head
        q, k, v = (x.reshape(groups, -1, size) for x in (q_BHTE * size**-0.5, k_BKTE, v_BKTE))
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(batch, heads, time, time).add_(bias)
        shares = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, shares)
        out = torch.bmm(shares, v).view(batch, heads, time, size)
        return out.transpose(1, 2).reshape(batch, time, heads * size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTZ: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        batch, time, size = *grad_BTZ.shape[:2], q.shape[-1]
        grad = grad_BTZ.unflatten(-1, (-1, size)).transpose(1, 2).reshape(q.shape)
        grad_v = torch.bmm(shares.transpose(1, 2), grad)
        grad_shares = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
        grad_q = torch.bmm(grad_scores, k).mul_(size**-0.5)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        q_BHTE, k_BKTE, v_BKTE = (g.view(batch, -1, time, size) for g in (grad_q, grad_k, grad_v))
        return q_BHTE, k_BKTE, v_BKTE, None


def attend(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention with all scores kept: softmax(q k' / sqrt(E) + bias) v, as (B, T, H E).

    For short sequences on a CPU. torch's flash kernel saves the memory of the scores but its backward pass
    is slower there, in bf16 by five to ten times. `bias` broadcasts to (B, H, T, T).
    """
    return _Attend.apply(q_BHTE, k_BKTE, v_BKTE, bias)  # type: ignore[no-untyped-call, no-any-return]


class _FeedForward(torch.autograd.Function):
    """Works on (F, N), ffn by rows: gate and up are then contiguous halves of one product."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_up_ZD: Tensor, down_DF: Tensor) -> Tensor:
        gate_up_ZD, down_DF = gate_up_ZD.to(x_ND.dtype), down_DF.to(x_ND.dtype)
        both_ZN = gate_up_ZD @ x_ND.t()
        gate_FN, up_FN = both_ZN.chunk(2)
        inner_FN = F.silu(gate_FN).mul_(up_FN)
        ctx.save_for_backward(x_ND, gate_up_ZD, down_DF, both_ZN)
        return inner_FN.t() @ down_DF.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate_up_ZD, down_DF, both_ZN = ctx.saved_tensors
        gate_FN, up_FN = both_ZN.chunk(2)
        grad_FN = down_DF.t() @ grad_ND.t()
        active_FN = F.silu(gate_FN)
        grad_both_ZN = torch.empty_like(both_ZN)
        grad_gate_FN, grad_up_FN = grad_both_ZN.chunk(2)
        torch.mul(grad_FN, active_FN, out=grad_up_FN)
        torch.ops.aten.silu_backward.grad_input(grad_FN.mul_(up_FN), gate_FN, grad_input=grad_gate_FN)
        grad_down_DF = grad_ND.t() @ active_FN.mul_(up_FN).t()
        return grad_both_ZN.t() @ gate_up_ZD, grad_both_ZN @ x_ND, grad_down_DF


def feed_forward(x: Tensor, gate_up_ZD: Tensor, down_DF: Tensor) -> Tensor:
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, equation 6), (..., D) to (..., D).

    Args:
        gate_up_ZD: rows of the gate, then of the up projection, Z = 2F; computed in the dtype of x.
    """
    return _FeedForward.apply(x.flatten(0, -2), gate_up_ZD, down_DF).view(x.shape)  # type: ignore[no-untyped-call, no-any-return]
