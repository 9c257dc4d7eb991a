"""Connections to a server, blocking."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from igtl.addresses import of_tcp
from igtl.blocking.link import Link
from igtl.blocking.transport import SocketTransport
from igtl.net.sockets import address_of, connected_socket, tune
from igtl.options import ConnectOptions
from igtl.session.facade import client_layer, new_session
from igtl.session.session import Session


def open_transport(
    host: str,
    port: int,
    options: ConnectOptions,
    session: Session,
    opened: Callable[[socket.socket], None] = lambda sock: None,
) -> SocketTransport:
    """Connect, and shake hands if it is TLS or WebSocket.

    Args:
        opened: called with the socket before the handshake; another thread may shut it down.

    Raises:
        OSError: no connection, or it was refused in the handshake.
    """
    start = time.monotonic()
    # 0 is no time-out of a socket, but makes it one that does not wait, and fails in another way
    timeout = None if options.open_timeout is None else max(options.open_timeout, 0.001)
    sock = options.sock
    try:
        layer = client_layer(options, host, port)
        if sock is None:
            sock = connected_socket(*of_tcp(host, port), timeout)
        sock.settimeout(timeout)
        opened(sock)
        tune(sock, options.keepalive)
        session.local = address_of(sock.getsockname())
        session.protocol.peer = address_of(sock.getpeername()) or session.local
        transport = SocketTransport(sock, session, layer)
        try:
            left = None if timeout is None else max(0.0, start + timeout - time.monotonic())
            transport.handshake(left)
        except TimeoutError:
            assert layer is not None
            raise TimeoutError(f"the {layer.name} handshake took too long") from None
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return transport


def connect_once(
    host: str, port: int, options: ConnectOptions, *, ends_quietly: bool = False
) -> Link:
    """One connection; see `igtl.connect`.

    Args:
        ends_quietly: iteration ends on any disconnect, see `Link.close_reason`.
    """
    session = new_session(options)
    transport = open_transport(host, port, options, session)
    link = Link(transport, options, ends_quietly=ends_quietly)
    try:
        link.greet(hello=options.hello)
    except BaseException:
        transport.close()
        raise
    return link
