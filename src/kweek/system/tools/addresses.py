"""Which addresses of the network may be reached: names are resolved once, and what was checked is what is connected to.

A name may lead anywhere, and to another place the next time it is asked for (DNS rebinding). So all addresses of a name
are checked, one of them is kept, and the connection goes to that address and to no name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kweek.errors import ConfigError, KweekError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Addresses that carry another one, by which a private address is reached through a public one: IPv4-mapped and
#: -compatible, NAT64 (RFC 6052, 8215), Teredo (4380), 6to4 (3056).
_CARRIERS = [
    ipaddress.ip_network(network)
    for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
]
_PORTS = {"http": 80, "https": 443}


class Forbidden(KweekError):
    """An address or a URL that may not be reached. Nothing was sent."""


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses that this machine finds for a name.

    Raises:
        OSError: it finds none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether an address belongs to the whole Internet and names one machine of it."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    if any(address in network for network in _CARRIERS):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )


@dataclass(frozen=True)
class Guard:
    """Which names and addresses may be reached.

    Args:
        allow: names: "docs.python.org", "*.python.org" for all below it, "*" for all; with ":8080" for another port
            than those of HTTP and HTTPS, ":*" for any. An address is named like a name.
        networks: that may be reached though they are private, like "10.1.0.0/16" for a wiki of one's own.
        resolve: gives the addresses of a name.

    Raises:
        ConfigError: a network that is none.
    """

    allow: Sequence[str]
    networks: Sequence[str] = ()
    resolve: Callable[[str, int], list[str]] = system_resolve

    def __post_init__(self) -> None:
        for network in self.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(str(error), where="networks", fix='give one like "10.1.0.0/16"') from None

    def target(self, url: str) -> Target:
        """Where a URL leads, checked.

        Raises:
            Forbidden: it is no plain URL of HTTP, or leads to a name or an address that may not be reached.
        """
        scheme, host, port, path = parts_of(url)
        if not self.allows(host, port, _PORTS[scheme]):
            raise Forbidden(f"{host}:{port} is not on the list of what may be reached", where=_shown(url))
        return Target(scheme, host, port, path, self.address(host, port))

    def allows(self, host: str, port: int, default: int) -> bool:
        """Whether a name is on the list; `default` is the port that needs not be named."""
        for entry in self.allow:
            name, _, named = entry.lower().rpartition(":") if _has_port(entry) else (entry.lower(), "", "")
            name = name.strip("[]")  # as IPv6 addresses stand before a port
            fits = named == "*" or port == (int(named) if named else default)
            under = name.startswith("*.") and host.endswith(name[1:])
            if fits and (name in ("*", host) or under):
                return True
        return False

    def address(self, host: str, port: int) -> str:
        """The address to connect to.

        Raises:
            Forbidden: there is none, or one of them may not be reached: a name that also leads inside is no mistake.
        """
        try:
            found = self.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise Forbidden(f"the name cannot be resolved ({error})", where=host) from None
        if not found:
            raise Forbidden("the name has no address", where=host)
        addresses: list[Address] = []
        for text in found:
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                raise Forbidden(f"{text[:60]!r} is no address", where=host) from None
            if not (is_public(address) or any(address in network for network in self._networks())):
                raise Forbidden(f"it leads to {address}, which is not a public address", where=host)
            addresses.append(address)
        return str(addresses[0])

    def _networks(self) -> list[Network]:
        return [ipaddress.ip_network(network) for network in self.networks]


@dataclass(frozen=True)
class Target:
    """A URL whose address has been checked; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str
    address: str


def everywhere() -> Guard:
    """No guard: for addresses that an operator has written down."""
    return Guard(["*:*"], ["0.0.0.0/0", "::/0"])


def parts_of(url: str) -> tuple[str, str, int, str]:
    """Scheme, name, port, and path with query of a plain URL.

    Raises:
        Forbidden: another scheme, a user or a password, characters that have no place in it, or no name.
    """
    if any(character <= " " or character == "\x7f" or character == "\\" for character in url):
        raise Forbidden(
            "blanks, backslashes and control characters have no place in a URL", where=_shown(url)
        )
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError as error:
        raise Forbidden(f"no URL ({error})", where=_shown(url)) from None
    if split.scheme not in _PORTS:
        raise Forbidden(f"the scheme {split.scheme!r} is not http or https", where=_shown(url))
    if split.username is not None or split.password is not None:
        raise Forbidden("a URL with a user or a password", where=_shown(url))
    if not host or "%" in host:
        raise Forbidden("a URL without the name of a machine", where=_shown(url))
    try:
        name = host if ":" in host else host.encode("idna").decode().lower()
    except UnicodeError:
        raise Forbidden("the name of the machine cannot be meant", where=_shown(url)) from None
    path = split.path or "/"
    return (
        split.scheme,
        name.rstrip("."),
        _PORTS[split.scheme] if port is None else port,
        f"{path}?{split.query}" if split.query else path,
    )


def _has_port(entry: str) -> bool:
    name, colon, port = entry.rpartition(":")
    return bool(colon) and (port.isdecimal() or port == "*") and (":" not in name or name.endswith("]"))


def _shown(url: str) -> str:
    return repr(url[:100])
