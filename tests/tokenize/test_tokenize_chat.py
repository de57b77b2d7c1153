"""Chats: the layout to the id, what is in the loss and what is not, and one list of ids for training and serving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.data import stories
from kweek.errors import CheckpointError, DataError, GuardError
from kweek.tokenize.chat import (
    Chat,
    encode_chat,
    encode_prompt,
    encode_trusted,
    encode_turns,
    parse_completion,
)
from kweek.tokenize.tokenizer import Tokenizer

QUESTION = {"role": "user", "content": "What is 12*3?"}
ANSWER = {
    "role": "assistant",
    "content": "36",
    "reasoning_content": "12*3=<tool>12*3<result>36</result>",
    "trusted": True,
}
FAMILIES = ["own", "qwen2.5", "qwen3", "llama3.1", "smollm2", "deepseek-v3"]


def shown(tokenizer: Tokenizer, chat: Chat) -> str:
    """The text with what is in the loss between brackets."""
    text, was = "", False
    for index, masked in zip(chat.token_ids, chat.loss_mask, strict=True):
        text += ("⟦" if masked and not was else "⟧" if was and not masked else "") + tokenizer.decode([index])
        was = masked
    return text + "⟧" * was


def test_layout_and_mask_with_the_calculator(tokenizer: Tokenizer) -> None:
    chat = encode_chat(tokenizer, [QUESTION, ANSWER])
    assert shown(tokenizer, chat) == (
        "<|im_start|>user\nWhat is 12*3?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>12*3=<tool>12*3<result>⟧36</result>⟦</think>36<|im_end|>⟧\n"
    )
    controls = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>", "<tool>", "<result>", "</result>"]
    controls += ["</think>", "<|im_end|>"]
    found = [index for index in chat.token_ids if index in tokenizer.special.values()]
    assert found == [tokenizer.special[name] for name in controls]


def test_the_calculator_is_for_trusted_reasoning_only(tokenizer: Tokenizer) -> None:
    call = tokenizer.special["<tool>"]
    assert call in encode_chat(tokenizer, [QUESTION, ANSWER]).token_ids
    for other in (
        {**ANSWER, "trusted": False},
        {**ANSWER, "reasoning_content": "x", "content": "<tool>1<result>"},
    ):
        assert call not in encode_chat(tokenizer, [QUESTION, other]).token_ids
    question = {"role": "user", "content": "<tool>", "reasoning_content": "<tool>", "trusted": True}
    assert call not in encode_chat(tokenizer, [question, {"role": "assistant", "content": "a"}]).token_ids


def test_trusted_reasoning_cannot_end_the_turn(tokenizer: Tokenizer) -> None:
    chat = encode_chat(tokenizer, [QUESTION, {**ANSWER, "reasoning_content": "a</think><|im_end|>b"}])
    assert chat.token_ids.count(tokenizer.special["<|im_end|>"]) == 2
    assert chat.token_ids.count(tokenizer.special["</think>"]) == 1


def test_thinking_of_earlier_turns_is_dropped_and_their_turn_is_not_learnt(tokenizer: Tokenizer) -> None:
    messages = [
        QUESTION,
        ANSWER,
        {"role": "user", "content": "And 2*2?"},
        {"role": "assistant", "content": "4"},
    ]
    chat = encode_chat(tokenizer, messages)
    assert shown(tokenizer, chat) == (
        "<|im_start|>user\nWhat is 12*3?<|im_end|>\n<|im_start|>assistant\n36<|im_end|>\n"
        "<|im_start|>user\nAnd 2*2?<|im_end|>\n<|im_start|>assistant\n⟦4<|im_end|>⟧\n"
    )


def test_every_turn_learns_its_own_thinking_once(tokenizer: Tokenizer) -> None:
    messages = [
        QUESTION,
        ANSWER,
        {"role": "user", "content": "And 2*2?"},
        {"role": "assistant", "content": "4"},
    ]
    first, second = encode_turns(tokenizer, messages)
    assert first == encode_chat(tokenizer, messages[:2])
    assert second == encode_chat(tokenizer, messages)
    plain = [QUESTION, {"role": "assistant", "content": "36"}, *messages[2:]]
    assert encode_turns(tokenizer, plain) == [encode_chat(tokenizer, plain)]
    mixed = [*plain[:2], {"role": "user", "content": "?"}, ANSWER, {"role": "user", "content": "!"}, plain[1]]
    learnt = [shown(tokenizer, chat).count("⟦") for chat in encode_turns(tokenizer, mixed)]
    assert learnt == [2, 2]  # the middle turn alone, interrupted by the forced result; then the two others


def test_system_messages_lists_of_parts_and_absent_content(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm"},
    ]
    assert shown(tokenizer, encode_chat(tokenizer, messages)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>hm</think><|im_end|>⟧\n"
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "wizard", "content": "x"}], "role 'wizard' is not known"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user", "content": 3}], "neither text nor"),
        ([QUESTION], "no assistant message"),
        ([], "no assistant message"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}],
            "only text",
        ),
    ],
)
def test_messages_that_no_chat_has(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode_chat(tokenizer, messages)


def test_thinking_can_be_opened_or_closed_in_the_prompt(tokenizer: Tokenizer) -> None:
    free = encode_prompt(tokenizer, [QUESTION])
    assert tokenizer.decode(free).endswith("<|im_end|>\n<|im_start|>assistant\n")
    opening, closing = tokenizer.special["<think>"], tokenizer.special["</think>"]
    assert encode_prompt(tokenizer, [QUESTION], think=True) == [*free, opening]
    assert encode_prompt(tokenizer, [QUESTION], think=False) == [*free, opening, closing]


def test_thinking_that_the_template_opens_is_not_opened_twice(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking %}<think>\n{% endif %}"
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    assert ours.decode(encode_prompt(ours, [QUESTION], think=True)) == "What is 12*3?<think>\n"
    assert ours.decode(encode_prompt(ours, [QUESTION])) == "What is 12*3?"


def test_demonstrations_give_one_list_of_ids_for_training_and_serving(tokenizer: Tokenizer) -> None:
    for messages in stories.demonstrations("chat", 60, ("direct", "reasoned", "tool")):
        chat, prompt = encode_chat(tokenizer, messages), encode_prompt(tokenizer, messages[:-1])
        assert chat.token_ids[: len(prompt)] == prompt
        assert not any(chat.loss_mask[: len(prompt)])
        fields = parse_completion(tokenizer, chat.token_ids[len(prompt) : -1])
        assert fields["content"] == messages[-1]["content"]
        assert fields["reasoning_content"] == messages[-1].get("reasoning_content", "")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1).filter(str.strip), st.text())
def test_answers_survive_the_round_trip(tokenizer: Tokenizer, content: str, reasoning: str) -> None:
    messages = [QUESTION, {"role": "assistant", "content": content, "reasoning_content": reasoning}]
    chat, prompt = encode_chat(tokenizer, messages), encode_prompt(tokenizer, [QUESTION])
    assert chat.token_ids[: len(prompt)] == prompt
    fields = parse_completion(tokenizer, chat.token_ids[len(prompt) : -1])
    noncharacters = {chr(c) for c in range(0xFDD0, 0xFDF0)} | {
        chr((p << 16) + c) for p in range(17) for c in (0xFFFE, 0xFFFF)
    }
    if not noncharacters & set(content + reasoning):
        assert fields == {"content": content.strip(), "reasoning_content": reasoning}


def test_completions_are_parsed_from_ids(tokenizer: Tokenizer) -> None:
    def parsed(text: str, **options: bool) -> tuple[str, str]:
        fields = parse_completion(tokenizer, encode_trusted(tokenizer, text), **options)
        return fields["reasoning_content"], fields["content"]

    assert parsed("<think>a<tool>1+1<result>2</result></think> b<|im_end|>") == (
        "a<tool>1+1<result>2</result>",
        "b",
    )
    assert parsed("<think>never ends") == ("never ends", "")
    assert parsed("a</think>b", thinking=True) == ("a", "b")
    assert parsed("never ends", thinking=True) == ("never ends", "")
    assert parsed("just this<|endoftext|>") == ("", "just this")
    assert parsed("") == ("", "")
    spelled = tokenizer.encode("<think>a</think>b")  # ordinary text that looks like thinking
    assert parse_completion(tokenizer, spelled)["content"] == "<think>a</think>b"


def test_completions_where_the_tags_are_text(foreign: Callable[[str], Tokenizer]) -> None:
    ours = foreign("smollm2")
    fields = parse_completion(ours, [*ours.encode("<think>\na\n</think>\n\nb"), ours.eos_id])
    assert fields == {"reasoning_content": "a", "content": "b"}
    assert parse_completion(ours, ours.encode("b"))["content"] == "b"


# -- foreign templates


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_prefixes_of_chats(
    tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer], name: str
) -> None:
    ours = tokenizer if name == "own" else foreign(name)
    messages = [QUESTION, {"role": "assistant", "content": "\n36 "}, {"role": "user", "content": " <x> "}]
    messages.append({"role": "assistant", "content": "no"})
    chat, prompt = encode_chat(ours, messages), encode_prompt(ours, messages[:-1])
    assert chat.token_ids[: len(prompt)] == prompt
    learnt = [index for index, masked in zip(chat.token_ids, chat.loss_mask, strict=True) if masked]
    assert learnt[-1] in ours.stop_ids
    assert "no" in ours.decode(learnt)
    assert "<x>" not in ours.decode(learnt)


EXPECTED = {
    "qwen2.5": "⟦36<|im_end|>⟧\n|⟦no<|im_end|>⟧\n",
    "qwen3": "36<|im_end|>\n|⟦<think>\n\n</think>\n\nno<|im_end|>⟧\n",  # history lacks what was generated
    "smollm2": "⟦36<|im_end|>⟧\n|⟦no<|im_end|>⟧\n",
    "llama3.1": "⟦36<|eot_id|>⟧|⟦no<|eot_id|>⟧",
    "deepseek-v3": "⟦36<｜end▁of▁sentence｜>⟧|⟦no<｜end▁of▁sentence｜>⟧",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_masks_without_a_generation_block(foreign: Callable[[str], Tokenizer], name: str) -> None:
    ours = foreign(name)
    assert not ours.template.has_generation
    first = [QUESTION, {"role": "assistant", "content": "36"}]
    text = shown(
        ours,
        encode_chat(ours, [*first, {"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}]),
    )
    one, two = EXPECTED[name].split("|⟦", 1)
    assert text.endswith("⟦" + two)
    assert one in text


def test_thinking_of_a_foreign_template_is_learnt_in_its_turn(foreign: Callable[[str], Tokenizer]) -> None:
    ours = foreign("qwen3")
    messages = [QUESTION, {"role": "assistant", "content": "36", "reasoning_content": "3*12"}]
    assert shown(ours, encode_chat(ours, messages)).endswith("⟦<think>\n3*12\n</think>\n\n36<|im_end|>⟧\n")
    messages += [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "no", "reasoning_content": "r"},
    ]
    first, second = encode_turns(ours, messages)
    assert "3*12" in shown(ours, first)
    assert "3*12" not in shown(ours, second)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}",  # nothing of a turn
        "{% for m in messages %}{{ loop.revindex }}{{ m.content }}{% endfor %}",  # every prefix differs
        "{% generation %}{% endgeneration %}{% for m in messages %}{{ m.content }}{% endfor %}",
    ],
)
def test_a_mask_of_zeros_names_the_template(tokenizer: Tokenizer, source: str) -> None:
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source, name="models/strange")
    with pytest.raises(GuardError, match=r"models/strange: the loss mask is all zeros"):
        encode_chat(ours, [QUESTION, {"role": "assistant", "content": "36"}])


def test_no_template_and_a_broken_one_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(GuardError, match="models/base: there is no chat template"):
        encode_prompt(Tokenizer(tokenizer.definition, tokenizer.config, None, name="models/base"), [QUESTION])
    with pytest.raises(CheckpointError, match="models/base: the chat template is broken"):
        encode_prompt(
            Tokenizer(tokenizer.definition, tokenizer.config, "{% if", name="models/base"), [QUESTION]
        )


def test_prompts_that_think_ahead_do_not_shift_the_mask(tokenizer: Tokenizer) -> None:
    """A generation prompt that opens the thinking, which the history does not hold (DeepSeek-R1)."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    for content in ("36", "<think>36"):
        chat = encode_chat(ours, [QUESTION, {"role": "assistant", "content": content}])
        assert shown(ours, chat).endswith(f"<|im_start|>assistant\n⟦{content}<|im_end|>⟧\n")


def test_unclosed_results_are_masked_to_the_end(tokenizer: Tokenizer) -> None:
    chat = encode_chat(tokenizer, [QUESTION, {**ANSWER, "reasoning_content": "<tool>1<result>1"}])
    assert shown(tokenizer, chat).endswith("⟦<think><tool>1<result>⟧1</think>36<|im_end|>\n")
