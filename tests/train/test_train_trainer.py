"""The loop: packed equals unpacked, resume equals undisturbed, schedules and guards."""

import math

import numpy as np
import pytest
import torch

from kweek.data.batches import collate, segment
from kweek.data.packing import PackedMix, Source
from kweek.errors import GuardError, Interrupted
from kweek.model.config import ModelConfig
from kweek.model.head import token_nll
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.train.objective import Likelihood, Loss
from kweek.train.optimiser import LearningRates, SplitOptimiser, orthogonalise
from kweek.train.schedule import WarmupStableDecay, sequence_lengths
from kweek.train.trainer import Trainer, fit


def make_network(seed=0, **changes):
    options = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2,
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 16,
    }  # fmt: skip
    network = Network(ModelConfig(**(options | changes)))
    initialise(network, torch.Generator().manual_seed(seed))
    return network


def make_trainer(seed=0, **options):
    network = make_network(seed)
    return Trainer(network, SplitOptimiser(network, LearningRates(), **options))


def randomise(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def mix(steps):
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 20) + np.arange(generator.integers(5, 40)) for _ in range(50)]
    return PackedMix([Source("s", documents, 1.0)], [32] * steps, 64, 0, 0)


def test_packed_loss_equals_unpacked():
    trainer = make_trainer()
    randomise(trainer.network)
    generator = np.random.default_rng(2)
    parts = [segment(generator.integers(0, 64, n), generator.random(n)) for n in (9, 5, 14, 3)]
    packed = trainer.loss(collate([parts])).value
    apart = sum(trainer.loss(collate([[part]])).value for part in parts)
    assert packed.item() == pytest.approx(apart.item(), rel=1e-5)
    gradients = torch.autograd.grad(packed, list(trainer.network.parameters()))
    for ours, theirs in zip(
        gradients, torch.autograd.grad(apart, list(trainer.network.parameters())), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_training_lowers_the_loss_and_starts_uniform():
    trainer = make_trainer()
    losses = []
    fit(trainer, mix(60).batches, 60, WarmupStableDecay(60), on_step=lambda t, r, s: losses.append(r.loss))
    assert losses[0] == pytest.approx(math.log(64), rel=1e-3), "a zero head predicts uniformly"
    assert np.mean(losses[-5:]) < losses[0] - 1.0


@pytest.mark.parametrize("muon", [None, 0.01])
def test_resuming_gives_the_same_bits(tmp_path, muon):
    undisturbed = make_trainer(muon=muon)
    fit(undisturbed, mix(20).batches, 20, WarmupStableDecay(20))
    state = tmp_path / "new" / "state.safetensors"
    calls = 0

    def stop_after_seven():
        nonlocal calls
        calls += 1
        return calls > 7

    with pytest.raises(Interrupted):
        fit(
            make_trainer(muon=muon),
            mix(20).batches,
            20,
            WarmupStableDecay(20),
            state=state,
            should_stop=stop_after_seven,
        )
    resumed = make_trainer(seed=9, muon=muon)
    totals = fit(resumed, mix(20).batches, 20, WarmupStableDecay(20), state=state)
    assert totals.step == 20
    for name, value in undisturbed.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_loss_that_is_not_a_number_stops_before_the_weights_change():
    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    batch = collate([[segment([1, 2, 3], [1.0, float("nan"), 1.0])]])
    with pytest.raises(GuardError, match="not finite"):
        trainer.step([batch], 1.0)
    assert all(torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())


def test_an_update_that_broke_off_leaves_nothing_in_the_next_one():
    class Breaks(Likelihood):
        def __call__(self, network, hidden_BTD, batch):
            if batch.num_tokens == 1:
                raise RuntimeError
            return super().__call__(network, hidden_BTD, batch)

    undisturbed, disturbed = make_trainer(), make_trainer()
    disturbed.objective = Breaks()
    parts = [collate([[segment(ids)]]) for ids in ([1, 2, 3, 4], [5, 6])]
    with pytest.raises(RuntimeError):
        disturbed.step(parts, 1.0)
    with pytest.raises(GuardError):
        disturbed.step([collate([[segment([1, 2, 3], [1.0, float("nan"), 1.0])]])], 1.0)
    for trainer in (undisturbed, disturbed):
        trainer.step(parts[:1], 1.0)
    for a, b in zip(undisturbed.network.parameters(), disturbed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_microbatches_add_up():
    one, two = make_trainer(), make_trainer()
    parts = [segment([1, 2, 3, 4]), segment([5, 6, 7])]
    one.step([collate([[parts[0]], [parts[1]]])], 1.0)
    two.step([collate([[part]]) for part in parts], 1.0)
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_kind_of_parameter_has_its_own_rate():
    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    trainer.step([collate([[segment(range(20))]])], 1.0)
    moved = {
        name: (value - before[name]).abs().max().item() for name, value in trainer.network.named_parameters()
    }
    assert moved["lm_head.weight"] == pytest.approx(3e-3, rel=0.05)
    # With a zero head nothing flows below it at the first step.
    assert moved["model.embed_tokens.weight"] == 0.0


@pytest.mark.parametrize("muon", [None, 0.01])
def test_an_update_shows_in_the_version_of_every_weight(muon):
    """By which the engine knows that what it has packed is old; the fused step alone does not count them up."""
    trainer = make_trainer(muon=muon)
    versions = [parameter._version for parameter in trainer.network.parameters()]
    trainer.step([collate([[segment(range(20))]])], 1.0)
    assert all(p._version > before for p, before in zip(trainer.network.parameters(), versions, strict=True))


def test_schedule_warms_up_holds_and_ends_near_zero():
    schedule = WarmupStableDecay(100, warmup=0.1, decay=0.5)
    factors = [schedule(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == 1.0 and factors[30] == 1.0
    assert 0 < factors[-1] < 0.03


def test_sequence_lengths_cover_every_step():
    lengths = sequence_lengths(101, (64, 128, 256), (0.15, 0.35, 0.5))
    assert len(lengths) == 101 and lengths == sorted(lengths) and lengths.count(64) == 15


def test_newton_schulz_makes_singular_values_alike():
    matrices = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5 and values.max() < 1.5


class Pairs:
    """The chosen segment of a pair over the other one: an objective over segments, streams and labels."""

    def __call__(self, network, hidden_BTD, batch):
        nll_N = token_nll(hidden_BTD.flatten(0, 1), network.head_weight, batch.targets_BT.flatten())
        sequence_N = batch.sequence_BT.flatten()
        weighed = (nll_N * batch.streams["bonus"].flatten())[sequence_N >= 0]
        sums_S = torch.zeros(len(batch.labels["sign"])).index_add(0, sequence_N[sequence_N >= 0], weighed)
        return Loss((sums_S * batch.labels["sign"]).sum(), None, {"sum": float(sums_S.detach().sum())}, 7.0)


def test_an_objective_sees_segments_streams_and_labels_and_micro_batches_add_up():
    trainer = make_trainer()
    randomise(trainer.network)
    trainer.objective = Pairs()
    generator = np.random.default_rng(2)
    parts = [
        segment(generator.integers(0, 64, n), None, {"bonus": generator.random(n)}, {"sign": sign})
        for n, sign in ((9, 1.0), (5, -1.0), (14, 1.0))
    ]
    whole = trainer.loss(collate([parts[:2], parts[2:]]))
    apart = [trainer.loss(collate([[part]])) for part in parts]
    assert whole.value.item() == pytest.approx(sum(loss.value.item() for loss in apart), rel=1e-5)
    assert whole.parts["sum"] == pytest.approx(sum(loss.parts["sum"] for loss in apart), rel=1e-5)
    result = trainer.step([collate([[part]]) for part in parts], 1e-3)
    assert result.parts["sum"] == pytest.approx(whole.parts["sum"], rel=1e-5) and not result.nll
    reading = sum(
        len(part) * trainer.network.config.num_flops_per_token(len(part), backward=True) for part in parts
    )
    assert result.flop == pytest.approx(reading + 3 * 7.0 + trainer.optimiser.num_flops_per_step())
