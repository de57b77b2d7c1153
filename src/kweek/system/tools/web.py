"""Pages of the web over HTTP, from addresses that a guard has checked, within bounds of bytes, time and redirects.

No proxy, no cookies, no cache, nothing of the environment: a request holds what is written here and the URL.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from kweek.errors import ConfigError, KweekError
from kweek.system.tools.addresses import Forbidden, Guard, Target

AGENT = "kweek"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 1 << 16
_SAFE = "%/?:@!$&'()*+,;=-._~#[]"  # what a path and a query may hold as it is (RFC 3986)


class WebError(KweekError):
    """A page that could not be had."""


@dataclass(frozen=True)
class WebLimits:
    """What one page may take.

    Attributes:
        seconds: from the first connection to the last byte, redirects included.
        num_bytes: of its body, as it comes and once it is unpacked.
        redirects: from one place to the next.
    """

    seconds: float = 20.0  # slower servers are broken ones
    num_bytes: int = 4 << 20  # the longest articles with their markup
    redirects: int = 5  # from http to https, to www, to a language, and two more

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= (0 if name == "redirects" else 1e-3):
                raise ConfigError(f"the limit {name} is {value}", fix="give a positive number")


@dataclass(frozen=True)
class Page:
    """What a URL gave: `url` is where it was in the end, `truncated` whether there was more than the limit."""

    url: str
    status: int
    media_type: str
    charset: str | None
    body: bytes
    truncated: bool


class _Pinned(http.client.HTTPConnection):
    """A connection to the address that was checked, and to no name."""

    def __init__(self, target: Target, seconds: float, context: ssl.SSLContext) -> None:
        super().__init__(target.host, target.port, timeout=seconds)
        self._target, self._context = target, context
        self.raw: socket.socket | None = None

    def connect(self) -> None:
        self.raw = socket.create_connection((self._target.address, self._target.port), self.timeout)
        connected = ipaddress.ip_address(self.raw.getpeername()[0])
        if connected != ipaddress.ip_address(self._target.address):
            raise Forbidden(f"connected to {connected} instead", where=self._target.host)
        self.sock = self.raw
        if self._target.scheme == "https":
            self.sock = self._context.wrap_socket(self.raw, server_hostname=self._target.host)


class Web:
    """Gets pages.

    Args:
        guard: which addresses may be reached; every redirect is checked like the first URL.
        limits: of each page.
        context: of TLS, where the machine's own certificates do not do.
    """

    def __init__(
        self, guard: Guard, limits: WebLimits | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        self._guard, self._limits = guard, limits or WebLimits()
        self._context = context or ssl.create_default_context()

    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        follow: bool = True,
    ) -> Page:
        """The page at a URL.

        Args:
            url: of HTTP or HTTPS.
            headers: beside those that every request has; they go to the first place only.
            body: to post; None gets.
            follow: go where redirects lead; never from HTTPS to HTTP.

        Raises:
            Forbidden: it, or a redirect, leads where nothing may be reached.
            WebError: no answer within the limits, or one that cannot be read.
        """
        deadline = time.monotonic() + self._limits.seconds
        sent = dict(headers or {})
        for _ in range(self._limits.redirects + 1):
            target = self._guard.target(url)
            page, location = self._once(target, url, sent, body, deadline)
            if location is None or not follow:
                return page
            following = urljoin(url, location).partition("#")[0]
            if target.scheme == "https" and not following.startswith("https:"):
                raise Forbidden("a redirect from HTTPS to less", where=repr(following[:100]))
            url, sent, body = following, {}, None
        raise WebError(f"more than {self._limits.redirects} redirects", where=url[:100])

    def _once(
        self, target: Target, url: str, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> tuple[Page, str | None]:
        """One request: the page, and where it redirects to."""
        left = deadline - time.monotonic()
        connection = _Pinned(target, max(left, 0.001), self._context)
        own = {"User-Agent": AGENT, "Accept-Encoding": "gzip", "Connection": "close"}
        with _deadline(connection, left) as expired:
            try:
                path = quote(target.path, safe=_SAFE)
                connection.request("GET" if body is None else "POST", path, body, {**own, **headers})
                answer = connection.getresponse()
                location = answer.getheader("Location") if answer.status in _REDIRECTS else None
                data, truncated = (b"", False) if location else self._body(answer)
            except (OSError, http.client.HTTPException, zlib.error) as error:
                if expired():
                    raise WebError(f"no answer within {self._limits.seconds:g} s", where=url[:100]) from None
                raise WebError(
                    f"no answer that can be read ({type(error).__name__}: {error})", where=url[:100]
                ) from None
            finally:
                connection.close()
        if expired():
            raise WebError(f"no answer within {self._limits.seconds:g} s", where=url[:100])
        kind = answer.headers
        return Page(
            url, answer.status, kind.get_content_type(), kind.get_content_charset(), data, truncated
        ), location

    def _body(self, answer: http.client.HTTPResponse) -> tuple[bytes, bool]:
        """The body, unpacked, and whether there is more: a small packed body may unpack to any size."""
        most = self._limits.num_bytes
        coding = (answer.getheader("Content-Encoding") or "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise http.client.HTTPException(f"packed as {coding[:40]!r}")
        packed = None if coding == "identity" else zlib.decompressobj(wbits=31)
        found = bytearray()
        num_read = 0
        while len(found) <= most and num_read <= most and (piece := answer.read1(_PIECE)):
            num_read += len(piece)
            found += piece if packed is None else packed.decompress(piece, most + 1 - len(found))
        return bytes(found[:most]), len(found) > most or num_read > most


@contextlib.contextmanager
def _deadline(connection: _Pinned, seconds: float) -> Iterator[Callable[[], bool]]:
    """Ends a connection when its time is up, however slowly bytes drip in; gives what says whether it was."""
    expired = threading.Event()

    def end() -> None:
        expired.set()
        if connection.raw is not None:
            with contextlib.suppress(OSError):
                connection.raw.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(seconds, 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield expired.is_set
    finally:
        timer.cancel()
