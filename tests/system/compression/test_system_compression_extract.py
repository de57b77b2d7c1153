"""Extraction finds what a question is about, keeps it to the letter, and stays within its budget."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.model.config import ModelConfig
from kweek.system.compression.compressor import Compressor, Settings
from kweek.system.compression.relevance import by_words, terms
from kweek.system.compression.report import reading
from kweek.system.compression.spans import Span, joined, merged, words

ARTICLE = "\n\n".join(
    [
        "The harbour of Karlskrona was begun in 1680. Its docks were cut from rock by 200 workers. Ships of the line "
        "were built there until 1820.",
        "The museum of the town holds maps, models and flags. It opens at ten. Children pay nothing.",
        "A railway came in 1874 from Växjö. The station burnt down twice. Trains now run every hour to Malmö.",
        "The football club plays in blue. It was founded by a teacher. Its ground seats 2,400 people.",
    ]
)


def test_the_answer_survives_four_times_fewer_tokens():
    compressor = Compressor(Settings(4, min_tokens=20))
    for question, answer in (
        ("When did the railway reach the town?", "1874"),
        ("Who founded the football club?", "founded by a teacher"),
        ("How many people worked on the docks?", "200 workers"),
    ):
        use = compressor(ARTICLE, question)
        assert answer in use.text and use.ratio >= 4 and use.method == "extract"
        assert all(use.text.count(ARTICLE[slice(*span)]) for span in use.kept)
        kept, there = use.protected["numbers"]
        assert there >= 7 and 0 < kept < there
        assert use.flop > 0 and use.seconds > 0


def test_instructions_stay_and_may_prevent_the_ratio():
    text = ARTICLE + "\n\nAnswer in one word. Do not guess."
    use = Compressor(Settings(12, min_tokens=20))(text, "Who founded the football club?")
    assert "Answer in one word." in use.text and "Do not guess." in use.text
    only = (
        "Answer in one word. Do not guess. Return the answer as JSON. Write at most three words. " * 3
    ).strip()
    use = Compressor(Settings(4, min_tokens=20))(only, "What?")
    assert use.method is None and use.text == only and "protected" in use.reason


def test_short_texts_and_impossible_targets_are_left_alone_and_say_why():
    compressor = Compressor(Settings(4))
    assert "fewer than 200 tokens" in compressor(ARTICLE[:80], "What?").reason
    use = compressor(ARTICLE * 3, "What?", beside=2000)
    assert use.method is None and "rest of the prompt" in use.reason and use.ratio == 1


def test_what_a_reader_saves_gives_the_break_even_length():
    config = ModelConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
    )
    use = Compressor(Settings(4, min_tokens=20), reader=reading(config))(ARTICLE, "Who founded the club?")
    assert use.break_even_tokens == 1, "counting words costs next to nothing"


def test_terms_find_identifiers_endings_and_scripts_without_blanks():
    assert set(terms("snake case")) < set(terms("snake_case"))
    assert set(terms("HTTPServer 2")) >= {"http", "server", "2"}
    assert set(terms("founded founding")) == set(terms("founds")) == {"found"}
    assert "the" not in terms("the house")
    assert set(terms("日本語")) == {"日本", "本語"}
    scores = by_words("日本の料理", ["日本料理です", "フランスの車"])
    assert scores.values[0] > scores.values[1]
    assert by_words("", ["a", "b"]).values == [0.0, 0.0] and by_words("x", []).values == []


def test_blanks_stand_for_what_is_left_out():
    text = "one two\nthree\n\nfour"
    assert joined(text, [Span(0, 3), Span(8, 13)]) == "one\nthree"
    assert joined(text, [Span(0, 3), Span(15, 19)]) == "one\n\nfour"
    assert joined("a b c", [Span(0, 1), Span(4, 5)]) == "a c"
    assert joined("在1990年5月", [Span(1, 5), Span(6, 7)]) == "1990 5", "numbers are not glued together"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: Span(*pair))))
def test_merged_spans_are_the_same_characters(spans):
    result = merged(spans)
    assert {n for span in spans for n in range(*span)} == {n for span in result for n in range(*span)}
    assert all(a.end < b.start for a, b in itertools.pairwise(result))


@pytest.mark.parametrize("text", ["", " \n", "word", "a  b", "日本。語"])
def test_words_leave_out_blanks_only(text):
    spans = words(text)
    assert "".join(text[slice(*span)] for span in spans) == "".join(text.split())
