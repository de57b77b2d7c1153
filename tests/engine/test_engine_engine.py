"""The engine: equal to the network without a cache, whoever shares the batch, tools included."""

import math

import pytest
import torch

from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Request

VOCABULARY = 48


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(0)
    network = Network(
        ModelConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
            num_kv_heads=1, head_dim=16, max_positions=128,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3) if parameter.ndim == 2 else parameter.fill_(1.0)
    return Engine(network)


@torch.no_grad()
def reference(engine, prompt, count):
    """Greedy tokens and their log-probabilities without any cache."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        row = engine.network.logits(engine.network(torch.tensor([ids])))[0, -1].log_softmax(-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return ids[len(prompt) :], logprobs


PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11, 12], [1, 2, 3], [40, 41]]


@torch.no_grad()
def test_it_is_a_language_model_and_greedy_equals_the_network(engine):
    assert isinstance(engine, LanguageModel)
    done = engine.generate([Request(prompt, 12) for prompt in PROMPTS])
    for prompt, completion in zip(PROMPTS, done, strict=True):
        ids, logprobs = reference(engine, prompt, 12)
        assert completion.token_ids == ids
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert completion.stop_reason == "length"
        assert all(completion.sampled)


def test_samples_do_not_depend_on_the_batch(engine):
    requests = [Request(prompt, 20, 1.0, seed=i, stop_ids=frozenset({3})) for i, prompt in enumerate(PROMPTS)]
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    backwards = engine.generate(requests[::-1])[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert a.token_ids == b.token_ids == c.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_sampling_follows_the_full_softmax(engine):
    prompt = [4, 5]
    count = 4000
    done = engine.generate([Request(prompt, 1, 1.0, seed=i) for i in range(count)])
    with torch.no_grad():
        expected = engine.network.logits(engine.network(torch.tensor([prompt])))[0, -1].softmax(-1)
    observed = torch.bincount(torch.tensor([c.token_ids[0] for c in done]), minlength=VOCABULARY) / count
    # Total variation of 4,000 draws from 48 outcomes is about 0.04.
    assert (observed - expected).abs().sum() / 2 < 0.07
    for completion in done[:50]:
        assert math.exp(completion.logprobs[0]) == pytest.approx(
            float(expected[completion.token_ids[0]]), rel=1e-3
        )


def test_stop_ids_end_a_row_and_are_kept(engine):
    free = engine.generate([Request([1, 2, 3], 12)])[0]
    stop = free.token_ids[4]
    cut = engine.generate([Request([1, 2, 3], 12, stop_ids=frozenset({stop}))])[0]
    end = free.token_ids.index(stop)
    assert cut.token_ids == free.token_ids[: end + 1]
    assert cut.stop_reason == "stop"


class At:
    """Forces tokens once a sequence has a certain length; asked after every token."""

    trigger_ids = None

    def __init__(self, length, forced):
        self.length, self.forced = length, forced

    def __call__(self, ids):
        return self.forced if len(ids) == self.length else []


def test_forced_tokens_enter_unsampled_and_are_seen_by_what_follows(engine):
    done = engine.generate([Request([1, 2, 3], 10, interceptor=At(5, [30, 31]))])[0]
    assert done.token_ids[2:4] == [30, 31]
    assert done.sampled == [True, True, False, False, *[True] * 6]
    assert done.logprobs[2:4] == [0.0, 0.0]
    ids, _ = reference(engine, [1, 2, 3, *done.token_ids[:4]], 6)
    assert done.token_ids[4:] == ids


def test_a_forced_stop_token_does_not_end_the_row(engine):
    done = engine.generate([Request([1, 2, 3], 6, stop_ids=frozenset({30}), interceptor=At(4, [30]))])[0]
    assert len(done.token_ids) == 6


def test_streaming_sees_every_token_in_order(engine):
    seen = {}
    done = engine.generate(
        [Request(prompt, 5) for prompt in PROMPTS], lambda row, token: seen.setdefault(row, []).append(token)
    )
    assert [seen[i] for i in range(len(PROMPTS))] == [c.token_ids for c in done]


@torch.no_grad()
def test_score_is_the_log_probability_of_each_token(engine):
    sequences = [[1, 2, 3, 4], [9], [7, 7, 7, 7, 7, 7], []]
    scored = engine.score(sequences)
    assert [len(s) for s in scored] == [4, 1, 6, 0]
    table = engine.network.logits(engine.network(torch.tensor([[1, 2, 3]])))[0].log_softmax(-1)
    assert scored[0] == pytest.approx([0.0, *(float(table[i, t]) for i, t in enumerate([2, 3, 4]))], abs=1e-4)


def test_generated_log_probabilities_equal_scores(engine):
    done = engine.generate([Request([1, 2], 8, 1.0, seed=3)])[0]
    scored = engine.score([[1, 2, *done.token_ids]])[0]
    assert scored[2:] == pytest.approx(done.logprobs, abs=1e-4)


def test_flop_of_an_answer_grow_with_it_and_shared_prompts_are_paid_once(engine):
    short, long = engine.generate([Request([1, 2, 3], 2), Request([4, 5, 6], 20)])
    assert 0 < short.flop < long.flop
    alone = engine.generate([Request([1] * 50, 1)])[0].flop
    shared = engine.generate([Request([2] * 50, 1, 1.0, seed=i) for i in range(10)])
    # The prompt once, and its last token, whose logits every sample wants, ten times.
    assert alone < sum(c.flop for c in shared) < 1.3 * alone


def test_cancellation_keeps_what_is_there(engine):
    stopping = Engine(engine.network, should_stop=lambda: True)
    done = stopping.generate([Request([1, 2, 3], 10)])[0]
    assert done.stop_reason == "cancelled" and len(done.token_ids) == 1


def test_requests_that_cannot_be_met_are_refused(engine):
    with pytest.raises(KweekError, match="exceed the model's 128 positions"):
        engine.generate([Request([1] * 100, 29)])
    with pytest.raises(KweekError, match="empty prompt"):
        engine.generate([Request([], 5)])
    assert engine.generate([]) == []
