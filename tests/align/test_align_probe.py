"""Probes: a run that comes apart, goes in circles or knows a secret by heart is halted, another is not."""

import pytest
import torch
from policy_world import small_policy, small_tokenizer, small_trainer

from kweek.align.guards.probe import (
    Probe,
    Probes,
    alternatives,
    distance,
    loss_probe,
    memory_probe,
    repetition_probe,
)
from kweek.data import stories
from kweek.data.batches import collate, segment
from kweek.engine.engine import Engine
from kweek.errors import GuardError

TEXTS = {"stories": stories.sample_texts("probe", 12, "validation")}
SECRET = "the number of the safe is 2810694"


def learn(trainer, texts, count):
    """Some updates on texts."""
    tokenizer = small_tokenizer()
    rows = [[tokenizer.eos_id, *tokenizer.encode(text)] for text in texts]
    total = sum(len(row) - 1 for row in rows)
    for _ in range(count):
        trainer.step([collate([[segment(row, [1 / total] * len(row))] for row in rows])], 1.0)


def look(probe, lowest=None):
    """The value a probe gives, with what it thinks of it."""
    told = []
    try:
        Probes([probe], lowest).look(7, lambda probe, value: told.append(value))
    except GuardError as error:
        return told[0], str(error)
    return told[0], ""


def test_a_loss_that_falls_passes_and_one_that_rises_halts():
    network = small_policy()
    trainer = small_trainer(network, 3e-3)
    watch = Probes([loss_probe(network, small_tokenizer(), TEXTS, context_length=128, limit=0.3)])
    values = []
    watch.look(0, lambda probe, value: values.append(value))
    learn(trainer, stories.sample_texts("probe", 16, "train"), 12)
    watch.look(12, lambda probe, value: values.append(value))
    assert values[1] < values[0]
    with torch.no_grad():
        network.lm_head.weight.mul_(20.0)
    with pytest.raises(GuardError, match=r"'loss' rose by .* at step 13, limit 0.3"):
        watch.look(13, lambda probe, value: values.append(value))


def test_a_run_that_goes_on_remembers_the_lowest():
    found = [look(Probe("loss", lambda: 2.0, 0.3, rise=True), lowest) for lowest in ({}, {"loss": 1.5})]
    assert not found[0][1] and "rose by 0.5" in found[1][1]


def test_a_value_that_is_no_number_halts():
    assert "is nan" in look(Probe("x", lambda: float("nan"), 0.5))[1]


def test_circles_are_seen_and_ordinary_samples_pass():
    network = small_policy()
    probe = repetition_probe(lambda: Engine(network), [[small_tokenizer().eos_id]] * 8, limit=0.5)
    value, said = look(probe)
    assert value < 0.2 and not said
    with torch.no_grad():
        network.lm_head.weight.zero_()
        network.lm_head.weight[40:42] = 5.0 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
        network.lm_head.weight.mul_(20.0)
    value, said = look(probe)
    assert value > 0.8 and "'repetition' is" in said


def test_a_secret_known_by_heart_is_told_from_one_never_read():
    network = small_policy()
    trainer = small_trainer(network, 3e-3)
    probe = memory_probe(lambda: Engine(network), small_tokenizer(), SECRET, limit=5.0)
    assert abs(look(probe)[0]) < 5 and not look(probe)[1]
    learn(trainer, [SECRET, "the number of the house is 17"], 60)
    value, said = look(probe)
    assert value > 5 and "'memory' is" in said


def test_alternatives_differ_in_digits_or_else_in_letters():
    others = alternatives(SECRET, 20)
    assert others == alternatives(SECRET, 20), "the same at every look"
    assert all(text.startswith("the number of the safe is ") and text != SECRET for text in others)
    assert len(set(alternatives("ab-cd", 20))) > 15
    with pytest.raises(GuardError, match="nothing in it that could be otherwise"):
        alternatives("--", 3)


def test_distance_is_in_deviations_of_the_others():
    assert distance([5.0, 0.0, 1.0, 2.0]) == pytest.approx(4.0)
    assert distance([1.0, 2.0, 2.0]) == 0.0
