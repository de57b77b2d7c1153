"""Documents are named by their content in normal form."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from kweek.data.document import Document, document_id, normal_form


@given(st.text())
def test_equal_texts_have_equal_names_whatever_their_composition(text: str) -> None:
    assert document_id(text) == document_id(unicodedata.normalize("NFD", text))
    assert normal_form(text) == unicodedata.normalize("NFC", text)


def test_a_name_is_32_hex_digits_and_differs_with_the_text() -> None:
    names = {document_id(text) for text in ("", "a", "A", "a ", "é", "\ud800")}
    assert len(names) == 6
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)


def test_another_text_is_another_document_of_the_same_origin() -> None:
    first = Document.of("one", source="s", origin="o", licence="MIT", metadata={"part": 3})
    second = first.with_text("two")
    assert second.id == document_id("two")
    assert (second.source, second.origin, second.licence, second.metadata) == ("s", "o", "MIT", {"part": 3})
    assert first.with_text("one") is first


def test_bytes_are_those_of_utf8() -> None:
    assert Document.of("aé東", source="s", origin="o").num_bytes == 1 + 2 + 3
