"""Numbers: equal as numbers, whatever they look like; a list of guesses is no number."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.verifiers.numbers import Number, Quantity, last_number, quantity
from kweek.align.verifiers.reading import bare, final_answer
from kweek.align.verifiers.units import unit
from kweek.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value", "unit_"),
    [
        ("12", 12, ""), (" 12 ", 12, ""), ("12.0", 12, ""), ("12.", 12, ""), (".5", Fraction(1, 2), ""),
        ("1,234", 1234, ""), ("1\u202f234", 1234, ""), ("12,345,678.9", Fraction(123456789, 10), ""),
        ("-3/4", Fraction(-3, 4), ""), ("−5", -5, ""), ("1 1/2", Fraction(3, 2), ""),
        ("\\frac{1}{2}", Fraction(1, 2), ""), ("1\\frac{1}{2}", Fraction(3, 2), ""), ("1.2e3", 1200, ""),
        ("1.2 \\times 10^{5}", 120000, ""), ("$12", 12, "$"), ("50 km", 50, "km"), ("12%", 12, "%"),
        ("90^\\circ", 90, "^\\circ"), ("**12**.", 12, ""), ("$12$", 12, ""), ("12\\text{ km}", 12, "km"),
    ],
)  # fmt: skip
def test_ways_to_write_a_number(text, value, unit_):
    assert quantity(text) == Quantity(Fraction(value), unit_)


@pytest.mark.parametrize(
    "text",
    ["", "1,23", "1 234", "12 or 13", "12 13", "--5", "1/0", "1e9999", "٣", "nan", "inf", "0x10", "1_000", "9" * 100,
     "12\x00", "$12 km", "one"],
)  # fmt: skip
def test_what_is_no_number(text):
    assert quantity(text) is None


@given(st.integers(-(10**15), 10**15))
def test_whole_numbers_survive_every_writing(value):
    for text in (str(value), f"{value:,}", f"{value}.00", f"  {value}\n", f"\\frac{{{abs(value)}}}{{1}}"):
        expected = abs(value) if "frac" in text else value
        assert quantity(text) == Quantity(Fraction(expected), "")
        assert Number()(text, str(expected)).value == 1.0
        assert Number()(text, str(expected + 1)).value == 0.0


@given(st.text(max_size=60), st.sampled_from(["whole", "boxed", "marked", "last"]))
def test_any_text_is_judged(text, reading):
    score = Number(reading)(text, "12")
    assert score.error is None and score.value in (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("50%", "0.5", 1.0), ("0.5", "50%", 0.0), ("50", "50%", 1.0), ("1500 m", "1.5 km", 1.0), ("1.5", "1.5 km", 1.0),
        ("1500", "1.5 km", 0.0), ("90 minutes", "1.5 hours", 1.0), ("12 kg", "12 km", 0.0), ("$12", "12 dollars", 1.0),
        ("12 km", "12", 0.0),
    ],
)  # fmt: skip
def test_units_convert_or_count_as_wrong(answer, gold, value):
    assert Number()(answer, gold).value == value


def test_a_unit_may_be_required():
    assert Number(unit_required=True)("1.5", "1.5 km").value == 0.0
    assert Number(unit_required=True)("1.5 km", "1.5 km").value == 1.0
    assert unit("apples") is None


def test_tolerances_are_exact_at_their_ends():
    assert (
        Number(absolute=0.5)("12.5", "12").value == 1.0 and Number(absolute=0.5)("12.51", "12").value == 0.0
    )
    assert Number(relative=0.25)("15", "12").value == 1.0 and Number(relative=0.25)("15.1", "12").value == 0.0
    assert Number()("0.333", "1/3").value == 0.0
    with pytest.raises(ConfigError, match="tolerances"):
        Number(absolute=float("nan"))


def test_a_gold_that_is_no_number_is_an_error_and_never_right():
    for gold in ("", "abc", "12 apples", "1/0"):
        score = Number()(gold, gold)
        assert score.value == 0.0 and score.error is not None


@pytest.mark.parametrize(
    ("reading", "text", "found"),
    [
        ("whole", " 12 ", "12"), ("whole", "", None), ("boxed", "so \\boxed{12}.", "12"), ("boxed", "12", None),
        ("boxed", "\\boxed{\\frac{1}{2}} no, \\boxed{3}", "3"), ("boxed", "\\boxed{1", None),
        ("marked", "It is 5+7=12.\n#### 12", "12"), ("marked", "The answer is **12**.", "12"),
        ("marked", "Answer: 12\nthank you", "12"), ("marked", "12", None),
        ("marked", "The answer is 13. No, the answer is 12.", "12"),
    ],
)  # fmt: skip
def test_readings_give_one_answer(reading, text, found):
    assert final_answer(text, reading) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [("a 12, b 13", 13), ("it is 12.5.", Fraction(25, 2)), ("12km", 12), ("3-4", 4), ("x12", None), ("v1.2.3", None),
     ("$1,234 in all", 1234), ("none", None)],
)  # fmt: skip
def test_the_last_number_of_a_text(text, value):
    found = last_number(text)
    assert (None if found is None else found.value) == value


@given(st.text(alphabet="*$`. \\()12", max_size=30))
def test_what_is_bare_stays_so(text):
    assert bare(bare(text)) == bare(text)
