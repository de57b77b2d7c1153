"""One page of a browser: opened, read as an accessibility tree, clicked, typed into, looked at."""

from __future__ import annotations

import base64
import contextlib
import time
from types import TracebackType
from typing import Any

from kweek.system.tools.addresses import Guard
from kweek.system.tools.browser.chromium import BrowserError, Chromium
from kweek.system.tools.browser.proxy import proxying
from kweek.system.tools.browser.tree import Tree, tree_of

_START_SECONDS = 60.0  # until the process answers, on a busy machine too
_LOAD_SECONDS = 15.0  # until a page is read as far as it has come
_SETTLE_SECONDS = 0.15  # after a click, until what it sets off has begun


class Browser:
    """A browser with one page, while a block runs: `with Browser(guard) as browser: ...`.

    Args:
        guard: of every address that the page, or anything in it, asks for.
        program: Chromium, where it is not under one of its usual names.

    Raises:
        BrowserError: there is no browser, or it does not start.
    """

    def __init__(self, guard: Guard, program: str | None = None) -> None:
        self.guard = guard
        self._program = program
        self._target = self._session = ""
        self._tree = Tree("", {})

    def __enter__(self) -> Browser:
        with contextlib.ExitStack() as stack:
            self._chromium = Chromium(self._program)
            stack.callback(self._chromium.close)
            self.proxy = stack.enter_context(proxying(self.guard, self._chromium.listener))
            self._chromium.ask("Browser.setDownloadBehavior", seconds=_START_SECONDS, behavior="deny")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, url: str) -> str:
        """Open a page and read it.

        Raises:
            Forbidden: its address may not be reached.
            BrowserError: it cannot be opened.
        """
        self.guard.target(url)
        self._new_page()
        found = self._ask("Page.navigate", url=url)
        if "errorText" in found:
            raise BrowserError(f"the page cannot be opened ({found['errorText']})", where=url[:100])
        return self.read()

    def read(self) -> str:
        """The page as text: its tree of roles and names, what can be clicked or typed into numbered."""
        self._wait()
        nodes = self._ask("Accessibility.getFullAXTree").get("nodes", [])
        place = self._ask("Runtime.evaluate", expression="location.href")
        self._tree = tree_of(nodes)
        return f"{place.get('result', {}).get('value', '')}\n{self._tree.text}"

    def click(self, number: int) -> str:
        """Click what has a number in the last reading; the page after it.

        Raises:
            BrowserError: nothing has that number any more, or it cannot be seen.
        """
        node = self._node(number)
        self._ask("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
        quad = self._ask("DOM.getBoxModel", backendNodeId=node)["model"]["content"]
        x, y = sum(quad[0::2]) / 4, sum(quad[1::2]) / 4
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        time.sleep(_SETTLE_SECONDS)
        self._follow()
        return self.read()

    def type(self, number: int, text: str, *, submit: bool = False) -> str:
        """Replace what is in a field; with `submit` press Enter after it. The page after it.

        Raises:
            BrowserError: nothing has that number any more, or nothing can be typed there.
        """
        node = self._node(number)
        self._ask("DOM.focus", backendNodeId=node)
        self._ask("Runtime.evaluate", expression="document.execCommand('selectAll')")
        self._ask("Input.insertText", text=text)
        if submit:
            for kind in ("keyDown", "keyUp"):
                self._ask(
                    "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter",
                    windowsVirtualKeyCode=13, **({"text": "\r"} if kind == "keyDown" else {}),
                )  # fmt: skip
            time.sleep(_SETTLE_SECONDS)
            self._follow()
        return self.read()

    def screenshot(self) -> bytes:
        """The visible part of the page, a PNG file."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        if not self._session:
            raise BrowserError("no page is open", fix="open one first")
        return self._chromium.ask(method, self._session, **parameters)

    def _node(self, number: int) -> int:
        if number not in self._tree.nodes:
            raise BrowserError(f"nothing on this page has the number {number}", fix="read the page again")
        return self._tree.nodes[number]

    def _new_page(self) -> None:
        """A page of its own for each address: one that hangs is left behind with what it held."""
        old = self._target
        self._attach(self._chromium.ask("Target.createTarget", url="about:blank")["targetId"])
        if old:
            with contextlib.suppress(BrowserError):
                self._chromium.ask("Target.closeTarget", seconds=2.0, targetId=old)

    def _attach(self, target: str) -> None:
        self._target = target
        attached = self._chromium.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "DOM", "Accessibility"):
            self._ask(f"{domain}.enable")

    def _follow(self) -> None:
        """Go on in the window that a click has opened."""
        targets = self._chromium.ask("Target.getTargets").get("targetInfos", [])
        opened = [
            t["targetId"] for t in targets if t.get("type") == "page" and t.get("openerId") == self._target
        ]
        if opened:
            self._attach(opened[0])

    def _wait(self) -> None:
        deadline = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < deadline:
            state = self._ask("Runtime.evaluate", expression="document.readyState")
            if state.get("result", {}).get("value") == "complete":
                return
            time.sleep(0.05)
