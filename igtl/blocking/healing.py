"""A link that reconnects by itself."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from igtl._core import Frame
from igtl.blocking.channel import Channel
from igtl.blocking.drained import DrainedLink, Pump
from igtl.blocking.transport import SocketTransport
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import named
from igtl.messages.queries import Start
from igtl.options import (
    ReconnectOptions,
    seconds,
)  # fmt: skip
from igtl.session.backoff import Supervisor
from igtl.session.facade import (
    greeting,
    new_inbox,
    new_outbox,
    new_protocol,
)
from igtl.session.once import Once, call
from igtl.session.packed import Packed
from igtl.session.requests import Exchange
from igtl.session.session import Done, Session, closed_by

C = TypeVar("C", bound=Callable[[], Any])
M = TypeVar("M", bound=Message)


class Supervised(Pump):
    """The thread of a link that reconnects by itself.

    All its connections share one inbox, one outbox and one account.

    Attributes:
        latched: what each new connection is sent, by stream.
        streams: requests for each new connection, and the functions that get the answers.
    """

    def __init__(
        self,
        address: tuple[str, int],
        options: ReconnectOptions,
        supervisor: Supervisor,
        open_connection: Callable[[Session, Callable[[socket.socket], None]], SocketTransport],
    ) -> None:
        self._address = address
        self._options = options
        self._supervisor = supervisor
        self._open_connection = open_connection
        protocol = new_protocol(options, peer=address)
        self._stats = protocol.stats
        self._inbox = new_inbox(options, self._stats)
        self._outbox = new_outbox(options, self._stats)
        self._stripped = 0  # on connections that are over
        self._reason: Exception | None = None
        self._opening: socket.socket | None = None  # newest connection, in use or not
        self._over = Once()
        self._on_connect: list[Callable[[], Any]] = []
        self.latched: dict[bytes, Packed] = {}
        self.streams: list[tuple[Start[Any], Done]] = []
        super().__init__(self._new_session())

    def _new_session(self) -> Session:
        protocol = new_protocol(self._options, peer=self._address)
        protocol.stats = self._stats
        session = Session(
            protocol,
            inbox=self._inbox,
            outbox=self._outbox,
            message_timeout=self._options.message_timeout,
            stall_timeout=self._options.write_timeout,
        )
        session.over = self._over
        return session

    def end(self) -> Exception | None:
        """Return why the link has ended for good; None while it goes on."""
        return self._reason

    @property
    def stripped(self) -> int:
        """Messages that went out without metadata and id, on all connections."""
        return self._stripped + self.session.protocol.stripped

    @property
    def connected(self) -> bool:
        """Whether the peer is there now."""
        return self.channel is not None and not self.session.ended

    def supervise(self) -> None:
        """Connect again and again, until the link is closed or the backoff gives up."""
        try:
            while not self.closed:
                session = self._new_session()
                try:
                    transport = self._open_connection(session, self._opened)
                except OSError as error:
                    self._pause(self._supervisor.failed(error))
                    continue
                self._supervisor.connected()
                channel = Channel(transport)
                for callback in self._begin(channel):
                    call(callback)
                self.run(channel)
                reason = self._lose(channel)
                if not self.closed:
                    self._pause(self._supervisor.lost(reason))
        except Exception as error:  # the supervisor gave up
            with self.changed:
                lost_framing = isinstance(error, ProtocolError)
                self._reason = closed_by(self._address, error) if lost_framing else error
                self._outbox.clear("closed")
                self.changed.notify_all()

    def open_stream(self, start: Start[Any], done: Done) -> None:
        """Ask for a stream now, if the peer is there, and on each new connection."""
        with self.changed:
            self.streams.append((start, done))
            if self.connected:
                self._ask(self.session, start, done)
                self.put(self.session.pack(start))

    def leave_stream(self, start: Start[Any]) -> None:
        """Do not ask for it again."""
        with self.changed:
            self.streams = [entry for entry in self.streams if entry[0] is not start]

    def _ask(self, session: Session, start: Start[Any], done: Done) -> None:
        def answered(answer: Message | Exception) -> None:
            if isinstance(answer, Message):  # an error: the next connection asks again
                done(answer)

        session.ask(Exchange(start), answered)

    def sort(self, session: Session) -> None:
        """Put what has arrived into the inbox; the error of a lost connection is left out."""
        super().sort(session)
        errors = session.inbox.errors
        lost = [error for error in errors if not isinstance(error, MessageTooLarge)]
        errors.clear()
        errors.extend(lost)  # a lost connection is no error of a link that makes another

    def _opened(self, sock: socket.socket) -> None:
        with self.changed:
            self._opening = sock
            if self.closed:
                raise ConnectionAbortedError("this link was closed")

    def close(self, *, linger: bool) -> None:
        """End the connection, also one that is being made, and the thread."""
        with self.changed:
            if self.channel is None:
                self.closed = True
                if self._opening is not None:
                    with contextlib.suppress(OSError):  # a handshake that the peer does not answer
                        self._opening.shutdown(socket.SHUT_RDWR)
        super().close(linger=linger)

    def _pause(self, duration: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.closed, duration)

    def on_connect(self, callback: Callable[[], Any]) -> None:
        """Call this for each connection; now, if there is one."""
        with self.changed:
            self._on_connect.append(callback)
            connected = self.connected
        if connected:
            call(callback)

    def _begin(self, channel: Channel) -> list[Callable[[], Any]]:
        """Queue what a connection begins with; returns what is to be called for it.

        That is the hello, the streams that are open, and what is latched. What waits in the outbox
        follows.
        """
        session = channel.session
        with self.changed:
            wires = greeting(session.protocol, hello=self._options.hello)
            session.greeting.extend(Packed(wire, as_it_is=True) for wire in wires)
            for start, done in self.streams:
                self._ask(session, start, done)
                session.greeting.append(session.pack(start))
            # one that waits in the outbox leaves from there, in its order, and once
            session.greeting.extend(
                packed for packed in self.latched.values() if not self._outbox.holds(packed)
            )
            self.attach(channel)
            self.flush()
            return list(self._on_connect)

    def _lose(self, channel: Channel) -> Exception | None:
        """After a connection has closed: keep what has arrived, and what has not left whole."""
        session = channel.session
        with self.changed:
            while channel.read():
                pass
            self.sort(session)
            session.end()
            if not session.protocol.at_boundary:
                self._stats.dropped["interrupted"] += 1
            reason = session.close_reason
            session.lost(reason or ConnectionClosed("this link was closed"))
            self._stripped += session.protocol.stripped
            packed = session.take_back()
            if packed is not None and not self.closed and packed not in self.latched.values():
                self._outbox.put_back(packed, packed.size, packed.stream)
            if isinstance(reason, ProtocolError):
                channel.send_closing()  # it tells the peer why
            channel.close()
            if not self.closed:
                self.channel = None
                self.session = self._new_session()
            self.changed.notify_all()
        return reason


class ReconnectingLink(DrainedLink):
    """A link that reconnects by itself, see `connect(reconnect=…)`.

    Sending while the peer is away, or takes nothing, queues under a policy; receiving waits. A
    thread keeps the connection and reads it; on a new one it sends the hello, asks again for the
    streams that are open, and sends what was latched and what is queued, in this order. Iterating
    goes on over all of them, and so does a stream.

    What had been handed to the system when a connection broke may or may not have arrived: this end
    cannot tell. Everything else that is lost is in `stats.dropped`.
    """

    _pump: Supervised

    @property
    def connected(self) -> bool:
        """Whether the peer is there now."""
        return self._pump.connected

    @property
    def close_reason(self) -> Exception | None:
        """Why the link has closed for good: by the caller, or as the backoff gave up; or None."""
        return self._pump.end()

    @property
    def stripped(self) -> int:
        """Messages that went out without metadata and id.

        The peer had not shown header version 2 yet.
        """
        return self._pump.stripped

    def on_connect(self, callback: C) -> C:
        """Call a function, without an argument, for each connection; now, if there is one.

        It is called in the link's thread. May be used as a decorator. What it raises is logged.
        """
        self._pump.on_connect(callback)
        return callback

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until the peer is there; returns whether it is.

        Raises:
            ConnectionClosed, or the error with which the backoff gave up: it never will be.
        """
        pump = self._pump

        def connected() -> bool | None:
            if not pump.connected:
                self._check_open()
                return None
            return True

        try:
            return pump.changed.until(connected, seconds("timeout", timeout))
        except TimeoutError:
            return pump.connected

    def send(self, message: Message | Frame, *, crc: bool = True, latch: bool = False) -> None:
        """Send one message, or queue it while the peer is away; it is packed at once.

        Args:
            message: see Link.send.
            crc: see Link.send.
            latch: also send it on each new connection, until a newer one of this type and device
                name takes its place.

        Raises:
            EncodeError: the message cannot be sent.
            ConnectionClosed: the link was closed, or the error with which the backoff gave up.
            TimeoutError: with the policy "block", the peer took nothing for the write_timeout.
        """
        with self._pump.changed:
            self._check_open()
            packed = self.session.pack_for_later(message, crc=crc)
            if latch:
                self._pump.latched[packed.stream] = packed
            self._queue(packed)

    def send_hello(self) -> None:
        """Offer header version 2 now; `connect(hello=True)` does so on each connection."""
        with self._pump.changed:
            if self._pump.connected:
                super().send_hello()

    def _check_open(self) -> None:
        reason = self._pump.end()
        if reason is not None:
            raise reason.with_traceback(None)
        if self.closed:
            raise ConnectionClosed("this link was closed")

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """Send a request, once the peer is there, and wait for its answer."""
        timeout = seconds("timeout", timeout)
        if isinstance(exchange.request, Start):
            answers: list[Any] = []
            self._pump.open_stream(exchange.request, answers.append)
            take = lambda: answers[0] if answers else None  # noqa: E731
            answer: Message = self.until(take, exchange, timeout)
            return answer
        began = time.monotonic()
        if not self.wait_connected(timeout):
            raise TimeoutError(f"{named(self.peer)} was not there within {timeout} s")
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
        return super().request(exchange, timeout)

    def leaves(self, start: Start[Any]) -> bool:
        """End a stream at this end; returns whether the peer is connected."""
        self._pump.leave_stream(start)  # before STP_: a connection that is made now does not ask
        return self._pump.connected

    def __repr__(self) -> str:
        state = "connected to" if self.connected else "waiting for"
        return f"<ReconnectingLink {state} {named(self.peer)} {self.stats}>"
