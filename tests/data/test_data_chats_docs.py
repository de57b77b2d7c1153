"""The examples and the table of docs/chats.md are what the code does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from kweek.data.chats_formats import FORMATS

PAGE = Path(__file__).parents[2] / "docs" / "chats.md"


def test_examples_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("```", "")
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) >= 15
    assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0


def test_every_format_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == set(FORMATS)
    assert len(rows) == len(FORMATS)
