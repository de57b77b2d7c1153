"""What is protected is found, and no compression damages any of it, whatever the text."""

from __future__ import annotations

import itertools
import math

import pytest
from compression_models import Foreseeing, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.system.compression.compressor import Compressor, Settings
from kweek.system.compression.extract import extract
from kweek.system.compression.perplexity import drop
from kweek.system.compression.protected import protect
from kweek.system.compression.segments import segments
from kweek.system.compression.spans import Span, joined, words


def said(text, kind):
    return [text[slice(*span)] for span in protect(text).found[kind]]


def test_numbers_keep_signs_and_units_of_measure_around_them():
    text = "It fell to -4.5 °C on 2016-02-07; plate KA-05-MH 1234 paid $1,200.50 for 3/4 of Unit 7b, twelve times."
    numbers = said(text, "numbers")
    assert numbers == ["-4.5", "2016-02-07", "KA-05-MH", "1234", "$1,200.50", "3/4", "7b", "twelve"]
    whole = [text[slice(*span)] for span in protect(text).whole]
    assert any("plate KA-05-MH 1234 paid" in part for part in whole), "a number comes with what it counts"


def test_names_are_whole_and_openers_are_none():
    text = (
        "The Bank of England met Kawann Short and J. R. Smith in New York. However, they left. Paris slept."
    )
    assert said(text, "names") == ["Bank of England", "Kawann Short", "J. R. Smith", "New York", "Paris"]


def test_identifiers_code_instructions_negations():
    text = (
        "Call `run fast. Now` or os.path.join(a, b) in fooBar_x at https://a.b/c?d=1 of NASA.\n\n"
        "```py\nx = 1\n\ny = 2\n```\n\nDo not guess. Answer in one word. He wasn't there."
    )
    assert said(text, "code") == ["`run fast. Now`", "```py\nx = 1\n\ny = 2\n```"]
    assert {"fooBar_x", "https://a.b/c?d=1", "NASA"} <= set(said(text, "identifiers"))
    assert said(text, "instructions") == ["Do not guess.", "Answer in one word."]
    assert said(text, "negations") == ["not", "wasn't"]


def test_sentences_end_where_people_end_them():
    text = "Dr. Smith paid 3.5 euros, i.e. little. “Why?” he asked. U.S. law is old.\n- one\n- two\nhard\nwrapped line."
    found = [text[slice(*part.span)] for part in segments(text)]
    assert found == [
        "Dr. Smith paid 3.5 euros, i.e. little.", "“Why?” he asked.", "U.S. law is old.", "- one",
        "- two\nhard\nwrapped line.",
    ]  # fmt: skip


_PIECES = """Davis Miller Thomas Bank of the England and whom met in 12 -3.5 1,000 million five km not never snake_case
camelCase a/b KA-05 % it said. left. Why? why, so; 日本語。 12年 ½ O'Neill e.g. St. (2019) “Quote.” NASA … ~~~ ` text
large words"""
_LONGER = ["`in line. Code`", "\n", "\n\n", "- item", "Answer in one word.", "Do not guess.", "    four = 4"]
PIECES = st.sampled_from([*_PIECES.split(), *_LONGER, "```\nx = 5\n\ny\n```"])
TEXTS = st.one_of(
    st.lists(PIECES, max_size=60).map(" ".join), st.lists(PIECES, max_size=30).map("".join), st.text()
)
TOKENIZER = word_tokenizer()


def numbers_in(text):
    found = protect(text, ("numbers",))
    return sorted(text[slice(*span)] for span in found.found["numbers"])


def check(text, found, spans, *, may_leave_out):
    """Every protected span is whole in the result, or with its sentence not at all, and nothing was made up."""
    result = joined(text, spans)
    assert spans == sorted(spans) and all(a.end <= b.start for a, b in itertools.pairwise(spans))
    for span in found.whole:
        holding = [kept for kept in spans if kept.meets(span)]
        assert not holding or holding[0].holds(span), text[slice(*span)]
    for span in found.needed:
        assert any(kept.holds(span) for kept in spans), "instructions stay"
    every = numbers_in(text)
    for number in numbers_in(result):  # none glued together, none cut
        assert number in every
        every.remove(number)
    if may_leave_out:
        sentences = {part.span for part in segments(text)}
        for kept in spans:
            assert any(kept.start == sentence.start for sentence in sentences)
            assert any(kept.end == sentence.end for sentence in sentences)


@given(TEXTS, st.sampled_from(["", "Whom did Davis meet in 12?", "five km", "日本"]), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_extraction_damages_nothing(text, question, budget):
    found = protect(text)
    chosen = extract(text, question, budget, lambda part: len(words(part)), found)
    check(text, found, chosen.spans, may_leave_out=True)


@given(
    TEXTS,
    st.sampled_from(["", "Whom did Davis meet?"]),
    st.integers(0, 60),
    st.floats(0.05, 1),
    st.integers(0, 9),
)
@settings(max_examples=300, deadline=None)
def test_dropping_words_damages_nothing(text, question, budget, share, seed):
    found = protect(text)
    chosen = drop(
        text, question, budget, lambda part: len(words(part)), found, Foreseeing(seed=seed), TOKENIZER, share
    )
    check(text, found, chosen.spans, may_leave_out=False)
    result = joined(text, chosen.spans)
    for name in protect(result, ("names",)).found["names"]:
        for word in words(result, name):  # a name of the result is of words that a name of the text has
            assert result[slice(*word)] in text
    for left, right in itertools.pairwise(found.whole):
        if any(k.holds(left) for k in chosen.spans) and any(k.holds(right) for k in chosen.spans):
            between = Span(left.end, right.start)
            same = [p for p in segments(text) if p.span.holds(left) and p.span.holds(right)]
            if same and text[slice(*between)].strip():
                assert any(k.meets(w) for w in words(text, between) for k in chosen.spans), "they do not meet"


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_segments_hold_every_letter_once(text):
    at = 0
    for part in segments(text):
        assert part.span.start >= at and not text[at : part.span.start].strip()
        said = text[slice(*part.span)]
        assert said == said.rstrip() and (part.code or said == said.lstrip()), "code keeps its indentation"
        at = part.span.end
    assert not text[at:].strip()


@given(TEXTS, st.floats(1.1, 20))
@settings(max_examples=100, deadline=None)
def test_a_report_is_true(text, ratio):
    use = Compressor(Settings(ratio, min_tokens=1))(text, "Whom did Davis meet?")
    assert use.text == joined(text, list(use.kept)) and use.num_tokens_after <= use.num_tokens_before
    assert all(0 <= kept <= there for kept, there in use.protected.values())
    assert use.method is None or (use.num_tokens_after < use.num_tokens_before and not use.reason)
    assert not math.isnan(use.flop) and use.to_dict()["ratio"] == pytest.approx(use.ratio)
