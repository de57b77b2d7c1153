"""Regular expressions: the language of the automaton is that of Python's `re`, and what is not regular is refused."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.engine.constraints.automaton import NEVER, build
from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.pattern import num_positions
from kweek.engine.constraints.syntax import parse_regex
from kweek.engine.constraints.utf8 import byte_sequences

LIMITS = Limits()
BYTES = [bytes([byte]) for byte in range(256)]


def accepts(automaton, data: bytes) -> bool:
    return bool(automaton.accepting_S[automaton.step(0, data)])


atoms = st.sampled_from(
    ["a", "b", "é", "日", "\\d", "\\w", "\\s", "[ab]", "[^a]", "[a-cé-ÿ]", ".", "\\.", "\\x41", "[\\d-]"]
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}"])).map(
            lambda two: f"({two[0]}){two[1]}"
        ),
    ),
    max_leaves=8,
)
texts = st.text("abcé日A1.- \nÿ𝄞", max_size=6)


@settings(max_examples=300, deadline=None)
@given(expressions, st.lists(texts, min_size=1, max_size=12))
def test_the_language_is_that_of_re(expression, candidates):
    try:
        automaton = build(parse_regex(expression, LIMITS), BYTES, LIMITS)
    except GrammarError as error:
        assert "nothing satisfies" in str(error)
        return
    for text in candidates:
        assert accepts(automaton, text.encode()) == bool(re.fullmatch(expression, text, re.ASCII)), text


@settings(max_examples=200, deadline=None)
@given(expressions, texts)
def test_a_search_finds_what_re_search_finds(expression, text):
    for anchored in (expression, f"^{expression}", f"{expression}$", f"^{expression}$"):
        automaton = build(parse_regex(anchored, LIMITS, search=True), BYTES, LIMITS)
        # "$" also matches before a last newline in Python; in JSON Schema's ECMA 262 it does not.
        wanted = re.search(re.sub(r"\$\Z", r"\\Z", anchored), text, re.ASCII)
        assert accepts(automaton, text.encode()) == bool(wanted), anchored


@settings(max_examples=300)
@given(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF))
def test_byte_sequences_cover_exactly_the_range(low, high, point):
    low, high = min(low, high), max(low, high)
    if (low <= 0xDFFF and high >= 0xD800) or 0xD800 <= point <= 0xDFFF:
        return
    data = chr(point).encode()
    hits = [
        sequence
        for sequence in byte_sequences(((low, high),))
        if len(sequence) == len(data)
        and all(first <= byte <= last for byte, (first, last) in zip(data, sequence, strict=True))
    ]
    assert len(hits) == (low <= point <= high)


REFUSED = {
    "(?=a)b": "look-ahead", "(?!a)b": "look-ahead", "(?<=a)b": "look-behind", "(?<!a)b": "look-behind",
    r"(a)\1": "backreference", r"(?P<x>a)(?P=x)": "backreference", r"\bword\b": "word boundar", "(?i)a": "flags",
    "(?>a)": "atomic", "a++": "possessive", r"\p{L}": "properties", "a{3}{4}": "repeat of a repeat", "a**": "repeat of",
    "(a": "not closed", "a)": "unbalanced", "[a": "not closed", "*a": "nothing to repeat", "a\\": "backslash",
    "a{3,1}": "at least 3", "[b-a]": "in order", r"\ud800": "not a character", r"\x{110000}": "not a character",
    "a^b": "anchor", "(?#x)": "comments", "(?(1)a)": "conditions", r"\q": "unknown escape", "[[:alpha:]]": "operations",
    "(*FAIL)": "verbs", "a{99999999999999999999999999}": "digits",
}  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_what_is_not_supported_is_refused_with_its_name(expression):
    with pytest.raises(GrammarError, match=REFUSED[expression]):
        parse_regex(expression, LIMITS)


def test_braces_that_count_nothing_are_text():
    automaton = build(parse_regex(r"{x}a{,3}", LIMITS), BYTES, LIMITS)
    assert accepts(automaton, b"{x}a{,3}")


def test_size_and_depth_are_bounded_before_anything_is_built():
    with pytest.raises(GrammarError, match="1,001,001 characters"):
        parse_regex("(a{1000}){1000}", LIMITS)
    with pytest.raises(GrammarError, match="deeper than 64"):
        parse_regex("(" * 65 + "a" + ")" * 65, LIMITS)
    with pytest.raises(GrammarError, match="more than 262,144"):
        parse_regex("a" * 262_145, LIMITS)
    with pytest.raises(GrammarError, match="surrogate"):
        parse_regex("\ud800", LIMITS)
    with pytest.raises(GrammarError, match="over 500 states"):
        build(parse_regex("(a|b)*a(a|b){20}", LIMITS), BYTES, Limits(states=500))
    with pytest.raises(GrammarError, match="too long"):
        build(parse_regex("(a|b)*a(a|b){20}", LIMITS), BYTES, Limits(seconds=0.001))
    assert num_positions(parse_regex("(ab){3,5}", LIMITS)) <= 5 * 4


def test_impossible_expressions_say_so():
    with pytest.raises(GrammarError, match="nothing satisfies"):
        build(parse_regex(r"a[^\x{0}-\x{10FFFF}]", LIMITS), BYTES, LIMITS)
    with pytest.raises(GrammarError, match="no tokens"):
        build(parse_regex("abc", LIMITS), [b"a", b"b"], LIMITS)


def test_states_that_the_vocabulary_cannot_leave_are_dead():
    automaton = build(parse_regex("ab|ac|xyz", LIMITS), [b"a", b"b", b"xy", b"x", b"z"], LIMITS)
    live = [
        bool(automaton.cost_S[automaton.step(0, data)] < NEVER) for data in (b"a", b"ac", b"xy", b"x", b"xyz")
    ]
    # After "ac" the text ends, but no token writes the "c"; an end is an end whatever led to it.
    assert live == [True, True, True, False, True]
    assert automaton.cost_S[automaton.num_states] == NEVER
    assert automaton.table_SC.dtype == np.int32
