"""Guesses never change what is said, agree where the text repeats, and stop where they do not pay."""

import math

import pytest
import torch

from kweek.engine.engine import Engine
from kweek.engine.native import library
from kweek.engine.native.decoder import NativeBackend
from kweek.engine.speculation import Draft, PromptLookup, Speculation
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request

try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)


class Always(Speculation):
    """Guesses whether it pays or not."""

    active = True


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = Network(
        ModelConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1,
            head_dim=16, max_positions=800,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3) if parameter.ndim == 2 else parameter.fill_(1.0)
    return network


def proposers(network):
    return {
        "lookup": PromptLookup(),
        "itself": Draft(NativeBackend(network, "f32", num_slots=64)),
        "rounded": Draft(NativeBackend(network, "q4", num_slots=64)),
    }


@pytest.mark.parametrize("name", ["lookup", "itself", "rounded"])
def test_the_same_tokens_and_probabilities_with_and_without(network, name):
    requests = [
        Request([1, 2, 3, i] * 4, 60, temperature, seed=i) for i in range(6) for temperature in (0.0, 0.8)
    ]
    requests.append(Request([5] * 300, 9, 1.0, seed=1, stop_ids=frozenset({7})))
    plain = Engine(network).generate(requests)
    speculation = Always(proposers(network)[name])
    guessed = Engine(network, speculation=speculation).generate(requests)
    assert [c.token_ids for c in guessed] == [c.token_ids for c in plain]
    assert [c.logprobs for c in guessed] == [c.logprobs for c in plain]
    assert speculation.num_guessed > 0


class Seven:
    """Always guesses token 7."""

    def propose(self, slot, ids, count):
        return [7] * count


def test_a_guess_that_breaks_the_network_is_an_error_and_not_a_token(network):
    broken = Network(network.config)
    broken.load_state_dict(network.state_dict())
    with torch.no_grad():
        broken.model.embed_tokens.weight[7] = math.nan
    told = []
    for speculation in (None, Always(Seven())):
        engine = Engine(broken, speculation=speculation)
        ticket = engine.submit(
            Request([1, 2, 3], 9, logit_bias={7: 1000.0}), lambda token, _: told.append(token)
        )
        done = {}
        while ticket not in done:
            done |= dict(engine.step())
        assert done[ticket].stop_reason == "error" and "not a number" in done[ticket].error
        assert done[ticket].token_ids == [7]
    assert told == [7, 7]


def test_a_model_agrees_with_itself(network):
    speculation = Always(proposers(network)["itself"])
    Engine(network, speculation=speculation).generate([Request([4, 5, 6], 100)])
    assert speculation.num_accepted == speculation.num_guessed > 60


def test_lookup_finds_the_last_longest_agreement():
    lookup = PromptLookup()
    assert lookup.propose(0, [1, 2, 3, 9, 1, 2, 3, 8, 5, 1, 2, 3], 2) == [8, 5]
    assert lookup.propose(0, [7, 1, 2, 6, 4, 1, 2], 9) == [6, 4, 1, 2]
    assert lookup.propose(0, [1, 2, 3, 4], 3) == []
    assert lookup.propose(0, [1], 3) == []


def test_guesses_rest_while_they_cost_more_than_they_bring():
    speculation = Speculation(PromptLookup())
    assert not speculation.active
    speculation.record(0, 0, 1, 1.0)
    assert speculation.active
    for _ in range(40):
        speculation.record(5, 0, 1, 2.0)
    assert not speculation.active
    for _ in range(400):
        if speculation.active:
            speculation.record(5, 4, 5, 2.0)  # the text has begun to repeat itself
        else:
            speculation.record(0, 0, 1, 1.0)
    assert speculation.active
