"""Depth: the layers that do least go, and their number is right whatever the order."""

from __future__ import annotations

import pytest
import torch
from compress_networks import make_network, sample

from kweek.compress import prune_depth
from kweek.compress.prune_depth import loss_with, shallow
from kweek.compress.quantize import calibration_batches
from kweek.errors import ConfigError


def idle(network, layers):
    """Make layers add nothing to the stream."""
    with torch.no_grad():
        for layer in layers:
            network.model.layers[layer].self_attn.o_proj.weight.zero_()
            network.model.layers[layer].mlp.down_proj.weight.zero_()
    return network


@pytest.fixture
def network():
    return make_network(num_layers=6)


def batches(network):
    return calibration_batches(sample(network, 8, 33), 32, 0)


def test_idle_layers_go_and_nothing_changes(network):
    text = batches(idle(network, [1, 4]))
    small, removed, _ = shallow(network, text, 4)
    assert sorted(cost.layer for cost in removed) == [1, 4]
    assert all(cost.after == pytest.approx(cost.before, abs=1e-5) for cost in removed)
    assert small.config.num_layers == 4 and small.config.num_heads == network.config.num_heads
    ids = text[0].ids_BT
    with torch.no_grad():
        assert torch.allclose(small(ids), network(ids), atol=1e-5)


def test_agrees_with_trying_every_layer_in_every_round(network):
    text = batches(network)
    kept, expected = list(range(6)), []
    while len(kept) > 3:
        costs = {layer: loss_with(network, [i for i in kept if i != layer], text) for layer in kept}
        expected.append(min(costs, key=costs.__getitem__))
        kept.remove(expected[-1])
    small, removed, num_readings = shallow(network, text, 3)
    assert removed[0].layer == expected[0], "the first is exact; later ones may be read from older costs"
    assert removed[-1].after == pytest.approx(loss_with(small, range(3), text), rel=1e-5)
    assert 7 <= num_readings < 7 + 5 + 4, "fewer readings than all layers in all rounds"


def test_costs_are_brought_up_to_date(network, monkeypatch):
    """Two layers stand in for one another: each alone costs nothing, both together do."""
    costs = {(): 1.0, (0,): 1.1, (1,): 1.1, (2,): 1.5, (0, 1): 9.0, (0, 2): 1.6, (1, 2): 1.6}

    def loss(_network, layers, _batches):
        gone = tuple(sorted({0, 1, 2} - set(layers)))
        return costs.get(gone, 20.0)

    monkeypatch.setattr(prune_depth, "loss_with", loss)
    _, removed, _ = shallow(make_network(num_layers=3), batches(network), 1)
    assert [(cost.layer, cost.after) for cost in removed] == [(0, 1.1), (2, 1.6)]


def test_the_original_stays_whole(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shallow(network, batches(network), 2)
    assert len(network.model.layers) == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    same, removed, num_readings = shallow(network, batches(network), 6)
    assert same is network and removed == [] and num_readings == 0


def test_impossible_depths(network):
    for number in (0, 7):
        with pytest.raises(ConfigError, match=f"{number} cannot be kept of 6"):
            shallow(network, batches(network), number)
