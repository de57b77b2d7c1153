"""Preference objectives in training: the sign, the parts, the known failure and its guard."""

import pytest
import torch
from align_networks import random_pairs, small_network, small_trainer

from kweek.align.displacement import Displacement
from kweek.align.dpo import DPO
from kweek.align.guards.guard import Step
from kweek.align.ipo import IPO
from kweek.align.pairs import Pair, PairBatches, pair_segments, with_reference
from kweek.align.sequences import micro_batches, network_logprobs
from kweek.align.simpo import SimPO
from kweek.errors import ConfigError, DataError
from kweek.train.trainer import fit

OBJECTIVES = {"dpo": DPO(0.5), "ipo": IPO(0.5), "ipo per token": IPO(0.5, per_token=True), "simpo": SimPO()}


def prepared(count=16, seed=1):
    network = small_network()
    pairs = with_reference(random_pairs(count, seed), lambda rows: network_logprobs(network, rows))
    return network, pairs


def parts_of(trainer, pairs):
    batches = micro_batches(pair_segments(pairs), 64)
    found = [trainer.loss(batch).parts for batch in batches]
    return {name: sum(part[name] for part in found) for name in found[0]}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_ranks_the_pairs(name):
    network, pairs = prepared()
    trainer = small_trainer(network, OBJECTIVES[name])
    before = parts_of(trainer, pairs)
    batches = PairBatches(pairs, batch_size=8, epochs=10, seed=0)
    fit(trainer, batches, batches.num_steps, lambda step: 1.0)
    after = parts_of(trainer, pairs)
    assert after["ranked"] == pytest.approx(1.0, abs=1e-6) and after["margin"] > before["margin"]
    if name != "simpo":
        assert before["margin"] == pytest.approx(0.0, abs=1e-5), "at first the policy is its reference"
        assert before["ranked"] == pytest.approx(0.5, abs=0.5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_swapped_pairs_move_the_other_way(name):
    network, pairs = prepared()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    margins = []
    for swap in (False, True):
        network.load_state_dict(start)
        chosen = [_swapped(one) if swap else one for one in pairs]
        trainer = small_trainer(network, OBJECTIVES[name], 1e-3)
        trainer.step(micro_batches(pair_segments(chosen), 64), 1.0)
        margins.append(parts_of(trainer, pairs)["chosen_gain"] - parts_of(trainer, pairs)["rejected_gain"])
    assert margins[0] > 0 > margins[1]


def _swapped(one):
    return Pair(one.rejected, one.chosen, one.margin, 1.0, one.rejected_reference, one.chosen_reference)


def test_parts_say_what_happened():
    network, pairs = prepared(3)
    found = parts_of(small_trainer(network, DPO()), pairs)
    lengths = [sum(one.chosen.loss_mask) for one in pairs]
    assert found["chosen_length"] == pytest.approx(sum(lengths) / 3)
    logs = [
        sum(x for x, own in zip(one.rejected_reference, one.rejected.loss_mask, strict=True) if own)
        for one in pairs
    ]
    assert found["rejected_logprob"] == pytest.approx(sum(logs) / 3, abs=1e-4)
    assert found["chosen_gain"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_pairs_without_a_reference_are_refused(name):
    with pytest.raises(DataError, match="reference model"):
        parts_of(small_trainer(small_network(), OBJECTIVES[name]), random_pairs(2))


def test_simpo_needs_no_reference():
    assert "chosen_gain" not in parts_of(small_trainer(small_network(), SimPO()), random_pairs(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DPO(0.0),
        lambda: DPO(label_smoothing=0.5),
        lambda: DPO(anchor=-1.0),
        lambda: IPO(0.0),
        lambda: SimPO(beta=-1.0),
        lambda: SimPO(gamma=-1.0),
        lambda: DPO(float("nan")),
    ],
)
def test_values_that_cannot_be_meant_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def _watched(objective, rate):
    """Ten epochs on pairs that differ in one token only, the worst case for the chosen answer."""
    network = small_network()
    pairs = random_pairs(16, 5)
    pairs = [
        Pair(one.chosen, type(one.chosen)([*one.chosen.token_ids[:-1], 0], one.chosen.loss_mask))
        for one in pairs
        if one.chosen.token_ids[-1] != 0
    ]
    pairs = with_reference(pairs, lambda rows: network_logprobs(network, rows))
    trainer, guard = small_trainer(network, objective, rate), Displacement(window=8)
    batches, seen = PairBatches(pairs, batch_size=8, epochs=30, seed=0), []
    for number, batch in enumerate(batches()):
        result = trainer.step(batch, 1.0)
        seen.append(guard.after(Step(number + 1, result.parts)))
    return seen, parts_of(trainer, pairs)


def test_the_guard_sees_chosen_answers_fall_and_says_so_once():
    # An objective that only pushes rejected answers down drags the chosen ones, nearly the same, along.
    class PushDown(DPO):
        def __call__(self, network, hidden_BTD, batch):
            from dataclasses import replace

            from kweek.align.compared import compared

            loss = super().__call__(network, hidden_BTD, batch)
            return replace(
                loss,
                value=compared(network, hidden_BTD, batch).mean(
                    compared(network, hidden_BTD, batch).rejected_P
                ),
            )

    seen, parts = _watched(PushDown(), 3e-3)
    warned = [verdict for verdict in seen if verdict.kind == "warn"]
    assert parts["chosen_gain"] < -1 and parts["margin"] > 0
    assert len(warned) == 1 and "chosen answers have become" in warned[0].text


def test_the_guard_is_silent_where_chosen_answers_gain():
    seen, parts = _watched(DPO(0.1, anchor=1.0), 1e-3)
    assert parts["chosen_gain"] > 0 and parts["margin"] > 0
    assert all(verdict.kind == "ok" for verdict in seen)


def test_the_anchor_holds_the_chosen_answers():
    gains = {anchor: _watched(DPO(0.1, anchor=anchor), 1e-3)[1]["chosen_gain"] for anchor in (0.0, 1.0)}
    assert gains[1.0] > gains[0.0]


def test_the_guard_goes_on_where_it_was():
    metrics = {"chosen_gain": -3.0, "rejected_gain": -6.0, "chosen_length": 5.0, "margin": 0.3}
    whole, halved = Displacement(window=4), Displacement(window=4)
    expected = [whole.after(Step(i, metrics)).kind for i in range(6)]
    found = [halved.after(Step(i, metrics)).kind for i in range(2)]
    resumed = Displacement(window=4)
    resumed.restore(halved.state())
    assert found + [resumed.after(Step(i, metrics)).kind for i in range(2, 6)] == expected
    assert expected == ["ok", "ok", "ok", "warn", "ok", "ok"]


def test_micro_batches_give_the_same_update():
    network, pairs = prepared()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    states = []
    for max_tokens in (1, 10_000):
        network.load_state_dict(start)
        trainer = small_trainer(network, DPO())
        result = trainer.step(micro_batches(pair_segments(pairs), 64, max_tokens), 1.0)
        states.append((result, {key: value.clone() for key, value in network.state_dict().items()}))
    assert states[0][0].loss == pytest.approx(states[1][0].loss, rel=1e-5)
    assert states[0][0].gradient_norm == pytest.approx(states[1][0].gradient_norm, rel=1e-4)
    for key in start:
        assert torch.allclose(states[0][1][key], states[1][1][key], atol=1e-4), key
