"""The calculator: exact on what it knows, "?" on everything else, blind to where the call was opened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data import stories
from kweek.system.calculator import UNREADABLE, Calculator, calculate
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_trusted


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("calculator", 200, "train"), 384)


@given(st.integers(-999_999, 999_999), st.sampled_from("+-*"), st.integers(-999_999, 999_999))
def test_sums_are_exact(left, sign, right):
    expected = {"+": left + right, "-": left - right, "*": left * right}[sign]
    assert calculate(f"{left}{sign}{right}") == str(expected)


@pytest.mark.parametrize(
    "text", ["", "1", "1+", "2**9", "1/0", "1+2+3", "__import__('os')", "1234567+1", "a+b", "1\n+1x"]
)
def test_anything_else_is_a_question_mark(text):
    assert calculate(text) == "?"


@given(st.text(max_size=40))
def test_any_text_gives_a_number_or_says_it_is_unreadable(text):
    answer = calculate(text)
    assert answer == UNREADABLE or str(int(answer)) == answer


def test_it_answers_only_a_call_just_closed(tokenizer):
    tool = Calculator(tokenizer)
    ids = encode_trusted(tokenizer, "Sam has 3. <think><tool>12*3<result>")
    assert tool(ids[:-1]) == []
    assert tool(ids) == encode_trusted(tokenizer, "36</result>")
    assert tool([]) == []


def test_a_result_without_a_call_is_unreadable(tokenizer):
    tool = Calculator(tokenizer)
    assert tool(encode_trusted(tokenizer, "12*3<result>")) == encode_trusted(tokenizer, "?</result>")
    twice = encode_trusted(tokenizer, "<tool>1+1<result>2</result><result>")
    assert tool(twice) == encode_trusted(tokenizer, "?</result>")
