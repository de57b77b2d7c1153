"""Bits by tensor: what may be asked for, and the size of the file it makes, to the byte."""

import pytest
import torch
from compress_networks import make_network
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.compress.quantize import quantize_network
from kweek.compress.widths import EMBEDDING, HEAD, check, file_bytes, uniform
from kweek.errors import ConfigError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.quantized import BIT_WIDTHS

TIED = {"tied_embeddings": True}


@pytest.fixture(
    scope="module", params=[{}, TIED, {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True}]
)
def network(request):
    return make_network(**request.param)


def test_the_same_everywhere_but_in_the_embedding(network):
    widths = uniform(network.config, 3)
    assert widths.pop(EMBEDDING) == 16
    assert set(widths.values()) == {3}
    assert (HEAD in widths) != network.config.tied_embeddings
    assert len(widths) == 14 + (not network.config.tied_embeddings)


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_the_size_is_foreseen_and_every_mixture_loads(data, tmp_path_factory):
    network = make_network(**data.draw(st.sampled_from([{}, TIED])))
    bits = st.sampled_from(BIT_WIDTHS)
    widths = {
        name: data.draw(st.one_of(bits, st.just(16)) if name in (EMBEDDING, HEAD) else bits)
        for name in uniform(network.config, 4)
    }
    made = quantize_network(network, method="nearest_mse", widths=widths)
    folder = tmp_path_factory.mktemp("mixed")
    save_model(folder, made.network, torch.float16, quantized_tensors=made.tensors)
    assert {name: part.num_bits for name, part in made.tensors.items()} == {
        name: bits for name, bits in widths.items() if bits != 16
    }
    size = (folder / "model.safetensors").stat().st_size
    assert size == file_bytes(network.config, widths)
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in made.network.state_dict().items())


def test_what_cannot_be_meant(network):
    with pytest.raises(ConfigError, match=r"--bits: there are no codes of 7 bits\. Use one of 2, 3, 4"):
        uniform(network.config, 7)
    with pytest.raises(ConfigError, match="--embedding-bits"):
        uniform(network.config, 4, 1)
    widths = uniform(network.config, 4)
    with pytest.raises(ValueError, match="not those of this network"):
        check(network.config, {name: bits for name, bits in widths.items() if name != EMBEDDING})
    with pytest.raises(ValueError, match="cannot have 16 bits"):
        check(network.config, widths | {"model.layers.0.mlp.up_proj.weight": 16})
