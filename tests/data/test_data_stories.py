"""Stories: right by construction, split by content, unseen wording really unseen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data import stories


@given(st.text(max_size=8), st.integers(0, 10**6))
def test_steps_lead_to_the_answer(key, index):
    item = stories.problem(key, index)
    value = item.steps[0].left
    for step in item.steps:
        assert step.left == value
        value = {"+": step.left + step.right, "-": step.left - step.right, "*": step.left * step.right}[
            step.sign
        ]
        assert step.value == value
        assert 0 <= value <= stories.MAX_VALUE
    assert item.answer == str(value)
    assert str(item.steps[0].left) in item.question


def test_neighbouring_keys_share_nothing():
    first = {stories.problem("seed 42", i).question for i in range(300)}
    second = {stories.problem("seed 43", i).question for i in range(300)}
    assert len(first & second) <= 1


def test_splits_are_disjoint_and_about_a_sixteenth():
    found = {
        split: {p.question for p in stories.problems("s", 200, split)}
        for split in ("train", "validation", "test")
    }
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    drawn = [stories.problem("share", i).split for i in range(4000)]
    assert 0.045 < drawn.count("test") / 4000 < 0.08


def test_pretraining_texts_hold_no_held_out_question():
    for text in stories.sample_texts("leak", 500, "train"):
        question = text.split("\n")[0]
        if question.endswith("?"):
            item = stories.Problem(question, (), "")
            assert item.split == "train"


def _pattern(form):
    return re.compile(
        "".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w\})", form))
    )


def test_unseen_wording_never_occurs_in_training():
    forms = [_pattern(form) for group in stories.UNSEEN.values() for form in group]
    texts = "\n".join(stories.sample_texts("unseen", 2000, "train"))
    assert not [form.pattern for form in forms if form.search(texts)]
    for item in stories.problems("u", 50, "test", wording="unseen"):
        assert any(form.search(item.question) for form in forms)


@pytest.mark.parametrize("style", ["direct", "reasoned", "tool"])
def test_demonstrations_end_in_the_answer(style):
    item = stories.problem("d", 3)
    user, assistant = stories.as_chat(item, style)
    assert user["content"] == item.question
    assert assistant["content"] == item.answer
    assert (style == "direct") == ("reasoning_content" not in assistant)


def test_demonstrations_hold_small_talk_and_sums():
    chats = stories.demonstrations("mix", 400, ("tool",))
    questions = [chat[0]["content"] for chat in chats]
    talk = {question for question, _ in stories.SMALL_TALK}
    assert len(chats) == 400
    assert sum(question in talk for question in questions) == 20
    assert any(re.search(r"\d[-+*]\d", question) for question in questions)
