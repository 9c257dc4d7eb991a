"""Links in asyncio: `connect`, `pipe`, and the Link that they and `listen` return.

Behaviour as in `igtl.blocking`, awaited.

Waiting can be cancelled at any time, by `asyncio.timeout` too, and nothing is lost: a `recv` that
was cancelled has taken nothing, a `send` that was cancelled is either not sent at all or whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from igtl._core import Frame
from igtl.addresses import of_tcp
from igtl.aio.steps import method, run
from igtl.aio.transport import Connection
from igtl.codec.message import Message
from igtl.errors import MessageTooLarge
from igtl.log import named
from igtl.messages.queries import Start
from igtl.net.sockets import unix_path
from igtl.options import (
    PORT,
    AioConnectOptions,
    AioConnectSettings,
    LinkOptions,
    seconds,
)  # fmt: skip
from igtl.session import operations
from igtl.session.facade import (
    AnyLink,
    client_layer,
    greeting,
    new_session,
)  # fmt: skip
from igtl.session.operations import OVER, Pairs, Streaming, StreamMessages, Synchronized
from igtl.session.packed import Packed
from igtl.session.protocol import hello_message
from igtl.session.requests import ANYTHING, Exchange, Selection, StreamOf

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_CLOSE_TIMEOUT = 5.0


class Asking:
    """The requests of whatever can send one and wait for its answer."""

    request: Callable[[Exchange, float | None], Coroutine[Any, Any, Message]]
    query = method(operations.query)
    command = method(operations.command)
    ask = method(operations.ask)
    clock = method(operations.clock)
    sleep = staticmethod(asyncio.sleep)


class StreamReader(StreamMessages[M]):
    """The messages of one stream; see `igtl.Link.stream`."""

    async def recv(self, *, timeout: float | None = None) -> M:
        """Receive the next message of the stream; see Link.recv."""
        return await self.link.recv_selected(self, timeout)  # type: ignore[no-any-return]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        return await self.recv()


class SyncReader(Pairs):
    """Iterator over messages of the same instant; see `igtl.Link.sync`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        found = await run(self.next_pair())
        if found is None:
            raise StopAsyncIteration
        return found


class Link(AnyLink, Asking, Synchronized[SyncReader]):
    """A connection to one peer, in one event loop.

    `async for message in link` yields messages until the peer closes cleanly. Several tasks may
    send and ask at once; one at a time receives.

    Attributes: see `igtl.Link`.
    """

    reader = SyncReader

    def __init__(
        self, connection: Connection, options: LinkOptions, *, ends_quietly: bool = False
    ) -> None:
        super().__init__(connection, ends_quietly=ends_quietly)
        self._connection = connection
        self._take = connection.session.take
        self.options = options
        self._receiving = False
        connection.drains = options.drain

    # -- sending

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message.

        It is packed at once, so the caller may reuse its arrays, and goes out behind what was sent
        before; when the queue is full this waits, or drops by its policy (see `connect`). For the
        rest see `igtl.Link.send`.
        """
        connection = self._connection
        if (left := connection.send_now(message, crc)) is not None:
            await connection.send_packed(left, self.options.write_timeout)

    async def send_hello(self) -> None:
        """See `igtl.Link.send_hello`."""
        packed = Packed(hello_message(), as_it_is=True)
        await self._connection.put_wait(packed, self.options.write_timeout)

    # -- receiving

    async def until(
        self,
        take: Callable[[], T | None],
        wanted: Any,
        timeout: float | None,
        *,
        iterates: bool = False,
    ) -> T:
        """See `igtl.Link.until`. iterates: for `__anext__`."""
        if timeout is not None:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    return await self.until(take, wanted, None, iterates=iterates)
            except TimeoutError:
                if limit.expired():
                    raise self.session.unseen(wanted, timeout) from None
                raise
        if self._receiving:
            raise RuntimeError("another task is receiving on this link")
        self._receiving = True
        try:
            while (found := take()) is None:
                await self._connection.more()
            return found
        except OVER as error:
            if isinstance(error, MessageTooLarge):
                self._connection.abort()
            if iterates and self.ends_iteration(error):
                raise StopAsyncIteration from None
            raise
        finally:
            self._receiving = False

    @overload
    async def recv(self, *, timeout: float | None = None) -> Message: ...
    @overload
    async def recv(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M: ...
    async def recv(
        self, kind: type[Message] = Message, name: str = "*", *, timeout: float | None = None
    ) -> Message:
        """Receive the next message, or the next of a type and device name; see `igtl.Link.recv`."""
        timeout = self.options.read_timeout if timeout is None else seconds("timeout", timeout)
        if kind is Message and name == "*":
            return await self.until(self._take, ANYTHING, timeout)
        wanted = Selection(kind, name)
        return await self.until(partial(self.session.take, wanted, fresh=True), wanted, timeout)

    latest = method(operations.latest)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Message]:
        return self.until(self._take, ANYTHING, self.options.read_timeout, iterates=True)

    async def recv_frame(self, *, timeout: float | None = None) -> Frame:
        """Receive the next message as it came; see `igtl.Link.recv_frame`."""
        timeout = self.options.read_timeout if timeout is None else seconds("timeout", timeout)
        return await self.until(self.session.take_frame, "message", timeout)

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield all messages as they come; see `igtl.Link.frames`."""
        try:
            while True:
                yield await self.recv_frame()
        except OVER as error:
            if not self.ends_iteration(error):
                raise

    # -- requests

    async def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """Send a request and wait for its answer; other tasks may send and receive."""
        send = partial(self.send, exchange.request)
        return await self._connection.ask(exchange, seconds("timeout", timeout), send)

    @contextlib.asynccontextmanager
    async def stream(
        self, start: Start[M], *, timeout: float | None = 5.0
    ) -> AsyncIterator[StreamReader[M]]:
        """Ask for a stream, and end it in any case; see `igtl.Link.stream`."""
        streaming = Streaming(self, start)
        try:
            await run(streaming.begin(timeout))
            yield StreamReader(self, start)
        finally:
            await run(streaming.end())

    def drop_rest(self, stream: StreamOf[Any]) -> None:
        """Drop what still waits of a stream that has ended."""
        self.session.sort()
        super().drop_rest(stream)

    wait_compressed = method(operations.wait_compressed)

    # -- end

    async def close(self, *, timeout: float | None = _CLOSE_TIMEOUT) -> None:
        """Send what is queued, then end the link.

        A recv that waits in another task raises ConnectionClosed.

        Args:
            timeout: seconds to send it; then the link is cut, and the rest counted as dropped.
                None: wait without end.
        """
        timeout = seconds("timeout", timeout)
        if not self.closed:
            self.closed = True
            self.session.close()
            self._connection.on_change()
        await self._connection.finish(timeout)
        self.session.end()
        self._connection.tell_end()

    def abandon(self) -> None:
        """End the link at once, from the garbage collector; waiting tasks get an error."""
        if not self.closed:
            self.closed = True
            self.session.close()
            self._connection.abort_threadsafe()

    def __del__(self) -> None:
        """Close a link to which nothing refers any more, as a socket does."""
        connection = getattr(self, "_connection", None)
        if connection is None or self.closed or connection.is_lost:
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


