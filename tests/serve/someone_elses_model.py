"""A server of someone else, with OpenAI's API, on loopback: it finds years in texts, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kweek.serve.listener import bind, url


class SomeoneElse:
    """What it was sent, and the events that tests wait for or give."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.go_on, self.left = threading.Event(), threading.Event()
        self.forgets = False

    async def chat(self, request: Request) -> Response:
        raw = await request.body()
        self.headers.append(dict(request.headers))
        try:
            body = json.loads(raw)
        except ValueError:
            return JSONResponse({"error": {"message": "no JSON"}}, 400)
        self.bodies.append(body)
        if body.get("model") == "busy":
            refusal = {
                "error": {"message": "slow down", "type": "rate_limit", "code": "too_many", "param": None}
            }
            return JSONResponse(refusal, 429, {"Retry-After": "7", "x-request-id": "r1"})
        if body.get("stream"):
            return StreamingResponse(self._pieces(body), media_type="text/event-stream")
        return JSONResponse(self._answer(body))

    def _answer(self, body: Any) -> dict[str, Any]:
        text, _, question = body["messages"][-1]["content"].rpartition("\n\n")
        found = text.partition(question.split()[2])[2].partition("founded in ")[2][:4]
        said = "unknown" if self.forgets and len(text) < 600 else found or "unknown"
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice],
                "usage": usage}  # fmt: skip

    async def _pieces(self, body: Any) -> AsyncIterator[bytes]:
        try:
            yield _event("first")
            while not self.go_on.is_set():
                await asyncio.sleep(0.01)
            if body["model"] == "breaks":
                raise ConnectionError("the machine is gone")
            yield _event("second")
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise

    async def models(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return JSONResponse({"object": "list", "data": [{"id": "theirs", "object": "model"}]})

    async def other(self, request: Request) -> Response:
        body = (await request.body()).decode()
        return JSONResponse({"path": request.url.path, "query": request.url.query, "body": body}, 201)


def _event(text: str) -> bytes:
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "theirs",
             "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}  # fmt: skip
    return f"data: {json.dumps(chunk)}\n\n".encode()


@contextmanager
def someone_else() -> Iterator[tuple[SomeoneElse, str]]:
    """The server in a thread, and the URL of its API."""
    them = SomeoneElse()
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", them.chat, methods=["POST"]),
            Route("/v1/models", them.models),
            Route("/v1/{path:path}", them.other, methods=["GET", "POST", "DELETE"]),
        ]
    )
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    try:
        yield them, url(listening)
    finally:
        them.go_on.set()
        server.should_exit = True
        thread.join(20)
        listening.close()
