"""Directions: the way of a real update, whichever way its sign was turned, and nothing left of it afterwards."""

import copy

import pytest
import torch
from policy_world import small_policy, small_trainer

from kweek.align.guards.direction import STEP, Probe, direction
from kweek.data.batches import collate, segment
from kweek.engine.engine import Engine
from kweek.train.objective import Likelihood, Loss

ROWS = [[1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]


def batch(weight=1 / 9):
    return collate([[segment(row, [weight] * 4)] for row in ROWS])


def sums(network):
    return [sum(logprobs) for logprobs in Engine(network).score(ROWS)]


class Reversed:
    def __call__(self, network, hidden_BTD, batch):
        found = Likelihood()(network, hidden_BTD, batch)
        return Loss(-found.value, found.nll_N)


def probe(trainer, rows=batch):
    return Probe("learning", [trainer], lambda: trainer.step([rows()], 1.0), lambda: sums(trainer.network))


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 1.0])
def test_learning_raises_what_is_learnt_at_any_learning_rate(rate):
    found = direction(probe(small_trainer(small_policy(), rate)))
    assert found.after > found.before and found.change.won == 3


@pytest.mark.parametrize("how", ["weights", "loss", "rate"])
def test_a_sign_turned_anywhere_turns_the_direction(how):
    trainer = small_trainer(small_policy())
    if how == "loss":
        trainer.objective = Reversed()
    if how == "rate":
        trainer.optimiser._peaks = [-peak for peak in trainer.optimiser._peaks]
    found = direction(probe(trainer, (lambda: batch(-1 / 9)) if how == "weights" else batch))
    assert found.after < found.before and found.change.lost == 3


def test_nothing_is_left_of_it():
    """Neither in the weights nor in the moments: the next updates are those of a run that was never probed."""
    plain, probed = (small_trainer(small_policy()) for _ in range(2))
    for trainer in (plain, probed):
        trainer.step([batch()], 1.0)
    before = copy.deepcopy(probed.optimiser.state())
    direction(probe(probed, lambda: batch(-1.0)))
    after = probed.optimiser.state()
    assert all(torch.equal(before[name], after[name]) for name in before) and len(before) == len(after)
    for trainer in (plain, probed):
        trainer.step([batch()], 1.0)
    pairs = zip(plain.network.parameters(), probed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_everything_is_put_back_where_an_update_fails():
    trainer = small_trainer(small_policy())
    before = [p.clone() for p in trainer.network.parameters()]

    def half():
        trainer.step([batch()], 1.0)
        raise RuntimeError("the judge is gone")

    with pytest.raises(RuntimeError, match="judge"):
        direction(Probe("half", [trainer], half, lambda: sums(trainer.network)))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


def test_old_moments_have_no_say():
    """A run that has long learnt the opposite still goes where its present update points."""
    trainer = small_trainer(small_policy())
    for _ in range(5):
        trainer.step([batch(-1 / 9)], 1.0)
    found = direction(probe(trainer))
    assert found.after > found.before


def test_only_a_short_way_is_gone():
    trainer = small_trainer(small_policy(), 1.0)
    length = sum(float((p.detach() ** 2).sum()) for p in trainer.network.parameters()) ** 0.5
    before = [p.detach().clone() for p in trainer.network.parameters()]
    seen = []

    def margins():
        way = zip(trainer.network.parameters(), before, strict=True)
        seen.append(sum(float(((p.detach() - old) ** 2).sum()) for p, old in way) ** 0.5)
        return sums(trainer.network)

    direction(Probe("far", [trainer], lambda: trainer.step([batch()], 1.0), margins))
    assert seen[0] == 0 and seen[1] == pytest.approx(STEP * length, rel=1e-2)
