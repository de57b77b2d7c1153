"""Requests sent on to someone else's server, and its answers passed back as they come."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kweek.errors import ConfigError
from kweek.serve.exchange import while_connected
from kweek.serve.refusal import Refusal

CONNECT_SECONDS = 10.0  # a server that does not take a connection by then will not
READ_SECONDS = 600.0  # between two pieces of an answer: a long thought of a busy model takes minutes
#: What belongs to one connection (RFC 9110, section 7.6.1), or is written anew for the other one.
_OF_THE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "expect", "host", "content-length", "date", "server"}
)  # fmt: skip


class Upstream:
    """Someone else's OpenAI-compatible server.

    Args:
        url: of its API, with its version ("https://api.example.com/v1").
        api_key: sent instead of what the client sends; None sends on the client's own.

    Raises:
        ConfigError: no such URL.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")) or "?" in url or "#" in url:
            raise ConfigError(
                f"{url!r} is no address of an API", where="--upstream", fix="give one like https://host/v1"
            )
        self.url, self._api_key = url.rstrip("/"), api_key
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS))

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def send(self, request: Request, path: str, body: bytes) -> httpx.Response:
        """Send a request on; the answer's status and headers, whose body is still to come.

        Args:
            request: what the client sent.
            path: below the API, as the client wrote it.
            body: perhaps another one.

        Raises:
            Refusal: the path leads elsewhere (404), or the server cannot be reached (502) or is too slow (504).
        """
        if any(part in (".", "..") for part in unquote(path).replace("\\", "/").split("/")):
            raise Refusal("This is not a path of the API.", status=404, code="unknown_url")
        query = request.url.query
        url = f"{self.url}/{path}{f'?{query}' if query else ''}"
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _OF_THE_CONNECTION]
        if self._api_key is not None:
            headers = [(k, v) for k, v in headers if k.lower() != "authorization"]
            headers.append(("authorization", f"Bearer {self._api_key}"))
        sent = self._http.build_request(request.method, url, headers=headers, content=body)
        try:
            return await self._http.send(sent, stream=True)
        except httpx.TimeoutException as error:
            why = f"The upstream server did not answer ({type(error).__name__})."
            raise Refusal(why, status=504, code="upstream_timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"The upstream server cannot be reached ({type(error).__name__})."
            raise Refusal(why, status=502, code="upstream_unreachable") from error


class PassedOn(Response):
    """An upstream answer, byte for byte as it comes, with some headers more.

    The connection to the server is closed when the answer ends and when the client leaves.
    """

    def __init__(self, answer: httpx.Response, headers: Mapping[str, str]) -> None:
        self.background = None
        self._answer = answer
        self._sent_headers = [
            (k, v) for k, v in answer.headers.multi_items() if k.lower() not in _OF_THE_CONNECTION
        ]
        if "content-length" in answer.headers:  # the bytes are the same, so is their number
            self._sent_headers.append(("content-length", answer.headers["content-length"]))
        self._sent_headers += headers.items()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the answer ends or the client leaves.

        A server that breaks off is an error here, so that the client's connection breaks too and half an answer is not
        taken for a whole one.
        """
        try:
            await while_connected(receive, self._pour(send))
        finally:
            await self._answer.aclose()

    async def _pour(self, send: Send) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self._sent_headers
        ]
        await send({"type": "http.response.start", "status": self._answer.status_code, "headers": headers})
        async for piece in self._answer.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
