"""Three ways to hear a teacher give one lesson: reading along, stored, and estimated from what was sampled."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kweek.align.offline import Reading, store_predictions
from kweek.data.batches import collate, segment
from kweek.data.predictions import KIND, Predictions
from kweek.engine.engine import Engine
from kweek.errors import ConfigError, DataError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.divergence import Measure
from kweek.model.network import Network
from kweek.stats.intervals import mean_interval
from kweek.store.artifact import ArtifactWriter
from kweek.tokenize import bpe
from kweek.tokenize.agreement import ids_fingerprint
from kweek.train.distillation import (
    TEACHER,
    Distillation,
    SampledDistillation,
    StoredDistillation,
    load_teacher,
)
from kweek.train.objective import Likelihood
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

TOKENIZER = bpe.train(["some text about a cat and a hat " * 20], 288)


def network_of(seed, layers=2, vocab_size=TOKENIZER.vocab_size):
    network = Network(
        ModelConfig(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=32, num_layers=layers, num_heads=1,
            num_kv_heads=1, head_dim=32, max_positions=64,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(float("norm" in name), 0.2, generator=generator)
    return network


def texts(count=6, seed=0):
    """Sequences whose first half weighs nothing, as a prompt."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(6, 20, count)
    return [
        segment(generator.integers(0, TOKENIZER.vocab_size, n), (np.arange(n) >= n // 2) / 50) for n in sizes
    ]


def loss_and_gradients(objective, network, batch):
    trainer = Trainer(network, SplitOptimiser(network, LearningRates()), objective=objective)
    loss = trainer.loss(batch)
    return loss, torch.autograd.grad(loss.value, list(network.parameters()))


def predictions_of(folder, teacher, segments, count):
    reading = Reading(Engine(teacher), segments, count)
    with ArtifactWriter(folder, kind=KIND, fingerprint="f") as out:
        store_predictions(out, reading, TOKENIZER, teacher.config.vocab_size, "the teacher")
    return Predictions.open(folder, ids_fingerprint(TOKENIZER)), reading


@pytest.mark.parametrize("measure", [Measure(), Measure(0.5), Measure(1.0), Measure(text_share=0.3)])
def test_stored_predictions_teach_what_the_teacher_would(tmp_path, measure):
    teacher, pupil, segments = network_of(1, layers=3), network_of(2), texts()
    found, reading = predictions_of(tmp_path / "p", teacher, segments, TOKENIZER.vocab_size - 1)
    rows = [[one] for one in found.segments()]
    stored, gradients = loss_and_gradients(StoredDistillation(found, measure), pupil, collate(rows))
    batch = collate([[one] for one in segments])
    whole, expected = loss_and_gradients(Distillation(teacher, measure), pupil, batch)
    assert stored.value.item() == pytest.approx(whole.value.item(), rel=2e-3)
    assert stored.parts["divergence"] == pytest.approx(whole.parts["divergence"], rel=2e-3)
    assert torch.allclose(stored.nll_N, whole.nll_N, atol=1e-5)
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, rtol=5e-3, atol=1e-3 * float(b.abs().max()) + 1e-7)
    assert stored.flop == 0 and whole.flop > 0, "the teacher has read before, and only once"
    assert reading.flop > 0


def test_packed_rows_find_their_predictions_and_few_tokens_teach_nearly_all(tmp_path):
    teacher, pupil, segments = network_of(1), network_of(2), texts()
    found, _ = predictions_of(tmp_path / "p", teacher, segments, 200)
    apart = collate([[one] for one in found.segments()])
    packed = collate([found.segments()[:3], found.segments()[3:]])
    objective = StoredDistillation(found)
    values = [loss_and_gradients(objective, pupil, batch)[0].value.item() for batch in (apart, packed)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    whole, _ = loss_and_gradients(Distillation(teacher), pupil, collate([[one] for one in segments]))
    assert 0.5 * whole.value.item() < values[0] <= whole.value.item()


def test_replayed_text_has_its_own_likelihood(tmp_path):
    teacher, pupil = network_of(1), network_of(2)
    found, _ = predictions_of(tmp_path / "p", teacher, texts(2), 20)
    text = segment(range(40), [0.01] * 40)
    mixed, _ = loss_and_gradients(StoredDistillation(found), pupil, collate([[*found.segments(), text]]))
    taught, _ = loss_and_gradients(StoredDistillation(found), pupil, collate([found.segments()]))
    plain, _ = loss_and_gradients(Likelihood(), pupil, collate([[text]]))
    assert mixed.value.item() == pytest.approx(taught.value.item() + plain.value.item(), rel=1e-5)
    assert mixed.parts["divergence"] == pytest.approx(taught.parts["divergence"], rel=1e-5)
    with pytest.raises(DataError, match="names no predictions"):
        loss_and_gradients(StoredDistillation(found), pupil, collate([[text]]))


def test_a_pupil_learns_from_what_is_stored(tmp_path):
    teacher, pupil, segments = network_of(1), network_of(2), texts(12)
    found, _ = predictions_of(tmp_path / "p", teacher, segments, 64)
    batch = collate([[one] for one in found.segments()])
    trainer = Trainer(pupil, SplitOptimiser(pupil, LearningRates()), objective=StoredDistillation(found))
    losses = [trainer.step([batch], 1.0).loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_another_number_of_tokens_is_refused(tmp_path):
    teacher = network_of(1)
    found, _ = predictions_of(tmp_path / "p", teacher, texts(), 5)
    smaller = network_of(2, vocab_size=280)
    batch = collate([[one] for one in found.segments()])
    for objective in (StoredDistillation(found), Distillation(teacher)):
        with pytest.raises(ConfigError, match=r"predicts \d+ tokens, the pupil 280"):
            objective(smaller, torch.zeros(1, 1, 32), batch)


def test_a_teacher_that_names_too_few_is_an_error():
    with pytest.raises(Exception, match="fewer than 999 likeliest"):
        list(Reading(Engine(network_of(1)), texts(1), 999))


def test_a_teacher_of_another_tokenizer_is_not_loaded(tmp_path):
    save_model(tmp_path, network_of(1))
    TOKENIZER.save(tmp_path)
    assert load_teacher(tmp_path, TOKENIZER).config.vocab_size == TOKENIZER.vocab_size
    other = bpe.train(["quite another language and its words " * 20], 288)
    assert other.vocab_size == TOKENIZER.vocab_size
    with pytest.raises(ConfigError, match="different tokenizers"):
        load_teacher(tmp_path, other)


def sampled(teacher, pupil, prompt, tokens):
    """A batch of one prompt with each of some tokens after it, with what the teacher thinks of them."""
    sequences = [[*prompt, int(token)] for token in tokens]
    scores = Engine(teacher).score(sequences)
    counted = np.r_[np.zeros(len(prompt)), 1.0]
    return collate(
        [
            [segment(ids, counted, {TEACHER: found}, {TEACHER: 1.0})]
            for ids, found in zip(sequences, scores, strict=True)
        ]
    )


def test_over_all_tokens_the_estimate_is_the_reverse_divergence_and_so_is_its_gradient():
    teacher, pupil, prompt = network_of(1), network_of(2), [5, 6, 7]
    batch = sampled(teacher, pupil, prompt, range(TOKENIZER.vocab_size))
    with torch.no_grad():
        shares = pupil.logits(pupil(torch.tensor([prompt])))[0, -1].softmax(-1)
    batch = copy.copy(batch)
    batch.weights_BT[:, -1] = shares  # the expectation over what the pupil would sample
    estimate, gradients = loss_and_gradients(SampledDistillation(), pupil, batch)
    one = collate([[segment([*prompt, 0], [0, 0, 0, 1])]])
    exact, expected = loss_and_gradients(Distillation(teacher, Measure(1.0)), pupil, one)
    assert estimate.parts["divergence"] == pytest.approx(exact.value.item(), rel=1e-4)
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, atol=2e-4 * float(b.abs().max()) + 1e-7)


def test_samples_estimate_it_without_bias():
    teacher, pupil, prompt = network_of(1), network_of(2), [5, 6, 7]
    with torch.no_grad():
        shares = pupil.logits(pupil(torch.tensor([prompt])))[0, -1].softmax(-1)
    drawn = torch.multinomial(shares, 2000, replacement=True, generator=torch.Generator().manual_seed(0))
    batch = sampled(teacher, pupil, prompt, drawn)
    loss, _ = loss_and_gradients(SampledDistillation(), pupil, batch)
    own, said = -loss.nll_N.view(batch.weights_BT.shape)[:, -1], batch.streams[TEACHER][:, -1]
    interval = mean_interval((own - said).tolist(), 0.999)
    one = collate([[segment([*prompt, 0], [0, 0, 0, 1])]])
    exact, _ = loss_and_gradients(Distillation(teacher, Measure(1.0)), pupil, one)
    assert interval.lo < exact.value.item() < interval.hi and interval.lo > 0


def test_text_beside_samples_has_its_own_likelihood():
    teacher, pupil, text = network_of(1), network_of(2), segment([4, 9, 2, 7], [0, 0.5, 0.5, 0.5])
    said = Engine(teacher).score([[5, 6, 7, 8]])[0]
    own = segment([5, 6, 7, 8], [0, 0, 1, 1], {TEACHER: said}, {TEACHER: 1.0})
    results = {
        name: loss_and_gradients(objective, pupil, collate([row]))
        for name, objective, row in (
            ("both", SampledDistillation(), [own, text]),
            ("own", SampledDistillation(), [own]),
            ("text", Likelihood(), [text]),
        )
    }
    both, parts = results["both"], (results["own"], results["text"])
    assert both[0].value.item() == pytest.approx(sum(loss.value.item() for loss, _ in parts), rel=1e-5)
    assert both[0].parts["divergence"] == pytest.approx(parts[0][0].parts["divergence"], rel=1e-3)
    for found, a, b in zip(both[1], parts[0][1], parts[1][1], strict=True):
        assert torch.allclose(found, a + b, atol=1e-5)


def test_without_the_teachers_word_nothing_is_estimated():
    with pytest.raises(DataError, match="does not say what the teacher thinks"):
        loss_and_gradients(SampledDistillation(), network_of(2), collate([[segment([1, 2, 3])]]))
