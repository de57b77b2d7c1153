"""The engine sees an adapter: generation, scores and training are of one model, also after every update.

Complaints about others: an adapter that never reached the generator (trl 2698), one projection's adapter put on another
(unsloth-zoo 941), an adapter rounded away in 4-bit codes (trl 3466).
"""

import pytest
import torch
from small_engine import library_or_skip

from kweek.data.batches import collate, segment
from kweek.engine.device.backend import DeviceBackend
from kweek.engine.engine import Engine
from kweek.engine.native.decoder import NativeBackend
from kweek.errors import KweekError
from kweek.model.adapter import TARGETS, AdapterConfig, attach, detach, merge, without_adapter
from kweek.model.coded import hold_codes
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor
from kweek.protocols import Request
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

IDS = [5, 9, 2, 7, 7, 1, 30, 44, 3, 8]


def make_network(*, targets=TARGETS, codes=False, **changes):
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 2,
        "num_kv_heads": 1, "head_dim": 16, "max_positions": 128,
    }  # fmt: skip
    network = Network(ModelConfig(**(sizes | changes)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=generator) if parameter.ndim == 2 else parameter.fill_(1.0)
    if codes:
        hold_codes(network, {n: rounded(t) for n, t in network.state_dict().items() if "_proj.weight" in n})
    attach(network, AdapterConfig(4, 8.0, targets), generator)
    change(network)
    return network


def rounded(weight):
    groups = weight.view(len(weight), -1, 32)
    scale = (groups.abs().amax(-1) / 7).half()
    codes = (groups / scale.float()[..., None]).round().clamp(-8, 7).view(weight.shape)
    return QuantizedTensor.from_codes(codes.to(torch.int8), scale)


def change(network, seed=2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2, generator=generator)


@torch.no_grad()
def scores(network, ids):
    """Log-probability of each token by the network itself, 0 for the first."""
    table = network.logits(network(torch.tensor([ids[:-1]])))[0].log_softmax(-1)
    return [0.0, *table.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]


def agrees(engine, network):
    done = engine.generate([Request(IDS, 12, 1.0, seed=3)])[0]
    sampled = scores(network, IDS + done.token_ids)[-len(done.token_ids) :]
    assert done.logprobs == pytest.approx(sampled, abs=1e-4)
    (scored,) = engine.score([IDS])
    assert scored == pytest.approx(scores(network, IDS), abs=1e-4)
    return done.token_ids


@pytest.fixture(params=["native", "torch", "device"])
def engine_of(request, monkeypatch):
    if request.param == "native":
        library_or_skip()
        return Engine
    if request.param == "device":
        monkeypatch.setattr(Engine, "_make", lambda self: DeviceBackend(self._whole(), num_slots=20))
        return lambda network: Engine(network, num_slots=4)
    return lambda network: Engine(network, computing="torch")


@pytest.mark.parametrize("codes", [False, True], ids=["plain", "codes"])
def test_engine_and_trainer_agree_before_and_after_every_update(engine_of, codes):
    network = make_network(codes=codes)
    with without_adapter(network):
        base = scores(network, IDS)
    assert max(abs(a - b) for a, b in zip(base, scores(network, IDS), strict=True)) > 0.1
    engine = engine_of(network)
    said = [agrees(engine, network)]
    trainer = Trainer(network, SplitOptimiser(network, LearningRates().scaled(20)))
    for _ in range(2):
        before = scores(network, IDS)
        trainer.step([collate([[segment([*IDS, *reversed(IDS)])]])], 1.0)
        assert max(abs(a - b) for a, b in zip(before, scores(network, IDS), strict=True)) > 0.01
        said.append(agrees(engine, network))
    assert len({tuple(tokens) for tokens in said}) > 1


@pytest.mark.parametrize("target", TARGETS)
def test_every_projection_has_its_own_adapter(engine_of, target):
    network = make_network(targets=(target,))
    agrees(engine_of(network), network)


def test_layouts_with_biases_and_a_tied_head(engine_of):
    network = make_network(architecture="qwen2", qk_norm=False, qkv_bias=True, tied_embeddings=True)
    agrees(engine_of(network), network)


def test_putting_it_on_taking_it_off_and_merging_are_noticed(engine_of):
    network = make_network()
    engine = engine_of(network)
    with_it = engine.score([IDS])[0]
    with without_adapter(network):
        without = engine.score([IDS])[0]
        assert without == pytest.approx(scores(network, IDS), abs=1e-4)
    assert engine.score([IDS])[0] == pytest.approx(with_it, abs=1e-6) and without != with_it
    config = network.adapter
    detach(network)
    assert engine.score([IDS])[0] == pytest.approx(without, abs=1e-6)
    attach(network, config, torch.Generator().manual_seed(1))
    change(network)
    assert engine.score([IDS])[0] == pytest.approx(with_it, abs=1e-6)
    merge(network)
    assert engine.score([IDS])[0] == pytest.approx(with_it, abs=1e-6)


def test_the_packed_matrix_is_to_the_bit_the_merged_one():
    library_or_skip()
    network = make_network()
    ours = Engine(network).score([IDS])
    merge(network)
    assert Engine(network).score([IDS]) == ours


def test_a_suspended_generation_knows_its_adapter():
    library_or_skip()
    network = make_network()
    engine = Engine(network)
    engine.submit(Request(IDS, 30))
    engine.step()
    (suspended,) = engine.suspend()
    engine.resume(suspended)
    (suspended,) = engine.suspend()
    change(network, seed=5)
    with pytest.raises(KweekError, match="other weights"):
        engine.resume(suspended)


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_codes_that_would_round_it_away_are_refused(weights):
    library_or_skip()
    network = make_network()
    with pytest.raises(KweekError, match="would round most of the adapter away"):
        Engine(network, weights=weights).score([IDS])
    merge(network)
    Engine(network, weights=weights).score([IDS])


def test_weights_are_packed_once_per_update(monkeypatch):
    """And not once per call."""
    library_or_skip()
    network = make_network()
    packed = []
    pack = NativeBackend._pack
    monkeypatch.setattr(NativeBackend, "_pack", lambda self, *words: packed.append(1) or pack(self, *words))
    engine = Engine(network)
    for _ in range(2):
        engine.score([IDS])
    assert len(packed) == 1
    change(network, seed=5)
    for _ in range(2):
        engine.score([IDS])
    assert len(packed) == 2
