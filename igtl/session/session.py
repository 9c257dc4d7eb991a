"""One connection without its I/O: no socket, no thread, no task, no sleep.

A driver moves the bytes. It writes what arrives into `get_buffer` and calls `received`; it sends
what `to_send` returns and calls `sent`. It looks at `wants_read` and `next_deadline`, and calls
`expired` when that time has come. Feeding a session never raises: `take` raises what is wrong with
the peer's bytes, to the caller that receives.

    session.received(sock.recv_into(session.get_buffer()))
    while (message := session.take()) is not None: ...
    while (piece := session.to_send()) is not None: session.sent(sock.send(piece))
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from igtl import _core
from igtl._core import Frame
from igtl._stream import Flow, Stream
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import log, named
from igtl.session.inbox import Inbox, Wanted
from igtl.session.once import Once
from igtl.session.outbox import Outbox
from igtl.session.packed import Packed
from igtl.session.protocol import Protocol
from igtl.session.requests import Exchange

SLICE = 256 * 1024  # bytes of a large message that are handed to the driver at once
_MISSED = {
    "unfinished": "sent nothing more of a message",
    "idle": "said nothing",
    "stalled": "took nothing",
}
UNDECIDED = 0.25  # seconds in which a new peer may show its header version

Done = Callable[[Message | Exception], None]


class Session(Flow):
    """The state of one connection.

    Args:
        protocol: its stream of messages: framing, header version, compression, counters.
        inbox: messages that wait for their receiver; default: an Inbox with its own defaults.
        outbox: messages that wait to leave; None where the driver sends each at once.
        local: address of this end.
        message_timeout: seconds that a message which has begun may take without progress; None
            waits without end. A header that has begun must be complete within this time.
        idle_timeout: seconds that the peer may say nothing; None: for ever.
        stall_timeout: seconds that the peer may take nothing while something waits for it; None:
            for ever.
        clock: for tests; as `time.monotonic`.

    Attributes:
        ended: whether nothing more can arrive. What has arrived may still wait to be taken.
        close_reason: why nothing more can arrive; None while something can.
        greeting: what leaves before anything else.
        over: what is to be called when the link has closed.
        can_send: whether the peer, as far as is known, takes anything.
        heard: time of the clock at which the last bytes arrived; times at which this end did not
            listen are left out.
        moved: time of the clock at which the last bytes left, or at which nothing waited.
        held: bytes that the driver holds, which the system has not taken yet.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        inbox: Inbox | None = None,
        outbox: Outbox[Packed] | None = None,
        local: Any = None,
        message_timeout: float | None = None,
        idle_timeout: float | None = None,
        stall_timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(protocol, Inbox(protocol.stats) if inbox is None else inbox, clock)
        self.outbox = outbox
        self.local = local
        self.get_buffer = protocol.get_buffer
        self._message_timeout = message_timeout
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout
        self._clock = clock
        self.over = Once()
        self.greeting: deque[Packed] = deque()
        self._packed: Packed | None = None  # the message that is being sent
        self._leaving: memoryview | None = None  # the rest of it
        self._cut = self._closed = False
        self._send_error: Exception | None = None
        self.can_send = True
        self.moved = self.heard
        self._began = -math.inf
        self._warned = False
        self.held = 0

    def opened(self) -> None:
        """Note that the connection exists. Call it before anything is sent."""
        self._began = self._clock()

    # -- bytes in

    def received_eof(self, *, clean: bool = True) -> None:
        """Note that the peer sends nothing more.

        Args:
            clean: False: a layer below knows that the stream was cut.
        """
        self.ended = True
        self._cut = self._cut or not clean

    def lost(self, error: Exception) -> None:
        """Note that the connection broke, or that this end gives it up.

        The first reason counts.
        """
        self.ended = True
        if self.close_reason is None:
            kept = isinstance(error, ProtocolError)
            self.close_reason = error if kept else closed_by(self.protocol.peer, error)
        self._tell_requests()

    def send_failed(self, error: Exception) -> None:
        """Note that nothing more can be sent.

        What the peer had sent before may still arrive; the session raises the reason after it,
        since the system tells it once. (A broken pipe says only that the peer has closed.)
        """
        self.can_send = False
        if self._send_error is None and not isinstance(error, BrokenPipeError):
            self._send_error = error

    def close(self) -> None:
        """Note that this end was closed."""
        self.ended = self._closed = True
        self._tell_requests()

    def end(self) -> Exception | None:
        """Return why nothing more can be taken, asked after `take` has returned None; else None."""
        if self.close_reason is None and self.ended:
            peer = named(self.protocol.peer)
            if self._closed:
                self.close_reason = ConnectionClosed("this link was closed", clean=True)
            elif self._send_error is not None:
                self.close_reason = closed_by(self.protocol.peer, self._send_error)
            elif self._cut:
                text = f"{peer}: the connection was cut: TLS did not end it"
                self.close_reason = ConnectionClosed(text, clean=False)
            elif self.protocol.at_boundary:
                self.close_reason = ConnectionClosed(f"{peer} closed", clean=True)
            else:
                text = f"{peer} closed in the middle of a message"
                self.close_reason = ConnectionClosed(text, clean=False)
        reason = self.close_reason
        return None if reason is None else closed_by(self.protocol.peer, reason)

    # -- messages in

    def latest(self, wanted: Wanted, newer_than: float | None = None) -> Message | None:
        """Return the newest message of those that are wanted, of all that has arrived.

        Older ones of its stream are passed over.

        Args:
            wanted: picks messages.
            newer_than: time of the clock; None is returned for a message that arrived before.

        Raises:
            ProtocolError: as `take`.
        """
        if self.inbox.raw:
            self._keep(raw=False)
        self.sort()
        if self.inbox.errors:
            raise self.inbox.errors.popleft()
        found: Message | None = self.inbox.latest(wanted, newer_than=newer_than)
        return found

    def sort(self) -> None:
        """Put all that has arrived into the inbox, and give answers to the callers that wait.

        So the driver can go on reading while the receiver is busy. What is wrong with a message is
        kept in `inbox.errors`, for `take`.
        """
        take = self._next_frame if self.inbox.raw else self.next_message
        while True:
            try:
                found = take()
            except Exception as error:  # of a type's own check too
                self.inbox.errors.append(error)
                continue
            if found is None:
                if self.ended:
                    self._tell_requests()
                return
            self._put(found)

    def _put(self, found: Message | Frame) -> None:
        size = len(found) if isinstance(found, Frame) else self.protocol.last_size
        self.inbox.put(found, size)

    def _keep(self, *, raw: bool) -> None:
        """Let what waits, and what will have to, wait as it came, or decoded."""
        self.inbox.raw = raw
        waiting = []
        while (found := self.inbox.take()) is not None:
            waiting.append(found)
        for found in waiting:
            try:
                self._put(Frame.from_bytes(found.pack()) if raw else self.protocol.decoded(found))
            except Exception as error:  # of a type's own check too
                self.inbox.errors.append(error)

    def take_frame(self) -> Frame | None:
        """Return the next message as it came, for relays and recorders; None while there is none.

        Messages that wait decoded are packed again.

        Raises:
            MessageTooLarge, VersionError: as `take`.
        """
        if not self.inbox.raw:
            self._keep(raw=True)
        if self.inbox:
            found: Frame = self.inbox.take()
            return found
        if self.inbox.errors:
            raise self.inbox.errors.popleft()
        return self._next_frame()

    def _next_frame(self) -> Frame | None:
        try:
            while (frame := self.protocol.next_frame()) is not None:
                if not self.requests or not self._is_answer(frame):
                    return frame
        except MessageTooLarge as error:
            if self.close_reason is not None:  # it was raised before
                return None
            self.lost(error)
            raise
        return None

    def _is_answer(self, frame: Frame) -> bool:
        try:
            return self._answers(self.protocol.decoded(frame))
        except ProtocolError:
            return False

    def unseen(self, wanted: Wanted, timeout: float | None) -> TimeoutError:
        """Return the error of a receiver that waited in vain: it lists what was seen instead."""
        seen = sorted(
            f"{type_name} {name!r}"
            for (type_name, name), stream in self.protocol.stats.streams.items() if stream.received
        )  # fmt: skip
        more = f" and {len(seen) - 20} more" if len(seen) > 20 else ""
        return TimeoutError(
            f"no {wanted} within {timeout} s; seen: {', '.join(seen[:20]) or 'nothing'}{more}"
        )

    # -- requests

    def ask(self, exchange: Exchange, done: Done) -> None:
        """Call `done` with the answer to this request when it arrives, or the reason why none will.

        The answer does not pass the inbox.
        """
        self.requests[exchange] = done
        if self.ended:
            self._tell_requests()

    def forget(self, exchange: Exchange) -> None:
        """Note that the caller does not wait for this answer any more."""
        self.requests.pop(exchange, None)

    def _answers(self, message: Message) -> bool:
        for exchange, done in self.requests.items():
            if exchange.matches(message):
                del self.requests[exchange]
                done(message)
                return True
        return False

    def _tell_requests(self) -> None:
        while self.requests:
            exchange, done = self.requests.popitem()
            text = f"{named(self.protocol.peer)} was lost before it answered: {exchange}"
            error = ConnectionClosed(text, clean=False)
            error.__cause__ = self.close_reason
            done(error)

    # -- bytes out

    def pack(self, message: Message | Frame, *, crc: bool = True) -> Packed:
        """Pack a message at once, as this peer understands it now.

        Raises:
            EncodeError: it cannot be sent to this peer.
        """
        if isinstance(message, Frame):
            return Packed.of(message)
        return Packed(Stream.pack(self.protocol, message, crc=crc))

    def pack_for_later(self, message: Message | Frame, *, crc: bool = True) -> Packed:
        """Pack a message at once, for a peer whose header version is not known yet.

        Raises:
            EncodeError: it cannot be sent, whatever the peer understands.
        """
        protocol = self.protocol
        if isinstance(message, Frame):
            return Packed.of(message)
        version = protocol.fixed or (2 if _core.needs_v2(message) else 1)
        return Packed(_core.packed_for(message, version, crc=crc, cut_name=protocol.cut_names))

    def put(self, packed: Packed) -> None:
        """Queue a packed message, under the policy of the outbox."""
        assert self.outbox is not None
        if not self.wants_write:
            self.moved = self._clock()
        self.outbox.put(packed, packed.size, packed.stream)

    @property
    def has_more(self) -> bool:
        """Whether something waits to leave, now or later."""
        return self._packed is not None or bool(self.greeting) or bool(self.outbox)

    @property
    def wants_write(self) -> bool:
        """Whether something waits that may leave now."""
        return self.has_more and not self._waits_for_version()

    def _next_packed(self) -> Packed | None:
        """Return the message that leaves next, or is leaving. From here on it keeps its place."""
        if self._packed is None:
            if self.greeting:
                self._packed = self.greeting.popleft()
            elif self.outbox:
                self._packed = self.outbox.get()
        return self._packed

    @property
    def undecided(self) -> float:
        """Seconds in which the peer, if it is new, may still show that it reads version 2."""
        if self.protocol.version == 2 or self.protocol.fixed:
            return 0.0
        return max(0.0, self._began + UNDECIDED - self._clock())

    def _waits_for_version(self) -> bool:
        """Return whether the next message waits for the peer to show that it reads version 2.

        It would lose its metadata, and the peer is new. Those behind it wait too, since the order
        within a stream stays.
        """
        if self._leaving is not None or not self.undecided:
            return False
        packed = self._next_packed()
        return packed is not None and "metadata" in packed.form(1).lost

    def to_send(self) -> memoryview | None:
        """Return the next bytes to send, at most SLICE; None when nothing waits.

        The driver says with `sent` how many of them have left.
        """
        if self._leaving is None:
            packed = self._next_packed()
            if packed is None or self._waits_for_version():
                return None
            self._leaving = memoryview(packed.wire_for(self.protocol))
            if self.protocol.version == 1 and "metadata" in packed.form(1).lost:
                self._warn_stripped()
        return self._leaving[:SLICE]

    def _warn_stripped(self) -> None:
        """Once for each connection."""
        if not self._warned:
            self._warned = True
            log(
                logging.WARNING, "%s has not shown that it reads header version 2: messages go out "
                "to it without their metadata; if it does read it, set version=2",
                self.protocol.peer, peer=self.protocol.peer, cause="stripped",
            )  # fmt: skip

    def sent(self, n: int) -> None:
        """Note that n of the bytes that `to_send` returned have left."""
        leaving = self._leaving
        assert leaving is not None
        self.moved = self._clock()
        if n < len(leaving):
            self._leaving = leaving[n:]
            return
        self._leaving = self._packed = None
        wire: Any = leaving.obj
        self.protocol.stats.count_sent(wire, len(wire))

    def begun(self, wire: bytes, n: int) -> None:
        """Note that the driver has sent n bytes of a message itself, while nothing was leaving."""
        self._packed = Packed(wire, as_it_is=True)
        self._leaving = memoryview(wire)[n:]

    def take_back(self) -> Packed | None:
        """Return the message that has not left whole, or None: the connection ended before."""
        packed, self._packed, self._leaving = self._packed, None, None
        return packed

    def give_up(self, cause: str) -> None:
        """Drop what waits to leave, and count it under this cause."""
        if (packed := self.take_back()) is not None:
            self.protocol.stats.count_dropped(packed.wire, cause)
        if self.outbox is not None:
            self.outbox.clear(cause)

    # -- time

    def next_deadline(self) -> float:
        """Time of the clock at which to ask `expired` and `wants_write`; infinity for never."""
        deadline = min((at for at, _, _ in self._deadlines()), default=math.inf)
        return min(deadline, self._began + UNDECIDED) if self._waits_for_version() else deadline

    def expired(self, now: float) -> str | None:
        """End the session if the peer has exceeded a limit by this time of the clock.

        Returns:
            "unfinished" (a message has begun and does not go on), "idle", "stalled"; else None.
        """
        if self.close_reason is not None:
            return None
        for at, cause, limit in self._deadlines():
            if at <= now:
                text = f"{named(self.protocol.peer)} {_MISSED[cause]} for {limit:g} s"
                self.lost(ConnectionClosed(text, clean=False))
                return cause
        return None

    def _deadlines(self) -> Iterator[tuple[float, str, float]]:
        """Yield what the peer must do by when, as (time, cause, seconds that it has for it)."""
        if (limit := self._message_timeout) is not None and not self.protocol.at_boundary:
            yield self.heard + limit, "unfinished", limit
        if (limit := self._idle_timeout) is not None:
            yield self.heard + limit, "idle", limit
        if (limit := self._stall_timeout) is not None and (self.wants_write or self.held):
            yield self.moved + limit, "stalled", limit

    def __repr__(self) -> str:
        return f"<Session with {named(self.protocol.peer)} {self.protocol.stats}>"


def closed_by(peer: Any, error: Exception) -> Exception:
    """Return the error that a receiver raises for the one that ended its connection.

    An error of the system becomes ConnectionClosed; one of TLS stays, since it says what is wrong
    with a certificate.
    """
    if isinstance(error, ConnectionClosed) or type(error).__module__ == "ssl":
        return error
    text = error.strerror if isinstance(error, OSError) and error.strerror else error
    closed = ConnectionClosed(f"{named(peer)}: {text}", clean=False)
    closed.__cause__ = error
    return closed
