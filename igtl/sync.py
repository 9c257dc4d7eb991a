"""Blocking links: `connect`, `listen`, and the Link both hand out.

Any thread may `send` or `close`; one at a time receives. A link has no thread of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, overload

from igtl._core import Frame
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
from igtl.log import named
from igtl.message import CRCPolicy, Message, NoData
from igtl.messages.general import Command, CommandReply
from igtl.messages.queries import Get, Ready, Start
from igtl.pairing import Method, Pairing
from igtl.protocol import MAX_SIZE, PORT, OnError, Parts, Protocol, Version, hello_message
from igtl.sockets import SocketTransport, Transport, Waiter, tune

if TYPE_CHECKING:
    from ssl import SSLContext

M = TypeVar("M", bound=Message)
_LOOK = 0.02  # seconds between two looks at what the peer has said


class Link(LinkBase):
    """A connection to one peer.

    Iterating yields messages until the peer closes cleanly. Use as a context manager, or close().

    Attributes:
        peer, local: addresses of the other end and of this one.
        close_reason: why the link is over; None while it is not.
        stats, header_version: see LinkBase.
    """

    def __init__(
        self,
        transport: Transport,
        protocol: Protocol,
        *,
        local: Any = None,
        read_timeout: float | None = None,
        inbox: Inbox | None = None,
        ends_quietly: bool = False,
    ) -> None:
        super().__init__(protocol, local, read_timeout, inbox, ends_quietly)
        self._transport = transport
        self._sending: Any = threading.Lock()
        self._receiving = threading.Lock()
        if isinstance(protocol, CompressingProtocol):
            protocol.answer = self._answer

    # -- sending

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message; returns when the system has taken all of it. Pixels are not copied.

        Args:
            message: a Frame (see `frames`) is sent on as it came.
            crc: False writes 0 in its place.

        Raises:
            EncodeError: the message cannot be sent; the link is as before.
            ConnectionClosed: the link is over.
            TimeoutError: the peer took nothing for the link's write_timeout. The link ends, since
                half of the message may be out.
        """
        with self._sending:
            self._write(self._protocol.parts(message, crc=crc))

    def send_hello(self) -> None:
        """Offer header version 2, see `connect`."""
        with self._sending:
            self._write([hello_message()])

    def _greet(self, hello: bool) -> None:
        """Send what a client's connection begins with."""
        if hello:
            self.send_hello()
        if isinstance(self._protocol, CompressingProtocol):
            with self._sending:
                self._write([self._protocol.offer()])

    def _answer(self, offer: bytes) -> bool:
        """Send an offer of compression, unless another thread is sending: it might wait for the
        peer, which may wait for whoever receives here."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            with contextlib.suppress(OSError):  # ConnectionClosed is one: recv will tell
                self._write([offer])
        finally:
            self._sending.release()
        return True

    def _write(self, parts: Parts) -> None:
        if self._closed:
            raise ConnectionClosed("this link was closed")
        message = parts[0] if len(parts) == 1 else [*parts]  # the transport takes them out
        size = sum(map(len, parts))
        try:
            self._transport.send(parts)
        except ConnectionError as error:
            raise ConnectionClosed(f"{named(self.peer)}: {error}", clean=False) from error
        except BaseException as error:
            if self._closed and isinstance(error, OSError):  # by another thread
                raise ConnectionClosed("this link was closed") from error
            # perhaps cut in the middle of a message: whatever followed would be out of step
            self._close(linger=False)
            raise
        self._protocol.stats.count_sent(message, size)

    # -- receiving

    @overload
    def recv(self, *, timeout: float | None = None) -> Message: ...
    @overload
    def recv(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M: ...
    def recv(
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
            RuntimeError: another thread is receiving.
        """
        return self._wait_for(selection(kind, name), timeout)

    def _wait_for(self, wanted: Wanted, timeout: float | None) -> Message:
        """The next message that is wanted."""
        self._claim()
        try:
            return self._recv(wanted, timeout)
        finally:
            self._receiving.release()

    def _claim(self) -> None:
        if not self._receiving.acquire(blocking=False):
            if self._closed:  # it is held by whoever closes
                raise self.close_reason or self._end("this link was closed", clean=True)
            raise RuntimeError("another thread is receiving on this link")

    def _recv(self, wanted: Wanted, timeout: float | None) -> Message:
        message = self._inbox.take(wanted)
        if message is not None:
            return message
        if timeout is None:
            timeout = self._read_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                message = self._next(deadline)
            except TimeoutError:
                raise self._inbox.no(wanted, timeout) from None
            if wanted is ANYTHING or wanted.matches(message):
                return message
            self._inbox.put(message)

    @overload
    def _next(self, deadline: float | None) -> Message: ...
    @overload
    def _next(self, deadline: float | None, *, raw: Literal[True]) -> Frame: ...
    def _next(self, deadline: float | None, *, raw: bool = False) -> Message | Frame:
        """The next message off the wire, decoded or as it came."""
        take = self._protocol.next_frame if raw else self._protocol.next_message
        while True:
            try:
                if (found := take()) is not None:
                    return found
            except MessageTooLarge as error:
                self.close_reason = self.close_reason or error
                self._transport.shutdown()
                raise
            if self.close_reason is None and self._closed:
                self.close_reason = ConnectionClosed("this link was closed")
            if self.close_reason is not None:
                raise self.close_reason
            left = None if deadline is None else deadline - time.monotonic()
            try:
                n = self._transport.recv_into(self._protocol.get_buffer(), left)
            except TimeoutError as error:
                if error.errno is not None:  # keep-alive probes found nobody: not a deadline
                    raise self._end(f"{named(self.peer)}: {error}", clean=False) from error
                raise
            except (OSError, ValueError) as error:  # ValueError: polled a closed socket
                if self._closed:
                    raise self._end("this link was closed", clean=True) from None
                if not isinstance(error, ConnectionError):
                    self.close_reason = error
                    raise
                raise self._end(f"{named(self.peer)}: {error}", clean=False) from error
            if n == 0:
                raise self._end_of_stream()
            self._protocol.received(n)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            return self.recv()
        except (ConnectionClosed, MessageTooLarge) as error:
            if self._ends_iteration(error):
                raise StopIteration from None
            raise

    def recv_frame(self, *, timeout: float | None = None) -> Frame:
        """The next message as it came, for relays and recorders: undecoded, its CRC unchecked.
        Messages that `recv` has queued are not among them.

        Raises:
            as recv.
        """
        self._claim()
        try:
            timeout = self._read_timeout if timeout is None else timeout
            deadline = None if timeout is None else time.monotonic() + timeout
            return self._next(deadline, raw=True)
        except TimeoutError:
            raise TimeoutError(f"no message within {timeout} s") from None
        finally:
            self._receiving.release()

    def frames(self) -> Iterator[Frame]:
        """All messages as they come, until the peer closes cleanly; see recv_frame."""
        while True:
            try:
                frame = self.recv_frame()
            except (ConnectionClosed, MessageTooLarge) as error:
                if self._ends_iteration(error):
                    return
                raise
            yield frame

    # -- requests

    def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask for one message and wait for it; what else comes stays queued.

        Args:
            request: for example GetImage(device_name="CT"). An empty name accepts any.
            timeout: seconds. None: the link's read_timeout.

        Returns:
            The answer; NoData if the peer has none (an empty answer, or STATUS "not found").

        Raises:
            CommandFailed: the peer answered with another error.
            TimeoutError, ConnectionClosed: see recv.
        """
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(self._ask(exchange, timeout))
        return answer

    def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send a COMMAND with an id of its own and wait for the reply with that id.

        Args:
            name: at most 128 bytes.
            text: usually XML.
            timeout: seconds.

        Raises:
            CommandFailed: the reply says so (in its metadata or XML); it is in `.reply`.
            TimeoutError, ConnectionClosed: see recv.
        """
        return self.ask(new_command(name, text, device_name), timeout=timeout)

    def ask(self, command: Command, *, timeout: float | None = 5.0) -> CommandReply:
        """As `command`, for a Command that the caller has made."""
        exchange = Exchange(command)
        reply: CommandReply = exchange.result(self._ask(exchange, timeout))
        return reply

    def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        self._claim()
        try:
            self.send(exchange.request)
            return self._recv(exchange, timeout)
        finally:
            self._receiving.release()

    @contextlib.contextmanager
    def stream(self, start: Start[M], *, timeout: float | None = 5.0) -> Iterator[StreamReader[M]]:
        """Ask for a stream, and end it in any case:

            with link.stream(StartTrackingData(resolution_ms=20)) as frames:
                for tracking_data in frames: ...

        Other messages stay queued. A peer that sends no RTS_ but the stream at once is understood.

        Args:
            start: what to send; a device name in it selects that stream.
            timeout: seconds to wait for the answer.

        Raises:
            CommandFailed: the peer refused (RTS_ with status 1, or an error STATUS).
            TimeoutError: no answer. STP_ is sent all the same.
            ConnectionClosed: see recv.
        """
        exchange = Exchange(start)
        acknowledged = refused = False
        try:
            reply = self._ask(exchange, timeout)
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
                    self._stop(start, acknowledged)

    def _stop(self, start: Start[Any], acknowledged: bool) -> None:
        if not acknowledged:  # it will not acknowledge this either
            self.send(stop_for(start))
            return
        with contextlib.suppress(TimeoutError):
            wanted = Stopping(start)
            reply = self._ask(wanted, 1.0)
            while part_of_stream(start, reply):  # it was on its way
                self.stats.count_dropped(reply, "after_stop")
                reply = self._wait_for(wanted, 1.0)

    def wait_compressed(self, timeout: float = 1.0) -> bool:
        """Wait for the peer to say that it reads compressed messages; what else comes stays
        queued. For links that only send: whoever receives anyhow hears of it by that.

        Args:
            timeout: seconds; a peer that was not told to compress never says so.

        Returns:
            Whether messages are compressed from now on.

        Raises:
            ConnectionClosed, RuntimeError: see recv.
        """
        end = time.monotonic() + timeout
        while not self._protocol.peer_takes and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                self._wait_for(NOTHING, min(left, _LOOK))
        return self._protocol.peer_takes

    def sync(
        self,
        *streams: tuple[type[Message], str],
        tolerance: float,
        method: Method = "nearest",
    ) -> SyncReader:
        """Iterate over messages that belong to the same instant; see `igtl.pairing.Pairing`.

            for image, probe in link.sync(
                (Image, "Image_Reference"), (Transform, "ProbeToReference"), tolerance=0.005
            ): ...

        Args:
            streams: (class, device name) each. The first leads: for each of its messages the
                sample of the others that is nearest in time. A time stamp of 0 counts as the
                arrival.
            tolerance: seconds between them at most. A message waits so long for a later sample.
            method: "interpolate" puts a rigid TRANSFORM between its neighbours by slerp.
        """
        return SyncReader(self, Pairing([Selection(*s) for s in streams], tolerance, method))

    # -- end

    def close(self) -> None:
        """End the link; a recv or send that waits in another thread raises ConnectionClosed.

        What was sent is on its way to the peer: if its system has not taken it all, this waits
        for it, at most one second.
        """
        self._close(linger=not self._sending.locked())

    def _close(self, *, linger: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if linger:
            self._transport.finish()
        self._transport.shutdown()
        # give the descriptor back only when nobody is in recv with it any more
        held = self._receiving.acquire(timeout=1)
        self._transport.close()
        if held:
            self._receiving.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class StreamReader(StreamOf[M]):
    """The messages of one stream; see Link.stream."""

    def __init__(self, link: Link, start: Start[M]) -> None:
        super().__init__(start)
        self._link = link

    def recv(self, *, timeout: float | None = None) -> M:
        """The next message of the stream; see Link.recv."""
        return self._link._wait_for(self, timeout)  # type: ignore[return-value]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        return self.recv()


class SyncReader:
    """Iterator over messages of the same instant; see Link.sync.

    Attributes:
        unmatched: messages without a partner so far, by their selection.
    """

    def __init__(self, link: Link, pairing: Pairing) -> None:
        self._link = link
        self._pairing = pairing
        self.unmatched = pairing.unmatched

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, ...]:
        while True:
            now = time.monotonic()
            if (found := self._pairing.next(now)) is not None:
                return found
            due = self._pairing.due()
            try:
                message = self._link._wait_for(self._pairing, None if due is None else due - now)
            except TimeoutError:
                if due is None:  # the link's own read_timeout
                    raise
                continue
            except (ConnectionClosed, MessageTooLarge) as error:
                if (found := self._pairing.next(float("inf"))) is not None:
                    return found
                if self._link._ends_iteration(error):
                    raise StopIteration from None
                raise
            self._pairing.add(message, time.monotonic())


