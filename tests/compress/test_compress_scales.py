"""Scales: what fp16 holds, never worse than the plain rule, and the plain rule is llama.cpp's."""

import itertools

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.compress.scales import (
    absmax_scales,
    dequantize,
    nearest_codes,
    nearest_scales,
    searched_scales,
    storable,
)
from kweek.model.quantized import BIT_WIDTHS, QuantizedTensor


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.floats(-8, 4),
    st.sampled_from(["normal", "sparse", "zero", "one-sided"]),
    st.sampled_from(BIT_WIDTHS),
)
def test_any_weights_give_storable_scales_and_codes_in_range(seed, exponent, shape, bits):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 96, generator=generator) * 10.0**exponent
    if shape == "sparse":
        weight *= torch.rand(3, 96, generator=generator) < 0.05
    elif shape == "zero":
        weight[:, 32:] = 0
    elif shape == "one-sided":
        weight.abs_()
    errors = []
    for rule in (nearest_scales, searched_scales, absmax_scales):
        scales = rule(weight, bits)
        assert scales.shape == (3, 3)
        assert torch.equal(scales, scales.half().float())
        assert scales.isfinite().all() and (scales != 0).all()
        codes = nearest_codes(weight, scales, bits)
        assert codes.dtype == torch.int8
        assert int(codes.min()) >= -(2 ** (bits - 1)) and int(codes.max()) < 2 ** (bits - 1)
        again = dequantize(codes, scales)
        assert torch.equal(again, QuantizedTensor.from_codes(codes, scales, bits).dequantize())
        errors.append((weight - again).view(3, 3, 32).square().sum(-1))
    assert (errors[1] <= errors[0]).all()  # the plain rule is among the candidates


def test_searching_pays_on_ordinary_weights():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = []
    for rule in (nearest_scales, searched_scales):
        scales = rule(weight)
        errors.append(float((weight - dequantize(nearest_codes(weight, scales), scales)).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_each_bit_more_leaves_a_quarter_of_the_error():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in (2, 3, 4, 5, 6):
        scales = searched_scales(weight, bits)
        change = weight - dequantize(nearest_codes(weight, scales, bits), scales)
        errors.append(float(change.square().mean()))
    for fewer, more in itertools.pairwise(errors):
        assert 0.2 < more / fewer < 0.3


def test_the_plain_rule_is_that_of_llama_cpp():
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    blocks = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q4_0).reshape(16, 4, 18)
    theirs = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    scales = nearest_scales(weight)
    np.testing.assert_array_equal(scales.numpy(), theirs.astype(np.float32))
    restored = gguf.quants.dequantize(blocks.reshape(16, -1), gguf.GGMLQuantizationType.Q4_0)
    ours = dequantize(nearest_codes(weight, scales), scales).numpy()
    # they choose codes before the scale is rounded to fp16: the two differ at ties only
    assert (restored == ours).mean() > 0.99


def test_absmax_uses_both_sides_alike():
    weight = torch.zeros(1, 32)
    weight[0, :3] = torch.tensor([-7.0, 3.0, 1.0])
    scales = absmax_scales(weight)
    assert scales.item() == 1
    assert nearest_codes(weight, scales)[0, :4].tolist() == [-7, 3, 1, 0]


def test_scales_beyond_fp16_are_brought_inside():
    assert storable(torch.tensor([1e9, -1e9, 0.0, 1e-30])).tolist() == [65504.0, -65504.0, 2.0**-24, 2.0**-24]
    assert storable(torch.tensor([0.1])).item() == pytest.approx(0.1, rel=1e-3)
