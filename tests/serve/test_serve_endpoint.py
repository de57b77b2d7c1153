"""A model behind `kweek serve` is the model itself: same tokens, same scores, and text in chats."""

from __future__ import annotations

import math

import pytest
import serve_models as learnt

from kweek.align.offline import Reading
from kweek.data.batches import segment
from kweek.engine.endpoint.client import EndpointClient, EndpointError, TokenBudget
from kweek.engine.endpoint.model import EndpointModel
from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Request
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt


@pytest.fixture
def remote(server, trained):
    return EndpointModel(EndpointClient(server.url), trained.tokenizer)


def requests_of(trained, **more):
    questions = (learnt.PARROT, learnt.COUNT, learnt.LONG)
    stops = trained.tokenizer.stop_ids
    return [
        Request(
            encode_prompt(trained.tokenizer, [{"role": "user", "content": question}]),
            40,
            stop_ids=stops,
            **more,
        )
        for question in questions
    ]


@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "seed": 5}, {"num_top": 3}])
def test_answers_are_those_of_the_engine(remote, trained, more):
    assert isinstance(remote, LanguageModel)
    requests, told = requests_of(trained, **more), []
    ours = remote.generate(requests, lambda index, token: told.append((index, token)))
    for number, (found, expected) in enumerate(zip(ours, trained.engine.generate(requests), strict=True)):
        assert found.token_ids == expected.token_ids and found.stop_reason == expected.stop_reason
        assert (
            found.stopped_by == expected.stopped_by and found.num_prompt_tokens == expected.num_prompt_tokens
        )
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert math.isnan(found.flop), "unknown, never 0"
        if "seed" in more:
            assert found.processed_logprobs == found.logprobs
        assert [[token for token, _ in top] for top in found.top] == [
            [t for t, _ in top] for top in expected.top
        ]
        assert [token for index, token in told if index == number] == found.token_ids


def test_scores_are_those_of_the_engine_by_either_way(remote, trained):
    sequences = [
        [5, 6, 7, 8],
        [],
        encode_prompt(trained.tokenizer, [{"role": "user", "content": learnt.COUNT}]),
    ]
    expected = trained.engine.score(sequences)
    for echoes in (False, True):
        remote._echoes = echoes
        for found, wanted in zip(remote.score(sequences), expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-4)


def test_it_teaches_offline_as_the_engine_does(remote, trained):
    segments = [segment(encode_prompt(trained.tokenizer, [{"role": "user", "content": learnt.COUNT}]))]
    here, there = Reading(trained.engine, segments, 4), Reading(remote, segments, 4)
    for ours, theirs in zip(there, here, strict=True):
        assert (ours.ids_RK == theirs.ids_RK).mean() > 0.95
        assert ours.logprobs_RK == pytest.approx(theirs.logprobs_RK, abs=1e-4)
    assert here.flop > 0 and math.isnan(there.flop)


def test_chats_are_answered_as_text(remote):
    chats = [[{"role": "user", "content": question}] for question in (learnt.SUM, learnt.PARROT)]
    first, second = remote.answer(chats, 80, temperature=0.0, seeds=[1, 2])
    assert first.message["content"] == learnt.SUM_ANSWER and first.message["reasoning_content"]
    assert second.message["content"] == learnt.PARROT_ANSWER and "reasoning_content" not in second.message
    assert first.stop_reason == "stop" and first.num_prompt_tokens > 0 and first.num_new_tokens > 0


def test_the_budget_counts_prompts_and_answers_and_ends_what_it_cannot_hold(server, trained):
    remote = EndpointModel(EndpointClient(server.url), trained.tokenizer, budget=TokenBudget(130))
    request = requests_of(trained)[1]
    (done,) = remote.generate([request])
    assert done.stop_reason == "stop"
    spent = remote.budget.spent
    assert spent == len(request.prompt_ids) + len(done.token_ids), (
        "what was set aside and not used is given back"
    )
    late = remote.generate([request] * 3)
    assert {one.stop_reason for one in late} >= {"budget"} and remote.budget.spent <= 130
    with pytest.raises(KweekError, match="budget of tokens is spent"):
        remote.score([list(range(130))])
    assert remote.answer([[{"role": "user", "content": "x"}]], 500)[0].stop_reason == "budget"


def test_another_tokenizer_is_found_out(server, trained):
    other = EndpointModel(EndpointClient(server.url), bpe.train(["quite another language " * 30], 384))
    with pytest.raises(KweekError, match=r"another tokenizer|not one token of this tokenizer"):
        other.score([list(range(262, 290))])
    with pytest.raises(KweekError, match=r"not one token of this tokenizer|another tokenizer"):
        other.generate(requests_of(trained))


def test_what_an_endpoint_cannot_do_is_refused_by_name(remote):
    for field, value in (("max_flop", 1e6), ("tenant", "a"), ("interceptor", object())):
        with pytest.raises(KweekError, match=f"{field}: an endpoint cannot honour it"):
            remote.generate([Request([1], 1, **{field: value})])
    with pytest.raises(EndpointError, match="The context of this model is 384 tokens"):
        remote.generate([Request([5], 500)])


def test_another_name_is_the_endpoints_own_error(server, trained):
    with pytest.raises(EndpointError, match="'other' is not served here"):
        EndpointModel(EndpointClient(server.url), trained.tokenizer, "other").generate([Request([5], 1)])
