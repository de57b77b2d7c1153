"""Schooling: only the adapter moves, an update is a function of seed and step, a killed run ends in the same bits."""

import numpy as np
import pytest
import torch
from align_networks import small_network

from kweek.align.specialist import Drill, Schooling, prepare, school
from kweek.data.batches import Segment, segment
from kweek.errors import GuardError, Interrupted
from kweek.model.adapter import detach
from kweek.train.objective import Imitation, Likelihood


def parts(count: int = 24) -> list[Segment]:
    """The answer repeats the question's first token."""
    generator = np.random.default_rng(0)
    rows = generator.integers(1, 40, (count, 6))
    return [segment([*row, row[0], row[0], 0], [0] * 6 + [1, 1, 1]) for row in rows]


SCHOOLING = Schooling(rank=4, learning_rate=1e-2, batch_size=4, row_length=32)


def weights(network):
    return {name: value.clone() for name, value in network.named_parameters()}


def test_it_learns_and_the_frozen_network_is_as_it_was():
    network = small_network()
    before = weights(network)
    prepare(network, SCHOOLING, 0)
    losses = []
    school(
        network, Drill(parts(), SCHOOLING, 0), SCHOOLING, 60, on_step=lambda t, r, s: losses.append(r.loss)
    )  # fmt: skip
    assert np.mean(losses[-10:]) < 0.65 * np.mean(losses[:3])
    assert network.adapter is not None and network.adapter.alpha == 2 * network.adapter.rank
    detach(network)
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


def test_the_cost_of_an_update_is_known_beforehand():
    network, drill, spent = small_network(), Drill(parts(), SCHOOLING, 0), []
    prepare(network, SCHOOLING, 0)
    foretold = drill.flop_per_step(network)
    school(network, drill, SCHOOLING, 8, on_step=lambda t, r, s: spent.append(r.flop))
    assert foretold == pytest.approx(np.mean(spent), rel=0.05)


def test_batches_hold_every_example_once_an_epoch_and_weigh_one_together():
    drill = Drill(parts(), SCHOOLING, 0)
    assert drill.steps_per_epoch == 6 and next(drill()).num_tokens == 32
    stream = drill()
    epochs = [[next(stream) for _ in range(6)] for _ in range(2)]
    for batches in epochs:
        assert sum(batch.num_tokens for batch in batches) == 24 * 8
        for batch in batches:
            assert float(batch.weights_BT.sum()) == pytest.approx(1.0)
    assert not torch.equal(epochs[0][0].ids_BT, epochs[1][0].ids_BT)
    assert torch.equal(next(drill(7)).ids_BT, epochs[1][1].ids_BT)
    with pytest.raises(GuardError, match="no token"):
        Drill([segment([1, 2, 3], [0, 0, 0])], SCHOOLING, 0)


def test_a_stopped_schooling_goes_on_to_the_same_bits(tmp_path):
    whole, broken, again = small_network(), small_network(), small_network()
    for network in (whole, broken, again):
        prepare(network, SCHOOLING, 1)
    drill = Drill(parts(), SCHOOLING, 3)
    school(whole, drill, SCHOOLING, 12)
    state, seen = tmp_path / "state.safetensors", []
    with pytest.raises(Interrupted):
        school(
            broken, drill, SCHOOLING, 12, state=state, on_step=lambda t, r, s: seen.append(t.step),
            should_stop=lambda: len(seen) == 5,
        )  # fmt: skip
    school(again, drill, SCHOOLING, 12, state=state, on_step=lambda t, r, s: seen.append(t.step))
    assert seen == list(range(1, 13))
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name])


def test_imitation_is_the_likelihood_without_the_work_for_what_is_not_learnt():
    batch = next(Drill(parts(), SCHOOLING, 0)())
    found = {}
    for objective in (Likelihood(), Imitation()):
        network = small_network()
        hidden = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        loss = objective(network, hidden, batch)
        loss.value.backward()
        found[type(objective).__name__] = (loss, {n: p.grad for n, p in network.named_parameters()})
    (full, gradients), (short, ours) = found["Likelihood"], found["Imitation"]
    assert torch.allclose(full.value, short.value, rtol=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-7), name
    learnt = batch.weights_BT.flatten() != 0
    assert (
        torch.allclose(short.nll_N[learnt], full.nll_N[learnt], rtol=1e-5)
        and short.nll_N[~learnt].isnan().all()
    )
    skipped = int((~learnt).sum())
    assert full.flop == 0 and short.flop == -skipped * 3 * 2 * network.head_weight.numel() < 0