class Settings(TypedDict, total=False):
    """The keyword arguments of `connect`, for what connects again and again."""

    open_timeout: float | None
    read_timeout: float | None
    write_timeout: float | None
    keepalive: float | None
    ssl: SSLContext | None
    server_hostname: str | None
    version: Version
    hello: bool
    max_size: int
    crc: CRCPolicy
    on_error: OnError
    cut_names: bool
    resync: bool
    compression: Compression | bool
    inbox_policy: InboxPolicy
    inbox_messages: int
    inbox_bytes: int


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
    resync: bool = False,
    compression: Compression | bool = False,
    inbox_policy: InboxPolicy = "drop_oldest",
    inbox_messages: int = MAX_WAITING,
    inbox_bytes: int = MAX_WAITING_BYTES,
    ends_quietly: bool = False,
    greet: bool = True,
) -> Link:
    """One connection to a server; arguments and errors as `igtl.connect`.

    Args:
        ends_quietly: iteration ends on any disconnect, see `Link.close_reason`.
        greet: False leaves what a connection begins with to the caller, see `Link._greet`.
    """
    protocol = protocol_for(
        compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
        cut_names=cut_names, resync=resync,
    )  # fmt: skip
    inbox = Inbox(protocol, inbox_policy, inbox_messages, inbox_bytes)
    start = time.monotonic()
    sock = socket.create_connection((host, port), timeout=open_timeout)
    try:
        tune(sock, keepalive)
        transport: Transport
        if ssl is None:
            transport = SocketTransport(sock, write_timeout=write_timeout)
        else:
            from igtl.tls import TLSTransport

            left = None if open_timeout is None else start + open_timeout - time.monotonic()
            transport = TLSTransport(
                sock, ssl, server_side=False, server_hostname=server_hostname or host,
                handshake_timeout=left, write_timeout=write_timeout,
            )  # fmt: skip
            transport.handshake()
        protocol.peer = sock.getpeername()[:2]
        link = Link(
            transport, protocol, local=sock.getsockname()[:2], read_timeout=read_timeout,
            inbox=inbox, ends_quietly=ends_quietly,
        )  # fmt: skip
        if greet:
            link._greet(hello)
    except BaseException:
        sock.close()
        raise
    return link


