"""2:4: exactly two zeros in every four, equal to the plain algorithm, better than the smallest weights."""

from __future__ import annotations

import pytest
import torch
from compress_networks import make_network, sample

from kweek.compress.gptq import DAMPING, output_error
from kweek.compress.hessians import collect
from kweek.compress.prune_sparse import sparse, sparsify
from kweek.compress.quantize import calibration_batches
from kweek.errors import ConfigError


def problem(seed, rows=24, columns=160, rank=40):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(4000, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    inputs += 0.3 * torch.randn(4000, columns, generator=generator)
    return weight, inputs.T @ inputs / 4000


def by_magnitude(weight):
    groups = weight.view(weight.shape[0], -1, 4)
    zeros = groups.abs().topk(2, dim=-1, largest=False).indices
    return groups.scatter(-1, zeros, 0.0).flatten(1)


def textbook(weight, moments):
    """Column by column in fp64 with the inverse itself updated: no factor, no blocks."""
    inverse = torch.linalg.inv(
        moments.double() + DAMPING * moments.diagonal().mean() * torch.eye(len(moments))
    )
    left, mask = weight.double().clone(), torch.ones_like(weight, dtype=torch.bool)
    for column in range(weight.shape[1]):
        if column % 4 == 0:
            # what the factor holds on its diagonal is the inverse once the columns before are gone
            group, inner = slice(column, column + 4), inverse.clone()
            costs = []
            for c in range(column, column + 4):
                costs.append(left[:, c] ** 2 / inner[c, c])
                inner -= torch.outer(inner[:, c], inner[c]) / inner[c, c]
            zeros = torch.stack(costs, 1).topk(2, dim=1, largest=False).indices
            mask[:, group] = mask[:, group].scatter(1, zeros, False)
        error = torch.where(mask[:, column], 0.0, left[:, column]) / inverse[column, column]
        left -= error[:, None] * inverse[column][None]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return left * mask, mask


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_textbook(seed):
    weight, moments = problem(seed)
    ours, mask = sparse(weight, moments)
    theirs, their_mask = textbook(weight, moments)
    same_rows = (mask == their_mask).all(1)  # a tie in fp32 may fall the other way, and its row with it
    assert same_rows.float().mean() > 0.9
    assert torch.allclose(ours[same_rows].double(), theirs[same_rows], atol=1e-3)


def test_two_of_four_and_less_error_than_the_smallest_weights():
    weight, moments = problem(5)
    before = weight.clone()
    ours, mask = sparse(weight, moments)
    assert torch.equal(weight, before)
    assert ((ours != 0) == mask).all() and (mask.view(24, -1, 4).sum(-1) == 2).all()
    assert output_error(ours - weight, moments) < 0.4 * output_error(by_magnitude(weight) - weight, moments)


def test_without_correlations_the_smallest_go():
    weight, _ = problem(0)
    ours, _ = sparse(weight, torch.eye(160))
    assert torch.allclose(ours, by_magnitude(weight), atol=1e-5)
    silent, _ = sparse(weight, torch.zeros(160, 160))
    assert torch.allclose(silent, by_magnitude(weight), atol=1e-5)


def test_a_network_keeps_embedding_and_head():
    network = make_network()
    sequences = sample(network, 8, 33)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    masks = sparsify(network, collect(network, calibration_batches(sequences, 32, 0)).moments)
    for name, tensor in network.state_dict().items():
        plain = "norm" in name or "embed" in name or "head" in name
        assert torch.equal(tensor, before[name]) == plain
        if not plain:
            assert float((tensor == 0).float().mean()) == 0.5
    assert all(mask.float().mean() == 0.5 for mask in masks.values())


def test_columns_that_do_not_divide():
    network = make_network()
    with pytest.raises(ConfigError, match="do not divide into groups of 4"):
        name = "model.layers.0.mlp.down_proj.weight"
        network.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.ones(4, 6))
        sparsify(network, {name: torch.eye(6)})
