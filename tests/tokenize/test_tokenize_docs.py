"""The examples of docs/chat-template.md give what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "chat-template.md"


def test_examples_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("```", "")
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) >= 10
    results = doctest.DocTestRunner(verbose=False).run(examples)
    assert results.failed == 0
