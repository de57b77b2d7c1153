"""In a chat only context is compressed; what is asked, told and answered stays to the letter. The loss is measured."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import ConfigError, DataError, GuardError
from kweek.protocols import Score
from kweek.system.compression.chat import LEFT_OUT, asked, compress_chat, contexts
from kweek.system.compression.compressor import Compressor, Settings
from kweek.system.compression.fidelity import Example, Fidelity, least_examples, measure, with_fidelity

CONTEXT = "\n\n".join(
    f"The town of {name} has a harbour. It was founded in {year} by a fisherman. Its market opens on Fridays. Ships "
    f"call there from many lands, and people like to walk along the water."
    for name, year in (("Arvika", 1811), ("Borgholm", 1816), ("Ceder", 1712), ("Dals", 1602), ("Eslov", 1911))
)
QUESTION = "When was Ceder founded?"
COMPRESSOR = Compressor(Settings(4, min_tokens=20))


def user(*texts):
    content = texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]
    return {"role": "user", "content": content}


def same(answer, gold):
    return Score(float(answer == gold), True)


@pytest.mark.parametrize(
    "messages",
    [
        [user(f"{CONTEXT}\n\n{QUESTION}")],
        [user(f"Answer in one word.\n\n{CONTEXT}\n\n{QUESTION}")],
        [user(CONTEXT, QUESTION)],
        [user(CONTEXT), {"role": "assistant", "content": "Thanks."}, user(QUESTION)],
        [user(QUESTION), {"role": "tool", "tool_call_id": "1", "content": CONTEXT}],
        [user(QUESTION + "\n\n" + CONTEXT)],
    ],
)
def test_context_is_found_wherever_it_stands(messages):
    messages = [{"role": "system", "content": "You are brief. Never shout."}, *messages]
    before = json.dumps(messages)
    assert QUESTION in asked(messages)
    chat = compress_chat(COMPRESSOR, messages)
    after = json.dumps(chat.messages)
    assert chat.context.method == "extract" and chat.ratio >= 3.9
    assert "1712" in after and QUESTION in after and "Never shout." in after and "1911" not in after
    assert ("Answer in one word." in before) == ("Answer in one word." in after)
    assert json.dumps(messages) == before, "the client's own chat is not touched"


def test_several_results_share_the_budget_by_what_they_are_worth():
    parts = CONTEXT.split("\n\n")
    messages = [user(QUESTION), *({"role": "tool", "content": part} for part in parts)]
    chat = compress_chat(COMPRESSOR, messages)
    left = [message["content"] for message in chat.messages[1:]]
    assert "1712" in left[2] and left.count(LEFT_OUT) >= 1
    for text, part in zip(left, parts, strict=True):
        assert text == LEFT_OUT or all(sentence.rstrip(".") in part for sentence in text.split(". "))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": CONTEXT}],
        [user(CONTEXT.replace("\n\n", " "))],
        [user(QUESTION)],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        [{"role": "user", "content": 5}],
    ],
)
def test_a_chat_without_question_or_context_stays_as_it_is(messages):
    chat = compress_chat(COMPRESSOR, messages)
    assert chat.messages == messages and chat.context.method is None and chat.context.reason


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "tool", "system", "assistant"]), st.text(max_size=300)), max_size=6
    )
)
def test_no_chat_loses_a_message_or_what_is_not_context(pairs):
    messages = [{"role": role, "content": text} for role, text in pairs]
    chat = compress_chat(Compressor(Settings(3, min_tokens=1)), messages)
    assert len(chat.messages) == len(messages)
    touched = {place.message for place in contexts(messages)}
    for number, (old, new) in enumerate(zip(messages, chat.messages, strict=True)):
        assert old["role"] == new["role"] and (number in touched or old == new)


def examples(count):
    texts = [CONTEXT.replace("Ceder", f"Ceder{n}").replace("1712", str(1300 + n)) for n in range(count)]
    return [
        Example([user(f"{text}\n\nWhen was Ceder{n} founded?")], str(1300 + n))
        for n, text in enumerate(texts)
    ]


def finds(chats):
    """Answers with the year after the name that is asked for, when it is there."""
    answers = []
    for messages in chats:
        text, _, question = messages[-1]["content"].rpartition("\n\n")
        name = question.split()[2]
        after = text.partition(name)[2]
        answers.append(after.partition("founded in ")[2][:4] or "unknown")
    return answers


def test_fidelity_is_measured_reported_and_kept():
    fidelity = measure(COMPRESSOR, finds, same, examples(100))
    assert fidelity.n == fidelity.compressed == 100 and fidelity.ratio >= 3.9
    assert fidelity.accuracy_before.mid == fidelity.accuracy_after.mid == 1 and fidelity.agreement.mid == 1
    fidelity.require(COMPRESSOR, 0.03)
    assert fidelity.protected["numbers"][0] < fidelity.protected["numbers"][1] and fidelity.flop > 0
    data = json.loads(json.dumps(fidelity.to_dict()))
    assert Fidelity.from_dict(data) == fidelity
    use = compress_chat(COMPRESSOR, examples(1)[0].messages).context
    told = with_fidelity(use, fidelity)
    assert told["fidelity"]["agreement"][0] == 1 and told["ratio"] > 3 and told["break_even_tokens"] is None
    with pytest.raises(DataError, match="no measurement"):
        Fidelity.from_dict({"n": 3})


def test_a_loss_is_refused_and_so_are_too_few_examples_and_other_settings():
    def forgets(chats):
        return [
            answer if len(chat[-1]["content"]) > 500 else "unknown"
            for chat, answer in zip(chats, finds(chats), strict=True)
        ]

    lossy = measure(COMPRESSOR, forgets, same, examples(100))
    assert lossy.change.difference == -1 and lossy.agreement.mid == 0
    with pytest.raises(GuardError, match=r"changes accuracy by -100\.0 points"):
        lossy.require(COMPRESSOR)
    few = measure(COMPRESSOR, finds, same, examples(30))
    with pytest.raises(GuardError, match="Give at least 91 examples"):
        few.require(COMPRESSOR, 0.03)
    few.require(COMPRESSOR, 0.2)
    with pytest.raises(GuardError, match="not those that were measured"):
        few.require(Compressor(Settings(5)), 0.2)
    with pytest.raises(DataError):
        measure(COMPRESSOR, finds, same, examples(1))


def test_the_least_number_of_examples_is_the_least():
    enough = least_examples(0.05)
    for n, expected in ((enough, True), (enough - 1, False)):
        found = measure(COMPRESSOR, finds, same, examples(n))
        assert (found.change.lo >= -0.05) == expected
    with pytest.raises(ConfigError):
        least_examples(0.0)
