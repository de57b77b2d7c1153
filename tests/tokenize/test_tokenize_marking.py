"""Masks on the templates of real families: several turns, tools, thinking; every turn learnt once, as it is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.errors import DataError, GuardError
from kweek.tokenize.chat import Chat, encode_chat, encode_prompt, encode_turns
from kweek.tokenize.masks import check_masks, check_prompts
from kweek.tokenize.tokenizer import Tokenizer

Make = Callable[[str], Tokenizer]

FOREIGN = ["qwen2.5", "qwen3", "llama3.1", "llama3.2", "smollm2", "deepseek-v3", "mistral-nemo"]
TEMPLATED = ["gemma3", "phi3", "qwen3.5"]
SHOW_CALLS = ["qwen2.5", "qwen3", "llama3.2", "mistral-nemo", "qwen3.5"]
SHOW_REASONING = ["own", "qwen3", "qwen3.5"]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look up.",
            "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
        },
    }
]


def says(role: str, content: str | None, **rest: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **rest}


def call(word: str, number: int, **rest: Any) -> list[dict[str, Any]]:
    """A call of the tool and its answer."""
    name = f"abcdefgh{number}"
    function = {"name": "look", "arguments": {"q": word}}
    calls = [{"id": name, "type": "function", "function": function}]
    return [
        says("assistant", "", tool_calls=calls, **rest),
        says("tool", f"{word} is found", tool_call_id=name, name="look"),
    ]


SEVERAL = [
    says("user", "What is 12*3?"),
    says("assistant", "thirty-six"),
    says("user", "And 2*2?"),
    says("assistant", "four"),
    says("user", "Sure?"),
    says("assistant", "yes"),
]
WITH_TOOLS = [
    says("system", "Be brief."),
    says("user", "Look up alpha"),
    *call("alpha", 1),
    says("assistant", "There."),
    says("user", "and beta?"),
    *call("beta", 2),
    says("assistant", "Here."),
]
THINKING = [
    says("user", "What is 12*3?"),
    says("assistant", "36", reasoning_content="because of ten"),
    says("user", "And?"),
    says("assistant", "40", reasoning_content="because of four"),
]


@pytest.fixture(scope="session")
def family(tokenizer: Tokenizer, foreign: Make, templated: Make) -> Make:
    def build(name: str) -> Tokenizer:
        if name == "own":
            return tokenizer
        return templated(name) if name in (*TEMPLATED, "glm4moe", "deepseekv3") else foreign(name)

    return build


def learnt(tokenizer: Tokenizer, chats: list[Chat]) -> dict[int, str]:
    """The text in the loss of every message; a message learnt twice would be there twice."""
    texts: dict[int, str] = {}
    for chat in chats:
        for index, turn in zip(chat.token_ids, chat.turns, strict=True):
            if turn >= 0:
                texts[turn] = texts.get(turn, "") + tokenizer.decode([index])
    return texts


def stop(tokenizer: Tokenizer, text: str) -> str:
    """A text without the token that ends it, which it must have."""
    end = next(end for end in tokenizer.stop_texts if text.endswith(end))
    return text.removesuffix(end)


@pytest.mark.parametrize("name", ["own", *FOREIGN, *TEMPLATED])
def test_every_turn_is_learnt_once_with_its_end(family: Make, name: str) -> None:
    ours = family(name)
    texts = learnt(ours, encode_turns(ours, SEVERAL))
    assert set(texts) == {1, 3, 5}
    for turn, text in texts.items():
        content = SEVERAL[turn]["content"]
        assert stop(ours, text).endswith(content)
        assert text.count(content) == 1
        assert "2*2" not in text


@pytest.mark.parametrize("name", SHOW_CALLS)
def test_calls_are_learnt_and_results_are_not(family: Make, name: str) -> None:
    ours = family(name)
    texts = learnt(ours, encode_turns(ours, WITH_TOOLS, tools=TOOLS))
    assert set(texts) == {2, 4, 6, 8}
    assert "look" in texts[2]
    assert "alpha" in texts[2]
    assert "beta" in texts[6]
    assert stop(ours, texts[8]).endswith("Here.")
    assert not any("found" in text or "Look up" in text or "Be brief" in text for text in texts.values())


@pytest.mark.parametrize("name", SHOW_REASONING)
def test_reasoning_is_learnt_in_its_turn(family: Make, name: str) -> None:
    ours = family(name)
    chats = encode_turns(ours, THINKING)
    assert len(chats) == 2
    texts = learnt(ours, chats)
    assert "because of ten" in texts[1]
    assert "because of four" in texts[3]
    assert "because of ten" not in ours.decode(chats[1].token_ids)


@pytest.mark.parametrize("name", ["own", *FOREIGN, *TEMPLATED])
def test_turns_are_learnt_behind_the_prompt_that_is_served(family: Make, name: str) -> None:
    ours = family(name)
    assert check_prompts(ours, SEVERAL) == 3
    if name in SHOW_CALLS:
        assert check_prompts(ours, WITH_TOOLS, tools=TOOLS) == 4
    if name in SHOW_REASONING:
        assert check_prompts(ours, THINKING) == 2


@pytest.mark.parametrize(
    ("name", "count"), [("own", 1), ("qwen2.5", 1), ("llama3.2", 1), ("phi3", 1), ("mistral-nemo", 4)]
)
def test_only_what_the_template_rewrites_is_learnt_apart(family: Make, name: str, count: int) -> None:
    """Mistral's shows tools and system message at the last question, so that every turn has a prompt of its own."""
    ours = family(name)
    chats = encode_turns(ours, WITH_TOOLS if count == 4 else SEVERAL, tools=TOOLS if count == 4 else ())
    assert len(chats) == count


