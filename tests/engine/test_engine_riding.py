"""Samples that say the same share one row of the network, and get what each would get alone."""

from dataclasses import replace

import pytest
import torch

from kweek.engine.engine import Engine
from kweek.engine.native import library
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Request

try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def network():
    """One that is sure enough of itself for samples to agree for a while."""
    config = ModelConfig(
        vocab_size=48, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32
    )  # fmt: skip
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(2))
    with torch.no_grad():
        network.head_weight.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(3))
    return network


class Doubler:
    """A tool that says the last token again after each 7."""

    trigger_ids = frozenset({7})

    def __call__(self, token_ids):
        return [token_ids[-2], 9] if token_ids[-1] == 7 else []


PROMPT = list(range(20))


def samples(count, **changes):
    base = Request(PROMPT, 30, 1.0, stop_ids=frozenset({3}), interceptor=Doubler())
    return [replace(base, seed=seed, **changes) for seed in range(count)]


def alone(network, requests):
    return [Engine(network, num_slots=1).generate([request])[0] for request in requests]


def same(found, expected):
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    for name in ("sampled", "logprobs", "processed_logprobs", "kept_mass", "stop_reason", "stopped_by"):
        assert [getattr(c, name) for c in found] == [getattr(c, name) for c in expected], name


def count_rows(engine):
    """Rows of the network that an engine computes from now on; a list of one number."""
    backend, total = engine._current().backend, [0]
    run = backend.run

    def counted(rows, steps=1, fed=()):
        found = run(rows, steps, fed)
        total[0] += int(rows["produced"][rows["rides_on"] == 0].sum())
        return found

    backend.run = counted
    return total


def test_every_sample_gets_what_it_gets_alone_for_fewer_rows(network):
    requests = samples(24)
    engine = Engine(network)
    rows = count_rows(engine)
    found = engine.generate(requests)
    same(found, alone(network, requests))
    contexts = {
        tuple(completion.token_ids[:place])
        for completion in found
        for place, sampled in enumerate(completion.sampled)
        if sampled
    }
    drawn = sum(sum(completion.sampled) for completion in found)
    assert len(contexts) < 0.9 * drawn, "the samples agree for a while, else nothing is tested"
    assert rows[0] <= len(contexts) + 0.1 * drawn


def test_the_cost_of_what_is_shared_is_counted_once(network):
    requests = [replace(request, seed=4) for request in samples(6)]
    found = Engine(network).generate(requests)
    one = alone(network, requests[:1])[0].flop
    assert sorted(completion.flop for completion in found) == [0.0] * 5 + [pytest.approx(one)]


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 5},
        {"logit_bias": {5: 3.0}},
        {"max_new_tokens": 4},
        {"stop_ids": frozenset({5, 6})},
        {"interceptor": None},
    ],
)
def test_settings_of_their_own(network, changes):
    requests = samples(8) + samples(8, **changes)
    same(Engine(network).generate(requests), alone(network, requests))


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_with_few_slots(network, slots):
    requests = samples(20)
    same(Engine(network, num_slots=slots).generate(requests), alone(network, requests))


def test_who_leads_may_be_cancelled_or_suspended(network):
    requests = samples(8)
    expected = alone(network, requests)
    engine = Engine(network)
    tickets = [engine.submit(request) for request in requests]
    done = {}
    for step in range(200):
        done |= dict(engine.step())
        if step == 0:
            assert engine._scheduler._riding.riders, "some ride"
            engine.cancel(tickets[0])
            held = engine.suspend(tickets[1:3])
            tickets[1:3] = [engine.resume(one) for one in held]
        if not engine.num_active:
            break
    assert done[tickets[0]].stop_reason == "cancelled"
    same([done[ticket] for ticket in tickets[1:]], expected[1:])


def test_tenants_do_not_share(network):
    requests = [replace(request, tenant=name) for name in ("a", "b") for request in samples(12)]
    engine = Engine(network)
    for request in requests:
        engine.submit(request)
    seen = 0
    while engine.num_active:
        engine.step()
        riders = engine._scheduler._riding.riders
        seen += len(riders)
        assert all(rider.leader.request.tenant == rider.request.tenant for rider in riders)
    assert seen
