from __future__ import annotations

from pathlib import Path

import pytest
from page_reader import read_page

from kweek.report import glossary

DOCS = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_document_is_made_of_the_entries() -> None:
    assert DOCS.read_text(encoding="utf-8") == glossary.as_markdown()


def test_keys_are_unique_over_themes() -> None:
    assert len(glossary.TERMS) == sum(len(entries) for entries in glossary.THEMES.values())


def test_an_unknown_term_is_an_error() -> None:
    with pytest.raises(KeyError):
        glossary.term("no_such_term")


def test_every_term_leads_to_its_entry(full_page: str) -> None:
    page = read_page(full_page)
    links = [link.attributes["href"] for link in page.all("a") if "term" in link.classes]
    entries = {
        f"#{e.attributes['id']}" for e in page.every() if e.attributes.get("id", "").startswith("term-")
    }
    assert links
    assert set(links) <= entries
    assert len(entries) == len(glossary.TERMS)


def test_every_entry_is_used(full_page: str) -> None:
    page = read_page(full_page)
    used = {link.attributes["href"] for link in page.all("a") if "term" in link.classes}
    assert {f"#{glossary.anchor(key)}" for key in glossary.TERMS} == used
