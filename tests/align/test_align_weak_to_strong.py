"""Weak labels become targets, the student's own predictions share their weight, and the gap's ratio has an interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.environment import Item
from kweek.align.rollout import Rollout
from kweek.align.weak_to_strong import (
    OWN,
    WEAK,
    ConfidenceLoss,
    agreed,
    gap_recovered,
    labelled_segments,
    surest,
    with_confidence,
)
from kweek.data.batches import collate, segment
from kweek.errors import DataError, GuardError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Score
from kweek.train.objective import Likelihood
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer


def rollout(answer="", logprobs=(-1.0, -1.0), sampled=(False, True, True, False, True)):
    ids = list(range(1, len(sampled) + 1))
    filled = iter([*logprobs] * len(ids))
    values = [next(filled) if own else 0.0 for own in sampled]
    message = {"role": "assistant", "content": answer}
    return Rollout(
        Item(({"role": "user", "content": "?"},)), ids, 1, list(sampled), values, (message,),
        Score(0.0, True), "stop", 1.0,
    )  # fmt: skip


def make_trainer(objective=None):
    network = Network(
        ModelConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1, num_kv_heads=1,
                    head_dim=32, max_positions=32)
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(float("norm" in name), 0.3, generator=generator)
    rates = LearningRates(1e-3, 1e-3, 1e-3, 1e-3)
    return Trainer(network, SplitOptimiser(network, rates), objective=objective)


def test_only_what_the_supervisor_chose_is_a_label():
    (one,) = labelled_segments([rollout()])
    assert one.weights.tolist() == one.streams[WEAK].tolist() == [1.0, 1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="said nothing"):
        labelled_segments([rollout(sampled=(False, False))])


def test_the_surest_are_those_of_the_likeliest_tokens():
    labels = [rollout(str(i), logprobs=(value,)) for i, value in enumerate((-3.0, -0.1, -2.0, -0.5))]
    assert [one.messages[0]["content"] for one in surest(labels, 0.5)] == ["1", "3"]
    assert surest(labels, 0.01) == [labels[1]] and surest(labels, 1.0) == labels and surest([], 0.5) == []


def test_samples_that_agree_give_one_label_and_others_none():
    groups = [
        [rollout("7"), rollout("5"), rollout("5"), rollout("5")],
        [rollout("1"), rollout("2"), rollout("3"), rollout("1")],
        [rollout(""), rollout(""), rollout(""), rollout("")],
    ]
    assert agreed(groups, 0.75) == [groups[0][1]]
    assert agreed(groups, 0.5) == [groups[0][1], groups[1][0]]


def batches_of(segments, num_steps):
    def batches(first_step=0):
        for _ in range(first_step, num_steps):
            yield collate([[one] for one in segments])

    return batches


def test_own_predictions_take_their_share_slowly_and_replayed_text_keeps_its_weight():
    text = segment([9, 8, 7], [0.0, 0.5, 0.5])
    batches = with_confidence(batches_of([*labelled_segments([rollout()]), text], 20), 20, confidence=0.5)
    shares = []
    for batch in batches(0):
        label, replayed = batch.weights_BT
        assert torch.allclose(label + batch.streams[OWN][0], torch.tensor([1.0, 1.0, 0.0, 1.0]))
        assert replayed.tolist() == [0.5, 0.5, 0.0, 0.0] and not batch.streams[OWN][1].any()
        shares.append(float(batch.streams[OWN][0, 0]))
    assert shares[:5] == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5]) and set(shares[4:]) == {0.5}
    assert [float(batch.streams[OWN][0, 0]) for batch in batches(3)] == shares[3:], "resumed, it is the same"


def test_the_loss_is_the_mixture_of_label_and_own_prediction():
    trainer = make_trainer(ConfidenceLoss())
    segments = labelled_segments([rollout(), rollout(sampled=(False, True, True, True, True))])
    batch = list(with_confidence(batches_of(segments, 10), 10, confidence=0.75)(0))[-1]
    loss = trainer.loss(batch)
    logits = trainer.network.logits(trainer.network(batch.ids_BT)).flatten(0, 1)
    own, targets = logits.argmax(-1), batch.targets_BT.flatten()
    weights = torch.cat([torch.from_numpy(one.weights) for one in segments])
    plain = F.cross_entropy(logits, targets, reduction="none"), F.cross_entropy(logits, own, reduction="none")
    expected = ((0.25 * plain[0] + 0.75 * plain[1]) * weights).sum()
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.parts["disagreement"] == pytest.approx(float((0.75 * weights * (own != targets)).sum()))
    parameters = list(trainer.network.parameters())
    ours, theirs = torch.autograd.grad(loss.value, parameters), torch.autograd.grad(expected, parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    assert loss.flop > 0


def test_without_confidence_it_is_the_likelihood():
    segments = labelled_segments([rollout()])
    batch = next(with_confidence(batches_of(segments, 10), 10)(0))
    ours, plain = make_trainer(ConfidenceLoss()).loss(batch), make_trainer(Likelihood()).loss(batch)
    assert torch.equal(ours.value, plain.value) and ours.parts["disagreement"] == 0.0


def test_labels_that_share_no_weight_are_refused():
    with pytest.raises(DataError, match="with_confidence"):
        make_trainer(ConfidenceLoss()).loss(next(batches_of(labelled_segments([rollout()]), 1)(0)))


def scores(weak, student, ceiling, items=400, runs=1, seed=0):
    """Right or wrong with these chances, correlated by item, as of models of one kind."""
    draws = np.random.default_rng(seed).random((runs, items))
    noise = np.random.default_rng(seed + 1).random((3, runs, items))
    kept = np.where(noise < 0.5, draws, np.random.default_rng(seed + 2).random((3, runs, items)))
    return [(kept[i] < p).astype(float) for i, p in enumerate((weak, student, ceiling))]


def test_the_share_of_the_gap_and_its_interval():
    weak, student, ceiling = scores(0.4, 0.65, 0.9)
    found = gap_recovered(weak[0], student[0], ceiling[0])
    means = [one.mean() for one in (weak, student, ceiling)]
    assert (found.weak, found.student, found.ceiling) == pytest.approx(means)
    assert found.pgr.mid == pytest.approx((means[1] - means[0]) / (means[2] - means[0]))
    assert found.pgr.lo < found.pgr.mid < found.pgr.hi and found.pgr.hi - found.pgr.lo < 0.35
    assert found.gain.difference == pytest.approx(means[1] - means[0])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = sum(
        (found := gap_recovered(*scores(0.4, 0.65, 0.9, items=150, seed=s), num_samples=300)).pgr.lo
        <= 0.5
        <= found.pgr.hi
        for s in range(0, 600, 3)
    )
    assert 180 <= held <= 199, f"{held} of 200 at 95%"


@given(seed=st.integers(0, 1000), runs=st.integers(1, 4))
def test_the_ends_are_nothing_and_everything(seed, runs):
    weak, _, ceiling = scores(0.3, 0.5, 0.9, items=60, runs=runs, seed=seed)
    assert gap_recovered(weak, weak, ceiling, num_samples=50).pgr == (0.0, 0.0, 0.0)
    assert gap_recovered(weak, ceiling, ceiling, num_samples=50).pgr == (1.0, 1.0, 1.0)


def test_runs_that_differ_widen_the_interval():
    weak, student, ceiling = scores(0.4, 0.65, 0.9, runs=4)
    alike = gap_recovered(weak, student, ceiling).pgr
    student[:2], student[2:] = ceiling[:2], weak[2:]  # two runs recover all, two nothing
    apart = gap_recovered(weak, student, ceiling).pgr
    assert apart.hi - apart.lo > 2 * (alike.hi - alike.lo)


def test_where_weak_and_strong_do_not_differ_there_is_nothing_to_recover():
    weak, student, ceiling = scores(0.6, 0.62, 0.62)
    with pytest.raises(GuardError, match=r"supervisor and ceiling do not differ: 0\.\d+ and 0\.\d+"):
        gap_recovered(weak, student, ceiling)
    with pytest.raises(GuardError, match="do not differ"):
        gap_recovered(*scores(0.9, 0.6, 0.4))
    with pytest.raises(ValueError, match="not the same items"):
        gap_recovered(weak, student[:, :-1], ceiling)


def test_a_gap_that_is_hardly_one_has_a_wide_interval():
    places = np.arange(40)
    weak, ceiling = places < 2, places < 8
    student = (places < 2) | (places >= 36)  # four more, none of which the ceiling has
    found = gap_recovered(weak, student, ceiling)
    assert 0 < found.gap.lo < 0.05 and found.pgr.mid == pytest.approx(4 / 6)
    assert found.pgr.lo < 0.2 and 2 < found.pgr.hi < np.inf
