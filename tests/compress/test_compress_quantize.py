"""A whole network in 4 bits: better than rounding, the same on disk as in memory, the same every time."""

import pytest
import torch
from compress_networks import divergence, make_network, sample

from kweek.compress.quantize import calibration_batches, quantize_network
from kweek.errors import ConfigError, DataError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def calibration(network):
    return sample(network, 128, 33, seed=1)


@pytest.fixture(scope="module")
def compensated(network, calibration):
    return quantize_network(network, calibration, row_length=64)


def test_each_step_brings_predictions_nearer_to_the_original(network, calibration, compensated):
    held_out = sample(network, 64, 33, seed=2)
    plain = divergence(network, quantize_network(network, method="nearest").network, held_out)
    searched = divergence(network, quantize_network(network, method="nearest_mse").network, held_out)
    untuned = quantize_network(network, calibration, row_length=64, tune_rest=False)
    gptq, tuned = (divergence(network, q.network, held_out) for q in (untuned, compensated))
    assert 0 < tuned < gptq < searched < plain
    assert tuned < 0.6 * plain
    for error in untuned.errors.values():
        assert 0 < error.gptq < error.nearest


def test_what_is_stored_is_what_was_evaluated(network, compensated, tmp_path):
    save_model(tmp_path, compensated.network, torch.float16, quantized_tensors=compensated.tensors)
    loaded = load_model(tmp_path).state_dict()
    for name, tensor in compensated.network.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    matrices = {name for name, t in network.state_dict().items() if t.dim() == 2 and "embed" not in name}
    assert set(compensated.tensors) == set(compensated.errors) == matrices


def test_transformers_reads_the_folder(compensated, tmp_path):
    pytest.importorskip("compressed_tensors", reason="transformers reads this layout with that package only")
    from transformers import AutoModelForCausalLM

    save_model(tmp_path, compensated.network, torch.float16, quantized_tensors=compensated.tensors)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        ours = compensated.network.logits(compensated.network(ids))
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=0, atol=1e-4)


def test_the_original_stays_and_twice_is_the_same_to_the_bit(network, calibration, compensated):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    again = quantize_network(network, calibration, row_length=64)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in compensated.tensors.items():
        assert torch.equal(tensor.packed, again.tensors[name].packed)
        assert torch.equal(tensor.scale_RG, again.tensors[name].scale_RG)
    assert (compensated.flop, compensated.num_tokens) == (again.flop, again.num_tokens)
    assert compensated.num_tokens == 128 * 32


@pytest.mark.parametrize(
    "changes",
    [
        {"tied_embeddings": True},
        {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True},
        {"architecture": "llama", "qk_norm": False},
    ],
)
@pytest.mark.parametrize("method", ["gptq", "nearest"])
def test_every_layout(changes, method, tmp_path):
    network = make_network(3, **changes)
    found = quantize_network(network, sample(network, 16, 33), method, row_length=32)
    assert ("lm_head.weight" in found.tensors) != network.config.tied_embeddings
    save_model(tmp_path, found.network, torch.float16, quantized_tensors=found.tensors)
    loaded = load_model(tmp_path)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids), found.network(ids))
        assert torch.equal(loaded.head_weight, found.network.head_weight)
    assert divergence(network, loaded, sample(network, 8, 33, seed=5)) < 0.3


def test_the_file_of_the_default_shape_is_three_quarters_to_seventeen_twentieths_smaller(tmp_path):
    config = ModelConfig(
        vocab_size=1024, hidden_size=128, intermediate_size=352, num_layers=4, num_heads=2, num_kv_heads=2
    )
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(0))
    found = quantize_network(network, method="nearest")
    save_model(tmp_path, found.network, torch.float16, quantized_tensors=found.tensors)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 0.75 <= 1 - size / (4 * config.num_parameters()["total"]) <= 0.85


def test_calibration_rows_hold_every_token_once_and_depend_on_the_seed():
    sequences = [list(range(n)) for n in (5, 70, 2, 1, 0, 33)]
    batches = calibration_batches(sequences, 32, seed=0)
    assert sum(batch.num_tokens for batch in batches) == 4 + 69 + 1 + 32
    assert all(batch.ids_BT.shape[1] <= 32 for batch in batches)
    other = calibration_batches(sequences, 32, seed=1)
    assert any(not torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(batches, other, strict=True))


def test_errors_name_what_is_wrong(network):
    odd = make_network(hidden_size=48, head_dim=24)
    with pytest.raises(ConfigError, match=r"q_proj.*48 columns.*groups of 32"):
        quantize_network(odd, method="nearest")
    with pytest.raises(DataError, match="no calibration text"):
        quantize_network(network, [[3]])
