"""What blocking and asyncio links share: everything that does not wait."""

from __future__ import annotations

from typing import Any, Final, Generic, Literal, TypeVar
from typing import Protocol as Interface

from igtl import _core
from igtl._core import Frame, Stats
from igtl.errors import ConnectionClosed
from igtl.exchange import Exchange, part_of_stream
from igtl.log import named
from igtl.message import Message
from igtl.messages.queries import Ready, Start
from igtl.protocol import Protocol
from igtl.queues import Queue

M = TypeVar("M", bound=Message)
InboxPolicy = Literal["drop_oldest", "drop_newest", "latest"]
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 1 << 30


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
    ) -> None:
        self._protocol = protocol
        self._inbox = inbox or Inbox(protocol)
        self._read_timeout = read_timeout
        self._ends_quietly = ends_quietly
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

    def _end(self, reason: str, *, clean: bool) -> ConnectionClosed:
        closed = ConnectionClosed(reason, clean=clean)
        self.close_reason = closed
        return closed

    def _end_of_stream(self) -> ConnectionClosed:
        clean = self._closed or self._protocol.at_boundary
        how = "closed" if clean else "closed in the middle of a message"
        return self._end(f"{named(self.peer)} {how}", clean=clean)

    def _ends_iteration(self, error: Exception) -> bool:
        """Whether iterating ends with it, instead of raising it."""
        return self._ends_quietly or (isinstance(error, ConnectionClosed) and error.clean)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {named(self.peer)} {self.stats}>"


# of a message without metadata and id: sizes 12, 2 and 0; then the metadata's count, 0
_EXTENDED: Final = b"\0\x0c\0\x02" + bytes(8)
_COUNT: Final = b"\0\0"


def in_version(frame: Frame, version: int) -> tuple[Frame, tuple[str, ...]]:
    """In the other header version: the same content, with or without an extended header.

    A wrong CRC stays wrong. A body whose extended header makes no sense stays as it is, in its own
    version.

    Returns:
        The frame, and what version 1 could not hold: "metadata", "message id".
    """
    wire = bytes(frame.data)
    now = max(1, frame.header_version)
    if now == version or now > 2:
        return frame, ()
    body = wire[58:]
    lost: tuple[str, ...] = ()
    if version == 2:
        new = _EXTENDED + body + _COUNT
    else:
        size, index = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        metadata = index + int.from_bytes(body[4:8], "big")
        if size < 12 or size + metadata > len(body):
            return frame, ()
        new = body[size : len(body) - metadata]
        if metadata > len(_COUNT):
            lost += ("metadata",)
        if any(body[8:12]):
            lost += ("message id",)
    wrong = frame.crc ^ _core.crc64(body)
    head = version.to_bytes(2, "big") + wire[2:42] + len(new).to_bytes(8, "big")
    crc = _core.crc64(new) ^ wrong
    return Frame.from_bytes(head + crc.to_bytes(8, "big") + new), lost


class Packed:
    """A message packed for several peers, or for one whose version is not known yet: at once in
    the header versions wanted now, and from those bytes in another one when a peer needs it.
    Version 1 goes without metadata and message id.

    Attributes:
        stream: type and device name as in the header.
        size: bytes of the largest form so far.
    """

    def __init__(
        self, message: Message | Frame, versions: set[int], *, crc: bool, cut_name: bool
    ) -> None:
        self._wires: dict[int, bytes] = {}
        self._compressed: dict[tuple[int, str], bytes] = {}
        self._stripped = False
        self._as_is = isinstance(message, Frame)
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
        wire = self._wires.get(version)
        if wire is None:
            wire = self._wires[version] = self._made(version)
        if protocol.peer_takes:
            key = version, protocol.method
            if key not in self._compressed:
                self._compressed[key] = protocol.wrap(wire)
            wire = self._compressed[key]
        return wire, self._stripped and version == 1

    def _made(self, version: int) -> bytes:
        """The form for a version that no peer had when the message was packed."""
        wire = next(iter(self._wires.values()))
        if self._as_is or version == 2:  # a peer at version 2 reads version 1 as well
            return wire
        frame, lost = in_version(Frame.from_bytes(wire), version)
        self._stripped = self._stripped or bool(lost)
        return bytes(frame.data)


class StreamOf(Generic[M]):
    """Picks the messages of the stream that `start` has asked for."""

    def __init__(self, start: Start[M]) -> None:
        self._start = start

    def matches(self, m: Message) -> bool:
        """Whether m belongs to the stream."""
        return part_of_stream(self._start, m)

    def __str__(self) -> str:
        return f"{type(self._start).answer.__name__} of the stream"
