"""Masks: every allowed token can be finished, every other cannot; ends of text stand exactly where a text may end."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.engine.constraints.automaton import Automaton, build
from kweek.engine.constraints.guidance import GuidanceGrammar, regex_grammar
from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.own import AutomatonGrammar
from kweek.engine.constraints.pattern import rust_regex, trie
from kweek.engine.constraints.syntax import parse_regex
from kweek.engine.constraints.vocabulary import Vocabulary

LIMITS = Limits()
WORDS = ["ab", "abc", "ba", "aa", "é", "日本", "1a", "  ", "a-", '"a', "caba"]


def vocabulary(words=WORDS, missing=()):
    pieces = [bytes([b]) for b in range(256) if b not in missing] + [w.encode() for w in words]
    pieces += [b"ab", b""]  # a second token of the same bytes, and an id that nothing stands for
    ends, control = [len(pieces), len(pieces) + 2], [len(pieces) + 1]
    return Vocabulary([*pieces, b"</s>", b"<|x|>", b"<end>"], ends, control)


VOCABULARY = vocabulary()
END, CONTROL, OTHER_END = len(VOCABULARY) - 3, len(VOCABULARY) - 2, len(VOCABULARY) - 1


def grammars(expression, voc=VOCABULARY):
    pattern = parse_regex(expression, LIMITS)
    return (
        AutomatonGrammar(voc, build(pattern, voc.units, LIMITS)),
        GuidanceGrammar(voc, regex_grammar(rust_regex(pattern))),
    )


EXPRESSIONS = [
    r"[ab]{1,4}", r"(ab|abc)+", "é(日本|日)?", r"\d{1,3}(\.\d+)?", r"(a|b)*abb", r"x?", r"[^a]{2}a", r"(1a)*-",
    r"(aa|b){2,}", r".*caba", r'"(a|b)*"', r"[é-ÿ]{0,2}", "yes|no|yes sir",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_both_providers_allow_the_same_tokens_all_along_random_texts(expression, seed):
    own, other = (grammar.start() for grammar in grammars(expression))
    random, data = np.random.default_rng(seed), b""
    for _ in range(30):
        mask, theirs = own.allowed(), other.allowed()
        assert np.flatnonzero(mask ^ theirs).tolist() == []
        assert mask.any() and not mask[CONTROL] and not mask[CONTROL - 2]  # neither control nor empty
        may_end = re.fullmatch(expression, data.decode("utf-8", "replace"), re.ASCII) is not None
        assert mask[END] == mask[OTHER_END] == may_end
        token = int(random.choice(np.flatnonzero(mask)))
        own.advance(token)
        other.advance(token)
        if token in (END, OTHER_END):
            break
        data += VOCABULARY.tokens[token]
    else:
        return
    assert re.fullmatch(expression, data.decode(), re.ASCII)


@pytest.mark.parametrize("index", [0, 1])
def test_a_complete_text_allows_only_its_end_and_goes_on_allowing_it(index):
    constraint = grammars("ab")[index].start()
    constraint.advance(VOCABULARY.tokens.index(b"ab"))
    for _ in range(3):
        assert set(np.flatnonzero(constraint.allowed())) == {END, OTHER_END}
        constraint.advance(END)
    with pytest.raises(GrammarError):
        constraint.advance(VOCABULARY.tokens.index(b"a"))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("token", [ord("z"), END, CONTROL, CONTROL - 2, -1, 10**6])
def test_a_token_that_is_not_allowed_is_refused_and_changes_nothing(index, token):
    constraint = grammars("ab+")[index].start()
    before = constraint.allowed().copy()
    with pytest.raises(GrammarError, match="not allowed"):
        constraint.advance(token)
    assert (constraint.allowed() == before).all()


def test_constraints_of_one_grammar_do_not_touch_each_other():
    for grammar in grammars("(ab){2}|ba"):
        first, second = grammar.start(), grammar.start()
        first.advance(ord("b"))
        assert second.allowed()[VOCABULARY.tokens.index(b"ab")]
        assert not first.allowed()[VOCABULARY.tokens.index(b"ab")]


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from([*EXPRESSIONS, ".*", "(ab)*a{0,9}b", "é*日本"]),
    seed=st.integers(0, 2**32),
    most=st.integers(1, 12),
)
def test_a_text_with_a_limit_is_complete_within_it(expression, seed, most):
    grammar = grammars(expression)[0]
    needed = int(grammar.automaton.cost_S[0]) + 1
    if most < needed:
        with pytest.raises(GrammarError, match=f"{needed} are"):
            grammar.start(most)
        return
    constraint, free, random, data = grammar.start(most), grammar.start(), np.random.default_rng(seed), b""
    for _ in range(most):
        mask = constraint.allowed()
        assert mask.any() and not (mask & ~free.allowed()).any()
        token = int(random.choice(np.flatnonzero(mask)))
        constraint.advance(token)
        if token in (END, OTHER_END):
            assert re.fullmatch(expression, data.decode(), re.ASCII)
            return
        free.advance(token)
        data += VOCABULARY.tokens[token]
    pytest.fail("the limit was passed")


def test_a_wide_limit_changes_nothing_and_llguidance_knows_none():
    own, other = grammars("[ab]{1,4}")
    assert (own.start(100).allowed() == own.start().allowed()).all()
    with pytest.raises(GrammarError, match="how far"):
        other.start(100)


def test_missing_bytes_never_lead_into_a_dead_end():
    """A vocabulary without "c" alone: a text may pass through it inside a token only."""
    voc = vocabulary(words=["abc", "xc"], missing={ord("c")})
    assert b"abc" in voc.units and b"xc" in voc.units and b"ab" not in voc.units
    constraint = AutomatonGrammar(
        voc, build(parse_regex("ab?(c|d)|xc|qc", LIMITS), voc.units, LIMITS)
    ).start()
    allowed = {voc.tokens[i] for i in np.flatnonzero(constraint.allowed())}
    assert allowed == {b"a", b"ab", b"abc", b"xc"}  # not "x": "c" could not follow; not "q" at all


def test_ids_beyond_the_tokenizer_are_never_allowed_and_vocabularies_are_checked():
    with pytest.raises(GrammarError, match="no token ends"):
        Vocabulary([b"a"], [])
    with pytest.raises(GrammarError, match="not among"):
        Vocabulary([b"a"], [1])
    voc = Vocabulary([b"a", b"</s>", b"", b""], [1])
    constraint = AutomatonGrammar(voc, build(parse_regex("a*", LIMITS), voc.units, LIMITS)).start()
    assert constraint.allowed().tolist() == [True, True, False, False]


def test_masks_are_kept_and_may_not_be_written(monkeypatch):
    grammar = grammars("[ab]*")[0]
    constraint = grammar.start()
    assert constraint.allowed() is grammar.start().allowed()
    with pytest.raises(ValueError, match="read-only"):
        constraint.allowed()[0] = True
    monkeypatch.setattr("kweek.engine.constraints.own._CACHE_BYTES", 0)
    for token in (97, 98, 97):
        constraint.advance(token)
        assert constraint.allowed()[97]
    assert len(grammar._masks) <= 1


def test_a_packed_automaton_is_the_same_and_a_broken_one_is_refused():
    automaton = build(trie([b"yes", b"no"]), VOCABULARY.units, LIMITS)
    head, blobs = automaton.pack()
    again = Automaton.unpack({"shape": list(head["shape"]), "controls": []}, blobs)
    assert (again.table_SC == automaton.table_SC).all() and (again.cost_S == automaton.cost_S).all()
    wild = automaton.table_SC.copy()
    wild[0, 0] = 10**6
    with pytest.raises(GrammarError, match="do not fit"):
        Automaton.unpack(head, [wild.tobytes(), *blobs[1:]])
    with pytest.raises(GrammarError, match="do not fit"):
        Automaton.unpack(head, [*blobs[:2], blobs[2][:-1], blobs[3]])
