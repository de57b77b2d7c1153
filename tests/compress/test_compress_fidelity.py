"""Divergence and agreement: those of a plain calculation, rows apart, padding left out."""

import pytest
import torch
from compress_networks import divergence, make_network, sample

from kweek.compress.fidelity import Reference
from kweek.compress.quantize import calibration_batches, quantize_network


def test_agrees_with_a_plain_calculation():
    network = make_network()
    other = quantize_network(network, method="nearest").network
    sequences = sample(network, 12, 33)
    found = Reference(network, calibration_batches(sequences, 32, 0)).fidelity(other)
    plain = [ids[:-1] for ids in sequences]
    assert found.divergence.mid == pytest.approx(divergence(network, other, plain), rel=1e-4)
    assert found.num_tokens == 12 * 32
    with torch.no_grad():
        ids = torch.tensor(plain)
        same = network.logits(network(ids)).argmax(-1) == other.logits(other(ids)).argmax(-1)
    assert found.agreement.mid == pytest.approx(float(same.float().mean()), abs=1e-6)
    assert found.divergence.lo < found.divergence.mid < found.divergence.hi
    assert found.agreement.lo <= found.agreement.mid <= found.agreement.hi <= 1


def test_a_network_agrees_with_itself_whatever_the_padding():
    network = make_network()
    batches = calibration_batches([[1, 2, 3], list(range(40)), [5, 6]], 20, 0)
    found = Reference(network, batches).fidelity(network)
    assert found.divergence.mid == pytest.approx(0, abs=1e-6)
    assert found.agreement == (1, 1, 1)
    assert found.num_tokens == 2 + 39 + 1


def test_nothing_to_compare_on():
    with pytest.raises(ValueError, match="no text"):
        Reference(make_network(), [])
