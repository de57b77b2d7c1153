"""Width: what matters most stays, what is left is fitted, and every layout stays one that loads."""

from __future__ import annotations

import pytest
import torch
from compress_networks import divergence, make_network, sample

from kweek.compress.hessians import collect
from kweek.compress.prune_width import (
    channel_weights,
    ffn_weights,
    heaviest,
    kv_weights,
    narrow,
    narrowed,
    refit,
)
from kweek.compress.quantize import calibration_batches
from kweek.errors import ConfigError

LAYOUTS = {
    "qwen3": {},
    "qwen3 tied": {"tied_embeddings": True},
    "qwen2": {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True},
    "llama": {"architecture": "llama", "qk_norm": False},
}
SIZES = {"num_heads": 6, "num_kv_heads": 3, "intermediate_size": 128}


def measured(network):
    sequences = sample(network, 24, 33)
    return sequences, collect(network, calibration_batches(sequences, 32, 0)).moments


def silence(network, layer, channels, groups):
    """Make some feed-forward channels and key heads of a layer say nothing."""
    config, block = network.config, network.model.layers[layer]
    per_group = config.query_size // config.num_kv_heads
    with torch.no_grad():
        block.mlp.down_proj.weight[:, channels] = 0
        for group in groups:
            block.self_attn.o_proj.weight[:, group * per_group : (group + 1) * per_group] = 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_says_nothing_goes_and_nothing_changes(layout):
    network = make_network(**SIZES, **LAYOUTS[layout])
    channels = torch.randperm(128, generator=torch.Generator().manual_seed(1))[:64]
    for layer, group in ((0, 1), (1, 2)):
        silence(network, layer, channels + 0, [group])
    sequences, moments = measured(network)
    small = narrow(network, moments, intermediate_size=64, num_kv_heads=2)
    assert (small.config.intermediate_size, small.config.num_heads, small.config.num_kv_heads) == (64, 4, 2)
    assert small.config.num_parameters()["total"] == sum(p.numel() for p in small.parameters())
    ids = torch.tensor(sequences)
    with torch.no_grad():
        assert torch.allclose(small.logits(small(ids)), network.logits(network(ids)), atol=1e-4)


def test_the_fit_is_the_best_there_is():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 12, generator=generator) @ torch.randn(12, 20, generator=generator)
    inputs += 0.1 * torch.randn(2000, 20, generator=generator)
    weight, kept = torch.randn(5, 20, generator=generator), torch.arange(0, 20, 2)
    fitted = refit(weight, inputs.T @ inputs / 2000, kept)
    exact = torch.linalg.lstsq(inputs[:, kept], inputs @ weight.T).solution.T
    wanted = inputs @ weight.T

    def error(candidate):
        return float((inputs[:, kept] @ candidate.T - wanted).square().mean())

    assert error(fitted) < 1.1 * error(exact)
    assert error(fitted) < 0.3 * error(weight[:, kept])
    assert torch.equal(refit(weight, inputs.T @ inputs, torch.arange(20)), weight)


def test_idle_channels_do_no_harm():
    moments = torch.zeros(6, 6)
    weight = torch.ones(2, 6)
    assert torch.equal(refit(weight, moments, torch.tensor([0, 3])), weight[:, [0, 3]])


def test_weights_of_channels_are_activation_times_norm():
    moments = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
    weight = torch.tensor([[1.0, 3.0, 5.0], [0.0, 4.0, 5.0]])
    assert channel_weights(weight, moments).tolist() == [2.0, 5.0, 0.0]
    assert heaviest(torch.tensor([0.1, 3.0, 2.0, 5.0]), 2).tolist() == [1, 3]
    network = make_network(**SIZES)
    _, moments = measured(network)
    assert ffn_weights(network, moments, 1).shape == (128,) and kv_weights(network, moments, 1).shape == (3,)


def test_choosing_by_weight_is_better_than_the_opposite(monkeypatch):
    network = make_network(**SIZES)
    sequences, moments = measured(network)
    good = divergence(network, narrow(network, moments, intermediate_size=64), sequences)
    monkeypatch.setattr("kweek.compress.prune_width.heaviest", lambda w, n: heaviest(-w, n))
    assert good < 0.7 * divergence(network, narrow(network, moments, intermediate_size=64), sequences)


def test_the_original_stays_and_no_cut_is_no_change():
    network = make_network(**SIZES)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sequences, moments = measured(network)
    same = narrow(network, moments)
    narrow(network, moments, intermediate_size=32, num_kv_heads=1)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) and torch.equal(same.state_dict()[name], tensor)
    assert divergence(network, same, sequences) == 0


@pytest.mark.parametrize(
    ("channels", "groups", "said"),
    [
        (130, None, "130 cannot be kept of 128"),
        (None, 0, "0 cannot be kept of 3"),
        (None, 4, "4 cannot be kept of 3"),
        (40, None, "40 is no multiple of 32"),
    ],
)
def test_what_is_refused(channels, groups, said):
    with pytest.raises(ConfigError, match=said):
        narrowed(make_network(**SIZES).config, channels, groups)
