"""Who may speak to the server: on loopback no name but this machine's own, and no page of another origin.

A server without a password on loopback is still within reach of every web page: by a form or script of another
origin, or by a name of the page's own that is made to lead to 127.0.0.1 (DNS rebinding, CVE-2024-28224).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kweek.serve.exchange import refuse
from kweek.serve.refusal import Refusal


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine and nobody else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        loopback_only: the server listens on loopback, so requests name it so.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app, self._loopback_only = app, loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = self._judge(headers.get("host", ""), headers.get("origin"))
            if refusal is not None:
                await refuse(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _judge(self, host: str, origin: str | None) -> Refusal | None:
        name = urlsplit(f"//{host}").hostname if _is_authority(host) else None
        if name is None or (self._loopback_only and not is_loopback(name)):
            return Refusal(
                "This server answers on this machine only, as localhost or 127.0.0.1.",
                status=403,
                code="wrong_host",
            )
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(
                "Pages of another origin may not use this server.", status=403, code="wrong_origin"
            )
        return None


def _is_authority(host: str) -> bool:
    """Whether a Host header is a name or address with an optional port, so that it can be taken apart."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.netloc == host and "@" not in host and parts.port != 0
    except ValueError:
        return False
