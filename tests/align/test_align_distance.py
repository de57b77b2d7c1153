"""How far a policy has gone, against what its distributions say exactly."""

import copy

import pytest
import torch
from policy_world import Letters, small_policy, small_tokenizer

from kweek.align.distance import Distance
from kweek.align.sampling import Drawing, sample
from kweek.engine.engine import Engine


def rollouts(network, count=24, samples=8):
    where = Letters()
    items = where.items("distance", count, "train")
    groups = sample(
        Engine(network), small_tokenizer(), where, items, samples=samples, key="d", drawing=Drawing()
    )
    return [rollout for group in groups for rollout in group]


def test_a_policy_has_not_gone_anywhere_from_itself():
    network = small_policy()
    moved = Distance(copy.deepcopy(network)).of(rollouts(network, 4, 2))
    assert moved.n == 8 and abs(moved.kl) < 1e-3


@torch.no_grad()
def exact(network, start, sampled):
    """The divergence at every token that was chosen, summed over answers: the same expectation, with less noise."""
    total = 0.0
    for rollout in sampled:
        ids_BT = torch.tensor(rollout.token_ids)[None]
        own_T = torch.tensor(rollout.sampled[1:])
        new, old = (n.logits(n(ids_BT))[0, :-1].double().log_softmax(-1) for n in (network, start))
        total += float(((new.exp() * (new - old)).sum(-1))[own_T].sum())
    return total / len(sampled)


def test_the_distance_is_the_divergence_of_the_answers():
    start, network = small_policy(), small_policy()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
    sampled = rollouts(network)
    moved = Distance(start).of(sampled)
    expected = exact(network, start, sampled)
    assert expected > 0.1
    assert moved.lo - 0.02 <= expected <= moved.hi + 0.02
    assert moved.lo < moved.kl < moved.hi


def test_one_answer_has_no_interval():
    network = small_policy()
    with pytest.raises(ValueError):
        Distance(network).of(rollouts(network, 1, 1))


def test_what_it_costs_is_a_forward_pass():
    network = small_policy()
    sampled = rollouts(network, 2, 1)
    tokens = sum(len(r.token_ids) for r in sampled)
    flop = Distance(network).num_flops(sampled)
    assert flop > tokens * 2 * sum(p.numel() for p in network.model.layers.parameters())
