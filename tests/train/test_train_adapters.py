"""Training with an adapter: what is stepped, stored, counted and resumed is the adapter alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kweek.data.batches import collate, segment
from kweek.errors import ConfigError, Interrupted, StoreError
from kweek.model.adapter import AdapterConfig, attach, without_adapter
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

NUM_STEPS = 12


def make_trainer(adapter_seed=0, rank=4, **options):
    network = Network(
        ModelConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1,
            head_dim=16,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2, generator=generator) if parameter.ndim == 2 else parameter.fill_(1.0)
    attach(network, AdapterConfig(rank, 2.0 * rank), torch.Generator().manual_seed(adapter_seed))
    return Trainer(network, SplitOptimiser(network, LearningRates(), **options))


def batches(first):
    """Rows that count up, so that there is something to learn."""
    for step in range(first, NUM_STEPS):
        starts = np.random.default_rng(step).integers(0, 40, 4)
        yield collate([[segment(np.arange(start, start + 20))] for start in starts])


def train(trainer, **options):
    return fit(trainer, batches, NUM_STEPS, WarmupStableDecay(NUM_STEPS), **options)


def test_only_the_adapter_moves_and_the_loss_falls():
    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    losses = []
    train(trainer, on_step=lambda totals, result, speed: losses.append(result.loss))
    moved = {n for n, value in trainer.network.named_parameters() if not torch.equal(value, before[n])}
    assert moved == set(trainer.weights()) and len(moved) == 2 * 4 * 2
    assert {id(p) for p in trainer.optimiser.parameters} == {
        id(trainer.network.get_parameter(name)) for name in moved
    }
    assert losses[-1] < losses[0] - 0.2
    with without_adapter(trainer.network):
        again = trainer.loss(next(batches(0))).value.item()
    assert again == pytest.approx(losses[0], rel=1e-6), "the base is what it was"


@pytest.mark.parametrize("muon", [None, 0.01])
def test_resuming_gives_the_same_bits_from_a_file_without_the_base(tmp_path, muon):
    undisturbed = make_trainer(muon=muon)
    train(undisturbed)
    state = tmp_path / "state.safetensors"
    calls = iter(range(NUM_STEPS))
    with pytest.raises(Interrupted):
        train(make_trainer(muon=muon), state=state, should_stop=lambda: next(calls) == 5)
    num_trained = sum(value.numel() for value in undisturbed.weights().values())
    stored = load_file(state)
    weights = [value for name, value in stored.items() if name.startswith("network.")]
    assert sum(value.numel() for value in weights) == num_trained
    moments = 1 if muon else 2
    assert sum(value.numel() for value in stored.values()) == (1 + moments) * num_trained + sum(
        name.endswith(".step") for name in stored
    )
    resumed = make_trainer(adapter_seed=9, muon=muon)
    assert train(resumed, state=state).step == NUM_STEPS
    for name, value in undisturbed.weights().items():
        assert torch.equal(value, resumed.weights()[name]), name


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path):
    trainer = make_trainer()
    trainer.save(tmp_path / "state", train(trainer))
    other = make_trainer(rank=3)
    before = {name: value.clone() for name, value in other.weights().items()}
    with pytest.raises(StoreError, match="other trained weights"):
        other.load(tmp_path / "state")
    assert all(torch.equal(value, before[name]) for name, value in other.weights().items())


def test_a_frozen_network_cannot_be_trained():
    network = make_trainer().network
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match="all of the network is frozen"):
        SplitOptimiser(network, LearningRates())


def test_muon_steps_each_factor_apart():
    """With Newton-Schulz over a stack, A of q, k and v would share one norm."""
    trainer = make_trainer(muon=0.1)
    layer = trainer.network.model.layers[0].self_attn.qkv_proj
    before = layer.b_UK.detach().clone()
    trainer.step([next(batches(0))], 1.0)
    change = layer.b_UK.detach() - before
    for block in layer.blocks.values():
        values = torch.linalg.svdvals(change[block.rows])
        rows = block.rows.stop - block.rows.start
        assert values.min() > 0.05 * max(1, rows / 4) ** 0.5, "each is orthogonalised"
    stacked = torch.linalg.svdvals(change)
    assert stacked.max() > 1.2 * values.max()


def test_a_step_counts_what_the_network_says():
    trainer = make_trainer()
    batch = next(batches(0))
    result = trainer.step([batch, batch], 1.0)
    tokens, length = batch.ids_BT.numel(), batch.ids_BT.shape[1]
    per_token = trainer.network.num_flops_per_token(length, backward=True)
    num_trained = sum(value.numel() for value in trainer.weights().values())
    assert result.flop == pytest.approx(2 * tokens * per_token + 14 * num_trained)
    assert per_token < trainer.network.config.num_flops_per_token(length, backward=True)