def test_a_system_message_that_moves_is_where_it_is_served(family: Make) -> None:
    ours = family("mistral-nemo")
    (chat,) = encode_turns(ours, [says("system", "Be brief."), *SEVERAL[:2]])
    assert ours.decode(chat.token_ids) == "<s>[INST]Be brief.\n\nWhat is 12*3?[/INST]thirty-six</s>"
    with pytest.raises(GuardError, match="all zeros"):  # the whole chat, rendered at once, has lost it
        encode_chat(ours, [says("system", "Be brief."), *SEVERAL[:2]])


@pytest.mark.parametrize(
    ("name", "messages", "missing"),
    [
        ("smollm2", WITH_TOOLS[1:5], "calls of tools"),
        ("smollm2", THINKING, "reasoning"),
        (
            "llama3.2",
            [SEVERAL[0], {**call("x", 1)[0], "content": "I look."}],
            "call of a tool beside content",
        ),
        ("qwen2.5", [says("developer", "Be brief."), *SEVERAL], "developer message"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(
    family: Make, name: str, messages: list[dict[str, Any]], missing: str
) -> None:
    with pytest.raises(DataError, match=f"shows no {missing}"):
        encode_turns(family(name), messages)
    encode_prompt(family(name), messages[:-1])  # an answer is served without it all the same


def test_tools_that_a_template_would_leave_out_are_refused(family: Make) -> None:
    with pytest.raises(DataError, match="shows no descriptions of tools"):
        encode_turns(family("smollm2"), SEVERAL, tools=TOOLS)


def test_arguments_are_given_as_each_template_wants_them(family: Make) -> None:
    messages = [SEVERAL[0], *call('a "b"', 1), says("assistant", "ok")]
    for name, spelled in (
        ("qwen3", '{"q": "a \\"b\\""}'),  # objects
        ("llama3.2", '{"q": "a \\"b\\""}'),
        ("deepseekv3", '{"q": "a \\"b\\""}'),  # JSON text
    ):
        assert spelled in learnt(family(name), encode_turns(family(name), messages))[1]


def test_one_generation_block_per_part_of_a_turn(tokenizer: Tokenizer) -> None:
    """Parts are told apart by whose text is in them, however many a turn has."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% if m.reasoning_content and not loop.last %}{{ m.content }}<|im_end|>"
        "{% else %}{% if m.reasoning_content %}{% generation %}<think>{{ m.reasoning_content }}</think>"
        "{% endgeneration %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% generation %}<|im_end|>{% endgeneration %}{% endif %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    texts = learnt(ours, encode_turns(ours, [*THINKING, *SEVERAL[:2]]))
    assert texts == {
        1: "<think>because of ten</think>36<|im_end|>",
        3: "<think>because of four</think>40<|im_end|>",
        5: "thirty-six<|im_end|>",
    }


def test_a_generation_block_that_drops_reasoning_is_not_taken_for_the_turn(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    chats = encode_turns(ours, THINKING)
    assert learnt(ours, chats)[1] == "<think>because of ten</think>36<|im_end|>"
    assert len(chats) == 2


def test_a_template_that_always_opens_the_next_turn_is_learnt_to_the_end_of_this_one(
    tokenizer: Tokenizer,
) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n' }}"
    )
    ours = Tokenizer(tokenizer.definition, tokenizer.config, source)
    assert learnt(ours, encode_turns(ours, SEVERAL)) == {
        turn: f"{SEVERAL[turn]['content']}<|im_end|>" for turn in (1, 3, 5)
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.text(), st.text(min_size=1)), min_size=1, max_size=4),
)
def test_any_chat_is_learnt_turn_by_turn(tokenizer: Tokenizer, turns: list[tuple[str, str, str]]) -> None:
    messages: list[dict[str, Any]] = []
    for question, reasoning, answer in turns:
        messages += [says("user", question), says("assistant", answer, reasoning_content=reasoning)]
    chats = encode_turns(tokenizer, messages)
    owned = [turn for chat in chats for turn in dict.fromkeys(chat.turns) if turn >= 0]
    assert sorted(owned) == list(range(1, len(messages), 2))
    assert check_prompts(tokenizer, messages) == len(turns)
    check_masks(tokenizer, chats)


# -- the audit


def test_the_audit_says_where_the_loss_lies(tokenizer: Tokenizer) -> None:
    chats = encode_turns(tokenizer, SEVERAL)
    audit = check_masks(tokenizer, chats)
    assert (audit.num_chats, audit.num_turns) == (1, 3)
    assert audit.num_learnt == sum(chats[0].loss_mask)
    assert audit.share == audit.num_learnt / len(chats[0].token_ids)
    assert audit.last == (("<|im_end|>", 3),)
    assert sum(count for _, count in audit.first) == 3


def test_the_audit_refuses_none_all_and_nearly_all(tokenizer: Tokenizer) -> None:
    end = tokenizer.special["<|im_end|>"]
    with pytest.raises(GuardError, match="chat 2: no token is in the loss"):
        check_masks(tokenizer, [Chat([5, end], [-1, 1]), Chat([5, end], [-1, -1])])
    with pytest.raises(GuardError, match="chat 1: every token is in the loss"):
        check_masks(tokenizer, [Chat([5, end], [1, 1])])
    long = Chat([5] * 200 + [end], [-1] + [1] * 200)
    with pytest.raises(GuardError, match=r"99\.5% of all tokens"):
        check_masks(tokenizer, [long])
    assert check_masks(tokenizer, [long, Chat([5] * 9 + [end], [-1] * 9 + [1])]).share > 0.9
    with pytest.raises(GuardError, match="no chats"):
        check_masks(tokenizer, [])


def test_the_audit_refuses_turns_without_an_end(family: Make) -> None:
    ours = family("glm4moe")  # the next turn's opening ends an answer there
    with pytest.raises(GuardError, match=r"the last token learnt of message 1 is .* ends no answer"):
        check_masks(ours, encode_turns(ours, SEVERAL))


def test_a_prompt_that_is_served_otherwise_is_refused(family: Make) -> None:
    ours = family("deepseekv3")  # opens the thinking, which the chat does not have
    with pytest.raises(GuardError, match=r"would be learnt behind .* and asked for behind .*<think>"):
        check_prompts(ours, SEVERAL)
