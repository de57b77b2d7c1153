"""Scaffolds beside votes of as many FLOP: the arithmetic, and runs in threads."""

import random
from functools import partial

import numpy as np
import pytest
from scripted_systems import role, system, tokenizer

from kweek.errors import DataError
from kweek.protocols import Score
from kweek.system.cost import Cost
from kweek.system.roles import Role
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.compare import Pool, against_votes, compared, pool_votes
from kweek.system.scaffolds.direct import direct
from kweek.system.scaffolds.votes import self_consistency
from kweek.system.system import System
from kweek.system.task import Task


def verifier(answer, gold):
    return Score(float(answer.strip() == gold), True)


def noisy(share):
    """Right with some probability, by the seed of the request; wrong answers differ."""

    def say(prompt, request):
        draw = random.Random(request.seed)
        return "3" if draw.random() < share else str(draw.randrange(10, 99))

    return say


TASKS = [Task.of(f"Question {number}?", "3") for number in range(60)]


def declared(scaffold, share=0.5):
    return System({"core": role(noisy(share))}, scaffold)


def test_a_vote_beside_itself_is_no_better_and_costs_as_much():
    found = against_votes(declared(partial(self_consistency, n=5)), TASKS, verifier, seeds=(1, 2), workers=4)
    assert found.matched and 4.5 < found.num_votes < 5.5
    assert found.votes_flop == pytest.approx(found.flop, rel=1e-6)
    assert found.difference.lo < 0 < found.difference.hi and abs(found.difference.difference) < 0.1
    assert 0.01 < found.detectable < 0.2 and found.cost.flop > 0
    assert found.to_dict()["difference"]["n"] == 60


def test_a_scaffold_that_wastes_what_votes_use_loses():
    def wasteful(context, task):
        for _ in range(8):
            answer = direct(context, task, way=Way(temperature=1.0))
        return answer

    found = against_votes(declared(wasteful), TASKS, verifier, workers=4)
    assert found.difference.hi < 0 and found.num_votes > 4 and found.votes_accuracy > found.accuracy


def test_one_that_costs_less_than_a_vote_or_more_than_the_pool_is_not_matched():
    pool = Pool(np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), np.array([[10.0] * 3, [20.0] * 3]))
    cheap = compared(np.array([1.0, 0.0, 0.0]), 5.0, pool, Cost())
    assert not cheap.matched and cheap.num_votes == 1 and cheap.votes_accuracy == pytest.approx(2 / 3)
    dear = compared(np.array([1.0, 0.0, 0.0]), 50.0, pool, Cost())
    assert not dear.matched and dear.num_votes == 2 and dear.votes_accuracy == 1.0
    between = compared(np.array([1.0, 0.0, 0.0]), 15.0, pool, Cost())
    assert between.matched and between.num_votes == 1.5 and between.votes_accuracy == pytest.approx(5 / 6)


def test_a_pool_counts_votes_of_every_size():
    pool = pool_votes(declared(direct, share=0.6), TASKS, verifier, size=9, workers=4)
    assert pool.right_KN.shape == pool.flop_KN.shape == (9, 60)
    means = pool.right_KN.mean(axis=1)
    assert means[8] > means[0] + 0.15 and 0.45 < means[0] < 0.75
    assert (np.diff(pool.flop_KN.mean(axis=1)) > 0).all()


def test_unknown_flop_cannot_be_compared():
    unknown = System(
        {"core": Role(role(noisy(0.5), flop=float("nan")).model, tokenizer(), None, 512)}, direct
    )
    with pytest.raises(DataError, match="not known"):
        pool_votes(unknown, TASKS[:2], verifier)
    assert system
