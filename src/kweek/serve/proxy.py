"""A proxy in front of someone else's model: chats are compressed on their way, everything else passes as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kweek.compute.money import Prices
from kweek.errors import KweekError
from kweek.protocols import Message
from kweek.serve.exchange import gone, read_body, refuse, while_connected
from kweek.serve.guard import Guard
from kweek.serve.refusal import Refusal
from kweek.serve.savings import Saving, Totals, saving_of
from kweek.serve.upstream import PassedOn, Upstream
from kweek.system.compression.chat import CompressedChat, compress_chat
from kweek.system.compression.compressor import Compressor
from kweek.system.compression.fidelity import Fidelity

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
OnSaving = Callable[[Saving, int], None]
"""Told the saving of a chat and the status of its answer."""


def make_proxy(
    upstream: Upstream,
    compressor: Compressor,
    prices: Prices,
    fidelity: Fidelity | None,
    on_saving: OnSaving = lambda saving, status: None,
) -> Starlette:
    """The application, for loopback only: who reaches it uses the upstream model in the name of its owner.

    Args:
        upstream: closed when the application ends.
        fidelity: what was measured of the compressor; shown at /health.
        on_saving: called after every chat.
    """
    proxy = _Proxy(upstream, compressor, prices, fidelity, on_saving)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await proxy.close()

    return Starlette(
        routes=[
            Route("/health", proxy.health, methods=["GET"]),
            Route("/metrics", proxy.metrics, methods=["GET"]),
            Route("/v1/chat/completions", proxy.chat, methods=["POST"]),
            Route("/v1/{path:path}", proxy.other, methods=_METHODS),
        ],
        exception_handlers={Refusal: _refused, ClientDisconnect: _left, 404: _no_route, Exception: _broken},
        middleware=[Middleware(Guard, loopback_only=True)],
        lifespan=lifespan,
    )


class _Proxy:
    """The routes."""

    def __init__(
        self,
        upstream: Upstream,
        compressor: Compressor,
        prices: Prices,
        fidelity: Fidelity | None,
        on_saving: OnSaving,
    ) -> None:
        self._upstream, self._compressor, self._prices = upstream, compressor, prices
        self._fidelity, self._on_saving, self._totals = fidelity, on_saving, Totals()
        self._thread = ThreadPoolExecutor(1)  # an engine does one thing at a time

    async def close(self) -> None:
        """End the thread and the connections."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._upstream.close()

    async def chat(self, request: Request) -> Response:
        """Compress, send on, pass the answer back."""
        body = await read_body(request)
        found = await while_connected(request.receive, self._answer(request, body))
        if found is None:
            return gone()
        answer, saving = found
        self._totals.add(saving, answer.status_code)
        self._on_saving(saving, answer.status_code)
        return PassedOn(answer, saving.headers)

    async def _answer(self, request: Request, body: bytes) -> tuple[Any, Saving]:
        body, saving = await self._compressed(body)
        return await self._upstream.send(request, "chat/completions", body), saving

    async def _compressed(self, body: bytes) -> tuple[bytes, Saving]:
        """The body with a compressed chat; what is no chat, or cannot be compressed, goes on as it is."""
        fields = _chat_of(body)
        if fields is None:
            return body, _untouched("it is no chat")
        loop = asyncio.get_running_loop()
        try:
            chat = await loop.run_in_executor(self._thread, self._compress, fields["messages"])
        except KweekError as error:
            return body, _untouched(_ascii(error.what))
        saving = saving_of(chat, self._prices, counted=self._compressor.exact)
        if chat.context.method is None:
            return body, saving
        return json.dumps(fields | {"messages": chat.messages}, ensure_ascii=False).encode(), saving

    def _compress(self, messages: Sequence[Message]) -> CompressedChat:
        return compress_chat(self._compressor, messages)

    async def other(self, request: Request) -> Response:
        """Whatever else the API has."""
        raw = request.scope.get("raw_path", request.scope["path"].encode()).decode("ascii", "replace")
        path = raw.partition("?")[0].removeprefix("/v1/")
        body = await read_body(request)
        answer = await while_connected(request.receive, self._upstream.send(request, path, body))
        return gone() if answer is None else PassedOn(answer, {})

    async def health(self, _: Request) -> Response:
        """That it runs, and what is known of its compression."""
        measured = None if self._fidelity is None else self._fidelity.to_dict()
        state = {"status": "ok", "upstream": self._upstream.url, "ratio": self._compressor.settings.ratio}
        return JSONResponse(state | {"method": self._compressor.settings.method, "fidelity": measured})

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        text = self._totals.exposition(self._prices.million_read is not None)
        return PlainTextResponse(text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


def _chat_of(body: bytes) -> dict[str, Any] | None:
    """The fields of a chat; None where the body is none, which the upstream server says better than a proxy."""
    try:
        fields = json.loads(body)
        json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair cannot be sent on
    except (ValueError, RecursionError):
        return None
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    return dict(fields)


def _untouched(reason: str) -> Saving:
    return Saving("none", reason, 0, 0, False, 0.0, None)


def _ascii(text: str) -> str:
    """One line that a header can carry."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:200]


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refuse(error)


async def _left(_: Request, error: Exception) -> Response:
    return gone()


async def _no_route(request: Request, error: Exception) -> Response:
    what = f"{request.method} {request.url.path} is not a route of this proxy."
    return refuse(Refusal(what, status=404, code="unknown_url"))


async def _broken(_: Request, error: Exception) -> Response:
    """A fault of Kweek: its text may say too much, its kind does not."""
    return refuse(Refusal(f"A fault of the proxy ({type(error).__name__}).", status=500))
