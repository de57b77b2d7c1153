"""The tool `web_search`: over SearXNG, or any endpoint that answers a query with JSON."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from kweek.errors import ConfigError, KweekError
from kweek.system.tools.addresses import everywhere
from kweek.system.tools.tool import FunctionTool, ToolResult, tool
from kweek.system.tools.web import Web, WebError, WebLimits

_MAX_RESULTS = 20
_MAX_TEXT = 500  # characters of one result: a paragraph
_MAX_QUERY = 400  # characters; engines cut longer ones


@dataclass(frozen=True)
class SearchEndpoint:
    """Where and how to ask. It is the operator's word, so it may be on a private address, and is never left.

    Attributes:
        url: with "{query}" in it, unless the query is posted.
        results: keys that lead to the list of results, joined by full stops.
        title, link, text: keys within a result, likewise.
        headers: of the request, like those that hold a key.
        body: an object to post, with "{query}" in one of its texts; None gets.
    """

    url: str
    results: str = "results"
    title: str = "title"
    link: str = "url"
    text: str = "content"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if "{query}" not in self.url + json.dumps(self.body):
            raise ConfigError('"{query}" is nowhere in the endpoint', where=self.url)


def searxng(url: str) -> SearchEndpoint:
    """The endpoint of a SearXNG server whose settings list "json" among its formats."""
    return SearchEndpoint(f"{url.rstrip('/')}/search?format=json&q={{query}}")


def web_search_tool(
    endpoint: SearchEndpoint, limits: WebLimits | None = None, context: ssl.SSLContext | None = None
) -> FunctionTool:
    """The tool.

    Args:
        endpoint: where to ask.
        limits: of one answer.
        context: of TLS, where the machine's own certificates do not do.
    """
    web = Web(everywhere(), limits, context)

    @tool(effects={"net"})
    def web_search(query: str, num_results: int = 5) -> ToolResult:
        """Search the web. Gives titles, addresses and a few words of each page.

        Args:
            query: some words.
            num_results: how many pages at most.
        """
        found = _asked(web, endpoint, query[:_MAX_QUERY])[: max(1, min(num_results, _MAX_RESULTS))]
        entries = [_entry(endpoint, one) for one in found]
        shown = [
            f"{number}. {title}\n{link}\n{text}" for number, (title, link, text) in enumerate(entries, 1)
        ]
        links = tuple(link for _, link, _ in entries)
        return ToolResult("\n\n".join(shown) or "nothing was found", trusted=False, citations=links)

    return web_search


def _asked(web: Web, endpoint: SearchEndpoint, query: str) -> list[Any]:
    headers, body = {"Accept": "application/json", **endpoint.headers}, None
    if endpoint.body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(_filled(endpoint.body, query)).encode()
    url = endpoint.url.replace("{query}", quote(query, safe=""))
    where = endpoint.url.partition("?")[0]
    try:
        page = web.get(url, headers=headers, body=body, follow=False)
    except KweekError as error:
        raise WebError(error.what, where=where) from None  # its own place may hold a key
    if page.status != 200:
        raise WebError(f"the search server answered {page.status}", where=where)
    try:
        found = _at(json.loads(page.body), endpoint.results)
    except (ValueError, RecursionError):
        raise WebError("the search server did not answer in JSON", where=where) from None
    if not isinstance(found, list):
        raise WebError(f"there is no list under {endpoint.results!r} in the answer", where=where)
    return found


def _filled(value: Any, query: str) -> Any:
    if isinstance(value, str):
        return value.replace("{query}", query)
    if isinstance(value, Mapping):
        return {key: _filled(entry, query) for key, entry in value.items()}
    return [_filled(entry, query) for entry in value] if isinstance(value, list) else value


def _at(value: Any, keys: str) -> Any:
    for key in keys.split(".") if keys else ():
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _entry(endpoint: SearchEndpoint, one: Any) -> tuple[str, str, str]:
    title, link, text = (
        " ".join(str(_at(one, key) or "").split())[:_MAX_TEXT]
        for key in (endpoint.title, endpoint.link, endpoint.text)
    )
    return title, link, text
