"""The tools of a browser: open, read, click, type, screenshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from kweek.system.tools.browser.browser import Browser
from kweek.system.tools.effects import Effect
from kweek.system.tools.tool import Tool, ToolResult, tool


def browser_tools(browser: Browser) -> list[Tool]:
    """The tools of a browser that has been started. Everything that a page says is a stranger's.

    Whatever is done to a page may send something out, so all of them have the effect "net".
    """
    turn = threading.Lock()  # there is one page, and calls of one message come at once

    def read(step: Callable[[], str]) -> ToolResult:
        with turn:
            page = step()
        return ToolResult(page, trusted=False, citations=(page.partition("\n")[0],))

    # What only this network can reach is private like a file of one's own.
    effects: Collection[Effect] = {"net", "read"} if browser.guard.networks else {"net"}

    @tool(effects=effects)
    def open_page(url: str) -> ToolResult:
        """Open a page of the web in a browser and read it. What can be clicked or typed into has a number.

        Args:
            url: of the page.
        """
        return read(lambda: browser.open(url))

    @tool(effects=effects)
    def read_page() -> ToolResult:
        """Read the page that is open in the browser again."""
        return read(browser.read)

    @tool(effects=effects)
    def click(number: int) -> ToolResult:
        """Click something on the open page, and read the page after it.

        Args:
            number: of what to click, as in the last reading.
        """
        return read(lambda: browser.click(number))

    @tool(effects=effects)
    def type_text(number: int, text: str, submit: bool = False) -> ToolResult:
        """Type into a field of the open page, and read the page after it.

        Args:
            number: of the field, as in the last reading.
            text: takes the place of what is in the field.
            submit: press Enter after it.
        """
        return read(lambda: browser.type(number, text, submit=submit))

    @tool(effects=effects)
    def screenshot() -> ToolResult:
        """Take a picture of the visible part of the open page."""
        with turn:
            picture = browser.screenshot()
        return ToolResult("a picture of the page", trusted=False, images=(picture,))

    return [open_page, read_page, click, type_text, screenshot]
