"""A server for many clients, for programs without an event loop: `igtl.serve`.

It is `igtl.aio.server` in one I/O thread; `igtl.blocking.runner` calls the functions of its user.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Self, Unpack

from igtl._core import Frame
from igtl.aio import server as aio
from igtl.aio.answers import Runner
from igtl.aio.peer import Peer as AioPeer
from igtl.blocking.link import Asking
from igtl.blocking.runner import Loop, Threads
from igtl.blocking.steps import method
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import named
from igtl.options import PORT, ServerOptions, ServerSettings, seconds
from igtl.session import serving
from igtl.session.requests import Exchange
from igtl.session.serving import PeerBase, ServerBase


class Peer(PeerBase, Asking):
    """One client of a server; may be used in any thread.

    Attributes: see `PeerBase`.
    """

    def __init__(self, peer: AioPeer, io: Loop) -> None:
        super().__init__(peer.connection, peer.id)
        self.connected_at, self.since = peer.connected_at, peer.since
        self._peer = peer
        self._io = io

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Queue a message for this client under the server's policy; packed at once.

        Raises:
            EncodeError: the message cannot be sent to it as it is.
            ConnectionClosed: it is gone.
        """
        self._io.check()
        connection = self._peer.connection
        packed = self._peer.session.pack(message, crc=crc)
        if connection.pass_on(packed):
            return
        outbox = self._peer.session.outbox
        if outbox is None or outbox.policy == "block" or connection.is_over:
            connection.arrived()
            self._io.run(connection.put_wait(packed, None))
        else:
            self._io.post(partial(connection.put_left, packed))

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """Send a request to this client and wait for its answer."""
        return self._io.run(self._peer.request(exchange, timeout))

    def disconnect(self) -> None:
        """Send what is queued for it, then close; then the server no longer has this client.

        A handler may call it.
        """
        self._io.run(self._peer.disconnect())

    def __repr__(self) -> str:
        return f"<Peer {self.id} {named(self.peer)} {self.stats}>"


class Server(ServerBase):
    """A server for many clients; see `serve`. Its methods may be called in any thread.

    Attributes:
        host, port: where it listens.
        others: see `igtl.session.serving.ServerBase`.
    """

    def __init__(self, open_server: Callable[[Runner], Any]) -> None:
        self._threads = Threads(Peer)
        self._io = self._threads.io
        self._closed = threading.Event()
        self._closing = threading.Lock()
        try:
            self._server: aio.Server = self._io.run(open_server(self._threads))
        except BaseException:
            self._io.stop()
            raise
        super().__init__(self._server.functions)
        self.host, self.port = self._server.host, self._server.port
        self.refused, self.gone = self._server.refused, self._server.gone

    def start(self) -> None:
        """Begin to listen, after `serve(start=False)`."""
        self._io.run(self._server.start())

    @property
    def clients(self) -> list[Peer]:
        """The clients that are connected."""
        return [self._threads.wrapped(peer) for peer in self._server.clients]

    def broadcast(self, message: Message | Frame, *, latch: bool = False, crc: bool = True) -> None:
        """Send a message to all clients; packed once, at once, for each header version.

        Clients still at version 1 get it without metadata and id, which is counted in
        `Peer.stripped`; a new client has a quarter of a second to show version 2. With the
        policy "block" this waits for the slowest.

        Args:
            message: a Frame is sent on as it came.
            latch: also send it to every client that comes later, at once, until a newer one of
                this type and device name takes its place.
            crc: False writes 0 in its place.
        """
        self._io.check()
        server = self._server
        rest = server.pass_on(message, latch, crc)
        if rest is None:
            return
        if server.compresses():
            server.compress(rest[0])  # here, not in the I/O thread
        if server.options.policy == "block":
            self._io.run(server.deliver(*rest))
        else:
            self._io.post(partial(server.deliver_now, *rest))

    def peer_of(self, client: int) -> Peer:
        """Return the client with this id; raise KeyError if there is none."""
        found: Peer = self._threads.wrapped(self._server.peers[client])
        return found

    send_to = method(serving.send_to)
    disconnect = method(serving.disconnect)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is closed, or `timeout` seconds; returns whether it is closed.

        Ctrl-C interrupts the wait.
        """
        timeout = seconds("timeout", timeout)
        if sys.platform != "win32" or timeout is not None:
            return self._closed.wait(timeout)
        while not self._closed.wait(0.2):
            pass
        return True

    def shutdown(self, *, timeout: float | None = 5.0) -> None:
        """Stop listening, send what is queued, handle what still comes, and close.

        A handler may call it: then what waits behind that handler is not handled. In a forked
        child, which has no part of the server, it does nothing.

        Args:
            timeout: seconds until a client that has not taken everything is cut. None: wait for
                all.
        """
        timeout = seconds("timeout", timeout)
        if not self._io.is_here:
            return
        if self._threads.in_handler:
            with contextlib.suppress(ConnectionClosed):
                self._io.run(self._threads.leave())
        with self._closing:
            if self._closed.is_set():
                return
            self._io.run(self._server.shutdown(timeout=timeout))
            self._threads.stop()
            self._io.stop()
            self._closed.set()

    close = method(serving.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server on {named((self.host, self.port))}, {len(self._server.clients)} clients>"


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Server:
    """Serve many clients.

        with igtl.serve(port=18944, start=False) as server:
            @server.on(Transform, "Probe*")
            def _(message, peer): peer.send(Status.ok())
            server.start()
            server.broadcast(image)

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all.
        port: 0 takes a free one.
        start: False: take the port, but listen only from `start()` on, so that handlers that are
            registered before miss nothing. What comes and has no handler is counted as
            "unhandled".
        settings: see `igtl.options.ServerOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    options = ServerOptions.of(settings)
    return Server(lambda runner: aio.open_server(host, port, options, start, runner))
