"""Blocking links: the Link that `connect` and `listen` hand out.

Any thread may send, ask or close; one at a time receives. A plain link has no thread of its own: it
takes from the network what its caller receives.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self, TypeVar, overload

from igtl._core import Frame
from igtl.addresses import of_tcp
from igtl.blocking.transport import SocketTransport, Transport
from igtl.codec.message import Message, NoData
from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.messages.general import Command, CommandReply
from igtl.messages.queries import Get, Ready, Start
from igtl.net.sockets import address_of, connected_socket, tune
from igtl.options import ConnectOptions, LinkOptions, seconds
from igtl.session.compress import CompressingProtocol
from igtl.session.facade import (
    LinkBase,
    PairsOf,
    StreamOf,
    client_layer,
    greeting,
    new_inbox,
    new_protocol,
    pairing_of,
)  # fmt: skip
from igtl.session.inbox import Wanted
from igtl.session.pairing import By, Method, Pairing
from igtl.session.protocol import Parts, hello_message
from igtl.session.requests import ANYTHING, Exchange, new_command, selection, stop_for
from igtl.session.session import Session, closed_by

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Answer = Message | Exception
_STOP_TIMEOUT = 1.0  # seconds for a peer to acknowledge the end of a stream


class Asking:
    """The requests of whatever can send one and wait for its answer."""

    request: Callable[[Exchange, float | None], Message]

    def query(self, request: Get[M], *, timeout: float | None = 5.0) -> M | NoData:
        """Ask for one message and wait for it; what else comes stays queued.

        Args:
            request: for example GetImage(device_name="CT"). An empty name accepts any.
            timeout: seconds; None waits without end.

        Returns:
            The answer; NoData if the peer has none (an empty answer, or STATUS "not found").

        Raises:
            CommandFailed: the peer answered with another error.
            TimeoutError: no answer came in time.
            ConnectionClosed: the link is closed.
        """
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(self.request(exchange, timeout))
        return answer

    def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send a COMMAND with an id of its own and wait for the reply with that id.

        Args:
            name: at most 128 bytes.
            text: usually XML.
            timeout: seconds; None waits without end.

        Raises:
            CommandFailed: the reply says so (in its metadata or XML); it is in `.reply`.
            TimeoutError, ConnectionClosed: see query.
        """
        return self.ask(new_command(name, text, device_name), timeout=timeout)

    def ask(self, command: Command, *, timeout: float | None = 5.0) -> CommandReply:
        """As `command`, for a Command that the caller has made."""
        exchange = Exchange(command)
        reply: CommandReply = exchange.result(self.request(exchange, timeout))
        return reply


