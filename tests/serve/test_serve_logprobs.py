"""The shapes of log-probabilities: no two tokens under one key, no float that JSON cannot hold, offsets that fit."""

import json
import math

import pytest

from kweek.data import stories
from kweek.serve.logprobs import (
    LOWEST,
    Offsets,
    TokenScore,
    chat_logprobs,
    completion_logprobs,
    prompt_logprobs,
)
from kweek.tokenize import bpe


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("logprobs", 100, "train"), 288)


def test_bytes_that_are_no_text_keep_apart(tokenizer):
    """Both are U+FFFD when decoded; under one key the likelier could hide, and a token pass for the likeliest."""
    first, second = (
        next(i for i in range(256) if tokenizer.token_bytes(i) == bytes([b])) for b in (0xE2, 0xE3)
    )
    scores = [TokenScore(first, -3.0, [(second, -0.1), (first, -3.0)])]
    shown = completion_logprobs(tokenizer, scores, Offsets(tokenizer, 0), 2)
    assert shown["tokens"] == ["bytes:\\xe2"]
    assert shown["top_logprobs"] == [{"bytes:\\xe3": -0.1, "bytes:\\xe2": -3.0}]


def test_ids_of_one_text_keep_apart(tokenizer):
    empty = tokenizer.vocab_size  # ids that only pad the network have no text at all
    scores = [TokenScore(empty, -2.0, [(empty + 1, -0.5), (empty, -2.0)])]
    top = completion_logprobs(tokenizer, scores, Offsets(tokenizer, 0), 2)["top_logprobs"][0]
    assert sorted(top.values()) == [-2.0, -0.5]


def test_the_token_itself_is_always_there_with_its_own_float(tokenizer):
    scores = [TokenScore(5, -0.30000001, [(5, -0.3), (6, -1.0)]), TokenScore(7, -9.0, [(5, -0.3)])]
    shown = completion_logprobs(tokenizer, scores, Offsets(tokenizer, 0), 2)
    for own, top in zip(shown["token_logprobs"], shown["top_logprobs"], strict=True):
        assert own in top.values()
    assert max(shown["top_logprobs"][0].values()) == shown["token_logprobs"][0]
    assert max(shown["top_logprobs"][1].values()) > shown["token_logprobs"][1]


def test_offsets_are_of_characters(tokenizer):
    ids = tokenizer.encode("aé🦜b")
    offsets = Offsets(tokenizer, 10)
    places = [offsets.place(index) for index in ids]
    assert places[0] == 10 and places[-1] == 13
    assert [tokenizer.decode(ids[:n]).count("\ufffd") == 0 for n in range(len(ids))].count(True) < len(ids)


def test_minus_infinity_is_a_number(tokenizer):
    scores = [TokenScore(5, -math.inf, [(6, -math.inf)])]
    shown = [
        completion_logprobs(tokenizer, scores, Offsets(tokenizer, 0), 1),
        chat_logprobs(tokenizer, scores, 1),
        prompt_logprobs(tokenizer, scores, [3], 1),
    ]
    assert str(LOWEST) in json.dumps(shown, allow_nan=False)


def test_a_prompt_s_own_token_comes_first_with_its_rank(tokenizer):
    scores = [
        TokenScore(1, None),
        TokenScore(9, -4.0, [(8, -0.5), (7, -1.0)]),
        TokenScore(8, -0.2, [(8, -0.2)]),
    ]
    places = prompt_logprobs(tokenizer, scores, [0, 12, 1], 2)
    assert places[0] is None
    assert list(places[1]) == ["9", "8", "7"]
    assert [entry["rank"] for entry in places[1].values()] == [12, 1, 2]
    assert list(places[2]) == ["8"] and places[2]["8"]["rank"] == 1
