"""Bits per byte: every byte once, windows as stated, batches without influence, paired comparisons."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.errors import DataError
from kweek.evaluate.bits import bits_per_byte, compare, nll_per_token, pool
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize.bpe import train

TEXTS = [
    "Return the number of items.",
    "Größe, naïve, 東京 and 🐝: bytes are not characters.",
    "def add(a, b):\n    return a + b\n" * 12,
    "x",
    "a <|endoftext|> spelled out in a text is text",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train(TEXTS * 4, 320)


@pytest.fixture(scope="module")
def network(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=16,
    )  # fmt: skip
    network = Network(config)
    generator = torch.Generator().manual_seed(0)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def plain_nll(network, ids):
    """Of one sequence at once, by the textbook."""
    with torch.no_grad():
        logits = network.logits(network(torch.tensor([ids[:-1]])))[0].double()
    return -torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def test_a_network_that_knows_nothing_pays_the_logarithm_of_the_vocabulary(network, tokenizer):
    blank = Network(network.config)
    blank.load_state_dict(network.state_dict())
    with torch.no_grad():
        blank.lm_head.weight.zero_()
    found = bits_per_byte(blank, tokenizer, {"s": TEXTS}, context_length=16)["s"]
    num_tokens = sum(len(ids) for ids in tokenizer.encode_batch(TEXTS))
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (found.num_tokens, found.num_bytes) == (num_tokens, num_bytes)
    assert found.bits == pytest.approx(num_tokens * math.log2(tokenizer.vocab_size), rel=1e-5)
    assert found.value == pytest.approx(found.bits / num_bytes)


def test_documents_begin_after_the_end_of_text_token_and_their_own_end_is_free(network, tokenizer):
    found = bits_per_byte(network, tokenizer, {"s": TEXTS}, context_length=1000)["s"]
    for text, bits in zip(TEXTS, found.document_bits, strict=True):
        expected = plain_nll(network, [tokenizer.eos_id, *tokenizer.encode(text)]).sum() / math.log(2)
        assert bits == pytest.approx(expected, rel=1e-4)
    assert found.document_bytes.tolist() == [len(text.encode()) for text in TEXTS]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_every_token_is_scored_once_in_the_first_window_that_reaches_it(network, data):
    ids = data.draw(st.lists(st.integers(0, 319), min_size=0, max_size=60))
    context = data.draw(st.integers(1, 20))
    stride = data.draw(st.integers(1, context))
    (found,) = nll_per_token(network, [ids], context_length=context, stride=stride)
    assert len(found) == max(0, len(ids) - 1)
    for target in range(1, len(ids)):
        if target <= context:
            end = min(context, len(ids) - 1)
        else:
            end = min(len(ids) - 1, context + stride * math.ceil((target - context) / stride))
        begin = max(0, end - context)
        window = plain_nll(network, ids[begin : end + 1])
        assert found[target - 1] == pytest.approx(window[target - 1 - begin], abs=2e-4)


def test_batching_changes_nothing(network):
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 320, n).tolist() for n in (2, 40, 7, 1, 0, 33, 40, 12)]
    alone = [nll_per_token(network, [ids], context_length=16)[0] for ids in sequences]
    for batch_tokens in (1, 50, 4096):
        together = nll_per_token(network, sequences, context_length=16, batch_tokens=batch_tokens)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_stride_that_would_skip_tokens_is_refused(network):
    with pytest.raises(ValueError, match="stride"):
        nll_per_token(network, [[1, 2, 3]], context_length=4, stride=5)


def test_sources_are_apart_and_pool_by_bytes(network, tokenizer):
    parts = bits_per_byte(
        network, tokenizer, {"a": TEXTS[:2], "none": [""], "b": TEXTS[2:]}, context_length=64
    )
    assert list(parts) == ["a", "b"]
    whole = bits_per_byte(network, tokenizer, {"all": TEXTS}, context_length=64)["all"]
    pooled = pool([parts["a"], parts["b"]])
    assert pooled.value == pytest.approx(whole.value, rel=1e-6)
    assert pooled.num_tokens == whole.num_tokens
    np.testing.assert_allclose(pooled.document_bits, whole.document_bits, rtol=1e-5)


def test_no_text_is_an_error(network, tokenizer):
    with pytest.raises(DataError, match="no text"):
        bits_per_byte(network, tokenizer, {"s": ["", ""]}, context_length=8)


def test_the_interval_holds_the_value_and_one_document_has_none(network, tokenizer):
    many = bits_per_byte(network, tokenizer, {"s": TEXTS}, context_length=64)["s"]
    assert many.interval.mid == many.value
    assert many.interval.lo < many.value < many.interval.hi
    one = bits_per_byte(network, tokenizer, {"s": TEXTS[:1]}, context_length=64)["s"]
    assert (one.interval.lo, one.interval.hi) == (-math.inf, math.inf)


def test_a_paired_comparison_sees_what_intervals_apart_would_hide(network, tokenizer):
    worse = Network(network.config)
    worse.load_state_dict(network.state_dict())
    with torch.no_grad():
        worse.lm_head.weight.mul_(1.05)  # predictions that were wrong become surer of it
    texts = [text * n for n in (1, 2, 3) for text in TEXTS]
    a = bits_per_byte(worse, tokenizer, {"s": texts}, context_length=64)["s"]
    b = bits_per_byte(network, tokenizer, {"s": texts}, context_length=64)["s"]
    found = compare(a, b)
    assert found.difference == pytest.approx(a.value - b.value, rel=1e-6)
    assert found.lo > 0
    assert found.won == len(texts)
    assert a.interval.lo < b.interval.hi
    with pytest.raises(ValueError, match="same documents"):
        compare(a, pool([b, b]))
