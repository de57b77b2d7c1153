"""Tools of an MCP server: listed, pinned, called; what comes back is a stranger's.

Needs the extra `mcp`, which is imported when a server is entered and not before.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import concurrent.futures
import contextlib
import importlib.util
import os
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from kweek.errors import ConfigError, KweekError
from kweek.system.tools.effects import EFFECTS, Effect
from kweek.system.tools.mcp_pins import Offer, Pins
from kweek.system.tools.tool import Tool, ToolResult

if TYPE_CHECKING:
    from mcp import Client

_MAX_TOOLS = 200  # of one server, in all its pages
_MAX_PAGES = 20
_START_SECONDS = 120.0  # a server that is started loads what it needs, on a busy machine too
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_DESCRIPTION = 4_000  # characters; longer ones are no descriptions
_Result = TypeVar("_Result")


class McpError(KweekError):
    """A server that cannot be reached, or a call that it refused."""


class McpServer:
    """A connection to one server, while a block runs: `with McpServer([...], name=..., pins=...) as server: ...`.

    Args:
        server: words of a command that speaks the protocol on its standard input and output, or an http(s) address.
        name: of the server; its tools are called NAME__TOOL, so that none can pass itself off as another's.
        pins: what was accepted.
        environment: variables for the command beside the few that every program needs.
        seconds: for one answer.

    Raises:
        ConfigError: a name that is none; the extra is not installed.
    """

    def __init__(
        self,
        server: Sequence[str] | str,
        *,
        name: str,
        pins: Pins,
        environment: Mapping[str, str] | None = None,
        seconds: float = 30.0,  # a server that looks something up elsewhere
    ) -> None:
        if not _NAME.fullmatch(name) or "__" in name:
            raise ConfigError("not a name for a server", where=name[:60], fix="use letters, digits, - and _")
        if importlib.util.find_spec("mcp") is None:
            fix = "install it: pip install 'kweek[mcp]'"
            raise ConfigError("MCP needs a package that is not installed (mcp)", fix=fix)
        self.name, self._pins, self._seconds = name, pins, seconds
        self._server, self._environment = server, dict(environment or {})
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> McpServer:
        self._ready: concurrent.futures.Future[Client] = concurrent.futures.Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"mcp {self.name}")
        self._thread.start()
        try:
            self._client = self._ready.result(_START_SECONDS)
        except TimeoutError:
            self._end()
            raise McpError(f"no answer within {_START_SECONDS:g} s", where=self.name) from None
        except Exception as error:
            self._end()
            raise McpError(f"it cannot be reached ({_said(error)})", where=self.name) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def offered(self) -> list[Offer]:
        """All tools as the server describes them now.

        Raises:
            McpError: it does not answer, or offers too many.
        """
        return self._wait(self._listed())

    def tools(self, effects: Mapping[str, frozenset[Effect] | set[Effect]] | None = None) -> list[Tool]:
        """The tools that were accepted and have not changed since.

        Args:
            effects: of single tools, by their name at the server; a tool that is not named may do everything.
        """
        declared = effects or {}
        return [
            McpTool(self, offer, frozenset(declared.get(offer.name, EFFECTS)))
            for offer in self.offered()
            if self._pins.state(self.name, offer) == "accepted"
        ]

    def refused(self) -> list[tuple[Offer, str]]:
        """The tools that are not used, with "new" or "changed"."""
        states = [(offer, self._pins.state(self.name, offer)) for offer in self.offered()]
        return [(offer, state) for offer, state in states if state != "accepted"]

    def call(self, offer: Offer, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool, if it still is as it was offered.

        Raises:
            McpError: it has changed, or the server does not answer.
        """
        return self._wait(self._called(offer, dict(arguments)))

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(self._seconds)
        except TimeoutError:
            future.cancel()
            raise McpError(f"no answer within {self._seconds:g} s", where=self.name) from None
        except KweekError:
            raise
        except Exception as error:
            raise McpError(_said(error), where=self.name) from None

    async def _listed(self) -> list[Offer]:
        offers: list[Offer] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            # What is kept of earlier listings is not what the server says now.
            page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            for one in page.tools:
                said = one.model_dump(mode="json", by_alias=True, exclude_none=True)
                if _NAME.fullmatch(one.name) and len(one.description or "") <= _MAX_DESCRIPTION:
                    offers.append(Offer.of(said))
            if len(offers) > _MAX_TOOLS:
                raise McpError(f"it offers more than {_MAX_TOOLS} tools", where=self.name)
            if (cursor := page.next_cursor) is None:
                break
        return offers

    async def _called(self, offer: Offer, arguments: dict[str, Any]) -> ToolResult:
        now = {one.name: one for one in await self._listed()}.get(offer.name)
        if now is None or now.sha256 != offer.sha256 or self._pins.state(self.name, now) != "accepted":
            what = "is gone" if now is None else "has changed since it was accepted"
            raise McpError(
                f"the tool {offer.name} {what}", where=self.name, fix="look at it and accept it again"
            )
        return _result(await self._client.call_tool(offer.name, arguments, self._seconds))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._task = self._loop.create_task(self._hold())
            self._loop.run_until_complete(self._task)
        except BaseException as error:  # the thread of whoever waits is told
            if not self._ready.done():
                self._ready.set_exception(error if isinstance(error, Exception) else McpError(_said(error)))
        finally:
            self._loop.close()

    async def _hold(self) -> None:
        """Keep the connection in one task from its beginning to its end, as the package wants it."""
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client

        if isinstance(self._server, str):
            async with Client(self._server) as client:
                await self._serve(client)
            return
        command, *words = self._server
        parameters = StdioServerParameters(command=command, args=words, env=self._environment)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no file
            async with Client(stdio_client(parameters, errlog=nowhere)) as client:
                await self._serve(client)

    async def _serve(self, client: Client) -> None:
        self._ready.set_result(client)
        await self._stop.wait()

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has closed by itself
            ended = self._stop.set if self._ready.done() else self._task.cancel
            self._loop.call_soon_threadsafe(ended)
        self._thread.join(self._seconds)


@dataclass(frozen=True)
class McpTool:
    """A `Tool` of a server; see `Tool`."""

    server: McpServer
    offer: Offer
    effects: frozenset[Effect]
    described_by_stranger = True

    @property
    def name(self) -> str:
        """The server's name and the tool's."""
        return f"{self.server.name}__{self.offer.name}"

    @property
    def description(self) -> str:
        """As it was accepted."""
        return self.offer.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        """As they were accepted."""
        return self.offer.parameters

    def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Call it.

        Raises:
            McpError: it has changed, or the server does not answer.
        """
        return self.server.call(self.offer, arguments)


def _result(found: Any) -> ToolResult:
    """What a server answered: texts joined, pictures kept, anything else named."""
    texts: list[str] = []
    images: list[bytes] = []
    for block in found.content:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "image":
            try:
                images.append(base64.b64decode(block.data, validate=True))
            except binascii.Error:
                texts.append("[a picture that cannot be read]")
        else:
            texts.append(f"[{block.type}, not shown]")
    content = "\n".join(texts)
    if found.is_error:
        return ToolResult.failed(content or "the server says that it failed", trusted=False)
    return ToolResult(content, trusted=False, images=tuple(images))


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
