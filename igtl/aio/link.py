"""Links in asyncio: `connect`, `listen`, `pipe`. Behaviour as `igtl.sync`, awaited.

Waiting can be cancelled at any time, by `asyncio.timeout` too, and nothing is lost: a `recv` that
was cancelled has taken nothing, a `send` that was cancelled is either not sent at all or whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from igtl import _core
from igtl._core import Frame
from igtl.aio.accepting import Accepting
from igtl.aio.connection import Connection
from igtl.aio.tls import TLSConnection
from igtl.compressing import CompressingProtocol, protocol_for
from igtl.compression import Compression
from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.exchange import (
    ANYTHING,
    NOTHING,
    Exchange,
    Selection,
    Stopping,
    new_command,
    part_of_stream,
    selection,
    stop_for,
)  # fmt: skip
from igtl.link import (
    MAX_WAITING,
    MAX_WAITING_BYTES,
    Inbox,
    InboxPolicy,
    LinkBase,
    StreamOf,
    Wanted,
)  # fmt: skip
from igtl.log import log, named
from igtl.message import CRCPolicy, Message, NoData
from igtl.messages.general import Command, CommandReply
from igtl.messages.queries import Get, Ready, Start
from igtl.pairing import Method, Pairing
from igtl.protocol import MAX_SIZE, PORT, OnError, Protocol, Version, hello_message
from igtl.queues import Policy, Queue

if TYPE_CHECKING:
    from ssl import SSLContext

M = TypeVar("M", bound=Message)
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 1 << 20
_CLOSE_TIMEOUT = 5.0
_LOOK = 0.02  # seconds between two looks at what the peer has said


class Link(LinkBase):
    """A connection to one peer, in one event loop.

    `async for message in link` yields messages until the peer closes cleanly.

    Attributes:
        peer, local: addresses of the other end and of this one.
        close_reason: why the link is over; None while it is not.
        stats, header_version: see LinkBase.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        inbox: Inbox | None = None,
        ends_quietly: bool = False,
    ) -> None:
        super().__init__(connection.protocol, connection.local, read_timeout, inbox, ends_quietly)
        self._connection = connection
        self._write_timeout = write_timeout
        self._receiving = False

    # -- sending

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message. It is packed at once, so the caller may reuse its arrays, and goes
        out behind what was sent before; when the queue is full this waits, or drops by its
        policy (see `connect`).

        Args:
            message: a Frame (see `frames`) is sent on as it came.
            crc: False writes 0 in its place.

        Raises:
            EncodeError: the message cannot be sent; the link is as before.
            ConnectionClosed: the link is over.
            TimeoutError: the peer took nothing for the link's write_timeout. The link ends.
        """
        connection = self._connection
        if not self._protocol.peer_takes:
            wire = self._protocol.pack(message, crc=crc)
            if not connection.put_now(wire):
                await connection._queue(wire, self._write_timeout, False)
        else:
            await connection.send(message, crc=crc, timeout=self._write_timeout)

    async def send_hello(self) -> None:
        """Offer header version 2, see `connect`."""
        await self._connection.put_wait(hello_message(), None, self._write_timeout)

    # -- receiving

    @overload
    async def recv(self, *, timeout: float | None = None) -> Message: ...
    @overload
    async def recv(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M: ...
    async def recv(
        self, kind: type[Message] = Message, name: str = "*", *, timeout: float | None = None
    ) -> Message:
        """The next message, or the next of a type and device name; others stay queued, in order.

        Args:
            kind: a message class.
            name: device name, with the wildcards * and ?.
            timeout: seconds. None: the link's read_timeout.

        Raises:
            TimeoutError: nothing came in time; the text lists what was seen meanwhile.
            ConnectionClosed: the link is over.
            ProtocolError: a bad message came; the next one can be read (not after
                MessageTooLarge, which closes the link).
            RuntimeError: another task is receiving.
        """
        return await self._recv(selection(kind, name), timeout)

    def _recv(self, wanted: Wanted, timeout: float | None) -> Coroutine[Any, Any, Message]:
        if timeout is None:
            timeout = self._read_timeout
        return self._next(wanted) if timeout is None else self._next_within(wanted, timeout)

    async def _next_within(self, wanted: Wanted, timeout: float) -> Message:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._next(wanted)
        except TimeoutError:
            if limit.expired():
                raise self._inbox.no(wanted, timeout) from None
            raise

    async def _next(self, wanted: Wanted) -> Message:
        """The next message that is wanted."""
        if (message := self._inbox.take(wanted)) is not None:
            return message
        if self._receiving:
            raise RuntimeError("another task is receiving on this link")
        self._receiving = True
        try:
            while True:
                message = self._protocol.next_message()
                if message is None:
                    self._check_end()
                    await self._connection.more()
                elif wanted is ANYTHING or wanted.matches(message):
                    return message
                else:
                    self._inbox.put(message)
        except MessageTooLarge as error:
            self._out_of_step(error)
            raise
        finally:
            self._receiving = False

    def _out_of_step(self, error: MessageTooLarge) -> None:
        """The framing is lost."""
        self.close_reason = self.close_reason or error
        self._connection.abort()

    def _check_end(self) -> None:
        """Nothing is left to be read: raise if nothing more can come."""
        ended = self._connection.ended
        if self.close_reason is None:
            if self._closed:
                raise self._end("this link was closed", clean=True)
            if ended is True:
                raise self._end_of_stream()
            if isinstance(ended, ConnectionError):
                raise self._end(f"{named(self.peer)}: {ended}", clean=False) from ended
            if not ended:
                return
            self.close_reason = ended
        raise self.close_reason

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self._recv(ANYTHING, None)
        except (ConnectionClosed, MessageTooLarge) as error:
            if self._ends_iteration(error):
                raise StopAsyncIteration from None
            raise

    async def recv_frame(self, *, timeout: float | None = None) -> Frame:
        """The next message as it came, for relays and recorders: undecoded, its CRC unchecked.
        Messages that `recv` has queued are not among them."""
        if self._receiving:
            raise RuntimeError("another task is receiving on this link")
        self._receiving = True
        try:
            async with asyncio.timeout(self._read_timeout if timeout is None else timeout):
                while (frame := self._protocol.next_frame()) is None:
                    self._check_end()
                    await self._connection.more()
                return frame
        except MessageTooLarge as error:
            self._out_of_step(error)
            raise
        finally:
            self._receiving = False

    async def frames(self) -> AsyncIterator[Frame]:
        """All messages as they come, until the peer closes cleanly; see recv_frame."""
        while True:
            try:
                frame = await self.recv_frame()
            except (ConnectionClosed, MessageTooLarge) as error:
                if self._ends_iteration(error):
                    return
                raise
            yield frame

    # -- requests

    async def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask for one message and wait for it; see `igtl.Link.query`."""
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(await self._ask(exchange, timeout))
        return answer

    async def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send a COMMAND and wait for its reply; see `igtl.Link.command`."""
        return await self.ask(new_command(name, text, device_name), timeout=timeout)

    async def ask(self, command: Command, *, timeout: float | None = 5.0) -> CommandReply:
        """As `command`, for a Command that the caller has made."""
        exchange = Exchange(command)
        reply: CommandReply = exchange.result(await self._ask(exchange, timeout))
        return reply

    async def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        if self._receiving:
            raise RuntimeError("another task is receiving on this link")
        await self.send(exchange.request)
        return await self._recv(exchange, timeout)

    @contextlib.asynccontextmanager
    async def stream(
        self, start: Start[M], *, timeout: float | None = 5.0
    ) -> AsyncIterator[StreamReader[M]]:
        """Ask for a stream, and end it in any case; see `igtl.Link.stream`."""
        exchange = Exchange(start)
        acknowledged = refused = False
        try:
            reply = await self._ask(exchange, timeout)
            acknowledged = isinstance(reply, Ready)
            if isinstance(reply, type(start).answer):
                self._inbox.put_back(reply)
            else:
                refused = True
                exchange.result(reply)
                refused = False
            yield StreamReader(self, start)
        finally:
            if not refused:
                with contextlib.suppress(ConnectionClosed, OSError):
                    await self._stop(start, acknowledged)

    async def _stop(self, start: Start[Any], acknowledged: bool) -> None:
        if not acknowledged:  # it will not acknowledge this either
            await self.send(stop_for(start))
            return
        with contextlib.suppress(TimeoutError):
            wanted = Stopping(start)
            reply = await self._ask(wanted, 1.0)
            while part_of_stream(start, reply):  # it was on its way
                self.stats.count_dropped(_core.stream_head(reply), "after_stop")
                reply = await self._recv(wanted, 1.0)

    async def wait_compressed(self, timeout: float = 1.0) -> bool:
        """Wait for the peer to say that it reads compressed messages; see
        `igtl.Link.wait_compressed`."""
        end = time.monotonic() + timeout
        while not self._protocol.peer_takes and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await self._next_within(NOTHING, min(left, _LOOK))
        return self._protocol.peer_takes

    def sync(
        self,
        *streams: tuple[type[Message], str],
        tolerance: float,
        method: Method = "nearest",
    ) -> SyncReader:
        """Iterate over messages that belong to the same instant; see `igtl.Link.sync`."""
        return SyncReader(self, Pairing([Selection(*s) for s in streams], tolerance, method))

    # -- end

    async def close(self, *, timeout: float = _CLOSE_TIMEOUT) -> None:
        """Send what is queued, then end the link; a recv that waits in another task raises
        ConnectionClosed.

        Args:
            timeout: seconds to send it; then the link is cut, and the rest counted as dropped.
        """
        if not self._closed:
            self._closed = True
            self._connection.on_bytes()
        await self._connection.finish(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class StreamReader(StreamOf[M]):
    """The messages of one stream; see Link.stream."""

    def __init__(self, link: Link, start: Start[M]) -> None:
        super().__init__(start)
        self._link = link

    async def recv(self, *, timeout: float | None = None) -> M:
        """The next message of the stream; see Link.recv."""
        return await self._link._recv(self, timeout)  # type: ignore[return-value]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        return await self.recv()


class SyncReader:
    """Iterator over messages of the same instant; see Link.sync.

    Attributes:
        unmatched: messages without a partner so far, by their selection.
    """

    def __init__(self, link: Link, pairing: Pairing) -> None:
        self._link = link
        self._pairing = pairing
        self.unmatched = pairing.unmatched

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        while True:
            now = time.monotonic()
            if (found := self._pairing.next(now)) is not None:
                return found
            due = self._pairing.due()
            try:
                message = await self._link._recv(self._pairing, None if due is None else due - now)
            except TimeoutError:
                if due is None:  # the link's own read_timeout
                    raise
                continue
            except (ConnectionClosed, MessageTooLarge) as error:
                if (found := self._pairing.next(float("inf"))) is not None:
                    return found
                if self._link._ends_iteration(error):
                    raise StopAsyncIteration from None
                raise
            self._pairing.add(message, time.monotonic())


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
    host: str = "localhost",
    port: int = PORT,
    *,
    open_timeout: float | None = 10.0,
    read_timeout: float | None = None,
    write_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    server_hostname: str | None = None,
    version: Version = "auto",
    hello: bool = False,
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    on_error: OnError = "raise",
    cut_names: bool = False,
    compression: Compression | bool = False,
    inbox_policy: InboxPolicy = "drop_oldest",
    inbox_messages: int = MAX_WAITING,
    inbox_bytes: int = MAX_WAITING_BYTES,
    ends_quietly: bool = False,
    policy: Policy = "block",
    max_queued: int = MAX_QUEUED,
    max_queued_bytes: int = MAX_QUEUED_BYTES,
) -> Opening[Link]:
    """Connect to a server: `async with connect(...) as link`, or `link = await connect(...)`.

    Args:
        policy: what `send` does when the queue is full: "block" (default) waits, the others drop
            and count: "drop_oldest", "drop_newest", "latest" (the newest of each stream).
        max_queued, max_queued_bytes: size of the queue; default 1000 messages and 1 MiB. A
            message of any size fits an empty one.
        others: see `igtl.connect`.

    Raises:
        OSError: no connection (ConnectionRefusedError, socket.gaierror, TimeoutError, …).
        ssl.SSLError: a check of TLS failed; the text says which.
    """

    async def opened() -> Link:
        protocol = protocol_for(
            compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
            cut_names=cut_names,
        )  # fmt: skip
        inbox = Inbox(protocol, inbox_policy, inbox_messages, inbox_bytes)
        outbox: Queue[bytes] = Queue(policy, max_queued, max_queued_bytes)
        connection: Connection
        if ssl is None:
            connection = Connection(protocol, outbox, keepalive=keepalive)
        else:
            connection = TLSConnection(
                protocol, outbox, ssl, server_hostname=server_hostname or host, keepalive=keepalive
            )
        try:
            async with asyncio.timeout(open_timeout):
                await asyncio.get_running_loop().create_connection(lambda: connection, host, port)
                if isinstance(connection, TLSConnection):
                    await connection.handshake(None)
        except TimeoutError:
            raise TimeoutError(f"no connection to {host}:{port} within {open_timeout} s") from None
        link = Link(
            connection, read_timeout=read_timeout, write_timeout=write_timeout, inbox=inbox,
            ends_quietly=ends_quietly,
        )  # fmt: skip
        if hello:
            await link.send_hello()
        if isinstance(protocol, CompressingProtocol):
            await connection.put_wait(protocol.offer(), None, write_timeout)
        return link

    return Opening(opened())


class Listener:
    """A listening socket that hands out a Link for each client; see `listen`.

    `async for link in listener` yields links as clients come, until it is closed.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Link | None] = asyncio.Queue()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: Accepting
        self.host = ""
        self.port = 0

    async def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client, whose TLS handshake is then done.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the listener was closed.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                link = await self._arrived.get()
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no client within {timeout} s") from None
            raise
        if link is None:
            self._arrived.put_nowait(None)  # for the next one who waits
            raise ConnectionClosed("this listener was closed")
        return link

    async def __aiter__(self) -> AsyncIterator[Link]:
        while True:
            try:
                link = await self.accept()
            except ConnectionClosed:
                return
            yield link

    async def close(self) -> None:
        """Stop listening; links that were handed out live on."""
        if not self._closed:
            self._closed = True
            await self._accepting.close()
            for task in self._tasks:
                task.cancel()
            while not self._arrived.empty():  # nobody will take them any more
                link = self._arrived.get_nowait()
                if link is not None:
                    await link.close()
            self._arrived.put_nowait(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def listen(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    read_timeout: float | None = None,
    write_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    handshake_timeout: float = 10.0,
    version: Version = "auto",
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    on_error: OnError = "skip",
    cut_names: bool = False,
    compression: Compression | bool = False,
    policy: Policy = "block",
    max_queued: int = MAX_QUEUED,
    max_queued_bytes: int = MAX_QUEUED_BYTES,
) -> Opening[Listener]:
    """Listen for clients, and treat each as a Link of your own; see `igtl.listen`, and `connect`
    for `policy`, `max_queued` and `max_queued_bytes`.

    Args:
        handshake_timeout: seconds for a TLS handshake; default 10.
    """

    async def opened() -> Listener:
        listener = Listener()

        def admit(peer: Any) -> Connection:
            protocol = protocol_for(
                compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
                cut_names=cut_names,
            )  # fmt: skip
            outbox: Queue[bytes] = Queue(policy, max_queued, max_queued_bytes)
            if ssl is None:
                return Connection(protocol, outbox, keepalive=keepalive)
            return TLSConnection(protocol, outbox, ssl, server_side=True, keepalive=keepalive)

        def welcome(connection: Connection) -> None:
            task = asyncio.get_running_loop().create_task(hand_out(connection))
            listener._tasks.add(task)
            task.add_done_callback(listener._tasks.discard)

        async def hand_out(connection: Connection) -> None:
            if isinstance(connection, TLSConnection):
                try:
                    await connection.handshake(handshake_timeout)
                except OSError as error:  # SSLError and TimeoutError are OSErrors
                    peer = connection.protocol.peer
                    log(logging.WARNING, "%s: TLS handshake failed: %s", peer, error,
                        peer=peer, cause=error)  # fmt: skip
                    return
            link = Link(connection, read_timeout=read_timeout, write_timeout=write_timeout)
            listener._arrived.put_nowait(link)

        admit(None)  # wrong settings show here, not at the first client
        listener._accepting = Accepting(admit, welcome)
        await listener._accepting.bind(host, port)
        listener._accepting.start()
        listener.host, listener.port = listener._accepting.host, listener._accepting.port
        return listener

    return Opening(opened())


async def pipe() -> tuple[Link, Link]:
    """Two links joined without a port, each the other's peer. Both write header version 2."""
    ends = []
    for sock, name in zip(socket.socketpair(), ("pipe b", "pipe a"), strict=True):
        outbox: Queue[bytes] = Queue("block", MAX_QUEUED, MAX_QUEUED_BYTES)
        connection = Connection(Protocol(version=2, peer=name), outbox)
        await asyncio.get_running_loop().create_connection(lambda c=connection: c, sock=sock)  # type: ignore[misc]
        ends.append(Link(connection))
    return ends[0], ends[1]
