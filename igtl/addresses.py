"""Addresses of peers as people write them, where they are more than a host and a port."""

from __future__ import annotations

from typing import NamedTuple

from igtl.options import PORT, SITE, UNIX

_SCHEMES = ("ws://", "wss://")


class WebSocketAddress(NamedTuple):
    """Where a WebSocket is.

    Attributes:
        secure: by TLS ("wss://").
        host, port: of the TCP connection.
        path: what is asked for there, with its query; "/" at least.
    """

    secure: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEMES[self.secure]}{host}:{self.port}{self.path.removesuffix('/')}"


def websocket_address(host: str, port: int) -> WebSocketAddress | None:
    """Return the address of a WebSocket, if a host names one ("ws://host:port/path"); else None.

    Args:
        host: a host, or such an address.
        port: where the host names none.

    Raises:
        ValueError: the host is a damaged address of a WebSocket.
    """
    if not host.startswith(_SCHEMES):
        return None
    from urllib.parse import urlsplit  # rarely wanted

    parts = urlsplit(host)
    if parts.username is not None or parts.fragment:
        raise ValueError(f"{host!r}: a WebSocket address has no user and no fragment")
    try:
        named = parts.port
    except ValueError as error:
        raise ValueError(f"{host!r}: {error}") from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError(f"{host!r}: the path must be percent-encoded")
    where = parts.hostname or "localhost"
    return WebSocketAddress(parts.scheme == "wss", where, port if named is None else named, path)


def parsed(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, HOST, :PORT or PORT.

    The port is 18944 and the host localhost if they are left out; an IPv6 host stands in brackets.
    Of unix:/PATH, site:NAME, ws://HOST:PORT/PATH and wss://… the host is the whole text.

    Raises:
        ValueError: the text has none of these forms.
    """
    if text.startswith((UNIX, SITE)):
        return text, 0
    if url := websocket_address(text, PORT):
        return text, url.port
    host, port = text, str(PORT)
    if host.startswith("["):
        host, _, tail = host[1:].partition("]")
        port = tail.removeprefix(":") or port
    elif ":" in host or host.isdecimal():  # the system would take a number for an address
        host, _, port = host.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: {port!r} is not a port")
    return host or "localhost", int(port)


def of_tcp(host: str, port: int) -> tuple[str, int]:
    """Host and port of the TCP connection under an address, which may name a WebSocket."""
    url = websocket_address(host, port)
    return (host, port) if url is None else (url.host, url.port)
