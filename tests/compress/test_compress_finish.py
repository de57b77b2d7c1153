"""Finishing: it starts where GPTQ ended, comes nearer to the original, and ends in what can be stored."""

import pytest
import torch
from compress_networks import divergence, make_network, sample

from kweek.compress.finish import finish
from kweek.compress.quantize import calibration_batches, quantize_network
from kweek.compress.widths import uniform
from kweek.errors import DataError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.quantized import code_range


@pytest.fixture(scope="module", params=[{}, {"tied_embeddings": True}])
def case(request):
    network = make_network(**request.param)
    sequences = sample(network, 128, 33, seed=1)
    widths = uniform(network.config, 2, 4) | {"model.layers.0.self_attn.v_proj.weight": 5}
    made = quantize_network(network, sequences, widths=widths, row_length=32)
    return network, made, calibration_batches(sequences, 32, 0, 16)


def test_comes_nearer_to_the_original_on_text_it_has_not_seen(case):
    network, made, batches = case
    held_out = sample(network, 64, 33, seed=2)
    done = finish(network, made, batches, 60)
    assert divergence(network, done.network, held_out) < 0.9 * divergence(network, made.network, held_out)
    assert any(not torch.equal(done.codes[name], made.codes[name]) for name in made.codes)
    assert done.flop > made.flop and done.num_tokens > made.num_tokens


def test_no_steps_change_nothing_that_is_stored(case):
    network, made, batches = case
    done = finish(network, made, batches, 0)
    for name, tensor in made.tensors.items():
        assert torch.equal(done.tensors[name].packed, tensor.packed)
        assert torch.equal(done.tensors[name].scale_RG, tensor.scale_RG)
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(done.network.state_dict()[name], tensor)


def test_what_comes_out_can_be_stored(case, tmp_path):
    network, made, batches = case
    done = finish(network, made, batches, 5)
    for tensor in done.tensors.values():
        low, high = code_range(tensor.num_bits)
        assert low <= tensor.codes().min() and tensor.codes().max() <= high
    save_model(tmp_path, done.network, torch.float16, quantized_tensors=done.tensors)
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in done.network.state_dict().items())


def test_needs_text(case):
    with pytest.raises(DataError, match="no text to finish on"):
        finish(case[0], case[1], [], 3)
