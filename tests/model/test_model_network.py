from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from model_networks import LAYOUTS, random_ids, random_network, small_config

from kweek.model.attention import inverse_frequencies
from kweek.model.head import fused_cross_entropy
from kweek.model.initial import initialise
from kweek.model.network import Network


@pytest.fixture(params=LAYOUTS)
def network(request: pytest.FixtureRequest) -> Network:
    return random_network(small_config(**LAYOUTS[request.param]))


def test_logits_and_gradients_equal_transformers(network: Network) -> None:
    transformers = pytest.importorskip("transformers")
    config = network.config
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config.to_hf())
    )
    state = dict(network.state_dict())
    if config.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    reference.load_state_dict(state)
    reference.eval()
    ids, targets = random_ids(config, 2, 40), random_ids(config, 2, 40, seed=1)
    theirs = reference(ids).logits
    hidden = network(ids)
    assert (network.logits(hidden) - theirs).abs().max() < 1e-4
    F.cross_entropy(theirs.flatten(0, 1), targets.flatten()).backward()
    weights = torch.full((80,), 1 / 80)
    fused_cross_entropy(hidden.flatten(0, 1), network.head_weight, targets.flatten(), weights)[0].backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in network.named_parameters():
        parts = [name]
        if "qkv_proj" in name:
            parts = [name.replace("qkv", letter) for letter in "qkv"]
        elif "gate_up_proj" in name:
            parts = [name.replace("gate_up", part) for part in ("gate", "up")]
        expected = torch.cat([gradients[part] for part in parts])
        assert parameter.grad is not None
        assert (parameter.grad - expected).norm() < 1e-4 * expected.norm() + 1e-7, name


def test_state_dict_goes_through_the_fused_matrices(network: Network) -> None:
    other = Network(network.config)
    other.load_state_dict({name: t.clone() for name, t in network.state_dict().items()})
    for (name, mine), (_, theirs) in zip(network.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    first = next(iter(network.state_dict()))
    with torch.no_grad():
        network.state_dict()[first].zero_()
    assert not network.model.embed_tokens.weight.any()  # entries are views, as load_model relies on


def test_state_dict_names_what_is_missing() -> None:
    network = random_network(small_config())
    state = network.state_dict()
    del state["model.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(RuntimeError, match=r"layers\.1"):
        Network(network.config).load_state_dict(state)


def test_no_token_sees_a_later_one(network: Network) -> None:
    ids = random_ids(network.config, 1, 20)
    changed = ids.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % network.config.vocab_size
    with torch.no_grad():
        before, after = network(ids), network(changed)
    assert torch.allclose(before[:, :12], after[:, :12], atol=1e-6)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_documents_equal_documents_alone(dtype: torch.dtype) -> None:
    network = random_network(small_config())
    network.compute_dtype = dtype
    first, second = random_ids(network.config, 1, 9), random_ids(network.config, 1, 14, seed=1)
    document = torch.tensor([0] * 9 + [1] * 14)
    mask = (document[:, None] == document) & torch.ones(23, 23, dtype=torch.bool).tril()
    positions = torch.cat((torch.arange(9), torch.arange(14)))[None]
    packed = network(torch.cat((first, second), 1), positions_BT=positions, mask=mask[None, None])
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert torch.allclose(packed[:, :9], network(first), atol=tolerance)
    assert torch.allclose(packed[:, 9:], network(second), atol=tolerance)


def test_a_row_that_may_attend_to_nothing_harms_nobody() -> None:
    network = random_network(small_config())
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[4:] = False
    hidden = network(random_ids(network.config, 1, 6), mask=mask[None, None])
    hidden[:, :4].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_bfloat16_gradients_point_the_same_way() -> None:
    config = small_config()
    network = random_network(config)
    ids = random_ids(config, 4, 32)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        network.compute_dtype = dtype
        network.zero_grad()
        hidden = network(ids)
        assert hidden.dtype == dtype
        weights = torch.full((128,), 1 / 128)
        fused_cross_entropy(hidden.flatten(0, 1), network.head_weight, ids.flatten(), weights)[0].backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.995


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    config = small_config()
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(5))
    ids = random_ids(config, 2, 16)
    weights = torch.full((32,), 1 / 32)
    loss, _ = fused_cross_entropy(network(ids).flatten(0, 1), network.head_weight, ids.flatten(), weights)
    assert loss.item() == pytest.approx(math.log(config.vocab_size), abs=1e-5)


def test_initial_weights_follow_the_generator_and_keep_sizes() -> None:
    config = small_config(hidden_size=256, intermediate_size=512)
    first, second, third = Network(config), Network(config), Network(config)
    for network, seed in ((first, 1), (second, 1), (third, 2)):
        initialise(network, torch.Generator().manual_seed(seed))
    same = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.model.embed_tokens.weight, third.model.embed_tokens.weight)
    block = first.model.layers[0]
    assert block.self_attn.qkv_proj.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert not block.mlp.down_proj.weight.any() and not block.self_attn.o_proj.weight.any()


def test_long_rotations_do_not_depend_on_what_came_before() -> None:
    network = random_network(small_config(max_positions=4096))
    ids = random_ids(network.config, 1, 300)
    with torch.no_grad():
        fresh = network(ids)
        network(ids[:, :5])
        assert torch.equal(network(ids), fresh)


def test_llama3_scaling_keeps_short_and_stretches_long_waves() -> None:
    config = small_config(**LAYOUTS["llama3"])
    plain = inverse_frequencies(small_config(**LAYOUTS["llama"]))
    scaled = inverse_frequencies(config)
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1].item() / 8)
    assert (scaled <= plain).all()
