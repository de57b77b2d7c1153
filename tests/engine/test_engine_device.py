"""Static batches: padding touches nothing, the first row is right, and tokens are those of the eager backend.

The same tests run with graphs where there is a CUDA device.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kweek.engine.backend import Fed
from kweek.engine.choosing import choose
from kweek.engine.device.backend import DeviceBackend
from kweek.engine.device.batch import BUCKETS, bucket_of, length_of
from kweek.engine.device.sampling import Controls, draw
from kweek.engine.eager import EagerBackend
from kweek.engine.engine import Engine
from kweek.engine.native.rows import ROW
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request

VOCABULARY = 64
CLOSE = 2e-5  # attention sums over more positions, all but the same of them zero
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
)


def make_network(**changes):
    torch.manual_seed(1)
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 16, "max_positions": 1200,
    }  # fmt: skip
    network = Network(ModelConfig(**(sizes | changes)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3) if parameter.ndim == 2 else parameter.fill_(1.0)
    return network


@pytest.fixture(scope="module", params=["cpu", CUDA])
def network(request):
    return make_network().to(request.param)


@pytest.fixture
def backend(network):
    return DeviceBackend(network, num_slots=16)


def rows_at(slots, position, token, *, remaining=1, **controls):
    rows = np.zeros(len(slots), ROW)
    rows["slot"], rows["position"], rows["token"] = slots, position, token
    rows["remaining"], rows["top_p"] = remaining, 1.0
    for name, value in controls.items():
        rows[name] = value
    return rows


@torch.inference_mode()
def expected(network, ids):
    """Log-probabilities (V,) after ids, without any cache."""
    there = torch.tensor([ids], device=network.head_weight.device)
    return network.logits(network(there))[0, -1].double().log_softmax(-1).cpu().numpy()


def held(backend, slot):
    """All that a slot holds."""
    parts = (*backend._cache.keys, *backend._cache.values)
    return torch.stack([part[slot] for part in parts]).cpu()


def test_buckets():
    assert [bucket_of(n) for n in (1, 2, 3, 5, 128, 129, 256)] == [1, 2, 4, 8, 128, 256, 256]
    assert list(BUCKETS) == [1 << i for i in range(9)]
    assert [length_of(n, 1000) for n in (1, 256, 257, 600)] == [256, 256, 512, 1000]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 16])
@pytest.mark.parametrize("order", ["direct", "gathered"])
def test_every_row_is_right_after_a_fuller_batch(network, backend, count, order):
    prompts = [[(7 * i + j) % VOCABULARY for j in range(3 + i % 4)] for i in range(16)]
    backend.forward([Fed(i, 0, prompt) for i, prompt in enumerate(prompts)], [])
    full = rows_at(range(16), [len(p) for p in prompts], [i + 1 for i in range(16)], remaining=4)
    backend.run(full, 4)
    slots = list(range(count)) if order == "direct" else list(range(16))[-count:][::-1]
    rows = rows_at(slots, [len(prompts[s]) for s in slots], [s + 5 for s in slots])
    found = backend.run(rows)
    for row, slot in enumerate(slots):
        table = expected(network, [*prompts[slot], slot + 5])
        assert found[row, 0]["token"] == table.argmax()
        assert found[row, 0]["logprob"] == pytest.approx(table.max(), abs=1e-4)
        assert backend.lse[row] == pytest.approx(np.logaddexp.reduce(backend.logits[row]), abs=1e-4)


def test_padding_writes_into_no_slot(backend):
    """Fault 4 of captured batches: rows left over from a fuller batch go on writing where they wrote."""
    backend.forward([Fed(i, 0, [1 + i, 2, 3]) for i in range(8)], [])
    backend.run(rows_at(range(8), 3, 9, remaining=2), 2)
    backend.run(rows_at([5, 6, 7], 3, 11, remaining=2), 2)  # other tokens where the full batch had been
    before = [held(backend, slot) for slot in range(8)]
    backend.run(rows_at(range(5), 5, 4))  # bucket of 8: three rows are padding
    for slot in range(5, 8):
        assert torch.equal(held(backend, slot), before[slot])
    for slot in range(5):
        changed = (held(backend, slot) != before[slot]).any(-1).any(0).any(0)
        assert changed.nonzero()[:, 0].tolist() == [5]


def test_logits_of_more_rows_than_a_bucket_are_those_of_all(network):
    backend = DeviceBackend(network, num_slots=300)
    rows = rows_at(range(300), 0, np.arange(300) % VOCABULARY)
    found = backend.run(rows)
    assert backend.logits.shape == (300, VOCABULARY) == (len(backend.lse), VOCABULARY)
    assert np.array_equal(backend.logits.argmax(1), found["token"][:, 0])
    assert backend.logits[7] == pytest.approx(expected(network, [7]) + backend.lse[7], abs=1e-4)


def test_rows_that_are_done_become_padding_within_a_call(backend):
    backend.forward([Fed(0, 0, [1, 2]), Fed(1, 0, [3, 4])], [])
    rows = rows_at([0, 1], 2, 5, remaining=[2, 6])
    found = backend.run(rows, 6)
    assert rows["produced"].tolist() == [2, 6] and rows["done"].tolist() == [1, 1]
    assert not held(backend, 0)[..., 4:, :].any()  # two were written, at 2 and 3
    assert found[1]["logprob"].all() and not found[0]["logprob"][2:].any()


def test_recording_touches_no_slot(backend):
    backend.forward([Fed(0, 0, [1, 2, 3])], [])
    before = held(backend, 0)
    rows = rows_at([0], 3, 5)
    shape, _ = backend._shape(rows, 4)
    backend._static.fill(rows, np.array([0]), 1, shape)
    backend._static.clear(shape)
    backend._step(shape)  # what happens while a graph warms up and is recorded
    assert torch.equal(held(backend, 0), before)


def test_several_steps_are_as_many_calls(backend, network):
    backend.forward([Fed(2, 0, [1, 2, 3])], [])
    many = backend.run(rows_at([2], 3, 5, remaining=6), 6)[0]["token"].tolist()
    other = DeviceBackend(network, num_slots=4)
    other.forward([Fed(2, 0, [1, 2, 3])], [])
    rows = rows_at([2], 3, 5, remaining=6)
    single = [int(other.run(rows)[0, 0]["token"]) for _ in range(6)]
    assert many == single


REQUESTS = [
    Request(
        [1 + i, 2, 3][: 1 + i % 3], 5 + 3 * i, [0.0, 1.0, 0.7][i % 3], seed=i, top_k=[0, 0, 5][i % 3],
        top_p=[1, 1, 0.9][i % 3], min_p=[0, 0.05][i % 2], stop_ids=frozenset({7} if i % 4 == 0 else ()),
    )
    for i in range(13)
]  # fmt: skip


@pytest.mark.parametrize("layout", ["qwen3", "llama", "qwen2"])
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_completions_are_those_of_the_eager_backend(layout, device, monkeypatch):
    network = make_network(architecture=layout, qk_norm=layout == "qwen3", qkv_bias=layout == "qwen2")
    monkeypatch.setattr(Engine, "_make", lambda self: EagerBackend(self.network, num_slots=24))
    eager = Engine(network, num_slots=8).generate(REQUESTS)
    monkeypatch.setattr(Engine, "_make", lambda self: DeviceBackend(self.network, num_slots=24))
    moved = make_network(architecture=layout, qk_norm=layout == "qwen3", qkv_bias=layout == "qwen2").to(
        device
    )
    done = Engine(moved, num_slots=8).generate(REQUESTS)
    for ours, theirs in zip(done, eager, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.stop_reason == theirs.stop_reason
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=CLOSE)
        assert ours.processed_logprobs == pytest.approx(theirs.processed_logprobs, abs=CLOSE)
        assert ours.kept_mass == pytest.approx(theirs.kept_mass, abs=CLOSE)


def test_slots_grow_and_keep_what_they_hold(network, monkeypatch):
    monkeypatch.setattr(Engine, "_make", lambda self: DeviceBackend(self.network, num_slots=20))
    engine = Engine(network, num_slots=2)
    prompt = [(3 * i) % VOCABULARY for i in range(500)]
    done = engine.generate([Request(prompt, 90), Request(prompt[:20], 10)])
    scored = engine.score([[*prompt, *done[0].token_ids]])[0]
    assert scored[500:] == pytest.approx(done[0].logprobs, abs=1e-4)


def test_new_weights_show_and_graphs_stay(network, monkeypatch):
    monkeypatch.setattr(Engine, "_make", lambda self: DeviceBackend(self.network, num_slots=20))
    changing = make_network().to(network.head_weight.device)
    engine = Engine(changing, num_slots=2)
    prompt = [1, 2, 3, 4]
    before = engine.generate([Request(prompt, 8)])[0]
    backend = engine._scheduler.backend
    with torch.no_grad():
        changing.model.layers[0].mlp.down_proj.weight.mul_(-2)
    after = engine.generate([Request(prompt, 8)])[0]
    assert engine._scheduler.backend is backend
    assert after.logprobs != pytest.approx(before.logprobs, abs=1e-3)
    assert engine.score([[*prompt, *after.token_ids]])[0][4:] == pytest.approx(after.logprobs, abs=1e-4)


def controls_of(row, uniform, sums):
    real = [torch.tensor([float(row[name])], dtype=sums) for name in ("temperature", "top_p", "min_p")]
    top_k = torch.tensor([int(row["top_k"])])
    return Controls(real[0], top_k, real[1], real[2], torch.tensor([uniform], dtype=sums), sums)


@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    uniform=st.floats(0, 1, exclude_max=True),
    forbid=st.booleans(),
)
def test_a_token_is_drawn_as_row_by_row(seed, temperature, top_k, top_p, min_p, uniform, forbid):
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal(40)).astype(np.float32)
    logits[5] = logits[6]  # a tie
    row = rows_at([0], 0, 0, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)[0]
    drawn_from = np.array([max(uniform, 1e-300)])
    row["uniforms"] = drawn_from.ctypes.data
    allowed = np.ascontiguousarray(random.random(40) < 0.5, np.uint8)
    allowed[3] = 1
    shift = None
    if forbid:
        row["allowed"] = allowed.ctypes.data
        shift = torch.from_numpy(np.where(allowed != 0, 0.0, -math.inf).astype(np.float32))[None]
    table = torch.from_numpy(logits)[None]
    lse = float(table.logsumexp(-1))
    token, logprob, processed, kept = choose(row, logits, lse)
    truncated = bool(top_k or top_p < 1 or min_p)
    for sort in {truncated, True}:
        found = draw(
            table, shift, controls_of(row, uniform, torch.float64), sampled=temperature > 0, truncated=sort
        )
        assert int(found.token_B) == token
        assert float(found.logprob_B) == pytest.approx(logprob, abs=1e-5)
        assert float(found.processed_B) == pytest.approx(processed, abs=1e-5)
        assert float(found.kept_B) == pytest.approx(kept, abs=1e-5)
    rough = draw(
        table, shift, controls_of(row, uniform, torch.float32), sampled=temperature > 0, truncated=truncated
    )
    assert not forbid or allowed[int(rough.token_B)]
    assert math.isfinite(float(rough.processed_B)) and float(rough.kept_B) == pytest.approx(kept, abs=1e-4)
