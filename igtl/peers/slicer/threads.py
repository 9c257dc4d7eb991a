"""The profile for programs without an event loop: `igtl.slicer.serve` and `igtl.slicer.connect`."""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar, Unpack

from igtl._core import Frame
from igtl.aio.dialing import open_dialing
from igtl.aio.peer import Peer as AioPeer
from igtl.blocking.drained import wait
from igtl.blocking.server import Peer, Server
from igtl.blocking.server import serve as serve_clients
from igtl.codec.message import Message
from igtl.errors import CommandFailed
from igtl.log import logger
from igtl.messages.general import CommandReply
from igtl.options import PORT, ServerOptions, ServerSettings, seconds
from igtl.peers.slicer.scene import Handler, Scene, reply_of
from igtl.peers.slicer.settings import RETRY, checked
from igtl.session.backoff import Backoff

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Message)


class Slicer(Scene):
    """One or more running 3D Slicer; see `serve` and `connect`. May be used in any thread.

    Attributes:
        server: the `igtl.Server` of the connections.
        stats: see `Scene`.
    """

    server: Server

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._changed = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        server.on_connect(self._welcome)
        server.on()(self._arrived)

    async def _welcome(self, peer: AioPeer) -> None:
        self._came(peer.peer, next(each for each in self.server.clients if each.id == peer.id))
        with self._changed:
            self._changed.notify_all()

    async def _arrived(self, message: Message, peer: AioPeer) -> None:
        with self._changed:
            if self._take(message):
                self._changed.notify_all()

    def _publish(self, message: Message | Frame, *, latch: bool) -> None:
        self.server.broadcast(message, latch=latch)

    def _run(self, handler: Handler) -> None:
        if inspect.iscoroutinefunction(handler.call):
            raise TypeError("coroutine functions are for igtl.slicer.aio")
        name = getattr(handler.call, "__name__", "handler")
        thread = threading.Thread(
            target=self._call, args=(handler,), name=f"igtl slicer {name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _call(self, handler: Handler) -> None:
        while True:
            with self._changed:
                while not handler.waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                message = handler.waiting.take()
                peer = self._peers.get(message.peer)
            try:
                handler.call(message, peer)
            except BaseException as error:  # SystemExit would end the thread
                logger.error("a handler failed", exc_info=error, extra={"peer": message.peer})

    def start(self) -> None:
        """Begin to listen or to connect, if that was left to this call."""
        self.server.start()

    @property
    def connected(self) -> bool:
        """Whether a Slicer is there."""
        return bool(self.server.clients)

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until a Slicer is there; returns whether one is."""
        timeout = seconds("timeout", timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self.connected:
                left = end - time.monotonic()
                if left <= 0 or not wait(self._changed, None if left == math.inf else left):
                    return self.connected
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until this is closed, or `timeout` seconds, while handlers do their work; returns
        whether it is closed. Ctrl-C interrupts the wait."""
        return self.server.wait(timeout)

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """The newest message of a class and device name that Slicer has sent; None: there is none.

        Args:
            name: with the wildcards * and ?.
            max_age: seconds since it arrived; an older one counts as none.
        """
        max_age = seconds("max_age", max_age)
        with self._changed:
            return self._newest.newest(kind, name, max_age)

    def command(
        self,
        name: str,
        text: str = "",
        *,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = 5.0,
        peer: Peer | None = None,
    ) -> CommandReply:
        """Send a Slicer module a COMMAND and wait for its reply. It has failed where the reply has
        an ErrorMessage; the `Status` of Slicer says nothing.

        Args:
            peer: which Slicer; default the first that is there.

        Raises:
            CommandFailed: the module says so.
            TimeoutError: no Slicer is there, or none answered in time.
        """
        timeout = seconds("timeout", timeout)
        began = time.monotonic()
        if peer is None:
            if not self.wait_connected(timeout):
                raise TimeoutError(f"no 3D Slicer was there within {timeout} s")
            peer = self.server.clients[0]
        if timeout is not None:
            timeout = max(0.0, began + timeout - time.monotonic())
        try:
            return peer.ask(self._new_command(name, text, metadata), timeout=timeout)
        except CommandFailed as failed:
            return reply_of(failed)

    def close(self) -> None:
        """Send what waits, close, and wait for handlers that are at work."""
        self.server.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
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
    """Be the server of 3D Slicer's connectors, which are clients:

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
    """Be the client of 3D Slicer's connector, which is a server; again and again, so Slicer may be
    started later, and restarted:

        with igtl.slicer.connect("localhost") as slicer:
            slicer.transform("NeedleToReference", matrix)

    When Slicer ends the connection it is closed by RST: otherwise the port of a Slicer that was
    killed stays taken for a minute.

    Args:
        host, port: of Slicer.
        backoff: between two tries; default Backoff(0.1, 1).
        start: False: connect only from `start()` on.
        settings: see `serve`; `ssl` is not among them, since Slicer has no TLS.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
    """
    options = ServerOptions.of(checked(settings))
    retry = RETRY if backoff is None else backoff
    return Slicer(Server(lambda runner: open_dialing((host, port), options, retry, start, runner)))
