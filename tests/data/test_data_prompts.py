"""Sides by what is asked: stable, the same for the same words, and nothing alike on both."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data import stories
from kweek.data.contamination import contamination
from kweek.data.dedup import REMOVE_AT, jaccard, shingles
from kweek.data.prompts import divide, find_near, is_validation
from kweek.errors import DataError

WORDS = stories.NAMES["he"] + stories.NAMES["she"] + stories.THINGS


def sentence(seed: int, length: int = 24) -> str:
    """A row of words that no other seed has much of."""
    return " ".join(random.Random(seed).choices(WORDS, k=length))


@given(st.text(min_size=1), st.text(alphabet=" \t\n", min_size=1, max_size=3))
def test_case_and_blanks_do_not_move_a_question(question: str, blanks: str) -> None:
    side = is_validation(question, 0.5)
    assert is_validation(f"{blanks}{question}{blanks}", 0.5) == side
    ascii_question = question.encode("ascii", "ignore").decode()
    assert is_validation(ascii_question.upper(), 0.5) == is_validation(ascii_question.lower(), 0.5)


def test_shares_are_met_and_nested() -> None:
    questions = [sentence(i) for i in range(4000)]
    small = {i for i, question in enumerate(questions) if is_validation(question, 0.05)}
    large = {i for i, question in enumerate(questions) if is_validation(question, 0.2)}
    assert small < large
    assert 0.03 < len(small) / 4000 < 0.07
    assert 0.17 < len(large) / 4000 < 0.23


def test_sides_do_not_depend_on_the_other_rows() -> None:
    questions = [sentence(i) for i in range(300)]
    whole, half = divide(questions, 0.2), divide(questions[:150], 0.2)
    assert [i for i in whole.validation if i < 150] == half.validation
    assert sorted(whole.train + whole.validation) == list(range(300))


def test_questions_much_like_those_of_validation_are_taken_out_of_training() -> None:
    questions = [sentence(i) for i in range(300)]
    kept_out = [i for i, question in enumerate(questions) if is_validation(question, 0.2)]
    alike = []
    for i in kept_out[:20]:  # one more word at the end, until that falls on the other side
        tries = (f"{questions[i]} {word}" for word in WORDS)
        alike.append(next(text for text in tries if not is_validation(text, 0.2)))
    parts = divide([*questions, *alike], 0.2)
    assert [near.train for near in parts.near] == list(range(300, 320))
    assert [near.validation for near in parts.near] == kept_out[:20]
    assert not set(range(300, 320)) & set(parts.train)
    for near in parts.near:
        a, b = shingles([alike[near.train - 300], questions[near.validation]])
        assert near.similarity == jaccard(a, b) >= REMOVE_AT


def test_many_questions_in_one_wording_are_all_compared() -> None:
    """Several hundred that share most of their words: none may hide behind the others."""
    common = sentence(1, 60)
    validation = [f"{common} {sentence(i, 3)}" for i in range(200)]
    train = [f"{common} {sentence(i, 3)} then" for i in range(100, 300)]
    assert [near.train for near in find_near(train, validation)] == list(range(200))


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 1 rows falls to validation"):
        divide([next(sentence(i) for i in range(99) if not is_validation(sentence(i)))])
    taken = next(sentence(i) for i in range(999) if is_validation(sentence(i)))
    with pytest.raises(DataError, match="no row is left to train on"):
        divide([taken])
    assert divide(["a", "b"], 0.0).validation == []
    assert find_near(["a"], ["..."]) == []


# -- contamination


def test_items_in_training_are_found_whatever_is_around_them() -> None:
    items = [sentence(i) for i in range(50)]
    texts = [sentence(i) for i in range(1000, 1100)]
    texts[7] = f"Question: {items[3].upper().replace(' ', ', ')}? Answer"
    texts[9] = f"{items[3]}. {items[8]}"
    words = items[20].split()
    texts[11] = " ".join(words[:16])  # two thirds of it
    texts[13] = " ".join(items[21].split()[:10])  # less than half
    found = contamination(texts, items)
    assert (found.num_texts, found.num_items) == (100, 50)
    assert found.texts == [7, 9, 11]
    assert found.items == {3: 1.0, 8: 1.0, 20: 16 / 24}
    assert {(hit.text, hit.item) for hit in found.examples} == {(7, 3), (9, 3), (9, 8), (11, 20)}
    assert found.said() == "3 of 50 evaluation items (6.0%) are in training, in 3 of 100 texts"


def test_short_items_must_be_the_whole_text() -> None:
    found = contamination(
        ["What is 2 plus 2?", "Tell me: what is 2 plus 2", "..."], ["what is 2 plus 2", "", "Hi"]
    )
    assert (found.texts, found.items) == ([0], {0: 1.0})


def test_clean_training_is_clean() -> None:
    found = contamination((sentence(i) for i in range(200)), [sentence(i) for i in range(1000, 1200)])
    assert (found.texts, found.items) == ([], {})
    assert found.said().startswith("0 of 200")


@given(st.lists(st.text(max_size=60), max_size=5), st.lists(st.text(max_size=60), max_size=5))
def test_every_item_of_words_is_found_in_itself(texts: list[str], items: list[str]) -> None:
    found = contamination([*texts, *items], items)
    assert set(found.items) == {
        i for i, item in enumerate(items) if any(c.isalnum() for c in item.casefold())
    }
    assert all(share <= 1.0 for share in found.items.values())
