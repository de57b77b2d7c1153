"""Supervised chats: weights on the assistant's tokens, replay beside them, rows of unseen tokens."""

import pytest
import torch
from policy_world import small_policy, small_tokenizer

from kweek.align.sft import ChatBatches, chat_segments, initialise_special_rows, weighted
from kweek.data import stories
from kweek.data.batches import segment
from kweek.errors import GuardError


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def test_chats_weigh_the_assistant_only_and_replay_beside_them(tokenizer):
    chats = chat_segments(tokenizer, stories.demonstrations("w", 16, ("tool",)))
    close = tokenizer.special["</result>"]
    for part in chats:
        user_end = part.ids.tolist().index(tokenizer.special["<|im_end|>"])
        assert not part.weights[:user_end].any()
        forced = part.targets == close
        assert not part.weights[forced].any(), "the calculator's closing token is not the model's choice"
    batch = weighted(chats, [segment([1, 2, 3, 4])], 0.5)
    assert batch.weights_BT.sum() == pytest.approx(1.5, rel=1e-4)


def test_chats_without_loss_are_an_error(tokenizer):
    with pytest.raises(GuardError, match="loss"):
        weighted([segment([1, 2, 3], [0.0, 0.0, 0.0])], [], 0.5)


def test_chat_batches_are_a_function_of_the_step(tokenizer):
    chats = chat_segments(tokenizer, stories.demonstrations("b", 32, ("tool",)))
    batches = ChatBatches(chats, batch_size=8, epochs=2, seed=1)
    whole = list(batches())
    assert len(whole) == batches.num_steps == 8
    for a, b in zip(whole[5:], batches(5), strict=True):
        assert torch.equal(a.ids_BT, b.ids_BT)


def test_unseen_rows_start_from_different_relatives(tokenizer):
    network = small_policy()
    initialise_special_rows(network, tokenizer, 0)
    table = network.model.embed_tokens.weight
    similar = torch.nn.functional.cosine_similarity
    assert similar(table[tokenizer.special["<result>"]], table[tokenizer.encode("=")[-1]], dim=0) > 0.9
    assert similar(table[tokenizer.special["<tool>"]], table[tokenizer.special["</think>"]], dim=0) < 0.9
