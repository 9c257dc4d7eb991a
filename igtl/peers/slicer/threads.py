"""The profile for programs without an event loop: `igtl.slicer.serve` and `igtl.slicer.connect`."""

from __future__ import annotations

import inspect
import threading
from typing import Self, Unpack

from igtl._core import Frame
from igtl.aio.dialing import open_dialing
from igtl.aio.peer import Peer as AioPeer
from igtl.blocking.changes import Changes, guarded
from igtl.blocking.server import Peer, Server
from igtl.blocking.server import serve as serve_clients
from igtl.blocking.steps import method, run
from igtl.codec.message import Message
from igtl.options import PORT, ServerOptions, ServerSettings
from igtl.peers.slicer import talking
from igtl.peers.slicer.scene import Handler
from igtl.peers.slicer.settings import RETRY, checked
from igtl.peers.slicer.talking import Talking
from igtl.session.backoff import Backoff


class Slicer(Talking):
    """One or more running 3D Slicer; see `serve` and `connect`. May be used in any thread.

    Attributes:
        server: the `igtl.Server` of the connections.
        others: see `Scene` and `Talking`.
    """

    server: Server

    def __init__(self, server: Server) -> None:
        super().__init__(server, Changes(), guarded)
        self._threads: list[threading.Thread] = []

    def shown(self, peer: AioPeer) -> Peer:
        """Return a client of the server as handlers see it."""
        return next(each for each in self.server.clients if each.id == peer.id)

    def _publish(self, message: Message | Frame, *, latch: bool) -> None:
        self.server.broadcast(message, latch=latch)

    def _run(self, handler: Handler) -> None:
        if inspect.iscoroutinefunction(handler.call):
            raise TypeError("coroutine functions are for igtl.slicer.aio")
        name = getattr(handler.call, "__name__", "handler")
        thread = threading.Thread(
            target=lambda: run(self.call_handler(handler)), name=f"igtl slicer {name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    wait_connected = method(talking.wait_connected)
    command = method(talking.command)

    def start(self) -> None:
        """Begin to listen or to connect, after `start=False`."""
        self.server.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this is closed, or `timeout` seconds; returns whether it is closed.

        Handlers do their work meanwhile. Ctrl-C interrupts the wait.
        """
        return self.server.wait(timeout)

    def close(self) -> None:
        """Send what waits, close, and wait for handlers that are running."""
        self.server.close()
        self.closed = True
        self.changed.tell()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Slicer of {self.server!r}>"


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Slicer:
    """Be the server of 3D Slicer's connectors, which are clients.

        with igtl.slicer.serve() as slicer:
            slicer.transform("NeedleToReference", matrix)

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all.
        port: 0 takes a free one.
        start: False: listen only from `start()` on.
        settings: see `igtl.options.ServerOptions`; `version` is 2 and `policy` "latest" by default.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    return Slicer(serve_clients(host, port, start=start, **checked(settings)))


def connect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    start: bool = True,
    **settings: Unpack[ServerSettings],
) -> Slicer:
    """Be the client of 3D Slicer's connector, which is a server.

        with igtl.slicer.connect("localhost") as slicer:
            slicer.transform("NeedleToReference", matrix)

    It connects again and again, so Slicer may be started later, and restarted. When Slicer ends the
    connection it is closed by RST: otherwise the port of a Slicer that was killed stays taken for a
    minute.

    Args:
        host: of Slicer.
        port: of Slicer.
        backoff: between two tries; default Backoff(0.1, 1).
        start: False: connect only from `start()` on.
        settings: see `serve`; `ssl` is not among them, since Slicer has no TLS.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
    """
    options = ServerOptions.of(checked(settings))
    retry = RETRY if backoff is None else backoff
    return Slicer(Server(lambda runner: open_dialing((host, port), options, retry, start, runner)))
