"""Messages that have arrived and wait for their receiver: a queue for each stream.

A stream is a type and a device name. A receiver that asks for one stream looks at the queues of
the streams that match, so the cost of a call does not depend on how many messages of other streams
wait, and a stream that is never read costs at most its own bound.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, get_args

from igtl._core import Frame
from igtl._stream import Stats, Waiting
from igtl.codec.message import Message
from igtl.log import log
from igtl.options import InboxPolicy, SocketOptions

BEHIND = 1.0  # seconds from a message that is taken to the newest of its stream: worth a warning

# A pose describes the present: a newer one of its stream replaces it.
STATES: frozenset[str] = frozenset(("TRANSFORM", "POSITION", "QTRANS", "TDATA", "QTDATA"))

# Each of these has a meaning of its own, or later ones cannot be used without it.
EVENTS: frozenset[str] = frozenset(("COMMAND", "RTS_COMMAND", "CAPABILITY", "QUERY", "VIDEO"))
REQUESTS = ("GET_", "STT_", "STP_", "RTS_")


def is_event(type_name: str) -> bool:
    """Return whether a newer message of this type does not replace an older one."""
    return type_name in EVENTS or type_name.startswith(REQUESTS)


class Wanted(Protocol):
    """Picks messages; its text says what was wanted."""

    def matches(self, m: Message, /) -> bool:
        """Return whether m is one of them.

        All messages of a stream that wait match, or none does.
        """


class Entry(NamedTuple):
    """One message that waits: decoded, or as it came."""

    serial: int  # its place in the order of arrival
    message: Any
    size: int


class Inbox(Waiting):
    """Messages that wait, in order within their stream; every loss is counted.

    A single message that is larger than a bound always passes.

    Args:
        stats: where losses are counted: "unread" (a bound was reached), "superseded" (a newer one
            of the stream was wanted, or the policy is "latest").
        policy: what gives way when a bound is reached: "drop_oldest", "drop_newest", or "latest"
            (only the newest message of each stream is kept; commands, requests and VIDEO,
            of which each counts, follow "drop_oldest").
        max_messages, max_bytes: bounds of each stream.
        max_total_bytes: bound of all streams together; the largest one gives way.
        max_age: seconds after which a waiting pose is passed over by a receiver that asks for its
            stream, if a newer one waits behind it. None keeps all.
        clock: for tests; as `time.monotonic`.

    Attributes:
        raw: whether messages wait as they came, for a receiver of frames, or decoded.
        bytes: of all messages that wait.
        streams: those of which messages wait, by type and device name.
        errors: what was wrong with messages that arrived, for the receiver; of more than 100 the
            oldest are only counted in the stats.
    """

    def __init__(
        self,
        stats: Stats,
        policy: InboxPolicy = SocketOptions.inbox_policy,
        max_messages: int = SocketOptions.inbox_messages,
        max_bytes: int = SocketOptions.inbox_bytes,
        max_total_bytes: int = SocketOptions.inbox_total_bytes,
        max_age: float | None = SocketOptions.inbox_max_age,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if policy not in get_args(InboxPolicy):
            raise ValueError(f"an inbox cannot have the policy {policy!r}")
        self._stats = stats
        self._policy = policy
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._max_age = max_age
        self._clock = clock
        self._serial = 0
        self._first = 0
        self._warned: set[tuple[str, tuple[str, str]]] = set()
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.streams)

    def __len__(self) -> int:
        return sum(len(stream.entries) for stream in self.streams.values())

    def __iter__(self) -> Iterator[Any]:
        """Yield all messages that wait, stream by stream."""
        for stream in self.streams.values():
            for entry in stream.entries:
                yield entry.message

    # -- putting

    def put(self, message: Message | Frame, size: int) -> None:
        """Keep a message that has arrived, decoded or as it came."""
        key = message.type_name, message.device_name
        stream = self.streams.get(key)
        if stream is None:
            stream = self.streams[key] = Stream()
        elif not self._make_room(key, stream, message, size):
            return
        self._serial += 1
        self._add(stream, Entry(self._serial, message, size))
        while self.bytes > self._max_total_bytes and len(self) > 1:
            self._drop_oldest(*max(self.streams.items(), key=lambda item: item[1].bytes))

    def put_back(self, message: Message, size: int) -> None:
        """Put a message back that was taken: it is the first again."""
        stream = self.streams.setdefault((message.type_name, message.device_name), Stream())
        self._first -= 1
        stream.entries.appendleft(Entry(self._first, message, size))
        stream.bytes += size
        self.bytes += size

    def _add(self, stream: Stream, entry: Entry) -> None:
        stream.entries.append(entry)
        stream.bytes += entry.size
        self.bytes += entry.size

    def _make_room(
        self, key: tuple[str, str], stream: Stream, message: Message | Frame, size: int
    ) -> bool:
        """Keep the stream within its bounds; whether the message may come in."""
        if self._policy == "latest" and not is_event(key[0]):
            while stream.entries:
                self._drop(key, stream, "superseded")
            return True
        while stream.entries and (
            len(stream.entries) >= self._max_messages or stream.bytes + size > self._max_bytes
        ):
            self._warn_unread(key, stream)
            if self._policy == "drop_newest":
                self._stats.count_dropped(message, "unread")
                return False
            self._drop(key, stream, "unread")
        return True

    def _drop_oldest(self, key: tuple[str, str], stream: Stream) -> None:
        self._warn_unread(key, stream)
        self._drop(key, stream, "unread")
        if not stream.entries:
            del self.streams[key]

    def _drop(self, key: tuple[str, str], stream: Stream, cause: str) -> None:
        self._stats.count_dropped(self._pop(stream), cause)

    def _pop(self, stream: Stream) -> Any:
        entry = stream.entries.popleft()
        stream.bytes -= entry.size
        self.bytes -= entry.size
        return entry.message

    def _warn_unread(self, key: tuple[str, str], stream: Stream) -> None:
        self._warn(
            key, "unread",
            f"is received but not read: {len(stream.entries)} messages ({stream.bytes} bytes) "
            "wait, the oldest are dropped; receive it, ask for `latest`, or set "
            "inbox_policy='latest'",
        )  # fmt: skip

    def _warn_behind(self, key: tuple[str, str], seconds: float) -> None:
        self._warn(
            key, "behind",
            f"is read slower than it arrives: what was received is {seconds:.1f} s older than the "
            "newest; ask for `latest`, or set inbox_policy='latest'",
        )  # fmt: skip

    def _warn(self, key: tuple[str, str], cause: str, text: str) -> None:
        """Once for each stream and cause."""
        if (cause, key) in self._warned or len(self._warned) >= 1000:
            return
        self._warned.add((cause, key))
        log(
            logging.WARNING, "%s %r " + text,
            *key, type=key[0], device=key[1], cause=cause,
        )  # fmt: skip

    # -- taking

    def take(self, wanted: Wanted | None = None, *, fresh: bool = False) -> Any:
        """Return the first message in the order of arrival.

        Of all streams, or of those that are wanted.

        Args:
            wanted: picks messages; None: all.
            fresh: pass over poses that have waited longer than max_age, where a newer one waits.
        """
        found = None
        for key, stream in self._matching(wanted):
            if fresh:
                self._pass_over_old(key, stream)
            if found is None or stream.entries[0].serial < found[1].entries[0].serial:
                found = key, stream
        return None if found is None else self._taken(*found)

    def latest(self, wanted: Wanted, *, newer_than: float | None = None) -> Any:
        """Return the newest message that is wanted; older ones of its streams are passed over.

        Args:
            wanted: picks messages.
            newer_than: only one that arrived after this time of the clock. An older one stays.
        """
        found: tuple[tuple[str, str], Stream] | None = None
        for key, stream in self._matching(wanted):
            while len(stream.entries) > 1:
                self._drop(key, stream, "superseded")
            if found is None or stream.entries[0].serial > found[1].entries[0].serial:
                found = key, stream
        if found is None:
            return None
        if newer_than is not None and _arrived(found[1].entries[0].message) < newer_than:
            return None
        return self._taken(*found)

    def drop(self, wanted: Wanted, cause: str) -> None:
        """Drop all messages that are wanted, and count them under this cause."""
        for key, stream in self._matching(wanted):
            while stream.entries:
                self._drop(key, stream, cause)
            del self.streams[key]

    def _matching(self, wanted: Wanted | None) -> list[tuple[tuple[str, str], Stream]]:
        return [
            (key, stream)
            for key, stream in self.streams.items()
            if wanted is None or wanted.matches(stream.entries[0].message)
        ]

    def _pass_over_old(self, key: tuple[str, str], stream: Stream) -> None:
        if self._max_age is None or key[0] not in STATES:
            return
        oldest = self._clock() - self._max_age
        while len(stream.entries) > 1 and _arrived(stream.entries[0].message) < oldest:
            self._drop(key, stream, "superseded")

    def _taken(self, key: tuple[str, str], stream: Stream) -> Any:
        message = self._pop(stream)
        if not stream.entries:
            del self.streams[key]
        elif (late := _arrived(stream.entries[-1].message) - _arrived(message)) > BEHIND:
            self._warn_behind(key, late)
        return message


class Stream:
    """The messages of one stream that wait; never empty while the inbox holds it."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.bytes = 0


def _arrived(message: Message | Frame) -> float:
    """Time of the clock at which it arrived; 0 where that is not known, as of frames."""
    return getattr(message, "received_monotonic", None) or 0.0
