"""Links in asyncio: `connect`, `listen`, `pipe`. Behaviour as `igtl.sync`, awaited.

Waiting can be cancelled at any time, by `asyncio.timeout` too, and nothing is lost: a `recv` that
was cancelled has taken nothing, a `send` that was cancelled is either not sent at all or whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from ssl import SSLError
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from igtl import _core
from igtl._core import Frame
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
from igtl.limits import LONGEST, seconds
from igtl.link import (
    MAX_WAITING,
    MAX_WAITING_BYTES,
    MESSAGE_TIMEOUT,
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
from igtl.sockets import accept_goes_on, checked_keepalive, listening_socket, pause_after

if TYPE_CHECKING:
    from ssl import SSLContext

M = TypeVar("M", bound=Message)
MAX_QUEUED = 1000
MAX_QUEUED_BYTES = 1 << 20
_CLOSE_TIMEOUT = 5.0
MAX_ARRIVED = 100  # clients of a listener that wait to be accepted
_LOOK = 0.02  # seconds between two looks at what the peer has said
_STOP = 1.0  # seconds for a peer to acknowledge STP_


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
        message_timeout: float | None = None,
        write_timeout: float | None = None,
        inbox: Inbox | None = None,
        ends_quietly: bool = False,
    ) -> None:
        super().__init__(
            connection.protocol, connection.local, read_timeout, inbox, ends_quietly,
            message_timeout,
        )  # fmt: skip
        self._connection = connection
        self._write_timeout = seconds("write_timeout", write_timeout)
        self._receiving = False
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

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
        try:
            if not self._protocol.peer_takes:
                wire = self._protocol.pack(message, crc=crc)
                if not connection.put_now(wire):
                    await connection._queue(wire, self._write_timeout, False)
            else:
                await connection.send(message, crc=crc, timeout=self._write_timeout)
        except TimeoutError as error:  # a receiver learns why the link has ended
            self._end(f"{named(self.peer)}: {error}", clean=False)
            raise

    async def send_hello(self) -> None:
        """Offer header version 2, see `connect`."""
        await self.send(Frame.from_bytes(hello_message()))

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
        timeout = self._limit(timeout)
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
                    await self._more()
                elif wanted is ANYTHING or wanted.matches(message):
                    return message
                else:
                    self._inbox.put(message)
        except MessageTooLarge as error:
            raise self._out_of_step(error)  # noqa: B904 (it has its own cause)
        finally:
            self._receiving = False

    async def _more(self) -> None:
        """Return when bytes have come, or the connection has ended."""
        connection = self._connection
        left = self._left_of_message(connection.heard, self._loop.time())
        if left is None:
            await connection.more()
            return
        limit = asyncio.timeout(left)
        try:
            async with limit:
                await connection.more()
        except TimeoutError:
            if not limit.expired():
                raise
            # bytes that lay in the system may have come in the same turn of the loop
            if self._left_of_message(connection.heard, self._loop.time()) == 0:
                connection.abort()
                raise self._stopped_in_message() from None

    def _out_of_step(self, error: MessageTooLarge) -> Exception:
        """The framing is lost; returns what to raise."""
        if self._closed or self.close_reason is not None:
            return self._end_error()
        self.close_reason = error
        self._connection.abort()
        return error

    def _check_end(self) -> None:
        """Nothing is left to be read: raise if nothing more can come."""
        ended = self._connection.ended
        if self.close_reason is None and not self._closed:
            if not ended:
                return
            if ended is True:
                self._end_of_stream()
            elif isinstance(ended, OSError) and not isinstance(ended, SSLError):
                self._end(f"{named(self.peer)}: {ended}", clean=False).__cause__ = ended
            else:
                self.close_reason = ended
        raise self._end_error()

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
        timeout = self._limit(timeout)
        if self._receiving:
            raise RuntimeError("another task is receiving on this link")
        self._receiving = True
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while (frame := self._protocol.next_frame()) is None:
                    self._check_end()
                    await self._more()
                return frame
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no message within {timeout} s") from None
            raise
        except MessageTooLarge as error:
            raise self._out_of_step(error)  # noqa: B904 (it has its own cause)
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
        timeout = self._limit(timeout)
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
            end = time.monotonic() + _STOP
            reply = await self._ask(wanted, _STOP)
            while part_of_stream(start, reply):  # it was on its way
                self.stats.count_dropped(_core.stream_head(reply), "after_stop")
                if (left := end - time.monotonic()) <= 0:  # the peer ignores STP_
                    return
                reply = await self._recv(wanted, left)

    async def wait_compressed(self, timeout: float | None = 1.0) -> bool:
        """Wait for the peer to say that it reads compressed messages; see
        `igtl.Link.wait_compressed`."""
        timeout = seconds("timeout", timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not self._protocol.peer_takes and (end is None or time.monotonic() < end):
            left = _LOOK if end is None else min(_LOOK, max(0.0, end - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                await self._next_within(NOTHING, left)
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

    async def close(self, *, timeout: float | None = _CLOSE_TIMEOUT) -> None:
        """Send what is queued, then end the link; a recv that waits in another task raises
        ConnectionClosed.

        Args:
            timeout: seconds to send it; then the link is cut, and the rest counted as dropped.
        """
        limit = seconds("timeout", timeout)
        if not self._closed:
            self._closed = True
            self._connection.on_bytes()
        await self._connection.finish(LONGEST if limit is None else limit)

    def _abandon(self) -> None:
        """End the link without waiting for anything, from a collector of garbage."""
        self._closed = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._connection.abort)

    def __del__(self) -> None:
        """Close a link to which nothing refers any more, as a blocking one is closed."""
        open_here = not getattr(self, "_closed", True) and self._process == os.getpid()
        if open_here and not self._connection.is_over:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._abandon()

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
    message_timeout: float | None = MESSAGE_TIMEOUT,
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

    protocol = protocol_for(
        compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
        cut_names=cut_names,
    )  # fmt: skip
    inbox = Inbox(protocol, inbox_policy, inbox_messages, inbox_bytes)
    outbox: Queue[bytes] = Queue(policy, max_queued, max_queued_bytes)
    open_timeout = seconds("open_timeout", open_timeout)
    read_timeout = seconds("read_timeout", read_timeout)
    message_timeout = seconds("message_timeout", message_timeout)
    write_timeout = seconds("write_timeout", write_timeout)
    keepalive = checked_keepalive(keepalive)

    async def opened() -> Link:
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
            connection, read_timeout=read_timeout, message_timeout=message_timeout,
            write_timeout=write_timeout, inbox=inbox, ends_quietly=ends_quietly,
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

    def __init__(
        self,
        sock: socket.socket,
        new_connection: Callable[[], Connection],
        linked: Callable[[Connection], Link],
        handshake_timeout: float | None,
    ) -> None:
        self._sock = sock
        self._new_connection = new_connection
        self._linked = linked
        self._handshake_timeout = handshake_timeout
        self._slots = asyncio.Semaphore(MAX_ARRIVED)  # for clients that were not accepted yet
        self._arrived: asyncio.Queue[Link | None] = asyncio.Queue()
        self._closed = False
        self._failed: OSError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.host, self.port = sock.getsockname()[:2]
        self._start(self._take_clients())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_clients(self) -> None:
        """Take one client after the other from the system, as long as there is room here."""
        loop = asyncio.get_running_loop()
        resting = False
        while True:
            await self._slots.acquire()
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                self._slots.release()
                if not accept_goes_on(error):
                    self._failed = error
                    self._arrived.put_nowait(None)
                    return
                if (rest := pause_after(error)) and not resting:
                    resting = True
                    log(logging.WARNING, "accepting rests: %s", error, cause=error)
                await asyncio.sleep(rest)
            else:
                resting = False
                self._start(self._hand_out(sock))

    async def _hand_out(self, sock: socket.socket) -> None:
        connection = self._new_connection()
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: connection, sock)
            if isinstance(connection, TLSConnection):
                await connection.handshake(self._handshake_timeout)
        except OSError as error:  # SSLError and TimeoutError are OSErrors
            self._slots.release()
            connection.abort()
            peer = connection.protocol.peer
            log(logging.WARNING, "%s could not be accepted: %s", peer, error,
                peer=peer, cause=error)  # fmt: skip
        except BaseException:
            connection.abort()
            raise
        else:
            self._arrived.put_nowait(self._linked(connection))

    async def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client, whose TLS handshake is then done.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the listener was closed.
            OSError: the system accepts no more on this socket.
        """
        timeout = seconds("timeout", timeout)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                link = await self._arrived.get()
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no client within {timeout} s") from None
            raise
        if link is None:
            self._arrived.put_nowait(None)  # for the next task that waits
            raise self._failed or ConnectionClosed("this listener was closed")
        self._slots.release()
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
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # a process forked meanwhile has it too
            self._sock.close()
            while not self._arrived.empty():  # no task will take them any more
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
    message_timeout: float | None = MESSAGE_TIMEOUT,
    write_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    handshake_timeout: float | None = 10.0,
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
    for `policy`, `max_queued` and `max_queued_bytes`. Up to 100 clients that were not accepted yet
    wait here, more in the system's queue.

    Args:
        handshake_timeout: seconds for a TLS handshake; default 10.
    """

    read_timeout = seconds("read_timeout", read_timeout)
    message_timeout = seconds("message_timeout", message_timeout)
    write_timeout = seconds("write_timeout", write_timeout)
    handshake_timeout = seconds("handshake_timeout", handshake_timeout)
    keepalive = checked_keepalive(keepalive)

    def parts() -> tuple[Protocol, Queue[bytes]]:
        protocol = protocol_for(
            compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
            cut_names=cut_names,
        )  # fmt: skip
        return protocol, Queue(policy, max_queued, max_queued_bytes)

    def new_connection() -> Connection:
        if ssl is None:
            return Connection(*parts(), keepalive=keepalive)
        return TLSConnection(*parts(), ssl, server_side=True, keepalive=keepalive)

    def linked(connection: Connection) -> Link:
        return Link(
            connection, read_timeout=read_timeout, message_timeout=message_timeout,
            write_timeout=write_timeout,
        )  # fmt: skip

    async def opened() -> Listener:
        sock = await asyncio.to_thread(listening_socket, host, port)  # it may look a name up
        return Listener(sock, new_connection, linked, handshake_timeout)

    parts()  # wrong settings show here, not at the first client
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
