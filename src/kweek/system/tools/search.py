"""The tool `search`: passages of the documents that a system remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kweek.system.tools.tool import FunctionTool, ToolResult, tool

_MAX_PASSAGES = 20


class Found(Protocol):
    """A passage: where it is from, its bytes there, its text, and whether no stranger can have written it."""

    @property
    def source(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def text(self) -> str: ...

    @property
    def trusted(self) -> bool: ...


class Searchable(Protocol):
    """What remembers documents: `search(query, k)` gives the passages that fit a query, best first."""

    def search(self, query: str, k: int) -> Sequence[Any]:
        """At most `k` passages, each a `Found`."""
        ...


def search_tool(memory: Searchable, num_passages: int = 5) -> FunctionTool:
    """The tool.

    Args:
        memory: what is searched.
        num_passages: where the model does not say; five are some 1,000 tokens.
    """

    @tool(effects={"read"})
    def search(query: str, max_passages: int = num_passages) -> ToolResult:
        """Search the documents of the user. Gives passages with where they are from.

        Args:
            query: some words that the passage should hold.
            max_passages: how many at most.
        """
        found: Sequence[Found] = memory.search(query, max(1, min(max_passages, _MAX_PASSAGES)))
        shown = [
            f"[{n}] {one.source}, bytes {one.start} to {one.end}:\n{one.text}"
            for n, one in enumerate(found, 1)
        ]
        content = "\n\n".join(shown) or "nothing was found"
        return ToolResult(content, trusted=all(one.trusted for one in found), citations=tuple(found))

    return search
