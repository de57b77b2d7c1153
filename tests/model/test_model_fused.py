from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kweek.model.fused import HeadLayout, attend, feed_forward, project_heads, rms_norm, rotate
from kweek.model.head import fused_cross_entropy, token_nll, token_nll_flop
from kweek.model.linear import Plain

torch.set_num_threads(1)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def layout(
    batch: int | None = None, heads: int = 4, kv_heads: int = 2, time: int = 3, size: int = 6
) -> HeadLayout:
    angles = torch.rand(time if batch is None else batch * time, size // 2, dtype=torch.float64)
    cosine, sine = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1)))
    if batch is not None:
        table = table.view(2, batch, 1, time, size)
    return HeadLayout(heads, kv_heads, size, 1e-5, table * size**-0.5, table)


def test_rms_norm() -> None:
    x, gain = leaf(5, 8), leaf(8)
    assert torch.autograd.gradcheck(lambda x, g: rms_norm(x, g, 1e-5), (x, gain))
    assert torch.allclose(rms_norm(x, gain, 1e-5), F.rms_norm(x, (8,), gain, 1e-5))


def test_a_frozen_gain_gets_no_gradient_and_does_not_change_that_of_x() -> None:
    x, gain = leaf(5, 8), leaf(8)
    (wanted,) = torch.autograd.grad(rms_norm(x, gain, 1e-5).square().sum(), x)
    (found,) = torch.autograd.grad(rms_norm(x, gain.detach(), 1e-5).square().sum(), x)
    assert torch.equal(found, wanted)
    (of_gain,) = torch.autograd.grad(rms_norm(x.detach(), gain, 1e-5).square().sum(), gain)
    assert torch.allclose(of_gain, torch.autograd.grad(rms_norm(x, gain, 1e-5).square().sum(), gain)[0])


def test_rms_norm_of_zeros_is_zero_and_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    out = rms_norm(x, torch.ones(4), 1e-6)
    out.sum().backward()
    assert not out.any() and x.grad is not None and x.grad.isfinite().all()


def test_rotation_keeps_lengths_and_is_undone_by_the_negative_sine() -> None:
    x = leaf(2, 4, 3, 6).detach()
    cosine, sine = layout().key
    turned = rotate(x, cosine, sine)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(rotate(turned, cosine, -sine), x)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("with_norms", [True, False])
def test_heads(batch: int | None, with_norms: bool) -> None:
    rows, gains = leaf(2, 3, 48), ((leaf(6), leaf(6, seed=1)) if with_norms else (None, None))
    plan = layout(batch)
    inputs = [rows, *(g for g in gains if g is not None)]
    assert torch.autograd.gradcheck(
        lambda rows, *g: project_heads(rows, *(g or (None, None)), plan), tuple(inputs)
    )
    q, k, v = project_heads(rows, *gains, plan)
    by_hand = rows.view(2, 3, 8, 6)
    if with_norms:
        expected = F.rms_norm(by_hand[:, :, 4:6], (6,), gains[1], 1e-5).transpose(1, 2)
    else:
        expected = by_hand[:, :, 4:6].transpose(1, 2)
    assert torch.allclose(k, rotate(expected.detach(), *plan.key))
    assert torch.equal(v, by_hand[:, :, 6:].transpose(1, 2))
    assert q.shape == (2, 4, 3, 6)


def test_attend() -> None:
    q, k, v = leaf(2, 4, 3, 6), leaf(2, 2, 3, 6), leaf(2, 2, 3, 6, seed=1)
    bias = torch.full((1, 1, 3, 3), -1e9, dtype=torch.float64).triu_(1)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, bias), (q, k, v))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    assert torch.allclose(attend(q, k, v, bias), expected.transpose(1, 2).flatten(2))


def test_feed_forward() -> None:
    x, gate_up, down = leaf(2, 3, 4), leaf(10, 4), leaf(4, 5)
    assert torch.autograd.gradcheck(lambda x, g, d: feed_forward(x, Plain(g), Plain(d)), (x, gate_up, down))
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    assert torch.allclose(feed_forward(x, Plain(gate_up), Plain(down)), F.linear(F.silu(gate) * up, down))


@pytest.mark.parametrize("chunk_rows", [2, 3, 100])
def test_cross_entropy(chunk_rows: int) -> None:
    hidden, weight = leaf(7, 4), leaf(9, 4)
    targets = torch.tensor([0, 8, 3, 3, 1, 5, 2])
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0, -1.0, 0.1, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: fused_cross_entropy(h, w, targets, weights, chunk_rows)[0], (hidden, weight)
    )
    loss, nll = fused_cross_entropy(hidden, weight, targets, weights, chunk_rows)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")
    assert torch.allclose(nll, expected) and not nll.requires_grad
    assert torch.allclose(loss, expected @ weights)
    with torch.no_grad():
        assert torch.equal(fused_cross_entropy(hidden, weight, targets, weights, chunk_rows)[1], nll)


def test_cross_entropy_scales_with_the_gradient_that_comes_in() -> None:
    hidden, weight = leaf(7, 4), leaf(9, 4)
    targets, weights = torch.arange(7), torch.ones(7, dtype=torch.float64)
    loss, _ = fused_cross_entropy(hidden, weight, targets, weights)
    (one,) = torch.autograd.grad(loss, hidden)
    loss, _ = fused_cross_entropy(hidden, weight, targets, weights)
    (three,) = torch.autograd.grad(3 * loss, hidden)
    assert torch.allclose(three, 3 * one)


def test_cross_entropy_of_an_impossible_target_is_large_and_exact() -> None:
    hidden = torch.tensor([[300.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]])
    weights = torch.tensor([0.0, 1.0])  # a padded row must not turn the loss into NaN
    loss, nll = fused_cross_entropy(hidden, weight, torch.tensor([1, 1]), weights)
    assert nll[0].item() == 300.0
    assert torch.isfinite(loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_near(dtype: torch.dtype) -> None:
    x, gate_up, down = (leaf(*s).detach().float() for s in ((64, 32), (96, 32), (32, 48)))
    exact = feed_forward(x, Plain(gate_up), Plain(down))
    rounded = feed_forward(x.to(dtype), Plain(gate_up), Plain(down))
    assert rounded.dtype == dtype
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()


def test_token_nll_is_that_of_autograd_and_a_frozen_head_gets_no_gradient():
    generator = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(37, 8, generator=generator), torch.randn(20, 8, generator=generator)
    targets = torch.randint(20, (37,), generator=generator)
    wanted_gradient = torch.randn(37, generator=generator)
    wanted_gradient[::3] = 0  # rows that no loss is taken of
    results = []
    for function in (
        lambda x, w: token_nll(x, w, targets, chunk_rows=10),
        lambda x, w: F.cross_entropy(x @ w.T, targets, reduction="none"),
    ):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        nll = function(x, w)
        nll.backward(wanted_gradient)
        results.append((nll.detach(), x.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    with FlopCounterMode(display=False) as counter:
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        token_nll(x, w, targets).backward(wanted_gradient)
    counted = int(wanted_gradient.count_nonzero())
    outer = 2.0 * weight.numel() * counted  # added in place, which the counter does not see
    assumed = 3 * 2.0 * weight.numel() * len(hidden)
    assert assumed + token_nll_flop(w, counted, len(hidden)) == counter.get_total_flops() + outer
    frozen = hidden.clone().requires_grad_()
    for loss in (
        token_nll(frozen, weight, targets).sum(),
        fused_cross_entropy(frozen, weight, targets, torch.ones(37))[0],
    ):
        frozen.grad = None
        loss.backward()
        assert frozen.grad is not None and weight.grad is None
