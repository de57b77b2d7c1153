"""GPTQ: equal to the textbook's elimination, better than rounding where inputs are correlated, sane elsewhere."""

import pytest
import torch

from kweek.compress.gptq import DAMPING, compensated_codes, output_error
from kweek.compress.scales import dequantize, nearest_codes, searched_scales


def problem(seed, rows=48, columns=160, rank=40):
    """Weights, and second moments of inputs of which a few directions carry most."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    basis = torch.randn(rank, columns, generator=generator)
    inputs = torch.randn(4000, rank, generator=generator) @ basis
    inputs += 0.3 * torch.randn(4000, columns, generator=generator)
    return weight, inputs.T @ inputs / 4000


def textbook(weight, hessian, scales):
    """Optimal brain compression in its plain form: fp64, one column after the other, no blocks, no factors."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    inverse = hessian.double()
    inverse = torch.linalg.inv(inverse + DAMPING * inverse.diagonal().mean() * torch.eye(len(inverse)))
    left, wide = weight.double(), scales.double().repeat_interleave(32, dim=1)
    codes = torch.zeros_like(left)
    for column in order:
        codes[:, column] = torch.round(left[:, column] / wide[:, column]).clamp(-8, 7)
        error = (left[:, column] - codes[:, column] * wide[:, column]) / inverse[column, column]
        left -= error[:, None] * inverse[column][None]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return codes


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_textbook(seed):
    weight, hessian = problem(seed)
    scales = searched_scales(weight)
    ours, theirs = compensated_codes(weight, hessian, scales), textbook(weight, hessian, scales)
    # a weight half way between two codes may fall either way in fp32, and what follows in its row with it
    assert (ours == theirs).all(dim=1).float().mean() > 0.9
    errors = [output_error(weight - dequantize(c.float(), scales), hessian) for c in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_halves_the_error_of_outputs_where_inputs_are_correlated():
    weight, hessian = problem(7)
    scales = searched_scales(weight)
    nearest = output_error(weight - dequantize(nearest_codes(weight, scales), scales), hessian)
    ours = output_error(weight - dequantize(compensated_codes(weight, hessian, scales), scales), hessian)
    assert ours < 0.5 * nearest


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_other_numbers_of_bits(bits):
    weight, hessian = problem(8)
    scales = searched_scales(weight, bits)
    nearest = output_error(weight - dequantize(nearest_codes(weight, scales, bits), scales), hessian)
    codes = compensated_codes(weight, hessian, scales, bits)
    assert -(2 ** (bits - 1)) <= int(codes.min()) and int(codes.max()) < 2 ** (bits - 1)
    assert output_error(weight - dequantize(codes, scales), hessian) < 0.6 * nearest


def test_uncorrelated_inputs_leave_nothing_to_compensate():
    weight, _ = problem(0)
    scales = searched_scales(weight)
    for hessian in (torch.eye(160), torch.diag(torch.rand(160) + 0.1), torch.zeros(160, 160)):
        assert torch.equal(compensated_codes(weight, hessian, scales), nearest_codes(weight, scales))


def test_columns_without_input_do_no_harm():
    weight, hessian = problem(3)
    silent = torch.tensor([5, 64, 159])
    hessian[silent], hessian[:, silent] = 0, 0
    scales = searched_scales(weight)
    codes = compensated_codes(weight, hessian, scales)
    assert torch.equal(codes[:, silent], nearest_codes(weight, scales)[:, silent])


def test_the_scale_of_the_moments_does_not_matter_and_arguments_stay():
    weight, hessian = problem(4)
    scales = searched_scales(weight)
    before = weight.clone(), hessian.clone(), scales.clone()
    assert torch.equal(
        compensated_codes(weight, hessian, scales), compensated_codes(weight, hessian * 1024, scales)
    )
    for tensor, copy in zip((weight, hessian, scales), before, strict=True):
        assert torch.equal(tensor, copy)


def test_a_row_may_have_moments_of_its_own():
    weight, _ = problem(5, rows=4)
    hessians = torch.stack([problem(seed)[1] for seed in range(4)])
    scales = searched_scales(weight)
    together = compensated_codes(weight, hessians, scales)
    for row in range(4):
        errors = []
        for codes in (together, nearest_codes(weight, scales)):
            change = weight[row : row + 1] - dequantize(codes[row : row + 1].float(), scales[row : row + 1])
            errors.append(output_error(change, hessians[row]))
        assert errors[0] < 0.5 * errors[1]
    same = compensated_codes(weight, hessians[:1].expand(4, -1, -1), scales)
    assert (same == compensated_codes(weight, hessians[0], scales)).float().mean() > 0.999
