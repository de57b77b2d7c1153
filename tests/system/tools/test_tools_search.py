"""Searching memory is a tool like any other."""

from dataclasses import dataclass

import pytest

from kweek.system.tools import Toolbox
from kweek.system.tools.search import search_tool


@dataclass(frozen=True)
class Passage:
    source: str
    start: int
    end: int
    text: str
    trusted: bool = False


class Shelf:
    def __init__(self, *passages):
        self.passages = passages

    def search(self, query, k):
        return [one for one in self.passages if query in one.text][:k]


A, B = Passage("a.md", 0, 5, "hello there"), Passage("b.md", 7, 12, "hello you", trusted=True)


def test_passages_with_where_they_are_from():
    box = Toolbox([search_tool(Shelf(A, B))], {"read": "allow"})
    result = box.call("search", {"query": "hello"})
    assert result.content == "[1] a.md, bytes 0 to 5:\nhello there\n\n[2] b.md, bytes 7 to 12:\nhello you"
    assert result.citations == (A, B) and not result.trusted
    assert box.call("search", {"query": "hello", "max_passages": 1}).citations == (A,)
    assert box.call("search", {"query": "none"}).content == "nothing was found"


@pytest.mark.parametrize(("passages", "trusted"), [((B,), True), ((A,), False), ((), True)])
def test_trust_is_that_of_what_was_found(passages, trusted):
    assert search_tool(Shelf(*passages))({"query": "hello"}).trusted is trusted
