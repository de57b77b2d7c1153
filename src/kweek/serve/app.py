"""The routes, put together: one model, one worker, one application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kweek.errors import KweekError
from kweek.serve.bodies import DetokenizeBody, TokenizeBody, parse
from kweek.serve.chats import Chats
from kweek.serve.completions import Completions
from kweek.serve.exchange import gone, read_body, refuse
from kweek.serve.guard import Guard
from kweek.serve.messages import read_messages
from kweek.serve.model import ServedModel
from kweek.serve.refusal import Refusal
from kweek.serve.worker import Worker
from kweek.tokenize.chat import encode_trusted

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(model: ServedModel, worker: Worker, *, loopback_only: bool = True) -> Starlette:
    """The application; its worker's thread lives from its start-up to its shutdown.

    Args:
        model: what is served.
        worker: not started yet.
        loopback_only: refuse requests that name another host than this machine.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await worker.stop()

    information = _Information(model, worker)
    return Starlette(
        routes=[
            _route("POST", "/v1/completions", Completions(model, worker)),
            _route("POST", "/v1/chat/completions", Chats(model, worker)),
            _route("GET", "/v1/models", information.models),
            _route("GET", "/v1/models/{name:path}", information.one_model),
            _route("POST", "/tokenize", information.tokenize),
            _route("POST", "/detokenize", information.detokenize),
            _route("GET", "/tokenizer_info", information.tokenizer_info),
            _route("GET", "/health", information.health),
        ],
        exception_handlers={
            Refusal: _refused,
            KweekError: _not_accepted,
            ClientDisconnect: _left,
            HTTPException: _no_such_route,
            Exception: _broken,
        },
        middleware=[Middleware(Guard, loopback_only=loopback_only)],
        lifespan=lifespan,
    )


class _Information:
    """The routes that need no generation."""

    def __init__(self, model: ServedModel, worker: Worker) -> None:
        self._model, self._worker = model, worker

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        self._model.check_name(request.path_params["name"])
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        model = self._model
        card = {"id": model.name, "object": "model", "created": model.created, "owned_by": "kweek"}
        return card | {"max_model_len": model.max_positions}

    async def tokenize(self, request: Request) -> Response:
        body = parse(TokenizeBody, await read_body(request))
        if (body.prompt is None) == (body.messages is None):
            raise Refusal("Give either prompt or messages.", param="prompt")
        ids = await asyncio.to_thread(self._ids, body)
        return JSONResponse({"count": len(ids), "max_model_len": self._model.max_positions, "tokens": ids})

    def _ids(self, body: TokenizeBody) -> list[int]:
        if body.messages is not None:
            return self._model.encode_messages(read_messages(body.messages), None)
        tokenizer, text = self._model.tokenizer, body.prompt or ""
        ids = encode_trusted(tokenizer, text) if body.parse_special else tokenizer.encode(text)
        opening = [tokenizer.bos_id] if body.add_special_tokens and tokenizer.bos_id is not None else []
        return [*opening, *ids]

    async def detokenize(self, request: Request) -> Response:
        body = parse(DetokenizeBody, await read_body(request))
        self._model.check_ids(body.tokens, "tokens")
        return JSONResponse({"prompt": self._model.tokenizer.decode(body.tokens)})

    async def tokenizer_info(self, _: Request) -> Response:
        tokenizer = self._model.tokenizer
        names: dict[str, object] = {}
        for role in ("bos", "eos", "pad", "unk"):
            index = tokenizer.configured_id(role)
            names[f"{role}_token"] = None if index is None else tokenizer.decode([index])
        if tokenizer.bos_id is None:
            names["bos_token"] = None  # one that no text begins with would be put before texts by clients
        return JSONResponse(
            {**names, "chat_template": tokenizer.chat_template, "vocab_size": tokenizer.vocab_size}
        )

    async def health(self, _: Request) -> Response:
        worker = self._worker
        if worker.failure is not None:
            raise Refusal(worker.failure, status=503, code="engine_failed")
        state = {"status": "ok", "model": self._model.name, "active": worker.num_active}
        return JSONResponse(state | {"max_active": worker.max_active})


def _route(method: str, path: str, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        return await endpoint(request)

    return Route(path, answer, methods=[method])


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refuse(error)


async def _not_accepted(_: Request, error: Exception) -> Response:
    assert isinstance(error, KweekError)
    return refuse(Refusal.of(error))


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path} is not a route of this server."
    return refuse(Refusal(what, status=error.status_code, code="unknown_url"))


async def _left(_: Request, error: Exception) -> Response:
    return gone()


async def _broken(_: Request, error: Exception) -> Response:
    """A fault of Kweek: its text may say too much, its kind does not."""
    return refuse(Refusal(f"A fault of the server ({type(error).__name__}).", status=500))
