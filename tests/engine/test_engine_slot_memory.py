"""Slots that read their first positions in another slot's memory hold what they would hold alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.engine.backend import Fed
from kweek.engine.native import library
from kweek.engine.native.decoder import NativeBackend
from kweek.engine.native.slot_memory import NOBODY
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network

try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)

SLOTS = 3


def small_network():
    import torch

    config = ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
    )
    network = Network(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 2:  # large enough that attention prefers some positions
                weight.normal_(0.0, 0.4, generator=torch.Generator().manual_seed(weight.numel()))
    return network


NETWORK = small_network()
SLOT = st.integers(0, SLOTS - 1)
SHARE = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0])
ACTION = st.one_of(
    st.tuples(st.just("feed"), SLOT, SHARE, st.integers(1, 40)),
    st.tuples(st.just("fork"), SLOT, SLOT, SHARE),
    st.tuples(st.just("fork"), SLOT, SLOT, SHARE),
    st.tuples(st.just("grow"), SLOT, st.integers(1, 900)),
    st.tuples(st.just("release"), SLOT),
)


def last_logits(backend, slot, position, ids):
    return backend.forward([Fed(slot, position, ids)], [len(ids) - 1])[0].copy()


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTION, min_size=1, max_size=25))
def test_whatever_is_forked_rewound_grown_and_released_reads_its_own_text(kv, actions):
    backend = NativeBackend(NETWORK, kv=kv, num_slots=SLOTS)
    alone = NativeBackend(NETWORK, kv=kv, num_slots=1)
    tokens = np.random.default_rng(1)
    texts = [tokens.integers(0, 64, 20 + slot).tolist() for slot in range(SLOTS)]
    for slot, text in enumerate(texts):
        backend.forward([Fed(slot, 0, text)], [])
    for name, slot, *rest in actions:
        if name == "feed":
            position = int(rest[0] * len(texts[slot]))
            new = tokens.integers(0, 64, rest[1]).tolist()
            texts[slot] = texts[slot][:position] + new
            found = last_logits(backend, slot, position, new)
            assert np.array_equal(found, last_logits(alone, 0, 0, texts[slot]))
        elif name == "fork" and slot != rest[0]:
            length = int(rest[1] * len(texts[slot]))
            backend.fork(slot, rest[0], length)
            texts[rest[0]] = texts[slot][:length]
        elif name == "grow":
            backend.reserve(slot, rest[0])
        elif name == "release":
            backend.release(slot)
            texts[slot] = []
    for slot, text in enumerate(texts):
        assert np.array_equal(
            last_logits(backend, slot, len(text), [7]), last_logits(alone, 0, 0, [*text, 7])
        )


def test_samples_of_a_prompt_read_its_whole_blocks_in_one_place():
    backend = NativeBackend(NETWORK, num_slots=3)
    backend.forward([Fed(0, 0, list(range(40)))], [])
    backend.fork(0, 1, 39)
    backend.fork(1, 2, 39)
    table = backend._memory.table
    assert table["shared_length"].tolist() == [0, 32, 32]
    assert table["shared"][1] == table["shared"][2] == table["data"][0]
    backend.forward([Fed(0, 5, [9])], [])  # another text begins there: one of the readers takes over
    assert sorted(table["shared_length"].tolist()) == [0, 0, 32]
    assert backend._memory._owners.count(NOBODY) == 2
