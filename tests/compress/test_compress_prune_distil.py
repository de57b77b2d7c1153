"""Distillation: a pupil learns its teacher, zeros stay, a kill loses nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compress_networks import divergence, make_network, sample

from kweek.compress.prune_distil import Schedule, distil
from kweek.data.batches import collate, segment
from kweek.data.packing import Source
from kweek.errors import ConfigError, Interrupted
from kweek.model.divergence import Measure
from kweek.train.distillation import Distillation
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer


def distiller_of(pupil, teacher, text_share=0.0):
    objective = Distillation(teacher, Measure(text_share=text_share))
    return Trainer(pupil, SplitOptimiser(pupil, LearningRates()), objective=objective)


def test_a_teacher_teaching_itself_has_nothing_to_say():
    network = make_network()
    distiller = distiller_of(copy.deepcopy(network), network)
    batch = collate([[segment(ids)] for ids in sample(network, 4, 20)])
    loss = distiller.loss(batch)
    loss.value.backward()
    assert abs(loss.value.item()) < 1e-5 and loss.nll_N.mean() > 0.1
    assert all(p.grad.abs().max() < 1e-5 for p in distiller.network.parameters())


def material(teacher, count=200):
    return [Source("text", [np.array(ids) for ids in sample(teacher, count, 40)], 1.0)]


def pupil_of(teacher):
    """The teacher, damaged."""
    pupil = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in pupil.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pupil


SCHEDULE = Schedule(num_tokens=6400, row_length=40, tokens_per_step=160, rate=0.5, text_share=0.0)


def test_a_pupil_learns_what_its_teacher_predicts():
    teacher = make_network()
    pupil, before = pupil_of(teacher), copy.deepcopy(teacher)
    text = sample(teacher, 20, 40, seed=9)
    start = divergence(teacher, pupil, text)
    done = distil(pupil, teacher, material(teacher), 0, SCHEDULE)
    assert divergence(teacher, pupil, text) < 0.7 * start
    assert done.step == 40
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), "the teacher stays"


def test_flop_include_the_teachers_reading():
    teacher = make_network(num_layers=3)
    pupil = make_network()
    distiller = distiller_of(pupil, teacher)
    batch = collate([[segment(ids)] for ids in sample(teacher, 4, 21)])
    result = distiller.step([batch], 1.0)
    training = 80 * pupil.config.num_flops_per_token(20, backward=True)
    reading = 80 * teacher.config.num_flops_per_token(20)
    updating = distiller.optimiser.num_flops_per_step()
    assert result.flop == pytest.approx(training + reading + updating)


def test_where_the_text_alone_counts_the_teacher_is_not_read():
    teacher, pupil = make_network(num_layers=3), make_network()
    batch = collate([[segment(ids)] for ids in sample(teacher, 4, 21)])
    plain = Trainer(copy.deepcopy(pupil), SplitOptimiser(pupil, LearningRates()))
    wanted = plain.loss(batch)
    distiller = distiller_of(pupil, teacher, 1.0)
    readings = []
    teacher.register_forward_hook(lambda *_: readings.append(1))
    loss = distiller.loss(batch)
    assert torch.equal(loss.value, wanted.value) and torch.equal(loss.nll_N, wanted.nll_N)
    result = distiller.step([batch], 1.0)
    training = 80 * pupil.config.num_flops_per_token(20, backward=True)
    assert result.flop == pytest.approx(training + distiller.optimiser.num_flops_per_step())
    assert not readings
    distiller_of(pupil, teacher, 0.9).loss(batch)
    assert readings


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_the_loss_is_one(share):
    with pytest.raises(ConfigError, match=f"{share:g} is not a share"):
        Schedule(1000, text_share=share)


def test_zeros_stay_zero_and_the_rest_moves():
    teacher = make_network()
    pupil = pupil_of(teacher)
    name = "model.layers.0.mlp.down_proj.weight"
    mask = torch.rand(pupil.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        pupil.get_parameter(name).mul_(mask)
    before = pupil.get_parameter(name).detach().clone()
    distil(pupil, teacher, material(teacher), 0, SCHEDULE, masks={name: mask})
    after = pupil.get_parameter(name).detach()
    assert torch.equal(after == 0, ~mask) and (after != before)[mask].float().mean() > 0.9


def test_going_on_after_a_stop_gives_the_same_bits(tmp_path):
    teacher = make_network()
    name = "model.layers.1.self_attn.o_proj.weight"
    masks = {name: torch.arange(64) % 2 == 0}
    undisturbed = pupil_of(teacher)
    distil(undisturbed, teacher, material(teacher), 0, SCHEDULE, masks=masks)
    calls = []
    state = tmp_path / "state.safetensors"
    options = {"masks": masks, "state": state}
    with pytest.raises(Interrupted):
        distil(
            pupil_of(teacher), teacher, material(teacher), 0, SCHEDULE,
            should_stop=lambda: len(calls) > 12 or bool(calls.append(1)), **options,
        )  # fmt: skip
    resumed = pupil_of(teacher)
    steps = []
    done = distil(
        resumed, teacher, material(teacher), 0, SCHEDULE,
        on_step=lambda totals, *_: steps.append(totals.step), **options,
    )  # fmt: skip
    assert steps[0] == 14 and done.step == 40 and done.num_tokens == 6400
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_another_vocabulary_is_refused():
    teacher, pupil = make_network(vocab_size=128), make_network()
    with pytest.raises(ConfigError, match="predicts 128 tokens, the pupil 96"):
        distil(pupil, teacher, material(make_network()), 0, SCHEDULE)


def test_a_schedule_has_at_least_a_step():
    assert Schedule(1).num_steps == 1 and Schedule(5120, tokens_per_step=512).num_steps == 10
