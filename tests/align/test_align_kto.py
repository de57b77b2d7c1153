"""Answers judged one by one: strangers, the baseline of an update, what training does."""

import pytest
from align_networks import random_pairs, small_network, small_trainer

from kweek.align.kto import KTO, Judged, JudgedBatches, judged_segments, moved, prepared
from kweek.align.pairs import answered
from kweek.align.sequences import micro_batches, network_logprobs
from kweek.errors import ConfigError, DataError
from kweek.train.trainer import fit


def judged(count=12):
    pairs = random_pairs(count, 2)
    return [Judged(getattr(one, side), side == "chosen") for one in pairs for side in ("chosen", "rejected")]


def score_of(network):
    return lambda rows: network_logprobs(network, rows)


def test_every_prompt_meets_the_answer_of_another_one():
    network = small_network()
    items = [Judged(answered([i] * (i + 1), [20 + i, 30]), i % 2 == 0) for i in range(8)]
    made = prepared(items, score_of(network), 4)
    guests = []
    for number, item in enumerate(made):
        ids = item.stranger.token_ids
        assert ids[: number + 1] == [number] * (number + 1) and item.stranger.loss_mask.count(True) == 2
        guests.append(ids[number + 1] - 20)
        assert len(item.reference) == len(item.answer.token_ids) and len(item.stranger_reference) == len(ids)
    assert sorted(guests) == list(range(8)) and all(guest != own for own, guest in enumerate(guests))


def test_the_baseline_is_the_mean_gain_of_strangers_and_never_negative():
    network = small_network()
    items = prepared(judged(), score_of(network), 0)
    assert moved(items, score_of(network)) == pytest.approx(0.0, abs=1e-5)
    higher = [[x + 0.5 for x in row] for row in score_of(network)([i.stranger.token_ids for i in items])]
    counted = [sum(item.stranger.loss_mask) for item in items]
    assert moved(items, lambda rows: higher) == pytest.approx(0.5 * sum(counted) / len(items), abs=1e-4)
    lower = [[x - 1.5 for x in row] for row in higher]
    assert moved(items, lambda rows: lower) == 0.0


def test_training_parts_good_from_bad():
    network = small_network()
    items = prepared(judged(), score_of(network), 0)
    trainer = small_trainer(network, KTO(0.5))
    batches = JudgedBatches(items, score_of(network), batch_size=12, epochs=20, seed=0)
    assert batches.num_steps == 40
    seen = []
    fit(
        trainer,
        batches,
        40,
        lambda step: 1.0,
        on_step=lambda totals, result, speed: seen.append(result.parts),
    )
    assert seen[0]["margin"] == pytest.approx(0.0, abs=1e-4) and seen[0]["z"] == pytest.approx(0.0, abs=1e-4)
    assert seen[-1]["chosen_gain"] > 0 > seen[-1]["rejected_gain"] and seen[-1]["ranked"] > 0.9


def test_rarer_answers_can_weigh_more():
    network = small_network()
    items = prepared(judged(), score_of(network), 0)[:7]
    batch = micro_batches([[part] for part in judged_segments(items, 0.0)], 64)[0]
    losses = [
        small_trainer(network, KTO(0.1, *weights)).loss(batch).value for weights in ((1, 1), (2, 1), (1, 2))
    ]
    # Where nothing has moved, every answer loses half of its weight.
    assert [float(loss.detach()) for loss in losses] == pytest.approx(
        [0.5, 0.5 * 11 / 7, 0.5 * 10 / 7], abs=1e-4
    )


def test_what_cannot_be_learnt_from_is_refused():
    network = small_network()
    with pytest.raises(DataError, match="teach nothing"):
        prepared([item for item in judged() if item.good], score_of(network), 0)
    with pytest.raises(DataError, match=r"kto\.prepared first"):
        judged_segments(judged(), 0.0)
    with pytest.raises(DataError, match=r"kto\.prepared first"):
        moved(judged(), score_of(network))
    with pytest.raises(ConfigError):
        KTO(bad_weight=0.0)
