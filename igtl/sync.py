"""Blocking links: `connect`, `listen`, and the Link both hand out.

Any thread may `send` or `close`; one at a time receives. A link has no thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, overload

from igtl import _core
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
from igtl.limits import seconds
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
from igtl.protocol import MAX_SIZE, PORT, OnError, Parts, Protocol, Version, hello_message
from igtl.sockets import (
    SocketTransport,
    Transport,
    Waiter,
    accept_goes_on,
    checked_keepalive,
    listening_socket,
    pause_after,
    tune,
)  # fmt: skip

if TYPE_CHECKING:
    from ssl import SSLContext

M = TypeVar("M", bound=Message)
_LOOK = 0.02  # seconds between two looks at what the peer has said
_STOP = 1.0  # seconds for a peer to acknowledge STP_


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
        message_timeout: float | None = None,
    ) -> None:
        super().__init__(protocol, local, read_timeout, inbox, ends_quietly, message_timeout)
        self._transport = transport
        self._broken: ConnectionError | None = None  # why sending has failed
        self._heard = 0.0  # when bytes have come last
        self._unfinished: Parts = []  # of a message that has begun to go out
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
        head = parts[0]
        size = len(head) if len(parts) == 1 else sum(map(len, parts))
        self._hand_over(parts)
        self._protocol.stats.count_sent(head, size)

    def _hand_over(self, parts: Parts, patience: float | None = None) -> bool:
        """Write; returns whether the system has taken all.

        Args:
            patience: seconds in which the peer must take something; then the rest goes out before
                what is handed over next. None: then the link ends.
        """
        if self._closed:
            raise self._end_error()
        if self._unfinished:
            parts[:0], self._unfinished = self._unfinished, []
        try:
            self._transport.send(parts, patience)
        except ConnectionError as error:
            if self._closed:  # by another thread
                raise self._end_error()  # noqa: B904 (it has its own cause)
            if not isinstance(error, BrokenPipeError):  # which says that the peer has closed
                self._broken = error
            raise ConnectionClosed(f"{named(self.peer)}: {error}", clean=False) from error
        except BaseException as error:
            if self._closed and isinstance(error, OSError):
                raise self._end_error()  # noqa: B904 (it has its own cause)
            if isinstance(error, TimeoutError) and patience is not None:
                # copied: the arrays belong to the caller again when this returns
                self._unfinished = [bytes(part) for part in parts]
                return False
            # perhaps cut in the middle of a message: whatever followed would be out of step
            self._end(f"{named(self.peer)}: {str(error) or type(error).__name__}", clean=False)
            self._close(linger=False)
            raise
        return True

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
            if self._closed:  # it is held by the thread that closes
                raise self._end_error()
            raise RuntimeError("another thread is receiving on this link")

    def _recv(self, wanted: Wanted, timeout: float | None, began: float | None = None) -> Message:
        timeout = self._limit(timeout)
        message = self._inbox.take(wanted)
        if message is not None:
            return message
        deadline = None if timeout is None else (began or time.monotonic()) + timeout
        in_time = True
        while True:
            try:
                message = self._next(deadline, reads=in_time)
            except TimeoutError:
                raise self._inbox.no(wanted, timeout) from None
            if wanted is ANYTHING or wanted.matches(message):
                return message
            self._inbox.put(message)
            in_time = deadline is None or time.monotonic() < deadline

    @overload
    def _next(self, deadline: float | None, *, reads: bool = ...) -> Message: ...
    @overload
    def _next(self, deadline: float | None, *, raw: Literal[True]) -> Frame: ...
    def _next(
        self, deadline: float | None, *, raw: bool = False, reads: bool = True
    ) -> Message | Frame:
        """The next message off the wire, decoded or as it came.

        Args:
            reads: False looks only at what was read before.
        """
        take = self._protocol.next_frame if raw else self._protocol.next_message
        while True:
            try:
                if (found := take()) is not None:
                    return found
            except MessageTooLarge as error:
                if self._closed or self.close_reason is not None:
                    raise self._end_error()  # noqa: B904 (it has its own cause)
                self.close_reason = error
                self._transport.shutdown()
                raise
            if self._closed or self.close_reason is not None:
                raise self._end_error()
            if not reads:
                raise TimeoutError
            now = time.monotonic()
            left = None if deadline is None else max(0.0, deadline - now)
            rest = self._left_of_message(self._heard, now)
            if rest is not None and (left is None or rest < left):
                left = rest
            try:
                n = self._transport.recv_into(self._protocol.get_buffer(), left)
            except TimeoutError:
                if self._left_of_message(self._heard, time.monotonic()) == 0:
                    self._transport.shutdown()
                    raise self._stopped_in_message() from None
                raise
            except (OSError, ValueError) as error:  # ValueError: polled a closed socket
                if self._closed:
                    raise self._end_error()  # noqa: B904 (it has its own cause)
                if isinstance(error, ConnectionError):
                    raise self._end(f"{named(self.peer)}: {error}", clean=False) from error
                self.close_reason = error
                raise
            if n == 0:
                raise self._end_of_receiving()
            self._heard = time.monotonic()
            self._protocol.received(n)

    def _end_of_receiving(self) -> Exception:
        if self._closed or self.close_reason is not None:
            return self._end_error()
        if self._broken is not None:  # the system has told the sender of it, and tells it once
            return self._end(f"{named(self.peer)}: {self._broken}", clean=False)
        return self._end_of_stream()

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
        timeout = self._limit(timeout)
        self._claim()
        try:
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
        timeout = self._limit(timeout)
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
            end = time.monotonic() + _STOP
            reply = self._ask(wanted, _STOP)
            while part_of_stream(start, reply):  # it was on its way
                self.stats.count_dropped(_core.stream_head(reply), "after_stop")
                if (left := end - time.monotonic()) <= 0:  # the peer ignores STP_
                    return
                reply = self._wait_for(wanted, left)

    def wait_compressed(self, timeout: float | None = 1.0) -> bool:
        """Wait for the peer to say that it reads compressed messages; what else comes stays
        queued. For links that only send: one that is received from hears of it by that.

        Args:
            timeout: seconds; a peer that was not told to compress never says so.

        Returns:
            Whether messages are compressed from now on.

        Raises:
            ConnectionClosed, RuntimeError: see recv.
        """
        timeout = seconds("timeout", timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not self._peer_takes() and (end is None or time.monotonic() < end):
            left = _LOOK if end is None else min(_LOOK, max(0.0, end - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                self._wait_for(NOTHING, left)
        return self._peer_takes()

    def _peer_takes(self) -> bool:
        """Whether messages to the peer are compressed now."""
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

    def _abandon(self) -> None:
        """End every wait, without waiting for anything or taking a lock: for a subscriber that is
        collected as garbage, whose thread then closes the link."""
        self._end("nothing refers to the subscriber of this link any more", clean=True)
        self._transport.shutdown()

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
    message_timeout: float | None
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
    compression: Compression | bool
    inbox_policy: InboxPolicy
    inbox_messages: int
    inbox_bytes: int


def checked_settings(settings: Settings) -> Settings:
    """The same settings, of which each was checked: what is wrong shows at the caller's call, not
    when a connection is made.

    Raises:
        TypeError: there is no such setting; the text lists those there are.
        ValueError: a setting is wrong.
    """
    for name in settings:
        if name not in Settings.__annotations__:
            known = ", ".join(Settings.__annotations__)
            raise TypeError(f"there is no setting {name!r}; there are {known}")
    for name in ("open_timeout", "read_timeout", "message_timeout", "write_timeout"):
        seconds(name, settings.get(name))  # type: ignore[arg-type]
    checked_keepalive(settings.get("keepalive"))
    protocol = protocol_of(settings)
    inbox_of(protocol, settings)
    return settings


def protocol_of(settings: Settings) -> Protocol:
    """A Protocol with these settings."""
    return protocol_for(
        settings.get("compression", False), max_size=settings.get("max_size", MAX_SIZE),
        crc=settings.get("crc", "verify"), on_error=settings.get("on_error", "raise"),
        version=settings.get("version", "auto"), cut_names=settings.get("cut_names", False),
    )  # fmt: skip


def inbox_of(protocol: Protocol, settings: Settings) -> Inbox:
    """An Inbox with these settings."""
    return Inbox(
        protocol, settings.get("inbox_policy", "drop_oldest"),
        settings.get("inbox_messages", MAX_WAITING), settings.get("inbox_bytes", MAX_WAITING_BYTES),
    )  # fmt: skip


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
    greet: bool = True,
) -> Link:
    """One connection to a server; arguments and errors as `igtl.connect`.

    Args:
        ends_quietly: iteration ends on any disconnect, see `Link.close_reason`.
        greet: False leaves what a connection begins with to the caller, see `Link._greet`.
    """
    protocol = protocol_for(
        compression, max_size=max_size, crc=crc, on_error=on_error, version=version,
        cut_names=cut_names,
    )  # fmt: skip
    inbox = Inbox(protocol, inbox_policy, inbox_messages, inbox_bytes)
    open_timeout = seconds("open_timeout", open_timeout)
    read_timeout = seconds("read_timeout", read_timeout)
    message_timeout = seconds("message_timeout", message_timeout)
    write_timeout = seconds("write_timeout", write_timeout)
    keepalive = checked_keepalive(keepalive)
    start = time.monotonic()
    # 0 is no time-out of a socket, but makes it one that does not wait, and fails in another way
    timeout = None if open_timeout is None else max(open_timeout, 0.001)
    sock = socket.create_connection((host, port), timeout=timeout)
    try:
        tune(sock, keepalive)
        transport: Transport
        if ssl is None:
            transport = SocketTransport(sock, write_timeout=write_timeout)
        else:
            from igtl.tls import TLSTransport

            left = None if timeout is None else max(0.0, start + timeout - time.monotonic())
            transport = TLSTransport(
                sock, ssl, server_side=False, server_hostname=server_hostname or host,
                handshake_timeout=left, write_timeout=write_timeout,
            )  # fmt: skip
            transport.handshake()
        protocol.peer = sock.getpeername()[:2]
        link = Link(
            transport, protocol, local=sock.getsockname()[:2], read_timeout=read_timeout,
            inbox=inbox, ends_quietly=ends_quietly, message_timeout=message_timeout,
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
        self._accepting = threading.Lock()  # one thread after the other waits at the socket
        self._ended = threading.Event()
        self._resting = False
        self.host, self.port = sock.getsockname()[:2]

    def accept(self, *, timeout: float | None = None) -> Link:
        """Wait for the next client; any number of threads may. With TLS, its handshake takes place
        at the first recv or send, so that one that hangs does not keep the others waiting.

        Where the system has no descriptor or no memory left, this is logged once, and tried again
        every second.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the listener was closed.
            OSError: the system accepts no more on this socket.
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
        """The socket of the next client; None: the one that came is no good."""

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        wait = left()
        if not self._accepting.acquire(timeout=-1 if wait is None else wait):
            raise TimeoutError
        try:
            self._readable(left())
            try:
                sock, _ = self._sock.accept()
                self._resting = False
                return sock
            except BlockingIOError:  # it has left
                return None
            except OSError as error:
                if self._ended.is_set() or not accept_goes_on(error):
                    raise
                if (rest := pause_after(error)) and not self._resting:
                    self._resting = True
                    log(logging.WARNING, "accepting rests: %s", error, cause=error)
                wait = left()
                self._ended.wait(rest if wait is None else min(rest, wait))
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
        """Stop listening; links that were handed out live on."""
        if not self._ended.is_set():
            self._ended.set()
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
    message_timeout: float | None = MESSAGE_TIMEOUT,
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
        read_timeout, message_timeout, write_timeout, keepalive: see `connect`.
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
        return Link(
            transport, protocol, local=sock.getsockname()[:2], read_timeout=read_timeout,
            message_timeout=message_timeout,
        )  # fmt: skip

    # wrong settings show here, not at the first client
    new_protocol()
    read_timeout = seconds("read_timeout", read_timeout)
    message_timeout = seconds("message_timeout", message_timeout)
    write_timeout = seconds("write_timeout", write_timeout)
    keepalive = checked_keepalive(keepalive)
    return Listener(listening_socket(host, port), linked)
