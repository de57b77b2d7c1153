"""The proxy between a browser and the network: the only way out that the browser has, and guarded.

The browser resolves no name itself. Every request comes here, its address is checked as by `fetch`, and the connection
goes to the address that was checked. One request for each connection: what follows on it would be read by the wrong
server.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator

from kweek.system.tools.addresses import Forbidden, Guard, Target

#: What Chromium asks for by itself, whatever flags it is given; reached only where the list names them.
_ITS_OWN = frozenset(
    f"{name}.{domain}"
    for domain, names in {
        "google.com": ("accounts", "android.clients", "clients2", "clients4", "redirector.gvt1"),
        "duckduckgo.com": ("start",),  # as Debian sets it up
        "googleapis.com": ("content-autofill", "optimizationguide-pa", "safebrowsing", "update"),
    }.items()
    for name in names
)
_MAX_HEAD = 1 << 16  # bytes of a request up to its body; browsers send some thousand
_SECONDS = 30.0  # without a byte
_MAX_BYTES = 64 << 20  # of one answer: a long film is nothing that a model reads
_PIECE = 1 << 16
_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d{1,10})[ \t]*\r?$")
_DROPPED = re.compile(rb"(?im)^(?:proxy-[a-z-]+|connection|keep-alive|te|upgrade):[^\r\n]*\r?\n")


class Proxy(socketserver.ThreadingTCPServer):
    """Answers what comes to a socket; `refused` holds what was asked for and not allowed.

    Args:
        guard: of every address.
        listener: a socket that listens.
    """

    daemon_threads = True

    def __init__(self, guard: Guard, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Request, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.guard = guard
        self.refused: list[str] = []


@contextlib.contextmanager
def proxying(guard: Guard, listener: socket.socket) -> Iterator[Proxy]:
    """A proxy that runs while the block does."""
    proxy = Proxy(guard, listener)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.1,), daemon=True, name="browser proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Request(socketserver.BaseRequestHandler):
    """One connection of the browser."""

    server: Proxy
    request: socket.socket

    def handle(self) -> None:
        self.request.settimeout(_SECONDS)
        with contextlib.suppress(OSError):
            head, rest = self._head()
            line = _LINE.match(head)
            if line is None:
                self._say(b"400 Bad Request")
            elif line[1] == b"CONNECT":
                self._tunnel(line[2].decode("latin-1"), rest)
            else:
                self._forward(line[1], line[2].decode("latin-1"), head, rest)

    def _head(self) -> tuple[bytes, bytes]:
        found = b""
        while b"\r\n\r\n" not in found and len(found) < _MAX_HEAD and (piece := self.request.recv(_PIECE)):
            found += piece
        head, end, rest = found.partition(b"\r\n\r\n")
        return head + end, rest

    def _target(self, url: str) -> Target | None:
        try:
            target = self.server.guard.target(url)
            if target.host in _ITS_OWN and target.host not in self.server.guard.allow:
                raise Forbidden("the browser asks for this by itself", where=target.host)
            return target
        except Forbidden as error:
            self.server.refused.append(str(error))
            self._say(b"403 Forbidden")
            return None

    def _tunnel(self, authority: str, rest: bytes) -> None:
        """Bytes both ways: TLS, of which nothing can be seen here but where it goes."""
        if (target := self._target(f"https://{authority}/")) is None:
            return
        with _connected(target) as server:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.sendall(rest)
            upward = threading.Thread(target=_pour, args=(self.request, server), daemon=True)
            upward.start()
            _pour(server, self.request)
            upward.join(_SECONDS)

    def _forward(self, method: bytes, url: str, head: bytes, rest: bytes) -> None:
        if (target := self._target(url)) is None:
            return
        length = _LENGTH.search(head)
        left = int(length[1]) if length else 0
        if re.search(rb"(?im)^transfer-encoding:", head) or left > _MAX_BYTES:
            self._say(b"411 Length Required")
            return
        lines = head.partition(b"\r\n")[2]
        sent = b"%s %s HTTP/1.1\r\nConnection: close\r\n" % (method, target.path.encode("latin-1"))
        with _connected(target) as server:
            server.sendall(sent + _DROPPED.sub(b"", lines) + rest[:left])
            left -= len(rest[:left])
            while left > 0 and (piece := self.request.recv(min(_PIECE, left))):
                server.sendall(piece)
                left -= len(piece)
            _pour(server, self.request)

    def _say(self, status: bytes) -> None:
        self.request.sendall(b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)


@contextlib.contextmanager
def _connected(target: Target) -> Iterator[socket.socket]:
    with socket.create_connection((target.address, target.port), _SECONDS) as server:
        yield server


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """All that comes of one end into the other, up to a bound."""
    left = _MAX_BYTES
    with contextlib.suppress(OSError):
        while left > 0 and (piece := source.recv(_PIECE)):
            sink.sendall(piece)
            left -= len(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