class Link(LinkBase, Asking):
    """A connection to one peer.

    Iterating yields messages until the peer closes cleanly. Use as a context manager, or close().

    Attributes:
        options: what was asked for.
        others: see `LinkBase`.
    """

    _waiting = 0  # threads that wait for an answer while another one receives
    _asking = False  # whether the thread that receives does so for the sake of an answer
    _queueing = 0  # threads that wait for such a one to give way
    # held where the session is used beside receiving; of a plain link only its caller does that
    _guard: AbstractContextManager[Any] = contextlib.nullcontext()

    def __init__(
        self,
        transport: Transport,
        options: LinkOptions,
        *,
        ends_quietly: bool = False,
    ) -> None:
        super().__init__(transport, ends_quietly=ends_quietly)
        self._transport = transport
        self.options = options
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._turns = threading.Condition()  # guards these three
        protocol = self.session.protocol
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
            ConnectionClosed: the link is closed.
            TimeoutError: the peer took nothing for the link's write_timeout. The link ends, since
                half of the message may be out.
        """
        with self._sending:
            self._write(self.session.protocol.parts(message, crc=crc))

    def send_hello(self) -> None:
        """Offer header version 2, see `connect`."""
        with self._sending:
            self._write([hello_message()])

    def greet(self, *, hello: bool) -> None:
        """Send what a client's connection begins with."""
        with self._sending:
            for wire in greeting(self.session.protocol, hello=hello):
                self._write([wire])

    def _answer(self, offer: bytes) -> bool:
        """Send an offer of compression, unless another thread is sending: it might wait for the
        peer, which may wait for the thread that receives here."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            with contextlib.suppress(OSError):  # ConnectionClosed is one: recv will tell
                self._write([offer])
        finally:
            self._sending.release()
        return True

    def _write(self, parts: Parts) -> None:
        if self.closed:
            raise self._over()
        whole: Any = parts[0] if len(parts) == 1 else parts.copy()
        size = len(whole) if len(parts) == 1 else sum(map(len, parts))
        try:
            self._transport.send(parts, self.options.write_timeout)
        except BaseException as error:
            if self.closed and isinstance(error, OSError):  # by another thread
                raise self._over() from error
            if isinstance(error, ConnectionError):
                self.session.send_failed(error)
                raise closed_by(self.peer, error) from error
            # perhaps cut in the middle of a message: whatever followed would be out of step
            told = error if isinstance(error, Exception) else ConnectionAbortedError(repr(error))
            self.session.lost(told)
            self._transport.shutdown()
            raise
        self.session.protocol.stats.count_sent(whole, size)

    # -- receiving

    def _until(self, take: Callable[[], T | None], timeout: float | None) -> T:
        """What `take` returns, as soon as it returns something. TimeoutError without text after
        `timeout` seconds; data that is there is looked at first."""
        if not self._receiving.acquire(blocking=False):
            if self.closed:  # it is held by the thread that closes
                raise self._over()
            timeout = self._take_turn(timeout)
        try:
            try:
                return self._receive_until(take, timeout)
            finally:
                self._end_turn()
        except Exception:
            self.session.over.tell(self.session.close_reason)
            raise

    def _take_turn(self, timeout: float | None) -> float | None:
        """Receive next, where another thread receives for the sake of an answer only: that one
        gives way as soon as bytes have arrived. Returns what is left of the time-out."""
        began = time.monotonic()
        with self._turns:
            if self._receiving.acquire(blocking=False):
                return timeout
            if not self._asking:
                raise RuntimeError("another thread is receiving on this link")
            self._queueing += 1
        try:
            if not self._receiving.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError
        finally:
            with self._turns:
                self._queueing -= 1
                self._turns.notify_all()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))

    def _end_turn(self) -> None:
        self._receiving.release()
        if self._waiting:
            with self._turns:
                self._turns.notify_all()

    def _receive_until(self, take: Callable[[], T | None], timeout: float | None) -> T:
        found = take()
        if found is not None:
            return found
        session = self.session
        session.listens()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            if session.ended:
                raise self._over()
            try:
                self._transport.receive(left)
            except TimeoutError:
                session.listened()
                if session.expired(time.monotonic()) is None:
                    raise
                self._transport.shutdown()
            except (OSError, ValueError) as error:  # ValueError: polled a closed socket
                if not self.closed:
                    session.lost(error)
            try:
                found = take()
            except MessageTooLarge:
                self._transport.shutdown()
                raise
            if found is not None:
                return found
            now = time.monotonic()
            if now >= deadline and not session.ended:
                session.listened()
                raise TimeoutError
            end = min(deadline, session.next_deadline())
            left = None if end == math.inf else max(0.0, end - now)

    def _over(self) -> Exception:
        reason = self.session.end() or ConnectionClosed("this link was closed")
        return reason.with_traceback(None)  # which would grow each time that it is raised

    def _within(self, take: Callable[[], T | None], wanted: Any, timeout: float | None) -> T:
        timeout = self.options.read_timeout if timeout is None else seconds("timeout", timeout)
        try:
            return self._until(take, timeout)
        except TimeoutError:
            raise self.session.unseen(wanted, timeout) from None

    @overload
    def recv(self, *, timeout: float | None = None) -> Message: ...
    @overload
    def recv(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M: ...
    def recv(
        self, kind: type[Message] = Message, name: str = "*", *, timeout: float | None = None
    ) -> Message:
        """The next message, or the next of a type and device name; others stay queued, in order,
        within the bounds of the inbox (see `igtl.options.SocketOptions`).

        Args:
            kind: a message class.
            name: device name, with the wildcards * and ?.
            timeout: seconds; 0 looks at what is there. None: the link's read_timeout.

        Raises:
            TimeoutError: nothing came in time; the text lists what was seen meanwhile.
            ConnectionClosed: the link is closed.
            ProtocolError: a bad message came; the next one can be read (not after
                MessageTooLarge, which closes the link).
            RuntimeError: another thread is receiving.
        """
        wanted = selection(kind, name)
        take = (
            self.session.take
            if wanted is ANYTHING
            else partial(self.session.take, wanted, fresh=True)
        )
        return self._within(take, wanted, timeout)

    def recv_selected(self, wanted: Wanted, timeout: float | None) -> Message:
        """As `recv`, for any selection of messages."""
        return self._within(partial(self.session.take, wanted), wanted, timeout)

    def latest(
        self,
        kind: type[M],
        name: str = "*",
        *,
        max_age: float | None = None,
        timeout: float | None = None,
    ) -> M:
        """The newest message of a type and device name, of all that has arrived; where there is
        none, the next one. Older ones of that stream are dropped, and counted as "superseded".

        Args:
            kind: a message class.
            name: device name, with the wildcards * and ?.
            max_age: seconds since its arrival; an older one is not returned, but waited for.
            timeout: seconds to wait. None: the link's read_timeout.

        Raises:
            as recv.
        """
        wanted = selection(kind, name)
        max_age = seconds("max_age", max_age)

        def newest() -> Any:
            newer_than = None if max_age is None else time.monotonic() - max_age
            return self._newest(wanted, newer_than)

        found: M = self._within(newest, wanted, timeout)
        return found

    def _newest(self, wanted: Wanted, newer_than: float | None) -> Message | None:
        """The newest that has arrived, in the system's buffers too."""
        with contextlib.suppress(TimeoutError):
            while not self.session.ended:
                self._transport.receive(0.0)
                self.session.sort()
        return self.session.latest(wanted, newer_than)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            return self._within(self.session.take, ANYTHING, None)
        except (ConnectionClosed, MessageTooLarge) as error:
            if self.ends_iteration(error):
                raise StopIteration from None
            raise

    def recv_frame(self, *, timeout: float | None = None) -> Frame:
        """The next message as it came, for relays and recorders: undecoded, its CRC unchecked.
        Messages that `recv` has queued are packed again; answers to requests are not among them.

        Raises:
            as recv.
        """
        return self._within(self.session.take_frame, "message", timeout)

    def frames(self) -> Iterator[Frame]:
        """All messages as they come, until the peer closes cleanly; see recv_frame."""
        while True:
            try:
                frame = self.recv_frame()
            except (ConnectionClosed, MessageTooLarge) as error:
                if self.ends_iteration(error):
                    return
                raise
            yield frame

    # -- requests

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        timeout = seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            if self._waiting:
                with self._turns:
                    self._turns.notify_all()

        with self._guard:
            self.session.ask(exchange, done)
        withdraw = self._send_request(exchange.request)
        try:
            answer = self._wait_answer(answers, deadline)
        except TimeoutError:
            withdraw()
            raise self.session.unseen(exchange, timeout) from None
        finally:
            self.session.forget(exchange)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send_request(self, request: Message) -> Callable[[], None]:
        """Send it; returns what takes it back, if it has not left."""
        self.send(request)
        return lambda: None

    def _wait_answer(self, answers: list[Answer], deadline: float | None) -> Answer:
        """Receive until the answer is there; or wait while another thread receives, which hands it
        over."""

        def take() -> bool | None:
            self.session.sort()
            return bool(answers or self._queueing) or None

        def free() -> bool:
            return bool(answers) or not (self._queueing or self._receiving.locked())

        while not answers:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._turns:
                if self._queueing or not self._receiving.acquire(blocking=False):
                    self._waiting += 1
                    try:
                        if not self._turns.wait_for(free, left):
                            raise TimeoutError
                    finally:
                        self._waiting -= 1
                    continue
                self._asking = True
            try:
                self._receive_until(take, left)
            finally:
                with self._turns:
                    self._asking = False
                    self._end_turn()
        return answers[0]

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
            reply = self.request(exchange, timeout)
            acknowledged = isinstance(reply, Ready)
            if isinstance(reply, type(start).answer):
                with self._guard:
                    self.session.inbox.put_back(reply, 0)
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
        stop = Exchange(stop_for(start))
        if acknowledged:
            with contextlib.suppress(TimeoutError):  # the peer ignores it
                self.request(stop, _STOP_TIMEOUT)
        else:  # the peer will not acknowledge this either
            self.send(stop.request)
        with self._guard:
            self.session.inbox.drop(StreamOf(start), "after_stop")

    def wait_compressed(self, timeout: float | None = 1.0) -> bool:
        """Wait for the peer to say that it reads compressed messages; what else comes stays
        queued. For links that only send: one that receives hears of it by that.

        Args:
            timeout: seconds; a peer that was not told to compress never says so.

        Returns:
            Whether messages are compressed from now on.

        Raises:
            ConnectionClosed, RuntimeError: see recv.
        """

        def told() -> bool | None:
            self.session.sort()
            return self.session.protocol.peer_takes or None

        try:
            return self._until(told, seconds("timeout", timeout))
        except TimeoutError:
            return False

    def sync(
        self,
        *streams: tuple[type[Message], str],
        tolerance: float,
        method: Method = "nearest",
        by: By = "timestamp",
    ) -> SyncReader:
        """Iterate over messages that belong to the same instant:

            for image, probe in link.sync(
                (Image, "Image_Reference"), (Transform, "ProbeToReference"), tolerance=0.005
            ): ...

        Args:
            streams: (class, device name) each. The first leads: for each of its messages the
                sample of the others that is nearest in time.
            tolerance: seconds between them at most. A message waits so long for a later sample.
            method: "interpolate" puts a rigid TRANSFORM between its neighbours by slerp.
            by: "timestamp" of the messages (their arrival where none is set), or "arrival".

        The iterator raises TimeoutError when there was no pair for the link's read_timeout; the
        text says how far the time stamps of the streams are apart.
        """
        return SyncReader(self, pairing_of(streams, tolerance, method, by))

    # -- end

    def close(self) -> None:
        """End the link; a recv or send that waits in another thread raises ConnectionClosed.

        What was sent is on its way to the peer: if its system has not taken it all, this waits
        for it, at most one second.
        """
        if self.closed:
            return
        self.closed = True
        linger = not self._sending.locked() and self.session.close_reason is None
        self.session.close()
        if linger:
            self._transport.finish()
        self._transport.shutdown()
        # give the descriptor back only when no thread is in recv with it any more
        held = self._receiving.acquire(timeout=1)
        self._transport.close()
        if held:
            self._receiving.release()
        self.session.over.tell(self.session.end())

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
        return self._link.recv_selected(self, timeout)  # type: ignore[return-value]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        return self.recv()


