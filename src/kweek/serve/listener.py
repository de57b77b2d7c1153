"""The socket and the loop: listen, answer until asked to stop, let running answers end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from kweek.errors import KweekError

DRAIN_SECONDS = 30  # a long answer of a small model takes less; a second Ctrl-C ends it at once
BACKLOG = 1024  # connections that wait to be accepted; the queue of generations is bounded elsewhere
MAX_PORT = 65535


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`; port 0 takes a free one.

    Raises:
        KweekError: the port is taken or forbidden, or there is no such address.
    """
    where = f"{host}:{port}"
    if not 0 <= port <= MAX_PORT:
        raise KweekError(f"a port is 0 to {MAX_PORT}", where=where)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KweekError(
            f"cannot listen there ({reason})", where=where, fix="choose another --port or --host"
        ) from error
    return listening


def url(listening: socket.socket) -> str:
    """Where clients find the server: the base URL of the API."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/v1"


class Listener:
    """Answers on an open socket.

    Args:
        app: what answers.
        listening: closed when `run` ends.
    """

    def __init__(self, app: Starlette, listening: socket.socket) -> None:
        self._socket = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",  # faults only: a line per request is the business of the full server
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=DRAIN_SECONDS,
                server_header=False,
            )
        )

    def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until `stop`, SIGINT or SIGTERM; running answers then have 30 s to end, new ones find no one.

        Args:
            on_ready: called once requests are answered.
        """
        try:
            asyncio.run(self._run(on_ready))
        except KeyboardInterrupt:
            if not self._server.should_exit:  # else it is the signal that ended it, raised once more
                raise

    def stop(self) -> None:
        """End as on SIGINT; from any thread."""
        self._server.should_exit = True

    async def _run(self, on_ready: Callable[[], None]) -> None:
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(0.01)
        if self._server.started:
            on_ready()
        await serving
