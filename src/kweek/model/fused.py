"""The small operations between the matrix products, each one step with a hand-written gradient.

Autograd differentiates such chains link by link, and every link is a pass over memory; at width 128 on a CPU
that was a third of a training step. Every function works with or without gradients and in any floating
dtype; norms are formed in at least fp32. Where weights are frozen no gradient is computed for them.
Shapes: N rows (B times T), D width, F ffn, I inputs, O outputs, H heads, K key heads, M = H + K, E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kweek.model.linear import Matrix


def _inverse_root_mean_square(x: Tensor, epsilon: float) -> Tensor:
    norm = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    inverse: Tensor = norm.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()
    return inverse


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
        needed_x, needed_gain = ctx.needs_input_grad[:2]
        # A layer norm whose mean is zero, except that its gradient also subtracts the mean of what comes in:
        # torch has one kernel for that gradient, and the mean is added back.
        grad_x_ND, grad_gain_D, _ = torch.ops.aten.native_layer_norm_backward(
            grad_ND,
            x_ND,
            gain_D.shape,
            torch.zeros_like(inverse_N1),
            inverse_N1,
            gain_D,
            None,
            (needed_x, needed_gain, False),
        )
        if needed_x:
            mean_N1 = (grad_ND @ gain_D).unsqueeze(-1).mul_(1 / gain_D.numel())
            grad_x_ND.addcmul_(mean_N1, inverse_N1)
        return grad_x_ND, grad_gain_D, None, None


def rms_norm(x: Tensor, gain_D: Tensor, epsilon: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / rms(x) * gain over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4).

    Args:
        dtype: of the result; that of x by default.
    """
    return _RMSNorm.apply(x, gain_D, epsilon, dtype or x.dtype)  # type: ignore[no-untyped-call, no-any-return]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the pairs (i, i + E/2) of the last dimension; `sine` has its first half negated.

    The inverse, and so the gradient, is the same with `-sine`; autograd does not pass through.
    `out` may have any strides; it is contiguous by default.
    """
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(x, cosine, out=out)
    return out.addcmul_(x.roll(x.shape[-1] // 2, -1), sine)


@dataclass(frozen=True)
class HeadLayout:
    """How projected rows are cut into heads, and how queries and keys turn.

    Attributes:
        num_heads, num_kv_heads, head_dim: H, K and E.
        epsilon: of the norms.
        query, key: cosine and sine by position, (2, T, E), or (2, B, 1, T, E) where rows differ in position.
            Those for queries hold the factor 1 / sqrt(E) of attention.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    epsilon: float
    query: Tensor
    key: Tensor

    def at(self, positions_BT: Tensor) -> HeadLayout:
        """The layout for named positions (B, T) out of one that begins at 0; does not wait for the device."""
        query, key = (table[:, positions_BT].unsqueeze(2) for table in (self.query, self.key))
        return replace(self, query=query, key=key)

    def cut(self, rows_BTZ: Tensor) -> tuple[Tensor, Tensor]:
        """Views of queries with keys (B, T, M, E), and of values (B, K, T, E)."""
        all_heads = rows_BTZ.view(*rows_BTZ.shape[:-1], -1, self.head_dim)
        num_rotated = self.num_heads + self.num_kv_heads
        return all_heads[:, :, :num_rotated], all_heads[:, :, num_rotated:].transpose(1, 2)


