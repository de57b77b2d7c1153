"""Mathematics: equal is what is equal, nothing is run that was read, and no answer takes long."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.verifiers.expression import parse
from kweek.align.verifiers.expression_words import Unreadable
from kweek.align.verifiers.mathematics import Mathematics

pytest.importorskip("sympy", reason="the extra `verifiers` has it")

VERIFIER = Mathematics(seconds=60.0)  # a busy machine must not make a wrong answer of a right one


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", "1/2"), ("\\frac12", "0.5"), ("x(x+1)", "x^2+x"), ("2<x", "x>2"), ("x=5", "5"), ("5", "x=5"),
        ("1\\pm\\sqrt2", "1+\\sqrt{2}, 1-\\sqrt2"), ("\\sin^2 x+\\cos^2 x", "1"), ("(1,2)", "(1, 2)"),
        ("\\{2,1\\}", "1,2"), ("y=2x+1", "2x-y+1=0"), ("90^\\circ", "90"), ("\\sqrt{8}", "2\\sqrt{2}"),
        ("e^{i\\pi}", "-1"), ("\\log_2 8", "3"), ("(-\\infty,1)\\cup(2,\\infty)", "(2,\\infty)\\cup(-\\infty,1)"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix}1&4/2\\\\3&4\\end{bmatrix}"),
        ("3\\frac12", "7/2"), ("\\ln(x^2)", "2\\ln x"), ("5!", "120"), ("2^{100}", "1267650600228229401496703205376"),
        ("x \\in [0,1)", "[0,1)"), ("1 or 2", "2, 1"), ("5\\text{ cm}", "5"), ("50\\%", "0.5"),
        ("\\binom{5}{2}", "10"), ("|x|", "\\sqrt{x^2}"), ("\\infty", "\\infty"), ("x_1+x_2", "x_{2}+x_{1}"),
    ],
)  # fmt: skip
def test_equal(answer, gold):
    assert VERIFIER(answer, gold).value == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.333", "1/3"), ("x+1", "x"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("x>2", "x<2"), ("x", "\\sqrt{x^2}"),
        ("1,2,3", "1,2"), ("1.41421356", "\\sqrt2"), ("\\infty", "5"), ("2x=4", "3x=5"), ("x=2", "x=3"),
        ("\\{1\\}", "\\{1,1\\}"), ("x^2=4", "x=2"), ("x=2, y=1", "x=1, y=2"), ("3\\frac12", "3/2"),
    ],
)  # fmt: skip
def test_different(answer, gold):
    score = VERIFIER(answer, gold)
    assert score.value == 0.0 and score.parsed and score.error is None


@pytest.mark.parametrize(
    "answer",
    ["9^9^9^9", "(10^{999})!", "((((9!)!)!)!)!", "1/0", "0^{-1}", "\\log_1 5", "10^{10^{10}}", "x^{99999}", "((", "1 2",
     "a" * 400, "!" * 400, "1+" * 240 + "1", "(" * 200, "x<y<z", "1±1±1±1±1±1", "the answer", "__import__('os')", ""],
)  # fmt: skip
def test_what_is_no_answer_is_said_to_be_none_at_once(answer):
    VERIFIER("x", "y")  # the worker is there
    started = time.process_time()
    score = VERIFIER(answer, "6")
    assert score.value == 0.0 and not score.parsed and score.error is None
    assert time.process_time() - started < 1.0


def test_a_gold_that_cannot_be_read_is_an_error_and_never_right():
    for gold in ("", "hello there", "1/0", "9^9^9^9", "(("):
        score = VERIFIER(gold, gold)
        assert score.value == 0.0 and score.error is not None


def test_it_works_outside_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(VERIFIER("x(x+1)", "x^2+x")))
    thread.start()
    thread.join()
    assert found[0].value == 1.0


def test_a_comparison_that_takes_too_long_is_an_error():
    score = Mathematics(seconds=1e-6)("x^2", "x \\cdot x")
    assert score.value == 0.0 and "took over" in score.error


@given(st.text(alphabet="0123456789x+-*/^(){}[]\\,=<>|!%.πe _&", max_size=40))
def test_any_text_has_a_tree_or_is_unreadable(text):
    try:
        tree = parse(text)
    except Unreadable:
        return
    assert isinstance(tree, list) and tree


EXPRESSIONS = st.recursive(
    st.one_of(st.integers(0, 99).map(str), st.sampled_from("xyz")),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


@given(EXPRESSIONS, st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_trees_mean_what_python_says(text, x, y, z):
    def value(tree):
        kind, *parts = tree
        if kind == "number":
            return int(parts[0])
        if kind == "symbol":
            return {"x": x, "y": y, "z": z}[parts[0]]
        values = [value(part) for part in parts]
        return {
            "add": lambda: values[0] + values[1],
            "minus": lambda: -values[0],
            "multiply": lambda: values[0] * values[1],
        }[kind]()

    assert value(parse(text)) == eval(text, {"x": x, "y": y, "z": z})
