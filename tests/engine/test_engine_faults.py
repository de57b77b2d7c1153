"""Faults of other engines that no other test rules out; `docs/faults.md` has all of them."""

import math
import os
import signal

import numpy as np
import pytest
import torch

from kweek.compute.hardware import detect
from kweek.engine.backend import Fed
from kweek.engine.engine import Engine
from kweek.engine.native import build, library
from kweek.engine.native.decoder import NativeBackend
from kweek.engine.speculation import Draft
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request

try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)

RUNNABLE = [name for name, needed in library.NEEDED.items() if needed <= detect().features]


def make_network(**changes):
    sizes = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_layers": 2, "num_heads": 2,
        "num_kv_heads": 1, "head_dim": 32, "max_positions": 700,
    }  # fmt: skip
    network = Network(ModelConfig(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.15, generator=generator) if parameter.ndim == 2 else parameter.fill_(1.0)
    return network


@torch.inference_mode()
def test_keys_and_values_in_32_bits_are_not_rounded_to_16():
    network = make_network()
    ids = np.random.default_rng(0).integers(0, 96, 200).tolist()
    double = Network(network.config)
    double.load_state_dict(network.state_dict())
    double.double()
    double.compute_dtype = torch.float64
    expected = double.logits(double(torch.tensor([ids])))[0].log_softmax(-1).numpy()
    error = {}
    for kv in ("f32", "f16"):
        found = NativeBackend(network, kv=kv, num_slots=1).forward([Fed(0, 0, ids)], range(200))
        logprobs = torch.from_numpy(found.astype(np.float64)).log_softmax(-1).numpy()
        error[kv] = np.abs(logprobs - expected).max()
    assert error["f32"] < 5e-5 < 20 * error["f32"] < error["f16"], error


def test_nothing_is_left_of_a_larger_batch():
    network = make_network()
    engine = Engine(network, num_slots=8)
    alone = Engine(network, num_slots=8).generate([Request([3, 4], 30, 1.0, seed=1, num_top=3)])[0]
    engine.generate([Request([i, i + 1, 7], 40, 1.0, seed=i) for i in range(8)])
    assert engine.generate([Request([3, 4], 30, 1.0, seed=1, num_top=3, tenant="x")])[0] == alone


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("form", ["q8", "q4"])
def test_sums_of_the_largest_codes_do_not_saturate(form, target):
    """Every code and every activation at its limit, all of one sign: the largest sums there can be."""
    network = make_network(hidden_size=512, num_layers=1)
    sign_D = torch.where(torch.arange(512) % 3 == 0, -1.0, 1.0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
            if "embed_tokens" in name:
                parameter[:] = sign_D
                parameter[1] = -sign_D
        network.head_weight[:] = -sign_D  # the largest code of 4 bits, -8, where the sum is positive
        network.head_weight[::2] = sign_D
    logits = NativeBackend(network, form, num_slots=1, target=target).forward([Fed(0, 0, [0, 1])], [0, 1])
    expected = np.where(np.arange(96) % 2, -512.0, 512.0)
    assert np.allclose(logits[0], expected, rtol=0.01) and np.allclose(logits[1], -expected, rtol=0.01)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(("form", "kv"), [("q8", "f32"), ("q4", "f32"), ("f32", "q8")])
def test_what_is_not_a_number_is_not_rounded_to_one(form, kv, target):
    """One value of a head is none; comparing sizes passes over it, and 8 bits then make a number of it."""
    for at in (-1, -20, -32):
        network = make_network(architecture="qwen2", qk_norm=False, qkv_bias=True)
        with torch.no_grad():
            network.model.layers[0].self_attn.qkv_proj.bias[at] = math.nan
        backend = NativeBackend(network, form, kv=kv, num_slots=1, target=target)
        assert np.isnan(backend.forward([Fed(0, 0, [1, 2])], [0, 1])[:, :96]).all(), at


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_no_threads_and_computes_alone():
    backend = NativeBackend(make_network(vocab_size=12000, hidden_size=256), num_slots=2, threads=3)
    expected = backend.forward([Fed(0, 0, [1, 2, 3])], [2]).copy()
    child = os.fork()
    if not child:
        signal.alarm(60)  # whoever waits for a thread that is not there waits for ever
        found = backend.forward([Fed(1, 0, [1, 2, 3])], [2])
        same = np.array_equal(found, expected)
        del backend
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(backend.forward([Fed(1, 0, [1, 2, 3])], [2]), expected)


def test_what_the_native_library_has_no_room_for_is_refused():
    with pytest.raises(KweekError, match="with 0 threads"):
        NativeBackend(make_network(), num_slots=1, threads=0)
    with pytest.raises(KweekError, match="up to 1024 numbers, not 1026"):
        NativeBackend(make_network(head_dim=1026), kv="f16", num_slots=1)


def test_a_slot_that_grows_leaves_the_others_where_they_are():
    backend = NativeBackend(make_network(), num_slots=3)
    for slot in range(3):
        backend.forward([Fed(slot, 0, [1, 2, 3])], [])
        backend.reserve(slot, 100)
    before = backend._memory.table["data"].copy()
    for position in range(3, 40):
        backend.forward([Fed(1, position, [4])], [0])
    assert np.array_equal(backend._memory.table["data"], before), "a step moves nothing"
    backend.reserve(1, 600)
    assert (backend._memory.table["data"] != before).tolist() == [False, True, False]


def test_nothing_is_compiled_for_this_processor_alone():
    words = [*build.FLAGS, *(flag for flags in build.FLAGS_OF_TARGET.values() for flag in flags)]
    assert not [word for word in words if "native" in word]
    assert build.FLAGS_OF_TARGET.keys() == library.NEEDED.keys()
    assert len({build.file_name(target) for target in library.NEEDED}) == len(library.NEEDED)


def test_a_processor_gets_only_what_it_has():
    every = frozenset().union(*library.NEEDED.values())
    assert library.target_for(every) == "avx512"
    assert library.target_for(frozenset()) == "portable"
    for missing in every:
        found = library.target_for(every - {missing})
        assert missing not in library.NEEDED[found]
    for missing in library.NEEDED["avx2"]:
        assert library.target_for(library.NEEDED["avx2"] - {missing}) == "portable"


def test_a_draft_knows_nothing_of_the_text_before():
    network = make_network()
    used, fresh = (Draft(NativeBackend(network, num_slots=1)) for _ in range(2))
    used.propose(0, [1, 2, 3, 4, 5, 6], 4)
    for ids in ([9, 8, 7], [1, 2, 9], [1, 2]):
        assert used.propose(0, ids, 4) == fresh.propose(0, ids, 4)
        fresh = Draft(NativeBackend(network, num_slots=1))