class SyncReader(PairsOf):
    """Iterator over messages of the same instant; see Link.sync."""

    def __init__(self, link: Link, pairing: Pairing) -> None:
        super().__init__(pairing, link.options.read_timeout)
        self._link = link

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Any, ...]:
        while (found := self._next(time.monotonic())) is None:
            wait = self._wait(time.monotonic())
            take = partial(self._link.session.take, self._pairing)
            try:
                message = self._link._until(take, wait)
            except TimeoutError:
                continue
            except (ConnectionClosed, MessageTooLarge) as error:
                if (found := self._next(float("inf"))) is not None:
                    return found
                if self._link.ends_iteration(error):
                    raise StopIteration from None
                raise
            self._pairing.add(message, time.monotonic())
        return found


def new_session(options: LinkOptions, *, peer: Any = None, local: Any = None) -> Session:
    """The session of a link with these options."""
    protocol = new_protocol(options, peer=peer)
    return Session(
        protocol,
        inbox=new_inbox(options, protocol.stats),
        local=local,
        message_timeout=options.message_timeout,
        stall_timeout=options.write_timeout,
    )


def open_transport(
    host: str,
    port: int,
    options: ConnectOptions,
    session: Session,
    opened: Callable[[socket.socket], None] = lambda sock: None,
) -> SocketTransport:
    """Connect, and shake hands if it is TLS or WebSocket.

    Args:
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
