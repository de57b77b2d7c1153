"""Pairs: what counts, what is refused, that both sides stay together, that updates are a function of the step."""

import numpy as np
import pytest
import torch
from align_networks import random_pairs, small_network
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.compared import sides
from kweek.align.pairs import (
    Pair,
    PairBatches,
    answered,
    chat_pair,
    pair,
    pair_segments,
    usable,
    with_reference,
)
from kweek.align.sequences import answers, micro_batches, network_logprobs
from kweek.data import stories
from kweek.data.batches import collate, segment
from kweek.engine.engine import Engine
from kweek.errors import DataError
from kweek.tokenize import bpe
from kweek.tokenize.chat import Chat, encode_prompt


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("pairs", 200, "train"), 416)


def test_only_the_answer_counts():
    parts = pair_segments([pair([1, 2, 3], [4, 5], [6], 0.5)])
    chosen, rejected = parts[0]
    assert chosen.weights.tolist() == [0, 0, 1, 1] and rejected.weights.tolist() == [0, 0, 1]
    assert chosen.labels == {"pair": 0, "share": 1.0, "margin": 0.5, "sign": 1.0}
    assert rejected.labels["sign"] == -1.0 and not chosen.streams


def test_what_two_chats_share_does_not_count(tokenizer):
    start = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is 2+3?"},
    ]
    right, wrong = (
        [*start, {"role": "assistant", "content": "5"}],
        [*start, {"role": "assistant", "content": "six"}],
    )
    made = chat_pair(tokenizer, right, wrong)
    num_prompt = len(encode_prompt(tokenizer, start))
    for side, text in ((made.chosen, "5"), (made.rejected, "six")):
        own = [i for i, counted in enumerate(side.loss_mask) if counted]
        assert own and min(own) >= num_prompt
        assert (
            tokenizer.decode([side.token_ids[i] for i in own if side.token_ids[i] not in tokenizer.stop_ids])
            == text
        )
    with pytest.raises(DataError, match="have 3 in common"):
        chat_pair(tokenizer, right, start)
    with pytest.raises(DataError, match="no turn of the assistant"):
        chat_pair(tokenizer, right, [*start, {"role": "user", "content": "Say?"}])
    with pytest.raises(DataError, match="have 4 in common"):
        chat_pair(tokenizer, right, right)
    with pytest.raises(DataError, match="have 0 in common"):
        chat_pair(tokenizer, right[:2], [{"role": "user", "content": "Other"}, right[1]])


def test_pairs_that_teach_nothing_are_counted():
    good = pair([1], [2, 3], [4])
    kept, left = usable([good, pair([1], [2], [2]), pair([1], [], [2]), pair([1], [2] * 50, [3])], 40)
    assert kept == [good]
    assert left == {"two equal answers": 1, "an answer of no tokens": 1, "over 40 tokens": 1}


def test_a_reference_by_engine_and_by_network_agree_and_are_parallel():
    network, pairs = small_network(), random_pairs(5)
    by_engine = with_reference(pairs, Engine(network, computing="torch").score)
    by_network = with_reference(pairs, lambda rows: network_logprobs(network, rows))
    for one, other in zip(by_engine, by_network, strict=True):
        assert len(one.chosen_reference) == len(one.chosen.token_ids)
        assert np.allclose(one.chosen_reference, other.chosen_reference, atol=1e-4)
        assert np.allclose(one.rejected_reference, other.rejected_reference, atol=1e-4)


def test_log_probabilities_of_any_sequences_come_back_in_order():
    network = small_network()
    rows = [[3, 4, 5, 6], [7], [], [8, 9], [1, 2, 3] * 20]
    found = network_logprobs(network, rows)
    assert [len(row) for row in found] == [4, 1, 0, 2, 60] and found[1] == [0.0]
    logits = network.logits(network(torch.tensor([[8, 9]])))[0, 0].log_softmax(-1).detach()
    assert found[3][1] == pytest.approx(float(logits[9]), abs=1e-5)


def test_some_references_and_some_not_are_refused():
    network, pairs = small_network(), random_pairs(2)
    half = [*with_reference(pairs[:1], lambda rows: network_logprobs(network, rows)), pairs[1]]
    with pytest.raises(DataError, match="others have not"):
        pair_segments(half)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 200), st.integers(4, 64))
def test_both_sides_are_always_in_one_micro_batch(lengths, max_tokens, row_length):
    pairs = [pair([1], [2] * n, [3] * (n % 7 + 1)) for n in lengths]
    made = micro_batches(pair_segments(pairs), row_length, max_tokens)
    numbers = []
    for batch in made:
        found = sides(batch)
        assert len(found.chosen_P) == len(found.rejected_P) > 0
        numbers += batch.labels["pair"][found.chosen_P].tolist()
        assert batch.num_tokens <= max_tokens or len(found.chosen_P) == 1
    assert sorted(numbers) == list(range(len(pairs)))
    assert sum(float(sides(batch).share_P.sum()) for batch in made) == pytest.approx(1.0, abs=1e-5)


def test_half_a_pair_is_refused():
    first, second = pair_segments(random_pairs(2))
    with pytest.raises(DataError, match="are no pairs"):
        sides(collate([[first[0], second[1]]]))
    with pytest.raises(DataError, match="holds no pairs"):
        sides(collate([[segment([1, 2, 3])]]))


def test_a_heavier_pair_has_a_larger_share():
    pairs = [pair([1], [2], [3]), Pair(answered([1], [4]), answered([1], [5]), weight=3.0)]
    assert [parts[0].labels["share"] for parts in pair_segments(pairs)] == [0.25, 0.75]


def test_updates_are_a_function_of_the_step_and_see_every_pair_once():
    pairs = random_pairs(12)
    batches = PairBatches(pairs, batch_size=4, epochs=2, seed=3)
    assert batches.num_steps == 6
    whole = list(batches())
    for one, other in zip(whole[4:], batches(4), strict=True):
        assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(one, other, strict=True))
    for epoch in (0, 1):
        seen = [id(one) for step in range(3) for one in batches.chosen(3 * epoch + step)]
        assert sorted(seen) == sorted(map(id, pairs))
    assert [id(p) for p in batches.chosen(0)] != [id(p) for p in batches.chosen(3)]
    with pytest.raises(DataError, match="no pairs"):
        PairBatches([], batch_size=4, epochs=1, seed=0)


def test_the_cost_of_the_head_is_counted_where_it_is_computed():
    """The loop counts 6 VD per position; only counted positions have logits, and these are made twice."""
    network = small_network()
    batch = collate([[segment([1, 2, 3, 4, 5], [0, 0, 0, 1, 1])]])
    hidden_BTD = network(batch.ids_BT)
    found = answers(network, hidden_BTD, batch)
    product = 2 * network.head_weight.numel()
    assert found.flop == 4 * product * 2 - 3 * product * 4
    assert found.length_S.tolist() == [2.0] and found.reference_S is None


def test_a_mask_with_holes_leaves_tokens_out():
    network = small_network()
    whole = Pair(Chat([1, 2, 3, 4, 5], [-1, 0, -1, 0, 0]), answered([1], [6]))
    batch = micro_batches(pair_segments([whole]), 16)[0]
    with torch.no_grad():
        hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        found = answers(network, hidden_BTD, batch)
    logs = network_logprobs(network, [whole.chosen.token_ids])[0]
    number = int(sides(batch).chosen_P[0])
    assert float(found.logprob_S[number]) == pytest.approx(logs[1] + logs[3] + logs[4], abs=1e-4)
