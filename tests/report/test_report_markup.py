from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st
from page_reader import read_page

from kweek.report.markup import UNFIT, Markup, join, tag, text


def test_builds_nested_elements() -> None:
    built = tag("p", "1 < 2 ", tag("b", "always"), class_="note")
    assert built == '<p class="note">1 &lt; 2 <b>always</b></p>'


def test_attribute_names_and_kinds() -> None:
    built = tag(
        "td", class_=["a", "b"], aria_label="x", tabindex=0, hidden=True, title=None, dir=False, x=1.5
    )
    assert built == '<td class="a b" aria-label="x" tabindex="0" hidden x="1.5"></td>'


def test_an_element_may_have_the_attribute_name() -> None:
    assert tag("meta", name="viewport") == '<meta name="viewport">'


def test_children_of_all_kinds() -> None:
    assert tag("p", None, 3, ["a", [Markup("<br>")]]) == "<p>3a<br></p>"
    assert join("<", Markup("<br>")) == "&lt;<br>"


def test_what_html_cannot_hold_is_replaced() -> None:
    assert text("a\x00b\x1bc\ud800d\x9fe\tf\n") == "a\ufffdb\ufffdc\ufffdd\ufffde\tf\n"


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
)
def test_any_text_comes_back_as_it_was(content: str, attribute: str) -> None:
    page = read_page(tag("p", content, title=f"x{attribute}"))
    (element,) = page.all("p")
    assert [child.name for child in page.every()] == ["p"]
    assert element.text == content.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    assert element.attributes["title"] == f"x{attribute}".replace("\ufffe", "\ufffd").replace(
        "\uffff", "\ufffd"
    )


@given(st.text(st.characters()))
def test_any_text_can_be_written_to_a_file(content: str) -> None:
    assert html.unescape(text(content).encode("utf-8").decode("utf-8")) == UNFIT.sub("\ufffd", content)
