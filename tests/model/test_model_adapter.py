from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from adapted_networks import CONFIG, adapted_network, by_hand, factors, fill
from hypothesis import given
from hypothesis import strategies as st
from model_networks import LAYOUTS, random_ids, random_network, small_config
from torch import Tensor

from kweek.errors import ConfigError
from kweek.model.adapter import (
    TARGETS,
    AdapterConfig,
    adapted_places,
    attach,
    detach,
    merge,
    merged_copy,
    refresh_copy,
    without_adapter,
)
from kweek.model.adapter_linear import Adapted, Block
from kweek.model.checkpoint import load_model, save_model
from kweek.model.fused import feed_forward, project
from kweek.model.linear import Plain
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor

SOME = [TARGETS, ("q_proj", "v_proj"), ("k_proj", "up_proj", "down_proj"), ("down_proj",), ("o_proj",)]


def leaf(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_gradients_of_the_factors_are_exact() -> None:
    """The middle part of three has no adapter."""
    weight, a, b, x = leaf(9, 5).detach(), leaf(4, 5), leaf(5, 2), leaf(2, 3, 5)
    blocks = (Block(slice(0, 3), slice(0, 2), slice(0, 3)), Block(slice(7, 9), slice(2, 4), slice(3, 5)))
    bias = leaf(9).detach()

    def ours(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return project(x, Adapted(Plain(weight), a, b, blocks, 1.5), bias)

    assert torch.autograd.gradcheck(ours, (x, a, b))
    parts = (b[:3] @ a[:2], torch.zeros(4, 5, dtype=torch.float64), b[3:] @ a[2:])
    assert torch.allclose(ours(x, a, b), x @ (weight + 1.5 * torch.cat(parts)).t() + bias)


def test_gradients_through_the_feed_forward_are_exact() -> None:
    x, gate_up, down = leaf(2, 3, 4), leaf(10, 4).detach(), leaf(4, 5).detach()
    a1, b1, a2, b2 = leaf(4, 4), leaf(10, 2), leaf(2, 5), leaf(4, 2)
    pair = (Block(slice(0, 5), slice(0, 2), slice(0, 5)), Block(slice(5, 10), slice(2, 4), slice(5, 10)))
    one = (Block(slice(0, 4), slice(0, 2), slice(0, 4)),)

    def ours(x: Tensor, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        first = Adapted(Plain(gate_up), a1, b1, pair, 0.5)
        return feed_forward(x, first, Adapted(Plain(down), a2, b2, one, 2.0))

    assert torch.autograd.gradcheck(ours, (x, a1, b1, a2, b2))
    assert torch.autograd.gradcheck(lambda a1: ours(x.detach(), a1, b1, a2, b2), (a1,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_begins_as_nothing_and_freezes_the_rest(layout: str) -> None:
    network = random_network(small_config(**LAYOUTS[layout]))
    ids = random_ids(network.config, 2, 9)
    before = network(ids)
    attach(network, CONFIG, torch.Generator().manual_seed(0))
    assert torch.equal(network(ids), before)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 2 and all(name.endswith(("a_RI", "b_UK")) for name in trained)
    for place, layer in adapted_places(network):
        for a_KI, b_OK in layer.factors().values():
            bound = place.layer.in_features**-0.5
            assert not b_OK.any() and a_KI.abs().max() <= bound and a_KI.std() > 0.4 * bound


@pytest.mark.parametrize("targets", SOME, ids="-".join)
@pytest.mark.parametrize("layout", ["qwen3", "qwen2", "smollm"])
def test_values_and_gradients_are_those_of_separate_adapters(layout: str, targets: tuple[str, ...]) -> None:
    config = AdapterConfig(rank=3, alpha=5.0, targets=targets)
    network = adapted_network(config, **LAYOUTS[layout])
    plain = random_network(network.config)
    ids = random_ids(network.config, 2, 9)
    adapter = factors(network)
    assert {name.rpartition(".")[2] for name in adapter} == set(targets)
    expected = by_hand(plain, adapter, config.scale, ids)
    found = network(ids)
    assert (found - expected).abs().max() < 1e-4
    wanted = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    expected.backward(wanted)
    found.backward(wanted)
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    for place, layer in adapted_places(network):
        assert layer.a_RI.grad is not None and layer.b_UK.grad is not None
        for part, block in layer.blocks.items():
            a_KI, b_OK = adapter[place.full_name(part)]
            for ours, theirs in (
                (layer.a_RI.grad[block.ranks], a_KI.grad),
                (layer.b_UK.grad[block.rows], b_OK.grad),
            ):
                assert theirs is not None and (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_in_sixteen_bits_it_stays_near() -> None:
    network = adapted_network()
    ids = random_ids(network.config, 2, 9)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        network.compute_dtype = dtype
        network.zero_grad()
        network(ids).float().square().sum().backward()
        found = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in found)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


def test_factors_that_change_before_the_backward_pass_are_noticed() -> None:
    network = adapted_network()
    loss = network(random_ids(network.config, 1, 5)).sum()
    fill(network, seed=9)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_it_computes_the_same(layout: str) -> None:
    network = adapted_network(**LAYOUTS[layout])
    ids = random_ids(network.config, 2, 20)
    with torch.no_grad():
        before = network.logits(network(ids)).log_softmax(-1)
        merge(network)
        after = network.logits(network(ids)).log_softmax(-1)
    assert (after - before).abs().max() < 5e-5
    assert network.adapter is None and all(parameter.requires_grad for parameter in network.parameters())
    assert [name for name, _ in network.named_parameters()] == [
        name for name, _ in random_network(network.config).named_parameters()
    ]


def test_a_saved_folder_holds_the_merged_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = adapted_network(**LAYOUTS["qwen2"])
    ids = random_ids(network.config, 2, 12)
    with torch.no_grad():
        expected = network.logits(network(ids)).log_softmax(-1)
    save_model(tmp_path / "attached", network)
    merge(network)
    save_model(tmp_path / "merged", network)
    for folder in ("attached", "merged"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float32)
        with torch.no_grad():
            assert (model.eval()(ids).logits.log_softmax(-1) - expected).abs().max() < 5e-5
        loaded = load_model(tmp_path / folder)
        assert torch.equal(loaded(ids), network(ids))


def test_taken_off_nothing_is_left_of_it() -> None:
    network = random_network(small_config())
    before = copy.deepcopy(network)
    attach(network, CONFIG, torch.Generator().manual_seed(0))
    fill(network)
    detach(network)
    for (name, ours), (other, theirs) in zip(
        network.named_parameters(), before.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(ours, theirs) and ours.requires_grad


def test_without_it_for_a_while() -> None:
    network = adapted_network()
    ids = random_ids(network.config, 1, 8)
    with_it, plain = network(ids), random_network(network.config)(ids)
    with without_adapter(network):
        assert torch.equal(network(ids), plain) and network.adapter is None
    assert torch.equal(network(ids), with_it) and network.adapter == CONFIG
    with pytest.raises(ZeroDivisionError), without_adapter(network):
        raise ZeroDivisionError
    assert torch.equal(network(ids), with_it)


def test_a_merged_copy_shares_what_is_frozen_and_can_be_brought_up_to_date() -> None:
    network = adapted_network(AdapterConfig(3, 5.0, ("v_proj", "down_proj")))
    ids = random_ids(network.config, 1, 8)
    merged = merged_copy(network)
    assert torch.allclose(merged(ids), network(ids), atol=5e-5) and merged.adapter is None
    assert merged.head_weight is network.head_weight
    fill(network, seed=8)
    assert not torch.allclose(merged(ids), network(ids), atol=1e-2)
    refresh_copy(merged, network)
    assert torch.allclose(merged(ids), network(ids), atol=5e-5)


def test_rank_stabilised_scaling() -> None:
    assert AdapterConfig(16, 32.0).scale == 2 and AdapterConfig(16, 32.0, rank_stabilised=True).scale == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, "rank: 0 is not a whole number"),
        ({"rank": 2.5}, "rank: 2.5 is not a whole number"),
        ({"alpha": 0.0}, "alpha: 0.0 is not a positive number"),
        ({"alpha": float("nan")}, "alpha: nan"),
        ({"targets": ()}, "targets: there is nothing to adapt"),
        ({"targets": ("q_porj",)}, "Did you mean q_proj"),
        ({"targets": ("lm_head",)}, "targets: an adapter cannot be put on 'lm_head'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdapterConfig(**arguments)  # type: ignore[arg-type]


def test_one_adapter_at_a_time_and_no_loading_under_it() -> None:
    network = adapted_network()
    with pytest.raises(ConfigError, match="has an adapter already"):
        attach(network, CONFIG, torch.Generator())
    with pytest.raises(ConfigError, match=r"layers\.0\.self_attn\.qkv_proj: weights cannot be loaded"):
        network.load_state_dict(random_network(network.config).state_dict())


def test_codes_are_not_written_for_a_network_with_an_adapter(tmp_path: Path) -> None:
    network = adapted_network()
    name = "model.layers.0.mlp.up_proj.weight"
    zeros = QuantizedTensor.from_codes(torch.zeros(96, 64, dtype=torch.int8), torch.ones(96, 2))
    with pytest.raises(ConfigError, match="the network has an adapter"):
        save_model(tmp_path, network, quantized_tensors={name: zeros})
    assert not any(tmp_path.iterdir())


@given(st.integers(1, 6), st.sets(st.sampled_from(TARGETS), min_size=1), st.integers(0, 99))
def test_any_shape_of_adapter_merges_to_what_it_computes(rank: int, targets: set[str], seed: int) -> None:
    network = random_network(small_config(num_layers=1), seed)
    attach(network, AdapterConfig(rank, 4.0, tuple(targets)), torch.Generator().manual_seed(seed))
    fill(network, seed)
    ids = random_ids(network.config, 1, 6, seed=seed)
    state = network.state_dict()
    expected = network(ids)
    other = Network(network.config)
    other.load_state_dict(state)
    assert torch.allclose(other(ids), expected, atol=5e-5)


def test_the_frozen_weight_is_rounded_once_and_again_when_it_changes() -> None:
    network = random_network(small_config())
    attach(network, CONFIG, torch.Generator().manual_seed(0))
    _, layer = adapted_places(network)[0]
    first = layer.matrix().make(torch.bfloat16)
    assert torch.equal(first, layer.base.weight.to(torch.bfloat16))
    assert layer.matrix().make(torch.bfloat16) is first
    assert layer.matrix().make(torch.float32) is layer.base.weight
    with torch.no_grad():
        layer.base.weight.mul_(2)
    assert torch.equal(layer.matrix().make(torch.bfloat16), layer.base.weight.to(torch.bfloat16))
