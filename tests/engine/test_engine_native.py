"""The native library computes the network, in every instruction set and format, whatever shares the call."""

import os
import sys

import numpy as np
import pytest
import torch

from kweek.compute.hardware import detect
from kweek.engine.backend import Fed
from kweek.engine.choosing import choose
from kweek.engine.native import build, library
from kweek.engine.native.decoder import NativeBackend
from kweek.engine.native.pack import eight_bits, four_bits
from kweek.engine.native.rows import ROW
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network

try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)

RUNNABLE = [name for name, needed in library.NEEDED.items() if needed <= detect().features]
LAYOUTS = {
    "qwen3, grouped": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32},
    "llama, tied, odd vocabulary": {
        "architecture": "llama", "qk_norm": False, "tied_embeddings": True, "num_heads": 3, "num_kv_heads": 1,
        "head_dim": 32, "hidden_size": 96, "vocab_size": 301,
    },
    "qwen2, biases": {
        "architecture": "qwen2", "qk_norm": False, "qkv_bias": True, "num_heads": 2, "num_kv_heads": 2,
        "head_dim": 64,
    },
}  # fmt: skip
#: Largest error of a log-probability against float64; 8 and 4 bits are what they are.
TOLERANCE = {"f32": 5e-5, "f16": 2e-2, "q8": 0.6, "q4": 6.0}


