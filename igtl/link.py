"""What blocking and asyncio links share: everything that does not wait."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar
from typing import Protocol as Interface

from igtl import _core
from igtl._core import Frame, Stats
from igtl.errors import ConnectionClosed, ProtocolError
from igtl.exchange import Exchange, part_of_stream
from igtl.limits import seconds
from igtl.log import named
from igtl.message import Message
from igtl.messages.queries import Ready, Start
from igtl.protocol import Protocol
from igtl.queues import Queue

M = TypeVar("M", bound=Message)
InboxPolicy = Literal["drop_oldest", "drop_newest", "latest"]
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 1 << 30
MESSAGE_TIMEOUT = 10.0


class Wanted(Interface):
    """Picks messages; its text says what was wanted."""

    def matches(self, m: Message, /) -> bool:
        """Whether m is one of them."""


class Inbox:
    """Messages that came while the receiver wanted others: in order, bounded, losses counted."""

    def __init__(
        self,
        protocol: Protocol,
        policy: InboxPolicy = "drop_oldest",
        max_messages: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        if policy not in ("drop_oldest", "drop_newest", "latest"):
            raise ValueError(f"an inbox cannot have the policy {policy!r}")
        self._protocol = protocol
        self._queue: Queue[Message] = Queue(policy, max_messages, max_bytes)
        self._ignored: list[Exchange] = []

    def take(self, wanted: Wanted) -> Message | None:
        """The first that is wanted."""
        return self._queue.take(wanted.matches) if self._queue.bytes else None

    def ignore(self, exchange: Exchange) -> None:
        """Throw the answer to this away: nobody waits for it."""
        self._ignored.append(exchange)
        del self._ignored[:-16]

    def put(self, m: Message) -> None:
        """Keep the message that `next_message` has just returned."""
        for exchange in self._ignored:
            if isinstance(m, Ready) and exchange.matches(m):
                self._ignored.remove(exchange)
                return
        key = m.type_name, m.device_name
        for lost, cause in self._queue.put(m, self._protocol.last_size, key):
            self._protocol.stats.count_dropped(_core.stream_head(lost), cause)

    def put_back(self, m: Message) -> None:
        """Make it the first again."""
        self._queue.put_back(m, self._protocol.last_size)

    def no(self, wanted: Any, timeout: float | None) -> TimeoutError:
        """The error that says what came instead."""
        seen = sorted({f"{m.type_name} {m.device_name!r}" for m in self._queue.items()})
        return TimeoutError(f"no {wanted} within {timeout} s; seen: {', '.join(seen) or 'nothing'}")


class LinkBase:
    """State of a link.

    Attributes:
        peer, local: addresses of the other end and of this one.
        close_reason: why the link is over; None while it is not.
        stats: counters, see `igtl.Stats`.
        header_version: what is sent now, 1 or 2.
    """

    def __init__(
        self,
        protocol: Protocol,
        local: Any,
        read_timeout: float | None,
        inbox: Inbox | None,
        ends_quietly: bool,
        message_timeout: float | None = None,
    ) -> None:
        self._protocol = protocol
        self._inbox = inbox or Inbox(protocol)
        self._read_timeout = seconds("read_timeout", read_timeout)
        self._ends_quietly = ends_quietly
        self._message_timeout = seconds("message_timeout", message_timeout)
        self._closed = False
        self.close_reason: Exception | None = None
        self.local = local

    @property
    def peer(self) -> Any:
        """Address of the other end."""
        return self._protocol.peer

    @property
    def stats(self) -> Stats:
        """Counters of this link."""
        return self._protocol.stats

    @property
    def header_version(self) -> int:
        """Header version of what is sent now."""
        return self._protocol.version

    def _limit(self, timeout: float | None) -> float | None:
        """Seconds of one wait, of which the caller has given `timeout`."""
        return self._read_timeout if timeout is None else seconds("timeout", timeout)

    def _end(self, reason: str, *, clean: bool) -> ConnectionClosed:
        closed = ConnectionClosed(reason, clean=clean)
        self.close_reason = closed
        return closed

    def _end_error(self) -> Exception:
        """What is raised on a link that is over: the reason, which the first to ask makes. Lost
        framing is told of once; then it is the cause, since callers go on after other
        ProtocolErrors."""
        reason = self.close_reason or self._end("this link was closed", clean=True)
        if isinstance(reason, ProtocolError):
            closed = ConnectionClosed(f"{named(self.peer)}: {reason}", clean=False)
            closed.__cause__ = reason
            return closed
        return reason.with_traceback(None)  # which would grow each time that it is raised

    def _end_of_stream(self) -> ConnectionClosed:
        clean = self._closed or self._protocol.at_boundary
        how = "closed" if clean else "closed in the middle of a message"
        return self._end(f"{named(self.peer)} {how}", clean=clean)

    def _left_of_message(self, heard: float, now: float) -> float | None:
        """Seconds for the peer to send more of a message that it has begun; None: it has begun
        none, or there is no limit.

        Args:
            heard: when bytes have come last.
        """
        if self._message_timeout is None or self._protocol.at_boundary:
            return None
        return max(0.0, heard + self._message_timeout - now)

    def _stopped_in_message(self) -> ConnectionClosed:
        text = f"{named(self.peer)} sent nothing more of a message for {self._message_timeout:g} s"
        return self._end(text, clean=False)

    def _ends_iteration(self, error: Exception) -> bool:
        """Whether iterating ends with it, instead of raising it."""
        return self._ends_quietly or (isinstance(error, ConnectionClosed) and error.clean)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {named(self.peer)} {self.stats}>"


class Packed:
    """A message packed once for each header version wanted: to several peers, or to one of which
    the version is not known yet. Version 1 goes without metadata and message id.

    Attributes:
        stream: type and device name as in the header.
        size: bytes of the largest form.
    """

    def __init__(
        self, message: Message | Frame, versions: set[int], *, crc: bool, cut_name: bool
    ) -> None:
        self._wires: dict[int, bytes] = {}
        self._compressed: dict[tuple[int, str], bytes] = {}
        self._stripped = False
        for version in versions:
            if isinstance(message, Frame):
                self._wires[version] = bytes(message.data)
                continue
            bare = message
            if version == 1 and _core.needs_v2(message):
                bare = type(message).__new__(type(message))
                bare.__setstate__(message._state())
                bare.message_id = 0
                bare.metadata = None
                self._stripped = True
            self._wires[version] = bare.pack(
                version=1 if version == 1 else 2, crc=crc, cut_name=cut_name
            )
        one = next(iter(self._wires.values()))
        self.stream = one[2:34]
        self.size = max(map(len, self._wires.values()))

    def wire_for(self, protocol: Protocol) -> tuple[bytes, bool]:
        """What to send to the peer of this protocol, and whether something was left out."""
        version: int = protocol.version
        if version not in self._wires:
            version = min(self._wires)
        wire = self._wires[version]
        if protocol.peer_takes:
            key = version, protocol.method
            if key not in self._compressed:
                self._compressed[key] = protocol.wrap(wire)
            wire = self._compressed[key]
        return wire, self._stripped and version == 1


class StreamOf(Generic[M]):
    """Picks the messages of the stream that `start` has asked for."""

    def __init__(self, start: Start[M]) -> None:
        self._start = start

    def matches(self, m: Message) -> bool:
        """Whether m belongs to the stream."""
        return part_of_stream(self._start, m)

    def __str__(self) -> str:
        return f"{type(self._start).answer.__name__} of the stream"
