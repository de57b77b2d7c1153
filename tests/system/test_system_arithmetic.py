"""Written expressions: exact, bounded, and nothing but arithmetic."""

import ast
import contextlib
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data import stories
from kweek.system.arithmetic import Unreadable, evaluate, written
from kweek.system.inline_calculator import InlineCalculator, pieces
from kweek.tokenize import bpe

NUMBERS = st.integers(0, 10_000).map(str) | st.decimals(0, 1000, places=2).map(str)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=6,
)


def by_python(text):
    """The same with Python's own grammar, every number an exact fraction."""

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(text, node))
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        left, right = value(node.left), value(node.right)
        kind = type(node.op)
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}.get(
            kind, left / right if kind is ast.Div and right else None
        )

    return value(ast.parse(text, mode="eval").body)


def no_leading_zeros(text):
    return not re.search(r"(?<![\d.])0\d", text)


@given(EXPRESSIONS.filter(lambda text: len(text) <= 120).filter(no_leading_zeros))
def test_values_are_those_of_python_with_fractions(text):
    try:
        wanted = by_python(text)
    except (ZeroDivisionError, TypeError):
        wanted = None
    if wanted is None:
        with pytest.raises(Unreadable):
            evaluate(text)
    else:
        assert evaluate(text) == wanted


@given(st.text(max_size=60))
def test_any_text_has_a_value_or_is_unreadable(text):
    with contextlib.suppress(Unreadable):
        assert isinstance(evaluate(text), Fraction)


@pytest.mark.parametrize(
    "text", ["", "1+", "2**9", "1/0", "1/(2-2)", "x", "__import__('os')", "(1", "1)", "1" * 121]
)
def test_what_is_no_expression_is_unreadable(text):
    with pytest.raises(Unreadable):
        evaluate(text)


def test_a_thousand_brackets_are_too_long_and_not_too_deep():
    with pytest.raises(Unreadable):
        evaluate("(" * 1000)
    assert evaluate("(" * 59 + "1" + ")" * 59) == 1


@given(st.fractions(-(10**9), 10**9))
def test_a_written_value_is_near_and_has_no_zeros_to_spare(value):
    text = written(value)
    assert abs(Fraction(text) - value) <= Fraction(1, 2 * 10**6)
    assert "." not in text or not text.endswith(("0", "."))
    assert text != "-0"


def test_a_result_of_too_many_digits_is_refused():
    with pytest.raises(Unreadable):
        written(evaluate("999999999999999*10"))


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train([*stories.sample_texts("inline", 100, "train"), "<<1+2=3>> <<(4/5)=0.8>>" * 20], 416)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("They sold <<48/2=", "24>>"),
        ("a <<1/3=", "0.333333>>"),
        ("<<12+30=42>>42 and <<2 * 3=", "6>>"),
        ("<<what=", "?>>"),
        ("<<1/0=", "?>>"),
        ("48/2=", ""),
        ("<<1+1=2>>2=", ""),
        ("<<" + "1+" * 80 + "1=", ""),  # longer than any call
    ],
)
def test_a_call_in_the_text_is_answered(tokenizer, text, answer):
    tool = InlineCalculator(tokenizer)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(tool(ids)) == answer
    assert ids[-1] in tool.trigger_ids


def test_parts_of_a_solution_join_to_it_and_results_are_the_calculators():
    text = "First <<2+3=5>>5.\nThen <<5*2=10>>10.\n#### 10"
    parts = pieces(text)
    assert "".join(part for part, _ in parts) == text
    assert [part for part, own in parts if not own] == ["5>>", "10>>"]
    assert pieces("no call = here") == [("no call = here", True)] and pieces("") == []
