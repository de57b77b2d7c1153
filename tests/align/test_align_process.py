"""Judging steps and tokens: what carries loss, the prediction of the first wrong step, values."""

import itertools

import numpy as np
import pytest
from align_networks import small_network, small_trainer
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.process import Chain, StepCorrectness, chain_segments, first_wrong, step_probabilities
from kweek.align.value import ValueRegression
from kweek.data.batches import collate, pack, segment
from kweek.errors import DataError
from kweek.model.scorer import scorer_from


def test_steps_after_the_first_wrong_one_carry_no_loss():
    parts = chain_segments([Chain([1, 2, 3, 4, 5, 6], [1, 3, 5], 1), Chain([1, 2, 3], [2])])
    assert parts[0].weights.tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 0, 0])
    assert parts[0].streams["right"].tolist() == [0, 1, 0, 0, 0, 0]
    assert parts[1].weights.tolist() == pytest.approx([0, 0, 1 / 3]) and parts[1].streams["right"][2] == 1
    assert parts[0].ids.tolist() == [1, 2, 3, 4, 5, 6], "the last token is read too"


@pytest.mark.parametrize(
    "chain",
    [
        Chain([1, 2], []),
        Chain([1, 2], [2]),
        Chain([1, 2, 3], [2, 1]),
        Chain([1, 2], [1], 1),
        Chain([1, 2], [1], -1),
    ],
)
def test_chains_that_cannot_be_are_refused(chain):
    with pytest.raises(DataError, match=r"chains\[0\]"):
        chain_segments([chain])


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6))
def test_the_prediction_is_the_likeliest_outcome(probabilities):
    outcomes = {None: float(np.prod(probabilities))}
    for number in range(len(probabilities)):
        outcomes[number] = float(np.prod(probabilities[:number])) * (1 - probabilities[number])
    assert sum(outcomes.values()) == pytest.approx(1.0)
    assert outcomes[first_wrong(probabilities)] == pytest.approx(max(outcomes.values()))


def test_it_learns_which_step_is_wrong():
    """A step is two tokens; it is right when they are equal."""
    chains = []
    for ids in itertools.product(range(1, 5), repeat=6):
        wrong = [number for number in range(3) if ids[2 * number] != ids[2 * number + 1]]
        chains.append(Chain([9, *ids], [2, 4, 6], wrong[0] if wrong else None))
    order = np.random.default_rng(0).permutation(len(chains))
    train, held_out = [chains[i] for i in order[:3600]], [chains[i] for i in order[3600:]]
    scorer = scorer_from(small_network(), per_token=True)
    trainer = small_trainer(scorer, StepCorrectness())
    losses = []
    for step in range(150):
        chosen = [train[i] for i in np.random.default_rng(step).integers(0, len(train), 32)]
        result = trainer.step([collate(pack(chain_segments(chosen), 64))], 1.0)
        losses.append(result.loss)
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3) and result.parts["step_accuracy"] > 0.9
    found = step_probabilities(scorer, held_out)
    located = [first_wrong(row) == chain.first_wrong for row, chain in zip(found, held_out, strict=True)]
    assert np.mean(located) > 0.9


def test_a_value_is_that_of_the_state_before_a_token():
    scorer = scorer_from(small_network(), per_token=True)
    returns = [0.0, 0.0, 2.0, -1.0]
    batch = collate([[segment([1, 2, 3, 4], [0, 0, 0.5, 0.5], {"return": returns})]])
    loss = small_trainer(scorer, ValueRegression()).loss(batch)
    assert float(loss.value.detach()) == pytest.approx(0.5 * (0.5 * 4 + 0.5 * 1))
    assert loss.parts["value_error"] == pytest.approx(2.5) and loss.parts["value"] == 0.0
    trainer = small_trainer(scorer, ValueRegression(), 1e-2)
    for _ in range(200):
        trainer.step([batch], 1.0)
    values = scorer.logits(scorer(batch.ids_BT))[0, :, 0]
    assert values[1:].tolist() == pytest.approx([2.0, -1.0], abs=0.05), (
        "read at tokens 1 and 2, not at 2 and 3"
    )


def test_missing_labels_are_refused():
    scorer = scorer_from(small_network(), per_token=True)
    batch = collate([[segment([1, 2, 3])]])
    with pytest.raises(DataError, match="no labelled steps"):
        small_trainer(scorer, StepCorrectness()).loss(batch)
    with pytest.raises(DataError, match="'return'"):
        small_trainer(scorer, ValueRegression()).loss(batch)
