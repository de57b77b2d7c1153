"""What single tensors cost: measured where they are tried, and foretold elsewhere; and what it is good for."""

import pytest
import torch
from compress_networks import make_network, sample

from kweek.compress.allocate import allocate
from kweek.compress.fidelity import Reference
from kweek.compress.hessians import collect
from kweek.compress.quantize import calibration_batches, quantize_network
from kweek.compress.sensitivity import TRIED_BITS, measure_losses
from kweek.compress.widths import EMBEDDING, file_bytes, uniform


@pytest.fixture(scope="module", params=[{}, {"tied_embeddings": True}])
def case(request):
    """A network whose second layer matters far less than its first, and what its tensors cost."""
    network = make_network(**request.param)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "layers.1" in name and "down_proj" in name:
                parameter *= 0.05
    sequences = sample(network, 64, 33, seed=1)
    batches = calibration_batches(sequences, 64, 0)
    inputs = collect(network, batches)
    return network, sequences, batches, measure_losses(network, inputs, batches[:8], compensate=False)


def test_foretells_what_a_tensor_costs_at_other_bits(case):
    network, _, batches, losses = case
    reference = Reference(network, batches[:8])
    plain = uniform(network.config, 8, 8)
    floor = reference.divergence(quantize_network(network, method="nearest_mse", widths=plain).network)
    for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.v_proj.weight", EMBEDDING):
        for bits in (TRIED_BITS, 4, 5):
            made = quantize_network(network, method="nearest_mse", widths=plain | {name: bits})
            cost = reference.divergence(made.network) - floor
            assert cost == pytest.approx(losses[name][bits], rel=0.5), (name, bits)


def test_more_bits_cost_less_and_what_matters_less_costs_less(case):
    network, _, _, losses = case
    assert set(losses) == set(uniform(network.config, 4))
    for loss in losses.values():
        assert loss[2] > loss[3] > loss[4] > loss[5] > loss[6] > loss[8] >= 0
    first, second = (losses[f"model.layers.{layer}.mlp.down_proj.weight"][3] for layer in (0, 1))
    assert second < 0.1 * first


def test_bits_dealt_out_by_it_beat_equal_bits(case):
    network, sequences, _, losses = case
    reference = Reference(network, calibration_batches(sample(network, 32, 33, seed=2), 64, 0))
    even = uniform(network.config, 3, 3)
    mixed = allocate(network.config, losses, file_bytes(network.config, even))
    costs = [
        reference.divergence(
            quantize_network(network, sequences, widths=widths, row_length=64, tune_rest=False).network
        )
        for widths in (mixed, even)
    ]
    assert costs[0] < 0.9 * costs[1]


def test_the_network_stays(case):
    network, _, batches, _ = case
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_losses(network, collect(network, batches[:2]), batches[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