C = TypeVar("C", bound=Any)


class Opening(Generic[C]):
    """What `connect`, `listen` and `serve` return: await it, or use it with `async with`."""

    def __init__(self, opened: Coroutine[Any, Any, C]) -> None:
        self._opened = opened
        self._result: C | None = None

    def __await__(self) -> Generator[Any, Any, C]:
        return self._opened.__await__()

    async def __aenter__(self) -> C:
        self._result = await self._opened
        return self._result

    async def __aexit__(self, *exc: object) -> None:
        assert self._result is not None
        await self._result.close()


def connect(
    host: str = "localhost", port: int = PORT, **settings: Unpack[AioConnectSettings]
) -> Opening[Link]:
    """Connect to a server: `async with igtl.aio.connect(…) as link`, or await it.

    See `igtl.connect`. The settings are `igtl.options.AioConnectOptions`.
    """
    return Opening(connect_once(host, port, AioConnectOptions.of(settings)))


async def connect_once(
    host: str, port: int, options: AioConnectOptions, *, ends_quietly: bool = False
) -> Link:
    """One connection; arguments as `igtl.blocking.opening.connect_once`."""
    session = new_session(options, options)
    loop, path, sock = asyncio.get_running_loop(), unix_path(host), options.sock
    try:
        layer = client_layer(options, host, port)
        connection = Connection(session, layer, keepalive=options.keepalive)
        async with asyncio.timeout(options.open_timeout):
            if sock is not None:
                sock.getpeername()  # raises if it is not connected
                sock.setblocking(False)
                await loop.create_connection(lambda: connection, sock=sock)
            elif path is not None:
                await loop.create_unix_connection(lambda: connection, path)
            else:
                await loop.create_connection(lambda: connection, *of_tcp(host, port))
            await connection.handshake(None)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, TimeoutError):
            text = f"no connection to {named((host, port))} within {options.open_timeout} s"
            raise TimeoutError(text) from None
        raise
    link = Link(connection, options, ends_quietly=ends_quietly)
    for wire in greeting(session.protocol, hello=options.hello):
        await connection.put_wait(Packed(wire, as_it_is=True), options.write_timeout)
    return link


async def pipe(**settings: Unpack[AioConnectSettings]) -> tuple[Link, Link]:
    """Two links joined without a port, each the other's peer.

    Both write header version 2, unless told otherwise.

    Args:
        settings: of both, see `igtl.options.AioConnectOptions`.

    Raises:
        TypeError: an option is for connections only (`keepalive`, `sock`, `ssl`, `hello`, …).
    """
    options = AioConnectOptions.of({"version": 2, **settings}).for_pipe()
    ends = []
    for sock, name in zip(socket.socketpair(), ("pipe b", "pipe a"), strict=True):
        connection = Connection(new_session(options, options, peer=name))
        await asyncio.get_running_loop().create_connection(lambda c=connection: c, sock=sock)  # type: ignore[misc]
        ends.append(Link(connection, options))
    return ends[0], ends[1]
