"""Texts, expressions, choices and quotations: what is meant counts, and saying everything earns nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.verifiers.choice import Choice
from kweek.align.verifiers.citation import Citation, quotations
from kweek.align.verifiers.regex import Regex
from kweek.align.verifiers.text import Text, normalised
from kweek.errors import ConfigError

OPTIONS = ("red", "dark red", "blue", "green")


def test_text_forgives_what_is_no_meaning():
    assert Text()("The  “Blue” whale!", "blue Whale").value == 1.0
    assert Text()("blue whales", "blue whale").value == 0.0
    assert Text()("-5", "5").value == 0.0 and Text()("1.5", "15").value == 0.0
    assert Text(normalise=False)("Blue", "blue").value == 0.0
    assert Text(normalise=False)(" blue ", "blue").value == 1.0


def test_one_of_several_texts():
    verifier = Text(many=True)
    golds = json.dumps(["Den Haag", "The Hague"])
    assert verifier("the hague", golds).value == 1.0 and verifier("Den Haag, The Hague", golds).value == 0.0
    assert verifier("x", "no list").error is not None and verifier("", "[]").error is not None


def test_a_gold_of_which_nothing_is_left_is_an_error():
    for gold in ("", "the", "…"):
        assert Text()("", gold).error is not None and Text()(gold, gold).value == 0.0


@given(st.text(max_size=50))
def test_normalising_twice_changes_nothing(text):
    assert normalised(normalised(text)) == normalised(text)


def test_expressions_hold_for_the_whole_answer():
    assert Regex()("2024-11-21", r"\d{4}-\d{2}-\d{2}").value == 1.0
    assert Regex()("on 2024-11-21", r"\d{4}-\d{2}-\d{2}").value == 0.0
    assert Regex()("a\nb", "a").value == 0.0 and Regex()("", ".*").value == 1.0
    assert Regex()("12", "(").error is not None and not Regex()("\ud800", ".").parsed


def test_an_expression_that_python_never_finishes_takes_no_time():
    assert Regex()("a" * 1_900 + "!", "(a+)+").value == 0.0


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("B", "B"), ("(b)", "B"), ("B.", "B"), ("B) dark red", "B"), ("The answer is (B)", "B"), ("Answer: B", "B"),
        ("\\boxed{B}", "B"), ("\\boxed{\\text{B}}", "B"), ("**B**", "B"), ("dark red", "B"), ("It is dark red.", "B"),
        ("red", "A"), ("The answer is B. A is wrong.", "B"), ("\\boxed{B} since A is wrong", "B"),
        ("The answer is B or C", None), ("A B C D", None), ("A, B, C", None), ("(A) no\n(B) yes", None),
        ("red or blue", None), ("A dog is B", None), ("", None), ("E", None), ("B" * 3000, None),
    ],
)  # fmt: skip
def test_choices(answer, named):
    verifier = Choice(OPTIONS)
    for letter in "ABCD":
        score = verifier(answer, letter)
        assert score.value == float(letter == named) and score.error is None
    assert verifier(answer, "A").parsed == (named is not None)


def test_a_gold_choice_may_be_a_text_and_must_be_an_option():
    assert Choice(OPTIONS)("B", "dark red").value == 1.0
    assert Choice(num_options=4)("E", "E").error is not None
    for options in (("red", "Red"), ("red", ""), tuple(map(str, range(30)))):
        with pytest.raises(ConfigError):
            Choice(options)


DOCUMENTS = {"a": "The sea is as blue as the sky above it. Fish live in it.", "b": "Whales are no fish."}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('It is "as blue as the sky" [a].', 1.0),
        ('"as blue as the sky" [a:11-29]', 1.0),
        ('"as blue as the sky" [a:12-30]', 0.0),  # another place
        ('"as blue as the sky" [b]', 0.0),  # another document
        ('"as blue as the sea sky" [a]', 0.0),  # not verbatim
        ('"Fish live in it" [a]', 0.0),  # verbatim, but no answer
        ('"as blue as the sky" [a] and "Whales are fish" [b]', 0.0),  # one of two is invented
        ("as blue as the sky", 0.0),
        ('"blue" [a]', 0.0),  # too short to say where it is from
    ],
)
def test_quotations_stand_where_the_answer_says(answer, value):
    score = Citation(DOCUMENTS)(answer, "blue")
    assert score.value == value and score.error is None


def test_quoting_everything_earns_nothing():
    long = {"a": "word " * 100 + "blue " + "word " * 100}
    score = Citation(long)(f'"{long["a"]}" [a]', "blue")
    assert score.value == 0.0 and score.parts["holds gold"] == 1.0
    assert Citation(DOCUMENTS)("x", "purple").error is not None
    assert quotations('"a" [1]' * 2) and quotations("x" * 30_000) == []
