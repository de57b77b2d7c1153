from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapted_networks import CONFIG, fill, some_codes
from model_networks import LAYOUTS, random_ids, random_network, small_config

from kweek.errors import CheckpointError
from kweek.model.adapter import AdapterConfig, attach, detach, merge
from kweek.model.checkpoint import load_model, save_model
from kweek.model.coded import CodedLinear, hold_codes, load_coded
from kweek.model.derived import places
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor


def num_bytes(network: Network) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def gradients(network: Network, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    network(ids).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", [CONFIG.targets, ("q_proj", "down_proj")], ids=["all", "some"])
def test_gradients_are_to_the_bit_those_over_the_dequantised_network(
    layout: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    original = random_network(small_config(**LAYOUTS[layout]))
    save_model(tmp_path, original, quantized_tensors=some_codes(original, embedding=True))
    coded, plain = load_coded(tmp_path), load_model(tmp_path)
    ids = random_ids(original.config, 2, 9)
    assert torch.equal(coded(ids), plain(ids)) and not torch.equal(plain(ids), original(ids))
    for network in (coded, plain):
        attach(network, AdapterConfig(3, 5.0, targets), torch.Generator().manual_seed(0))
        fill(network)
    ours, theirs = gradients(coded, ids), gradients(plain, ids)
    assert ours.keys() == theirs.keys() and len(ours) > 2
    for name, gradient in ours.items():
        assert torch.equal(gradient, theirs[name]), name
    assert torch.equal(coded.head_weight, plain.head_weight)


def test_layers_hold_codes_and_take_an_eighth() -> None:
    network = random_network(small_config(vocab_size=32, tied_embeddings=True, num_layers=4))
    before = num_bytes(network)
    rest = sum(4 * p.numel() for name, p in network.named_parameters() if "_proj" not in name)
    hold_codes(network, some_codes(network))
    assert all(isinstance(place.layer, CodedLinear) for place in places(network))
    assert num_bytes(network) - rest == pytest.approx((before - rest) * 4.5 / 32)


def test_a_layer_with_a_part_without_codes_stays_plain() -> None:
    network = random_network(small_config())
    tensors = some_codes(network)
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    expected = {name: tensor.dequantize() for name, tensor in tensors.items()}
    before = network.state_dict()["model.layers.1.self_attn.k_proj.weight"].clone()
    hold_codes(network, tensors)
    plain = [place for place in places(network) if not isinstance(place.layer, CodedLinear)]
    assert [(place.path, place.name) for place in plain] == [("model.layers.1.self_attn", "qkv_proj")]
    state = network.state_dict()
    assert torch.equal(state["model.layers.1.self_attn.k_proj.weight"], before)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_codes_that_do_not_fit_are_refused() -> None:
    network = random_network(small_config())
    zeros = QuantizedTensor.from_codes(torch.zeros(64, 64, dtype=torch.int8), torch.ones(64, 2))
    for name in ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "elsewhere.weight"):
        with pytest.raises(ValueError, match=f"no matrix {name} of shape"):
            hold_codes(network, {name: zeros})


def test_merged_it_is_plain_and_detached_it_is_codes_again() -> None:
    network = random_network(small_config())
    hold_codes(network, some_codes(network))
    attach(network, CONFIG, torch.Generator().manual_seed(0))
    ids = random_ids(network.config, 1, 7)
    plain = network(ids)
    fill(network)
    expected = network(ids)
    merge(network)
    assert torch.allclose(network(ids), expected, atol=5e-5) and not torch.allclose(
        expected, plain, atol=1e-2
    )
    assert not any(isinstance(place.layer, CodedLinear) for place in places(network) if place.path)
    other = random_network(small_config())
    hold_codes(other, some_codes(other))
    attach(other, CONFIG, torch.Generator().manual_seed(0))
    detach(other)
    assert torch.equal(other(ids), plain)
    assert all(isinstance(place.layer, CodedLinear) for place in places(other))


def test_scales_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    network = random_network(small_config())
    tensors = some_codes(network)
    tensors["model.layers.0.mlp.up_proj.weight"].scale_RG[3, 1] = float("inf")
    save_model(tmp_path, network, quantized_tensors=tensors)
    with pytest.raises(CheckpointError, match="holds values that are not finite"):
        load_coded(tmp_path)


_STEP = """
import sys, torch
from pathlib import Path
from kweek.compute.hardware import peak_memory_bytes
from kweek.model.adapter import AdapterConfig, attach
from kweek.model.checkpoint import load_model
from kweek.model.coded import load_coded
torch.set_num_threads(1)
network = (load_coded if sys.argv[2] == "codes" else load_model)(Path(sys.argv[1]))
attach(network, AdapterConfig(4), torch.Generator())
network(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
print(peak_memory_bytes())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no peak memory to ask for")
def test_the_peak_of_a_step_falls(tmp_path: Path) -> None:
    config = small_config(hidden_size=512, intermediate_size=2048, num_layers=12, tied_embeddings=True)
    network = random_network(config)
    matrices = sum(p.numel() for name, p in network.named_parameters() if "_proj" in name)
    save_model(tmp_path, network, quantized_tensors=some_codes(network))
    peaks = {}
    returned = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what glibc keeps of freed ones differs from run to run
    for kind in ("codes", "plain"):
        words = [sys.executable, "-c", _STEP, str(tmp_path), kind]
        found = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | returned)
        peaks[kind] = int(found.stdout)
    assert peaks["plain"] - peaks["codes"] > 0.7 * 4 * matrices  # seven eighths, less what one matrix takes
