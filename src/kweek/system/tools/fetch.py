"""The tool `fetch`: the text of a page, from places that an operator has listed. No system has it by itself."""

from __future__ import annotations

import ssl

from kweek.data.encodings import candidates
from kweek.data.markup import html_text
from kweek.errors import ConfigError
from kweek.system.tools.addresses import Guard
from kweek.system.tools.tool import FunctionTool, ToolResult, tool
from kweek.system.tools.web import Page, Web, WebError, WebLimits

_PART = 12_000  # characters of one reading, below what a result may have
_TEXTS = ("application/json", "application/xml", "application/xhtml+xml", "application/javascript")


def fetch_tool(
    guard: Guard, limits: WebLimits | None = None, context: ssl.SSLContext | None = None
) -> FunctionTool:
    """The tool.

    Args:
        guard: which places may be reached; its list must not be empty.
        limits: of each page.
        context: of TLS, where the machine's own certificates do not do.

    Raises:
        ConfigError: an empty list.
    """
    if not guard.allow:
        raise ConfigError(
            "nothing may be fetched", where="allow", fix='list names, or "*" for every public place'
        )
    web = Web(guard, limits, context)

    # What only this network can reach is private like a file of one's own.
    @tool(effects={"net", "read"} if guard.networks else {"net"})
    def fetch(url: str, start: int = 0) -> ToolResult:
        """Read the text of a page of the web.

        Args:
            url: of the page.
            start: the character to begin at, to go on with a long page.
        """
        page = web.get(url)
        if page.status >= 400:
            raise WebError(f"the server answered {page.status}", where=page.url[:100])
        text = page_text(page)
        begin = max(0, start)
        shown = text[begin : begin + _PART]
        rest = len(text) - begin - len(shown)
        if rest > 0:
            shown += f"\n[{rest:,} more characters, from {begin + len(shown)}]"
        return ToolResult(shown, trusted=False, citations=(page.url,))

    return fetch


def page_text(page: Page) -> str:
    """The readable text of a page.

    Raises:
        WebError: it is something else than text.
    """
    kind = page.media_type
    if not (kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))):
        raise WebError(f"it is no text but {kind}", where=page.url[:100])
    text = _decoded(page)
    if kind in ("text/html", "application/xhtml+xml"):
        return html_text(text)
    return text


def _decoded(page: Page) -> str:
    if page.charset is not None:
        try:
            return page.body.decode(page.charset, "replace")
        except (LookupError, ValueError):
            pass  # a name that no codec has: look at the bytes
    for encoding in candidates(page.body[:_PART]):
        try:
            return page.body.decode(encoding.name, encoding.errors)
        except UnicodeDecodeError:
            continue
    raise WebError("its bytes are no text", where=page.url[:100])
