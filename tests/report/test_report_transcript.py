from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from page_reader import read_page

from kweek.report.transcript import MOST, transcript


def classes(raw: str) -> list[tuple[str, str]]:
    """Class and text of every part of a transcript."""
    return [(" ".join(e.classes), e.text) for e in read_page(transcript(raw)).every() if e.name == "span"]


def test_a_call_stands_apart_from_the_answer() -> None:
    found = classes("<think><tool>12*3<result>36</result></think>36<|im_end|>")
    assert ("sum", "12*3") in found
    assert ("result", "36") in found
    assert found[-1] == ("said", "36")


def test_a_thought_that_was_never_opened_is_one() -> None:
    found = classes("<tool>12*3<result>36</result></think>36")
    assert found[0][0] == "thought" and found[-1] == ("said", "36")
    assert classes("<think>a</think>b</think>c")[-1] == ("said", "b</think>c")


def test_malformed_markup_is_shown_as_text() -> None:
    for raw in (
        "<tool>12*3<result>36",
        "</think>68-16<result>",
        "<think>never ends",
        "<tool><tool>1+1<result>",
    ):
        page = read_page(transcript(raw))
        shown = page.text.replace("calculator: ", "").replace(" gives ", "")
        assert shown == raw.removeprefix("<think>")
        assert {element.name for element in page.every()} <= {"div", "span"}


def test_nothing_said_is_said_so() -> None:
    assert read_page(transcript("")).text == "(nothing)"


def test_a_long_answer_is_cut() -> None:
    shown = read_page(transcript("x" * 100_000)).text
    assert len(shown) == MOST + 1
    assert shown.endswith("…")


PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool>", "<result>", "</result>", "<b>", "&amp;", "1+1", "\n", '"']
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=20))
def test_whatever_a_model_writes_stays_text(pieces: list[str]) -> None:
    page = read_page(transcript("".join(pieces)))
    assert {element.name for element in page.every()} <= {"div", "span"}
