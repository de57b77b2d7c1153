"""A teacher's answers become chats or tokens to learn from; what would teach nothing good is counted, not learnt."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from kweek.align.environment import Item
from kweek.align.rollout import Rollout
from kweek.align.sft import chat_segments
from kweek.align.teacher_answers import ask, learn_text, learn_tokens
from kweek.data import stories
from kweek.engine.endpoint.model import Answer
from kweek.engine.engine import Engine
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Score
from kweek.system.calculator import Calculator
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("align", 300, "train"), 416)


def answer(text, reason="stop"):
    return Answer({"role": "assistant", "content": text}, reason, 5, 3)


def chats(count):
    return [[{"role": "user", "content": f"What is {i}?"}] for i in range(count)]


def test_good_answers_become_chats_and_the_rest_is_counted(tokenizer):
    asked = chats(6)
    asked[5] = asked[0]
    answers = [
        answer("7"),
        answer("8", "length"),
        answer(" "),
        answer("", "budget"),
        answer("9"),
        answer("7"),
    ]
    lesson = learn_text(asked, answers, keep=lambda chat, message: message["content"] != "9")
    assert lesson.chats == [[asked[0][0], {"role": "assistant", "content": "7"}]]
    assert lesson.left_out == Counter(
        {"cut off": 1, "empty": 1, "budget": 1, "judged wrong": 1, "repeated": 1}
    )
    (one,) = chat_segments(tokenizer, lesson.chats)
    assert one.weights.sum() == len(tokenizer.encode("7")) + 1


def test_the_same_tokenizer_hands_on_the_very_tokens():
    def rollout(ids, sampled, reason="stop", value=1.0):
        return Rollout(
            Item(({"role": "user", "content": "?"},)),
            ids,
            2,
            sampled,
            [0.0] * len(ids),
            (),
            Score(value, True),
            reason,
            1.0,
        )

    good = rollout([1, 2, 3, 4, 5], [False, False, True, False, True])
    wrong = rollout([1, 2, 9, 4, 5], [False, False, True, False, True], value=0.0)
    rollouts = [
        good,
        good,
        wrong,
        rollout([1, 2, 3], [False, False, True]),
        rollout([1, 2], [False] * 2, "length"),
    ]
    lesson = learn_tokens(rollouts, keep=lambda one: one.score.value == 1.0)
    (one,) = lesson.segments
    assert [*one.ids, one.targets[-1]] == [1, 2, 3, 4, 5] and one.weights.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert lesson.left_out == Counter({"cut off": 1, "empty": 1, "repeated": 1, "judged wrong": 1})


def model_for(tokenizer):
    network = Network(
        ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=1,
                    num_kv_heads=1, head_dim=32, max_positions=256)
    )  # fmt: skip
    initialise(network, torch.Generator().manual_seed(0))
    return Engine(network)


def test_a_model_in_token_ids_answers_chats_each_with_its_own_seed(tokenizer):
    model, tool = model_for(tokenizer), Calculator(tokenizer)
    few = ask(model, tokenizer, chats(2), 12, interceptor=tool)
    more = ask(model, tokenizer, chats(4), 12, interceptor=tool)
    assert few == more[:2] and len({one.message["content"] for one in more}) == 4
    assert ask(model, tokenizer, chats(2), 12, key="other")[0].message != few[0].message
    assert all(one.message["role"] == "assistant" and one.num_new_tokens <= 12 for one in more)


def test_thinking_that_the_template_has_opened_is_no_answer(tokenizer):
    opens = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
    )
    thinks = Tokenizer(tokenizer.definition, tokenizer.config, opens)
    (plain,) = ask(model_for(tokenizer), tokenizer, chats(1), 12)
    (thought,) = ask(model_for(tokenizer), thinks, chats(1), 12)
    assert plain.message["content"] and "reasoning_content" not in plain.message
    assert thought.message["reasoning_content"] and not thought.message["content"]


def test_a_call_of_a_tool_is_an_answer():
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    called = Answer({"role": "assistant", "content": "", "tool_calls": [call]}, "stop", 5, 3)
    assert len(learn_text(chats(1), [called]).chats) == 1
