"""Words of texts and of questions: names both ways, scripts without spaces, stop words; chunks that tile."""

import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.system.memory.analysis import MAX_WORDS, STOP_WORDS, asked, indexed
from kweek.system.memory.chunks import CHUNK_BYTES, LEAST_BYTES, spans
from kweek.system.memory.store import TOKENIZER
from kweek.system.memory.terms import Terms


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("max_new_tokens", {"maxnewtokens"}),
        ("maxNewTokens", {"max", "New", "Tokens"}),
        ("parse_HTTPResponse", {"parse", "HTTP", "Response", "parseHTTPResponse"}),
        ("plain words, 3.14 and ALLCAPS", set()),
        ("_private __all__", set()),
        ("東京都に", {"東京", "京都", "都に"}),
    ],
)
def test_names_get_their_other_forms(text, forms):
    added = set(indexed(text)[len(text) :].split())
    assert added == forms and indexed(text).startswith(text)


@pytest.mark.parametrize("spelling", ["max_new_tokens", "maxNewTokens", "MaxNewTokens", "max new tokens"])
def test_a_name_is_found_under_every_spelling(spelling):
    terms = Terms()
    for text in ("max_new_tokens", "maxNewTokens"):
        assert set(terms(asked(spelling))) & terms.of(indexed(text))
        assert set(terms(asked(spelling))) >= set(terms(["max", "new", "tokens"]))


def test_questions_lose_stop_words_but_not_everything():
    assert asked("What is the width of a track?") == ["width", "track"]
    assert asked("to be or not to be") == ["to", "be", "or", "not"]
    assert asked("Does IT belong to the WHO?") == ["it", "belong", "who"]
    assert asked("") == [] and asked("?!") == []
    assert len(asked(" ".join(f"w{n}" for n in range(1000)))) == MAX_WORDS
    assert all(word == word.lower() for word in STOP_WORDS)


def test_terms_are_those_that_sqlite_indexes():
    rows = sqlite3.connect(":memory:")
    rows.execute(f"create virtual table t using fts5 (x, tokenize='{TOKENIZER}')")
    words = ["Running", "café", "ponies", "foo-bar", "İstanbul", "东京", "x" * 300]
    rows.execute("insert into t values (?)", (" ".join(words),))
    rows.execute("create virtual table v using fts5vocab (t, row)")
    expected = {term for (term,) in rows.execute("select term from v")}
    terms = Terms()
    assert set(terms(words)) == expected == terms.of(" ".join(words))
    assert terms(["ponies", "pony", "ponies"]) == ["poni"]


def test_long_words_take_linear_time():
    began = time.perf_counter()
    for text in ("a" * 300_000, "a_" * 150_000, "_" * 300_000, "aB" * 150_000, "A" * 300_000):
        indexed(text)
        asked(text)
    assert time.perf_counter() - began < 20  # quadratic, it would take hours


@given(
    st.text(alphabet=st.sampled_from("ab .\n#é中!\f\t\r"), max_size=4000),
    st.booleans(),
    st.sampled_from([40, 300, 1000]),
)
def test_chunks_tile_the_text_and_cut_no_character(text, headings, size):
    encoded = text.encode()
    found = list(spans(encoded, headings=headings, size=size))
    assert b"".join(encoded[start:end] for start, end in found) == encoded
    assert all(start < end for start, end in found)
    assert all(end - start <= size + LEAST_BYTES for start, end in found)
    for start, end in found:
        encoded[start:end].decode()


def test_chunks_end_where_a_reader_would():
    paragraphs = [f"Paragraph {n}. " + "Some words follow. " * 20 for n in range(6)]
    text = "\n\n".join(paragraphs).encode()
    pieces = [text[start:end] for start, end in spans(text)]
    assert all(piece.endswith(b"\n\n") for piece in pieces[:-1])
    sections = f"# One\n{'a b c. ' * 60}\n# Two\n{'d e f. ' * 60}\n# Three\nshort\n".encode()
    starts = [sections[start : start + 5] for start, _ in spans(sections, headings=True)]
    assert starts == [b"# One", b"# Two", b"# Thr"]
    assert [sections[start : start + 5] for start, _ in spans(sections)][1:] != [b"# Two", b"# Thr"]
    assert CHUNK_BYTES > 3 * LEAST_BYTES
