"""On-policy distillation: the pupil's own tokens weigh, the teacher corrects them, and sampling is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kweek.align.environment import Item
from kweek.align.on_policy import REVERSE, OnPolicy, sampled_segments, scored_segments
from kweek.align.rollout import Rollout
from kweek.data.batches import segment
from kweek.engine.engine import Engine
from kweek.errors import DataError, KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request, Score
from kweek.train.distillation import TEACHER, Distillation, SampledDistillation
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer, fit


def network_of(seed, layers=2, sharpness=0.3):
    network = Network(
        ModelConfig(vocab_size=48, hidden_size=32, intermediate_size=32, num_layers=layers, num_heads=1,
                    num_kv_heads=1, head_dim=32, max_positions=64)
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(float("norm" in name), sharpness, generator=generator)
    return network


def sampler(network, count=16, length=12):
    """What the network says after two tokens; the third new token of each is taken for a tool's."""

    def sample(step):
        prompts = [[1 + (step + i) % 40, 2] for i in range(count)]
        requests = [Request(p, length, 1.0, 1000 * step + i) for i, p in enumerate(prompts)]
        return [
            Rollout(
                Item(({"role": "user", "content": str(prompt)},)), [*prompt, *done.token_ids], 2,
                [False, False, *(place != 2 for place in range(len(done.token_ids)))],
                [0.0, 0.0, *done.logprobs], (), Score(0.0, True), "length", done.flop,
            )
            for prompt, done in zip(prompts, Engine(network).generate(requests), strict=True)
        ]  # fmt: skip

    return sample


def test_sampled_tokens_weigh_one_over_their_number_in_the_update():
    rollouts = sampler(network_of(1))(0)
    segments = sampled_segments(rollouts)
    assert sum(float(one.weights.sum()) for one in segments) == pytest.approx(1.0, rel=1e-5)
    assert not segments[0].weights[[0, 3]].any() and segments[0].weights[[1, 2, 4]].all()
    nothing = [
        Rollout(one.item, one.token_ids, 2, [False] * len(one.sampled), *_rest(one)) for one in rollouts
    ]
    with pytest.raises(DataError, match="no token of any rollout was sampled"):
        sampled_segments(nothing)


def _rest(one):
    return one.logprobs, one.messages, one.score, one.stop_reason, one.flop


def test_a_teacher_scores_the_very_tokens():
    teacher, rollouts = network_of(2), sampler(network_of(1))(0)
    expected = Engine(teacher).score([one.token_ids for one in rollouts])
    for one, values in zip(scored_segments(rollouts, Engine(teacher)), expected, strict=True):
        assert one.streams[TEACHER].tolist() == pytest.approx(values[1:])


def test_a_teacher_that_cannot_score_what_was_sampled_is_an_error():
    class Silent:
        def score(self, sequences):
            return [[0.0] * (len(ids) - 1) + [-np.inf] for ids in sequences]

    with pytest.raises(KweekError, match="finite log-probability"):
        scored_segments(sampler(network_of(1))(0), Silent())


def test_tokens_of_a_truncated_softmax_estimate_nothing():
    rollouts = [replace(one, kept_mass=[0.5] * len(one.sampled)) for one in sampler(network_of(1))(0)]
    assert sampled_segments(rollouts)
    with pytest.raises(DataError, match="top_k, top_p or min_p"):
        scored_segments(rollouts, Engine(network_of(2)))


def reverse_divergence(pupil, teacher):
    """On fresh samples of the pupil, nats per token."""
    batches = OnPolicy(sampler(pupil, count=64), 1)
    trainer = Trainer(pupil, SplitOptimiser(pupil, LearningRates()), objective=Distillation(teacher, REVERSE))
    (batch,) = next(batches(0))
    with torch.no_grad():
        return trainer.loss(batch).parts["divergence"]


@pytest.mark.parametrize("behind_score", [False, True])
def test_the_pupil_comes_to_say_what_its_teacher_would(behind_score):
    pupil, teacher = network_of(1), network_of(2, layers=3)
    before = reverse_divergence(pupil, teacher)
    rates = LearningRates(3e-3, 3e-3, 3e-3, 3e-3)
    objective = SampledDistillation() if behind_score else Distillation(teacher, REVERSE)
    trainer = Trainer(pupil, SplitOptimiser(pupil, rates, weight_decay=0.0), objective=objective)
    batches = OnPolicy(sampler(pupil), 60, teacher=Engine(teacher) if behind_score else None)
    done = fit(trainer, batches, 60, lambda step: 1.0)
    after = reverse_divergence(pupil, teacher)
    assert after < (0.8 if behind_score else 0.5) * before
    assert done.step == 60 and batches.flop == pytest.approx(
        60 * sum(o.flop for o in batches.rollouts), rel=0.01
    )


def test_replayed_text_stands_beside_what_was_sampled():
    pupil = network_of(1)
    text = segment(range(10), [0.01] * 10)
    (plain,) = next(OnPolicy(sampler(pupil), 1)(0))
    (mixed,) = next(OnPolicy(sampler(pupil), 1, replay=lambda step: [text])(0))
    assert float(mixed.weights_BT.sum()) == pytest.approx(float(plain.weights_BT.sum()) + 0.09, rel=1e-4)


def test_an_update_of_many_tokens_comes_in_parts_that_add_up():
    batches = next(OnPolicy(sampler(network_of(1), count=800), 1)(0))
    assert len(batches) > 1
    assert sum(float(batch.weights_BT.sum()) for batch in batches) == pytest.approx(1.0, rel=1e-5)


def test_going_on_samples_what_an_undisturbed_run_would_have(tmp_path):
    def run(pupil, steps, state):
        rates = LearningRates(1e-3, 1e-3, 1e-3, 1e-3)
        trainer = Trainer(pupil, SplitOptimiser(pupil, rates), objective=Distillation(network_of(2), REVERSE))
        stop = iter([False] * steps + [True])
        try:
            fit(
                trainer,
                OnPolicy(sampler(pupil), 6),
                6,
                lambda step: 1.0,
                state=state,
                should_stop=lambda: next(stop),
            )
        except Exception as error:
            assert type(error).__name__ == "Interrupted"
        return pupil.state_dict()

    whole = run(network_of(1), 6, None)
    run(network_of(1), 3, tmp_path / "state.safetensors")
    resumed = run(network_of(1), 6, tmp_path / "state.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
