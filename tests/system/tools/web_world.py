"""Loopback servers for tests of what goes over the network: pages, redirects, slow and swollen answers."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"


class World(ThreadingHTTPServer):
    """A server of pages; `seen` holds the first line of every request with its headers and its body."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Handler], None]) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.answer, self.seen = answer, list[str]()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


class Handler(BaseHTTPRequestHandler):
    """One request; `body` is what was posted."""

    server: World
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.requestline}\n{self.headers}\n{self.body.decode(errors='replace')}")
        with contextlib.suppress(ConnectionError):
            self.server.answer(self)

    do_POST = do_GET

    def give(
        self, body: bytes, kind: str = "text/html; charset=utf-8", status: int = 200, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(answer: Callable[[Handler], None]) -> Iterator[World]:
    world = World(answer)
    thread = threading.Thread(target=world.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield world
    finally:
        world.shutdown()
        world.server_close()


def pages(request: Handler) -> None:
    """A small web: what each path gives is in its name."""
    path = urlsplit(request.path).path
    if path == "/redirect":
        request.give(b"", status=302, Location=request.query["to"][0])
    elif path == "/loop":
        request.give(b"", status=302, Location="/loop")
    elif path == "/drip":
        request.send_response(200)
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(0.05)
    elif path == "/slow-head":
        for _ in range(1000):
            request.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
            request.wfile.flush()
            time.sleep(0.05)
    elif path == "/bomb":
        request.give(gzip.compress(b"0" * (64 << 20)), "text/plain", Content_Encoding="gzip")
    elif path == "/endless":
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Connection", "close")
        request.end_headers()
        while True:
            request.wfile.write(b"0" * 65536)
    elif path == "/binary":
        request.give(b"\x89PNG\0", "image/png")
    elif path == "/missing":
        request.give(b"no", status=404)
    elif path == "/search":
        found = [
            {"title": f"T{n}", "url": f"http://x/{n}", "content": request.query["q"][0]} for n in range(9)
        ]
        request.give(json.dumps({"results": found}).encode(), "application/json")
    elif path == "/post":
        words = json.loads(request.body)["q"]
        request.give(
            json.dumps({"data": {"hits": [{"t": words, "at": {"u": "u"}}]}}).encode(), "application/json"
        )
    elif path == "/packed":
        request.give(gzip.compress("<p>gepäckt</p>".encode()), Content_Encoding="gzip")
    elif path == "/latin":
        request.give("<p>Grüße</p>".encode("latin-1"), "text/html")
    else:
        request.give(f"<title>T</title><nav>menu</nav><p>You asked for {path}.</p>".encode())
