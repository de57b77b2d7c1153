"""Web pages give up their prose, and no page takes longer than its length deserves."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data.markup import html_text

PAGE = """<!DOCTYPE html><html><head><title>Bees &amp; wasps</title>
<style>p { color: red }</style><script>if (a < b) { document.write("<p>no</p>") }</script></head>
<body><nav><a href="/">Home</a></nav><h1>Bees</h1>
<p>A   bee
makes <b>honey</b>&nbsp;and wax.<br>It dances.</p><!-- a <p>comment</p> -->
<ul><li>worker</li><li>drone</li></ul>
<pre>x = 1
    y = 2</pre>
<p title="a > b" data-x='{"c": ">"}'>5 < 6 &#233;&eacute; 東京</p></body></html>"""


def test_prose_remains_and_the_rest_goes() -> None:
    text = html_text(PAGE)
    assert text.startswith("Bees & wasps\n\nBees\n\nA bee makes honey and wax.\nIt dances.")
    assert "worker\ndrone" in text
    assert "x = 1\n    y = 2" in text
    assert text.endswith("5 < 6 éé 東京")
    for gone in ("color", "write", "Home", "comment", "<", "title="):
        assert gone not in text.replace("5 < 6", "")


@given(st.text(alphabet=st.sampled_from("<>/!-\"'= abpre&;\n[]?"), max_size=300))
def test_any_text_is_a_page(page: str) -> None:
    assert len(html_text(page)) <= len(page) + 2  # a page never says more than was there


@given(st.text(alphabet=st.characters(blacklist_characters="<&\x1f", blacklist_categories=("Cs",))))
def test_a_page_without_markup_keeps_every_word(page: str) -> None:
    assert html_text(page).split() == page.split()


@pytest.mark.parametrize(
    "piece",
    ["<a ", "<a a='", "<!--", "</", "<script>", "<svg></svg", '<a b=">', "<a b='c>", "<", "=\"'>", "&"],
)
def test_malformed_pages_take_linear_time(piece: str) -> None:
    begin = time.process_time()
    html_text(piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 5.0  # the standard library's parser takes hours for the first
