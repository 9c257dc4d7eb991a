"""`connect`: a plain link, one that a thread reads, or one that reconnects by itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, Unpack, overload

from igtl.addresses import of_tcp
from igtl.blocking.drained import drained
from igtl.blocking.healing import ReconnectingLink, Supervised
from igtl.blocking.link import Link
from igtl.blocking.transport import SocketTransport
from igtl.net.sockets import address_of, connected_socket, tune
from igtl.options import (
    PORT,
    ConnectOptions,
    ConnectSettings,
    QueueSettings,
    ReconnectOptions,
    ReconnectSettings,
)  # fmt: skip
from igtl.session.backoff import Backoff, OnEvent, Supervisor
from igtl.session.facade import client_layer, greeting, new_session
from igtl.session.packed import Packed
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
        host: see `connect`.
        port: of the server.
        options: of the connection.
        session: whose bytes the transport moves.
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
        host: see `connect`.
        port: of the server.
        options: of the connection.
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


@overload
def connect(
    host: str = ..., port: int = ..., *, reconnect: None = None, **settings: Unpack[ConnectSettings]
) -> Link: ...
@overload
def connect(
    host: str = ...,
    port: int = ...,
    *,
    reconnect: Backoff,
    on_event: OnEvent | None = ...,
    **settings: Unpack[ReconnectSettings],
) -> ReconnectingLink: ...
def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    reconnect: Backoff | None = None,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Link:
    """Connect to a server.

    Args:
        host: of the server; "unix:/path" is a Unix socket, "ws://host:port/path" and "wss://…" are
            WebSockets (`igtl[websocket]`).
        port: of the server.
        reconnect: makes it a ReconnectingLink, which is returned at once, connected or not.
        on_event: for it: called with each LinkEvent, in its thread.
        settings: see `igtl.options.ConnectOptions`; with `reconnect` also
            `igtl.options.ReconnectOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: no connection (ConnectionRefusedError, socket.gaierror, TimeoutError, …).
        ssl.SSLError: a check of TLS failed; the text says which.
    """
    if reconnect is not None:
        supervisor = Supervisor((host, port), reconnect, on_event)
        healing = ReconnectOptions.of(settings).for_reconnecting()
        return reconnecting(host, port, healing, supervisor)
    away = set(settings) & set(QueueSettings.__annotations__)
    if away:
        raise TypeError(f"{', '.join(sorted(away))} are for links with reconnect=")
    options = ConnectOptions.of(settings)
    if not options.drain:
        return connect_once(host, port, options)
    session = new_session(options)
    transport = open_transport(host, port, options, session)
    for wire in greeting(session.protocol, hello=options.hello):
        session.greeting.append(Packed(wire, as_it_is=True))
    return drained(transport, options)


def reconnecting(
    host: str, port: int, options: ReconnectOptions, supervisor: Supervisor
) -> ReconnectingLink:
    """Return a link that reconnects by itself, with these options."""

    def open_connection(
        session: Session, opened: Callable[[socket.socket], None]
    ) -> SocketTransport:
        return open_transport(host, port, options, session, opened)

    client_layer(options, host, port)  # tells now what can never be
    pump = Supervised((host, port), options, supervisor, open_connection)
    pump.start("igtl reconnect", pump.supervise)
    return ReconnectingLink(pump, options)
