"""A listening socket that gives a link for each client: `listen`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Self, Unpack

from igtl.addresses import of_tcp
from igtl.blocking.drained import drained
from igtl.blocking.link import Link
from igtl.blocking.transport import SocketTransport
from igtl.errors import ConnectionClosed
from igtl.net.sockets import (
    REST,
    Bound,
    Resting,
    Waiter,
    address_of,
    concerns_one_client,
    is_exhausted,
    tune,
    unix_path,
)  # fmt: skip
from igtl.options import PORT, ListenOptions, ListenSettings, seconds
from igtl.session.facade import new_session, server_layers

_LEAVES: Final = 1.0  # seconds in which a thread that was woken leaves `accept`


class Listener:
    """A listening socket that gives a Link for each client; see `listen`.

    Iterating yields links as clients come, until it is closed.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, bound: Bound, linked: Callable[[socket.socket], Link]) -> None:
        self._bound = bound
        self._sock = bound.sock
        self._sock.listen()
        self._linked = linked
        self._readable = Waiter(self._sock)
        self._accepting = threading.Lock()  # one thread after the other waits at the socket
        self._ended = threading.Event()
        self._resting = Resting()
        self.host, self.port = bound.host, bound.port

    def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client; any number of threads may.

        A handshake (TLS, WebSocket) takes place at the first recv or send, so that one that hangs
        does not keep the others waiting.

        Where the system has no descriptor or no memory left, this is logged once, and tried again
        every second.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the listener was closed.
        """
        timeout = seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                sock = self._accept(deadline)
            except TimeoutError:
                raise TimeoutError(f"no client within {timeout:g} s") from None
            except (OSError, ValueError) as error:
                if self._ended.is_set():
                    raise ConnectionClosed("this listener was closed") from error
                raise
            if sock is None:
                continue
            try:
                return self._linked(sock)
            except OSError:  # gone already
                sock.close()

    def _accept(self, deadline: float | None) -> socket.socket | None:
        """Return the socket of the next client; None: the one that came has left."""

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        wait = left()
        if not self._accepting.acquire(timeout=-1 if wait is None else wait):
            raise TimeoutError
        try:
            if self._ended.is_set():
                raise ConnectionClosed("this listener was closed")
            self._readable(left())
            try:
                sock, _ = self._sock.accept()
                self._resting.ends()
                return sock
            except BlockingIOError:  # it has left
                return None
            except OSError as error:
                if self._ended.is_set():
                    raise
                if is_exhausted(error):
                    self._resting.begins(error)
                    wait = left()
                    self._ended.wait(REST if wait is None else min(REST, wait))
                elif not concerns_one_client(error):
                    raise
                return None
        finally:
            self._accepting.release()

    def __iter__(self) -> Iterator[Link]:
        while True:
            try:
                yield self.accept()
            except ConnectionClosed:
                return

    def close(self) -> None:
        """Stop listening; links that `accept` has returned stay open."""
        if not self._ended.is_set():
            self._ended.set()
            self._bound.stop()
            # a thread that is about to wait would wait for the descriptor's next owner
            left = self._accepting.acquire(timeout=_LEAVES)
            self._bound.close()
            if left:
                self._accepting.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def listen(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[ListenSettings]
) -> Listener:
    """Listen for clients, and treat each as a Link of your own.

    For a program that serves one peer, or each client in a thread. `igtl.serve` serves many.

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all. "unix:/path" makes
            a Unix socket, whose permissions are those that the umask leaves; the path is removed
            when the listener is closed. "ws://address" and "wss://address" take WebSockets
            (`igtl[websocket]`); with a path, those that ask for it.
        port: 0 takes a free one.
        settings: see `igtl.options.ListenOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    options = ListenOptions.of(settings)
    new_layer = server_layers(options, host)

    def linked(sock: socket.socket) -> Link:
        local = address_of(sock.getsockname())
        peer = address_of(sock.getpeername()) or local
        session = new_session(options, peer=peer, local=local)
        tune(sock, options.keepalive)
        transport = SocketTransport(
            sock, session, new_layer(), handshake_timeout=options.handshake_timeout
        )
        if not options.drain:
            return Link(transport, options)
        transport.handshake(options.handshake_timeout)
        return drained(transport, options)

    if options.sock is not None:
        return Listener(Bound(options.sock), linked)
    host, port = of_tcp(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Listener(Bound.at(unix_path(host) or (host, port), family), linked)
