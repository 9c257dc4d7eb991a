"""Connecting to the peer; where that fails, the reason is found."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final, Protocol

from igtl.addresses import WebSocketAddress
from igtl.doctor.diagnosis import Diagnosis
from igtl.doctor.surroundings import of_no_client, of_no_listener, of_no_name
from igtl.session.layers import SCRATCH, Layer

if TYPE_CHECKING:
    from ssl import SSLContext

_OTHERS: Final = (18944, 18945, 18946, 18947, 18904)  # ports that OpenIGTLink programs use
DROPPED: Final = (
    "Either it does not let this client in, or something else accepts connections there and drops "
    "them: the published port of a container, or a tunnel, whose program does not run, or listens "
    "on 127.0.0.1 inside."
)


class Connection(Protocol):
    """What is needed of a connected socket, plain, by TLS or by WebSocket."""

    def settimeout(self, value: float | None, /) -> None:
        """Set the seconds for each call; None: no limit."""

    def recv(self, size: int, /) -> bytes:
        """Receive at most so many bytes; empty at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""

    def close(self) -> None:
        """Close the connection."""


def connected(diagnosis: Diagnosis, host: str, port: int) -> socket.socket | None:
    """Connect to a server; None where that fails, and the diagnosis says why."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no such name can be
        reason = getattr(error, "strerror", None) or error
        diagnosis.found("problem", "host", f"The name {host!r} cannot be found: {reason}. "
                        "Is it spelled right, and is this machine in that network?"
                        f"{of_no_name(host)}")  # fmt: skip
        return None
    start = time.monotonic()
    try:
        sock = socket.create_connection((host, port), timeout=5)
    except ConnectionRefusedError:
        others = [p for p in _OTHERS if p != port and _listens(host, p)]
        near = f" But something listens on port {' and '.join(map(str, others))}." if others else ""
        diagnosis.found(
            "problem", "refused",
            f"Nothing listens on port {port} of {host}. Is the program running, and its server "
            f"switched on? (3D Slicer: the connector must be a server, and active.){near}"
            f"{of_no_listener(host)}",
        )  # fmt: skip
        return None
    except ConnectionResetError:
        diagnosis.found(
            "problem",
            "closed",
            f"The connection to port {port} of {host} is reset at once. {DROPPED}",
        )
        return None
    except OSError as error:
        why = (
            "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {error}"
        )
        diagnosis.found(
            "problem", "unreachable",
            f"{host} {why}. Is it switched on and in the same network? A firewall that drops port "
            f"{port} looks the same.",
        )  # fmt: skip
        return None
    took = 1000 * (time.monotonic() - start)
    diagnosis.found("ok", "reachable", f"Connected to {diagnosis.address} in {took:.1f} ms.")
    return sock


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.3).close()
    except OSError:
        return False
    return True


def accepted(diagnosis: Diagnosis, host: str, port: int, seconds: float) -> socket.socket | None:
    """Wait for a client; None where none comes, and the diagnosis says why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family)
    except OSError as error:
        diagnosis.found("problem", "address", f"Cannot listen on {diagnosis.address}: "
                        f"{error.strerror}. Does another program have the port?")  # fmt: skip
        return None
    with server:
        server.settimeout(max(seconds, 0.1))
        try:
            sock, peer = server.accept()
        except TimeoutError:
            diagnosis.found(
                "problem", "no client",
                f"No client connected to {diagnosis.address} within {seconds:g} s."
                f"{of_no_client(host)} Is the other program a client, and set to this address?",
            )  # fmt: skip
            return None
    diagnosis.found("ok", "reachable", f"{peer[0]}:{peer[1]} has connected.")
    return sock


def speaks_tls(host: str, port: int) -> bool:
    """Return whether a server takes a TLS handshake, whatever its certificate.

    Not for servers that may be of OpenIGTLink: they would take it for a header with a body of any
    size.
    """
    import ssl  # slow to load, and rarely wanted

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=5) as sock:
            context.wrap_socket(sock, server_hostname=host).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it refuses in the words of TLS
    except OSError:
        return False
    return True


def by_tls(
    diagnosis: Diagnosis, sock: socket.socket, context: SSLContext, host: str, listen: bool
) -> socket.socket | None:
    """Encrypt a connection; None where that fails, and the diagnosis says why."""
    import ssl  # slow to load, and rarely wanted

    sock.settimeout(5)
    try:
        wrapped = context.wrap_socket(
            sock, server_side=listen, server_hostname=None if listen else host
        )
    except ssl.SSLCertVerificationError as error:
        sock.close()
        diagnosis.found("problem", "certificate", f"The certificate of {diagnosis.address} is not "
                        f"accepted: {error.verify_message}.")  # fmt: skip
        return None
    except (OSError, ValueError) as error:
        sock.close()
        reason = getattr(error, "reason", None) or error
        diagnosis.found(
            "problem", "tls",
            f"No TLS with {diagnosis.address}: {reason}. Does it speak TLS at all? If it asks for "
            "a certificate of ours: --cert.",
        )  # fmt: skip
        return None
    cipher = wrapped.cipher()
    diagnosis.found("ok", "tls", f"Encrypted: {wrapped.version()}, {cipher[0] if cipher else ''}.")
    return wrapped


def by_websocket(
    diagnosis: Diagnosis, sock: socket.socket, url: WebSocketAddress
) -> Connection | None:
    """Open a WebSocket on a connection; None where that fails, and the diagnosis says why."""
    from igtl.session.websocket import by_client

    sock.settimeout(5)
    through = _Layered(sock, by_client(url))
    try:
        through.shake_hands()
    except OSError as error:
        sock.close()
        text = "it does not answer the request" if isinstance(error, TimeoutError) else str(error)
        diagnosis.found(
            "problem", "websocket",
            f"No WebSocket at {diagnosis.address}: {text}. Is the path right, and does it speak "
            "WebSocket at all? A server of plain OpenIGTLink is at HOST:PORT, without ws://.",
        )  # fmt: skip
        return None
    diagnosis.found("ok", "websocket", f"It is a WebSocket at {url.path}.")
    return through


class _Layered:
    """A socket through a layer."""

    def __init__(self, sock: socket.socket, layer: Layer) -> None:
        self._sock = sock
        self._layer = layer
        self._buffer = memoryview(bytearray(SCRATCH))
        self.settimeout = sock.settimeout
        self.close = sock.close
        layer.begin()

    def shake_hands(self) -> None:
        while not self._layer.ready:
            self._take()
            if self._layer.read_into(self._buffer[:0]) == 0:
                raise ConnectionResetError("the peer hung up")

    def _take(self) -> None:
        if out := self._layer.outgoing():
            self._sock.sendall(out)
        if data := self._sock.recv(SCRATCH):
            self._layer.feed(memoryview(data))
        else:
            self._layer.feed_eof()

    def recv(self, size: int, /) -> bytes:
        while (n := self._layer.read_into(self._buffer[:size])) is None:
            self._take()
        return bytes(self._buffer[:n])

    def sendall(self, data: bytes, /) -> None:
        self._layer.wrap(data)
        self._sock.sendall(self._layer.outgoing())
