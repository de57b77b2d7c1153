"""A chat that outgrows its context: what leaves it, and that this is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import ConfigError, KweekError
from kweek.system.memory.memory import Memory
from kweek.system.memory.overflow import fit


def count(messages):
    """Words, and two for the template of every message."""
    return sum(2 + len(str(message["content"]).split()) for message in messages)


def chat(*turns, system="You help."):
    messages = [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": "And what about the ferry?"}]


LONG = chat(
    *[(f"Question {n} about buses", f"Answer {n}: " + "the bus goes there often " * 3) for n in range(6)],
    ("When does the ferry go?", "The ferry goes at ten past eleven from pier seven."),
    *[(f"Question {n} about trams", f"Answer {n}: " + "the tram goes there seldom " * 3) for n in range(6)],
)


def test_what_fits_is_left_alone():
    found = fit(LONG, 10_000, count)
    assert (
        found.messages == tuple(LONG)
        and found.left_out == 0
        and found.notice == ""
        and found.num_tokens == count(LONG)
    )


def test_truncating_keeps_system_and_last_and_says_so():
    found = fit(LONG, 120, count)
    assert found.num_tokens <= 120 and found.left_out > 0
    assert found.messages[0]["content"] == "You help." and found.messages[-1] == LONG[-1]
    assert found.messages[1] == {"role": "system", "content": found.notice}
    assert f"The {found.left_out} oldest messages were left out" in found.notice
    assert found.messages[2]["role"] == "user"  # no answer without its question
    assert len(found.messages) - 2 + found.left_out == len(LONG) - 1
    assert list(found.messages[2:]) == LONG[len(LONG) - len(found.messages) + 2 :]


def test_tool_results_leave_with_their_calls():
    messages = [
        {"role": "user", "content": "a " * 30},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "b " * 30},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert [m["role"] for m in fit(messages, 50, count).messages] == ["system", "user"]


def test_a_summary_takes_the_place():
    asked = []

    def summarise(text, most):
        asked.append((text, most))
        return "They spoke of buses. " * 40

    found = fit(LONG, 160, count, "summarise", summarise=summarise)
    assert found.num_tokens <= 160 and "were replaced by a summary" in found.notice
    assert "They spoke of buses." in found.messages[1]["content"] and found.messages[1]["content"].endswith(
        "[…]"
    )
    assert "Question 0 about buses" in asked[0][0] and 0 < asked[0][1] <= 40


def test_memory_brings_back_what_bears_on_the_question(tmp_path):
    with Memory(tmp_path / "m.db") as memory:
        found = fit(LONG, 200, count, "memory", memory=memory, chat="chat 12")
        assert found.num_tokens <= 200 and "were moved to memory" in found.notice
        assert "pier seven" in found.messages[1]["content"] and "chat 12" in found.messages[1]["content"]
        assert len(found.documents) == sum(m["role"] == "user" for m in LONG) - sum(
            m["role"] == "user" for m in found.messages
        )
        assert "Question 0 about buses" in memory.text(found.documents[0])


def test_what_cannot_be_done_is_said(tmp_path):
    with pytest.raises(KweekError, match=r"take 1,0\d\d tokens where 100 fit"):
        fit([{"role": "user", "content": "x"}, {"role": "user", "content": "y " * 1000}], 100, count)
    with pytest.raises(ConfigError, match="needs a model"):
        fit(LONG, 100, count, "summarise")
    with pytest.raises(ConfigError, match="needs a memory"):
        fit(LONG, 100, count, "memory")


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "tool", "system"]), st.integers(0, 60)),
        min_size=1,
        max_size=30,
    ),
    st.integers(30, 400),
)
def test_it_fits_or_says_that_it_cannot(shape, room):
    messages = [{"role": role, "content": "w " * size} for role, size in shape]
    try:
        found = fit(messages, room, count)
    except KweekError:
        return
    assert found.num_tokens == count(found.messages) <= room
    systems = [m for m in messages if m["role"] == "system"]
    assert all(m in found.messages for m in systems)
    assert (found.left_out > 0) == (len(found.messages) != len(messages) or bool(found.notice))
