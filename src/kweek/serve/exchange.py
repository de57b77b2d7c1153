"""HTTP around an answer: bodies of bounded size, streams of events, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from kweek.serve.refusal import Refusal

MAX_BODY_BYTES = 16 << 20  # three million tokens as an array of ids
CLIENT_GONE = 499  # what nginx writes down for it; nobody is there to read it

Result = TypeVar("Result")


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is larger than the limit (413); what is left of it is not read.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            raise Refusal(
                f"The body has more than {MAX_BODY_BYTES} bytes.", status=413, code="body_too_large"
            )
    return bytes(data)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of `work`, which is cancelled, with None as the result, when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for other in (task, gone):
            other.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refusal):
            await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def gone() -> Response:
    """The answer to a client that has left."""
    return Response(status_code=CLIENT_GONE)


def refuse(refusal: Refusal) -> JSONResponse:
    """The answer that a refusal is."""
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


class EventStream(Response):
    """Server-sent events, one JSON object each, `[DONE]` at the end.

    Nothing is sent before the first object is there, so that a refusal until then has its own status; one that
    comes later is the last object.
    """

    def __init__(self, objects: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self.background = None
        self._objects = objects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the objects end or the client leaves."""
        try:
            await while_connected(receive, self._pour(scope, receive, send))
        finally:
            await self._objects.aclose()

    async def _pour(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for value in self._objects:
                if not started:
                    await send(_START)
                    started = True
                await _send_event(send, json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        except Refusal as refusal:
            if not started:
                await refuse(refusal)(scope, receive, send)
                return
            await _send_event(send, json.dumps(refusal.body()))
        await _send_event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx would collect the pieces
    ],
}


async def _send_event(send: Callable[[dict[str, Any]], Awaitable[None]], text: str) -> None:
    body = f"data: {text}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