def random_network(**changes):
    """Weights large enough that attention is not uniform."""
    sizes = {
        "vocab_size": 288, "hidden_size": 128, "intermediate_size": 352, "num_layers": 2, "max_positions": 1024,
    }  # fmt: skip
    network = Network(ModelConfig(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.08 * noise if parameter.ndim == 2 else 1.0 + 0.1 * noise)
    return network


@torch.inference_mode()
def reference(network, ids):
    """Log-probabilities (T, V) in float64."""
    double = Network(network.config)
    double.load_state_dict(network.state_dict())
    double.double()
    double.compute_dtype = torch.float64
    return double.logits(double(torch.tensor(ids)[None]))[0].log_softmax(-1).numpy()


def log_softmax(logits):
    return torch.from_numpy(logits.astype(np.float64)).log_softmax(-1).numpy()


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_format_of_every_layout_is_the_network(layout, target):
    network = random_network(**LAYOUTS[layout])
    ids = np.random.default_rng(1).integers(0, 288, 60).tolist()
    expected = reference(network, ids)
    errors = {}
    for form, tolerance in TOLERANCE.items():
        found = log_softmax(
            NativeBackend(network, form, num_slots=2, target=target).forward([Fed(0, 0, ids)], range(60))
        )
        errors[form] = np.abs(found - expected).max()
        assert errors[form] < tolerance, form
    assert errors["f32"] < errors["f16"] < errors["q8"] < errors["q4"]


@pytest.mark.parametrize("form", ["f32", "f16", "q8", "q4"])
@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_the_same_bits_alone_in_pieces_and_in_company(form, kv):
    network = random_network(**LAYOUTS["qwen3, grouped"])
    backend = NativeBackend(network, form, kv=kv, num_slots=8)
    draw = np.random.default_rng(2)
    texts = [draw.integers(0, 288, length).tolist() for length in (70, 41, 33, 9)]
    whole = []
    for slot, ids in enumerate(texts):
        whole.append(backend.forward([Fed(slot, 0, ids)], range(len(ids))).copy())
    together = backend.forward(
        [Fed(4 + i, 0, ids) for i, ids in enumerate(texts)], range(sum(map(len, texts)))
    )
    assert np.array_equal(together, np.concatenate(whole))
    single = [backend.forward([Fed(0, i, [token])], [0])[0].copy() for i, token in enumerate(texts[0])]
    assert np.array_equal(np.stack(single), whole[0])
    for start, end in ((0, 7), (7, 30), (30, 70)):
        piece = backend.forward([Fed(1, start, texts[0][start:end])], range(end - start))
        assert np.array_equal(piece, whole[0][start:end])


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_and_values_in_fewer_bits_lose_little(layout, target):
    network = random_network(**LAYOUTS[layout])
    ids = np.random.default_rng(1).integers(0, 288, 100).tolist()
    expected = reference(network, ids)
    errors = []
    for kv, tolerance in (("f32", 5e-5), ("f16", 2e-2), ("q8", 0.3)):
        backend = NativeBackend(network, kv=kv, num_slots=1, target=target)
        errors.append(np.abs(log_softmax(backend.forward([Fed(0, 0, ids)], range(100))) - expected).max())
        assert errors[-1] < tolerance, kv
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_a_fork_and_a_larger_capacity_go_on_with_the_same_bits(kv):
    backend = NativeBackend(random_network(**LAYOUTS["qwen3, grouped"]), kv=kv, num_slots=3)
    ids = np.random.default_rng(3).integers(0, 288, 50).tolist()
    expected = backend.forward([Fed(0, 0, ids)], range(50))[-1].copy()
    backend.fork(0, 2, 30)
    assert np.array_equal(backend.forward([Fed(2, 30, ids[30:])], [19])[0], expected)
    backend.fork(0, 1, 30)
    backend.reserve(1, 700)
    assert np.array_equal(backend.forward([Fed(1, 30, ids[30:])], [19])[0], expected)


def test_two_threads_give_the_bits_of_one():
    network = random_network(**LAYOUTS["qwen3, grouped"])
    draw = np.random.default_rng(9)
    texts = [draw.integers(0, 288, length).tolist() for length in (60, 1, 17, 40, 3)]
    found = []
    for threads in (1, 2, 3):
        backend = NativeBackend(network, num_slots=6, threads=threads)
        uniforms = np.random.default_rng(10).random((4, 5))
        rows = np.zeros(5, ROW)
        fed = [Fed(5, 0, texts[0])]  # a slot without a row
        for i, slot in enumerate((0, 1, 2, 3, 3)):
            text = texts[slot] if i < 4 else [*texts[3], 11]
            rows[i]["slot"], rows[i]["position"], rows[i]["token"] = slot, len(text) - 1, text[-1]
            rows[i]["remaining"], rows[i]["temperature"], rows[i]["top_p"] = 1, 1.0, 1.0
            rows[i]["uniforms"] = uniforms[i % 4].ctypes.data
            if i < 4 and len(text) > 1:
                fed.append(Fed(slot, 0, text[:-1]))
        choices = backend.run(rows, 1, fed)
        found.append((choices.tobytes(), backend.logits[:5].tobytes(), backend.lse[:5].tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("form", ["f32", "q4"])
def test_threads_share_out_one_row_too(form):
    # Large enough that a single row is worth sharing.
    network = random_network(
        num_heads=6, num_kv_heads=3, head_dim=64, hidden_size=384, intermediate_size=1056, vocab_size=4099
    )
    ids = np.random.default_rng(5).integers(0, 4099, 30).tolist()
    found = []
    for threads in (1, 2, 3, 5):
        backend = NativeBackend(network, form, num_slots=1, threads=threads)
        found.append(
            np.stack([backend.forward([Fed(0, i, [token])], [0])[0].copy() for i, token in enumerate(ids)])
        )
    assert all(np.array_equal(one, found[0]) for one in found)


def test_threads_come_and_go_with_their_backend():
    network = random_network(**LAYOUTS["qwen3, grouped"])
    before = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    for _ in range(20):
        backend = NativeBackend(network, num_slots=1, threads=4)
        backend.forward([Fed(0, 0, [1, 2, 3])], [2])
        backend.reserve(0, 700)  # more room for scores: threads end and new ones begin
        backend.forward([Fed(0, 3, [4])], [0])
    del backend
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/task")) <= before + 1


def test_more_rows_than_a_call_holds_are_refused():
    backend = NativeBackend(random_network(**LAYOUTS["qwen3, grouped"]), num_slots=1)
    with pytest.raises(ValueError, match="257"):
        backend.forward([Fed(0, 0, [1] * 257)], [0])


def test_codes_that_are_there_are_kept():
    draw = np.random.default_rng(4)
    codes = draw.integers(-8, 8, (48, 128))
    codes[:3] = draw.integers(-2, 3, (3, 128))  # groups that never reach the largest code
    scale = draw.normal(0, 0.02, (48, 4)).astype(np.float16).astype(np.float32)
    weight = (codes * np.repeat(scale, 32, 1)).astype(np.float32)
    found, found_scale = four_bits(weight)
    assert np.array_equal(found * np.repeat(found_scale.astype(np.float32), 32, 1), weight)


def test_rounding_errs_by_at_most_half_a_step():
    weight = np.random.default_rng(5).normal(0, 1, (32, 64)).astype(np.float32)
    codes, scale = eight_bits(weight)
    steps = np.repeat(np.abs(scale.astype(np.float32)), 32, 1)
    assert np.all(np.abs(codes * steps - weight) <= 0.501 * steps + 127 * steps * 2**-11)
    assert four_bits(np.zeros((16, 32), np.float32))[0].max() == 0


def test_eight_bits_need_whole_groups():
    with pytest.raises(KweekError, match="no whole groups of 32"):
        NativeBackend(random_network(hidden_size=120, num_heads=2, num_kv_heads=1), "q8", num_slots=1)


@pytest.mark.parametrize("target", RUNNABLE)
def test_choices_follow_the_written_rule(target):
    """Against `choose`, which says the rule in numpy and float64."""
    network = random_network(**LAYOUTS["qwen3, grouped"])
    backend = NativeBackend(network, num_slots=1, target=target)
    draw = np.random.default_rng(6)
    held = []
    agreed = 0
    for trial in range(200):
        row = np.zeros(1, ROW)
        uniforms = draw.random(1)
        row["remaining"], row["token"], row["uniforms"] = 1, draw.integers(288), uniforms.ctypes.data
        row["temperature"] = draw.choice([0.0, 0.5, 1.0, 1.7])
        row["top_k"], row["top_p"] = draw.choice([0, 1, 5, 400]), draw.choice([0.1, 0.9, 1.0])
        row["min_p"] = draw.choice([0.0, 0.05])
        if trial % 3 == 0:
            allowed = (draw.random(288) < 0.2).astype(np.uint8)
            allowed[draw.integers(288)] = 1
            bias = draw.normal(0, 2, 288).astype(np.float32)
            held = [allowed, bias]
            row["allowed"], row["bias"] = allowed.ctypes.data, bias.ctypes.data
        before = row[0].copy()
        found = backend.run(row)[0, 0]
        expected = choose(before, backend.logits[0, :288], float(backend.lse[0]))
        agreed += found["token"] == expected[0]
        if found["token"] == expected[0]:
            assert found["logprob"] == pytest.approx(expected[1], abs=1e-5)
            assert found["processed"] == pytest.approx(expected[2], abs=1e-4)
            assert found["kept"] == pytest.approx(expected[3], abs=1e-4)
    assert len(held) == 2
    assert agreed >= 199  # a uniform may fall between two roundings of one sum


def test_several_steps_in_one_call_are_the_steps_one_by_one():
    backend = NativeBackend(random_network(**LAYOUTS["qwen3, grouped"]), num_slots=6)
    uniforms = np.random.default_rng(8).random((3, 12))
    events = np.zeros(288, np.uint8)

    def begin(slot):
        rows = np.zeros(3, ROW)
        for i in range(3):
            rows[i]["slot"], rows[i]["token"], rows[i]["remaining"] = slot + i, 10 * i, (12, 5, 12)[i]
            rows[i]["temperature"], rows[i]["top_p"] = 1.0, 1.0
            rows[i]["uniforms"], rows[i]["events"] = uniforms[i].ctypes.data, events.ctypes.data
        return rows

    rows = begin(0)
    single = [[], [], []]
    while (rows["remaining"] > 0).any():
        choices = backend.run(rows, 1)
        for i in range(3):
            single[i] += choices[i, : rows[i]["produced"]].tolist()
    events[single[2][3][0]] = 1
    rows = begin(3)
    together, calls = [[], [], []], 0
    while not calls or not rows["done"].all():
        rows["remaining"][rows["done"] == 1] = 0
        choices = backend.run(rows, 12)
        calls += 1
        for i in range(3):
            together[i] += choices[i, : rows[i]["produced"]].tolist()
    for i in range(3):
        assert together[i] == single[i][: len(together[i])]
        assert len(together[i]) == (12, 5, 12)[i] or events[together[i][-1][0]]
    assert len(together[2]) <= 4 and events[together[2][-1][0]]
    assert 1 < calls < 12  # a call ends where a third of its rows have, and no sooner


def test_without_a_compiler_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(KweekError, match=r"needs a C compiler, and none was found.*pip install ziglang"):
        library.compiled("portable")


def test_a_failing_compiler_is_named_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KweekError, match=r"the C compiler false failed"):
        library.compiled("portable", ["false"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KweekError, match=r"cannot be compiled.*XDG_CACHE_HOME"):
        library.compiled("portable")