class Listener:
    """A listening socket that hands out a Link for each client; see `listen`.

    Iterating yields links as clients come, until it is closed.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, sock: socket.socket, linked: Callable[[socket.socket], Link]) -> None:
        self._sock = sock
        self._linked = linked
        self._readable = Waiter(sock)
        self._closed = False
        self.host, self.port = sock.getsockname()[:2]

    def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client. With TLS, its handshake takes place at the first recv or
        send, so that one that hangs does not keep the others waiting.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the listener was closed.
        """
        while True:
            try:
                self._readable(timeout)
                sock, _ = self._sock.accept()
            except TimeoutError:
                raise TimeoutError(f"no client within {timeout} s") from None
            except (OSError, ValueError) as error:
                if self._closed:
                    raise ConnectionClosed("this listener was closed") from error
                raise
            try:
                return self._linked(sock)
            except OSError:  # gone already
                sock.close()

    def __iter__(self) -> Iterator[Link]:
        while True:
            try:
                yield self.accept()
            except ConnectionClosed:
                return

    def close(self) -> None:
        """Stop listening; links that were handed out live on."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept on Linux
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def listen(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    read_timeout: float | None = None,
    write_timeout: float | None = None,
    keepalive: float | None = 60.0,
    ssl: SSLContext | None = None,
    version: Version = "auto",
    max_size: int = MAX_SIZE,
    crc: CRCPolicy = "verify",
    on_error: OnError = "skip",
    cut_names: bool = False,
    compression: Compression | bool = False,
) -> Listener:
    """Listen for clients, and treat each as a Link of your own: for a program that serves one
    peer, or a thread a client. `igtl.serve` serves many.

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for everybody.
        port: default 18944; 0 takes a free one.
        ssl: a context makes it TLS, see `igtl.tls.server`.
        read_timeout, write_timeout, keepalive: see `connect`.
        version, max_size, crc, on_error, cut_names: see `igtl.Protocol`; here bad messages are
            skipped and counted by default.
        compression: see `connect`; here it waits for a client that asks for it.

    Raises:
        OSError: the address cannot be used.
    """

    def new_protocol() -> Protocol:
        return protocol_for(
            compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
            cut_names=cut_names,
        )  # fmt: skip

    def linked(sock: socket.socket) -> Link:
        protocol = new_protocol()
        protocol.peer = sock.getpeername()[:2]
        tune(sock, keepalive)
        transport: Transport
        if ssl is None:
            transport = SocketTransport(sock, write_timeout=write_timeout)
        else:
            from igtl.tls import TLSTransport

            transport = TLSTransport(sock, ssl, server_side=True, write_timeout=write_timeout)
        return Link(transport, protocol, local=sock.getsockname()[:2], read_timeout=read_timeout)

    new_protocol()  # wrong settings show here, not at the first client
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Listener(socket.create_server((host, port), family=family), linked)
