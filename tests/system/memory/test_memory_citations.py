"""Citations: to the letter or not at all."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kweek.system.memory.citations import attribute, check, locate, numbered
from kweek.system.memory.passage import Passage


def passage(text, start=0, source="a.txt"):
    return Passage(
        "d1", source, start, start + len(text.encode()), text, hashlib.sha256(text.encode()).hexdigest(), 1.0
    )


BRIDGE = passage("The bridge was built in 1357.\nIt is made of\nBohemian sandstone – 516 m long.", 100)
TOWER = passage("The tower has 280 steps.", 7, "b.txt")


def test_a_quotation_that_stands_is_kept_with_its_bytes():
    answer = 'It is old: "built in 1357" [1]. Its stone is “Bohemian sandstone – 516 m” [1].'
    found = check(answer, [BRIDGE, TOWER])
    assert found.text == answer and found.refused == () and found.precision == 1
    whole = b" " * 100 + BRIDGE.text.encode()
    for citation in found.citations:
        assert whole[citation.start : citation.end].decode() == citation.quotation
    assert found.citations[0].quotation == "built in 1357" and found.citations[0].source == "a.txt"


def test_line_breaks_are_not_the_authors():
    found = check('"made of Bohemian  sandstone" [1]', [BRIDGE])
    assert found.citations[0].quotation == "made of\nBohemian sandstone"


def test_what_does_not_stand_is_flagged_or_removed():
    cases = {
        '"built in 1367" [1]': "not found",  # a digit
        '"built in 1357" [2]': "not found",  # of another passage
        '"built in 1357" [9]': "not found",  # of none
        '"The bridge was … sandstone" [1]': "not found",  # two pieces in one
        '"built in 1357 280 steps" [1]': "not found",
        '"in" [1]': "not found",  # stands anywhere
        "It was built in 1357 [1]": "unchecked",
        "Who knows [4]": "not found",
    }
    for answer, reason in cases.items():
        found = check(answer, [BRIDGE, TOWER])
        assert found.citations == () and found.precision == 0
        assert reason in found.text and len(found.refused) == 1
        removed = check(answer + ".", [BRIDGE, TOWER], "remove").text
        assert "[" not in removed and '"' not in removed
    mixed = check('"280 steps" [2] and "281 steps" [2].', [BRIDGE, TOWER], "remove")
    assert mixed.text == '"280 steps" [2] and 281 steps.' and mixed.precision == 0.5
    assert check("No marks at all.", [BRIDGE]).precision is None


def test_short_answers_are_attributed_whole_words_only():
    assert attribute("bohemian SANDSTONE.", [TOWER, BRIDGE]).quotation == "Bohemian sandstone"
    assert attribute("280", [BRIDGE, TOWER]).start == 7 + len("The tower has ")
    assert attribute("sand", [BRIDGE, TOWER]) is None and attribute(" . ", [BRIDGE]) is None


@given(st.text(max_size=300), st.text(min_size=1, max_size=200))
def test_any_answer_gets_citations_that_stand(answer, text):
    shown = passage(text.replace("\r", " "), 3)
    for candidate in (answer, f'{answer} "{text}" [1] {answer}', f'"{text[:20]}" [1]'):
        for citation in check(candidate, [shown]).citations:
            raw = b"..." + shown.text.encode()
            assert raw[citation.start : citation.end].decode() == citation.quotation


def test_patterns_in_a_quotation_are_letters():
    assert locate("a.*b (c", passage("x a.*b (c y")) is not None
    assert locate("a.*b", passage("axxxb here")) is None


def test_numbered_passages_name_their_sources():
    assert numbered([TOWER, BRIDGE]).startswith(
        "[1] b.txt\nThe tower has 280 steps.\n\n[2] a.txt\nThe bridge"
    )