class _Heads(torch.autograd.Function):
    """Works on (B, T, M, E), where the gains and their gradient are plain rows, until heads come first."""

    @staticmethod
    def forward(
        ctx: Any, qkv_BTZ: Tensor, q_gain_E: Tensor | None, k_gain_E: Tensor | None, layout: HeadLayout
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_heads, num_kv_heads, size = layout.num_heads, layout.num_kv_heads, layout.head_dim
        heads, v = layout.cut(qkv_BTZ)
        unit = inverse = gain_Z = None
        if q_gain_E is not None and k_gain_E is not None:
            gain_ME = torch.cat((q_gain_E.expand(num_heads, size), k_gain_E.expand(num_kv_heads, size)))
            gain_Z = gain_ME.to(heads.dtype).flatten()
            inverse = _inverse_root_mean_square(heads, layout.epsilon).to(heads.dtype)
            unit = heads * inverse
            heads = (unit.flatten(2) * gain_Z).view(unit.shape)
        ctx.save_for_backward(unit, inverse, gain_Z)
        ctx.layout, ctx.shape = layout, qkv_BTZ.shape
        heads = heads.transpose(1, 2)
        q, k = heads[:, :num_heads], heads[:, num_heads:]
        return rotate(q, *layout.query), rotate(k, *layout.key), v.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, gain_Z = ctx.saved_tensors
        layout: HeadLayout = ctx.layout
        num_heads = layout.num_heads
        grad_qkv = grad_q.new_empty(ctx.shape)
        target, target_v = layout.cut(grad_qkv)
        target_v.copy_(grad_v)
        grad = target if unit is None else torch.empty_like(unit)
        heads = grad.transpose(1, 2)
        rotate(grad_q, layout.query[0], -layout.query[1], out=heads[:, :num_heads])
        rotate(grad_k, layout.key[0], -layout.key[1], out=heads[:, num_heads:])
        if unit is None:
            return grad_qkv, None, None, None
        by_head = (grad * unit).view(-1, gain_Z.numel()).sum(0).view(-1, layout.head_dim)
        shift = grad.flatten(2).mul_(gain_Z).view(grad.shape)
        along = torch.linalg.vecdot(shift, unit).unsqueeze(-1).mul_(-1 / layout.head_dim)
        torch.mul(shift.addcmul_(unit, along), inverse, out=target)
        return grad_qkv, by_head[:num_heads].sum(0), by_head[num_heads:].sum(0), None


def project_heads(
    qkv_BTZ: Tensor, q_gain_E: Tensor | None, k_gain_E: Tensor | None, layout: HeadLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut fused projections into heads, normalise and rotate queries and keys.

    Args:
        qkv_BTZ: queries, keys and values side by side, Z = (H + 2K) E.
        q_gain_E, k_gain_E: gains of the norms of queries and of keys, None without such norms.

    Returns:
        contiguous q (B, H, T, E), divided by sqrt(E), and k and v (B, K, T, E).
    """
    return _Heads.apply(qkv_BTZ, q_gain_E, k_gain_E, layout)  # type: ignore[no-untyped-call, no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, bias: Tensor) -> Tensor:
        batch, heads, time, size = q_BHTE.shape
        # The heads that share a key head stand below one another: one product per key head.
        groups = batch * k_BKTE.shape[1]
        q, k, v = (x.reshape(groups, -1, size) for x in (q_BHTE, k_BKTE, v_BKTE))
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(batch, heads, time, time).add_(bias)
        shares = torch.softmax(scores, -1, out=scores)
        ctx.save_for_backward(q, k, v, shares)
        out = torch.bmm(shares, v).view(batch, heads, time, size)
        return out.transpose(1, 2).reshape(batch, time, heads * size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTZ: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        batch, time, size = *grad_BTZ.shape[:2], q.shape[-1]
        grad = torch.unflatten(grad_BTZ, -1, (-1, size)).transpose(1, 2).reshape(q.shape)
        grad_v = torch.bmm(shares.transpose(1, 2), grad)
        grad_scores = torch.bmm(grad, v.transpose(1, 2))
        torch.ops.aten._softmax_backward_data.out(
            grad_scores, shares, -1, shares.dtype, grad_input=grad_scores
        )
        grad_q = torch.bmm(grad_scores, k)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        q_BHTE, k_BKTE, v_BKTE = (g.view(batch, -1, time, size) for g in (grad_q, grad_k, grad_v))
        return q_BHTE, k_BKTE, v_BKTE, None


def attend(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention with all scores kept: softmax(q k' + bias) v, as (B, T, H E).

    For short sequences on a CPU: torch's flash kernel saves the memory of the scores, but its backward pass
    is slower there, in bf16 five to ten times. `bias` broadcasts to (B, H, T, T); q is already scaled.
    """
    return _Attend.apply(q_BHTE, k_BKTE, v_BKTE, bias)  # type: ignore[no-untyped-call, no-any-return]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, matrix: Matrix, bias_O: Tensor | None, *leaves: Tensor) -> Tensor:
        made_OI = matrix.make(x_NI.dtype)
        out_NO = F.linear(x_NI, made_OI, bias_O)
        added = matrix.add(out_NO.t(), x_NI)
        ctx.matrix = matrix
        ctx.save_for_backward(x_NI, matrix.keep(made_OI), added, *leaves)
        return out_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, made_OI, added, *_ = ctx.saved_tensors
        needed_x, _, _, *needed = ctx.needs_input_grad
        grad_x_NI = grad_NO @ _made(ctx.matrix, made_OI, x_NI.dtype) if needed_x else None
        of_leaves = ctx.matrix.gradients(needed, grad_NO.t(), x_NI, added, grad_x_NI)
        return grad_x_NI, None, None, *of_leaves


def _made(matrix: Matrix, kept_OI: Tensor | None, dtype: torch.dtype) -> Tensor:
    return matrix.make(dtype) if kept_OI is None else kept_OI


def project(x: Tensor, matrix: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """x W' + bias, (..., I) to (..., O) in the dtype of x, for a matrix that is made from something else.

    Args:
        bias_O: frozen; no gradient is taken to it.
    """
    bias_O = None if bias_O is None else bias_O.to(x.dtype)
    rows_NO: Tensor = _Project.apply(x.flatten(0, -2), matrix, bias_O, *matrix.leaves)  # type: ignore[no-untyped-call]
    return rows_NO.view(*x.shape[:-1], -1)


class _FeedForward(torch.autograd.Function):
    """Works on (F, N), ffn by rows: gate and up are then contiguous halves of one product."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_up: Matrix, down: Matrix, *leaves: Tensor) -> Tensor:
        gate_up_ZD = gate_up.make(x_ND.dtype)
        both_ZN = gate_up_ZD @ x_ND.t()
        kept_ZD, added_to_both = gate_up.keep(gate_up_ZD), gate_up.add(both_ZN, x_ND)
        del gate_up_ZD  # before the next matrix is made
        gate_FN, up_FN = both_ZN.chunk(2)
        inner_NF = F.silu(gate_FN).mul_(up_FN).t()
        down_DF = down.make(x_ND.dtype)
        out_ND = inner_NF @ down_DF.t()
        added = down.add(out_ND.t(), inner_NF)
        ctx.gate_up, ctx.down = gate_up, down
        kept = kept_ZD, down.keep(down_DF), added_to_both, added
        ctx.save_for_backward(x_ND, both_ZN, *kept, *leaves)
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, both_ZN, gate_up_ZD, down_DF, added_to_both, added, *_ = ctx.saved_tensors
        gate_up, down = ctx.gate_up, ctx.down
        needed_x, _, _, *needed = ctx.needs_input_grad
        split = len(gate_up.leaves)
        gate_FN, up_FN = both_ZN.chunk(2)
        active_FN = F.silu(gate_FN)
        grad_FN = _made(down, down_DF, x_ND.dtype).t() @ grad_ND.t()
        inner_NF = (active_FN * up_FN).t()
        of_down = down.gradients(needed[split:], grad_ND.t(), inner_NF, added, grad_FN.t())
        grad_both_ZN = torch.empty_like(both_ZN)
        grad_gate_FN, grad_up_FN = grad_both_ZN.chunk(2)
        torch.mul(grad_FN, active_FN, out=grad_up_FN)
        torch.ops.aten.silu_backward.grad_input(grad_FN.mul_(up_FN), gate_FN, grad_input=grad_gate_FN)
        grad_x_ND = grad_both_ZN.t() @ _made(gate_up, gate_up_ZD, x_ND.dtype) if needed_x else None
        of_gate_up = gate_up.gradients(needed[:split], grad_both_ZN, x_ND, added_to_both, grad_x_ND)
        return grad_x_ND, None, None, *of_gate_up, *of_down


def feed_forward(x: Tensor, gate_up: Matrix, down: Matrix) -> Tensor:
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, equation 6), (..., D) to (..., D).

    Args:
        gate_up: rows of the gate, then of the up projection, (Z, D) with Z = 2F; computed in the dtype of x.
        down: (D, F).
    """
    return _FeedForward.apply(  # type: ignore[no-untyped-call, no-any-return]
        x.flatten(0, -2), gate_up, down, *gate_up.leaves, *down.leaves
    ).view(x.shape)
