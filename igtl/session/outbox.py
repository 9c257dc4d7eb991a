"""Messages that wait to be sent to one peer: in two lanes, under a policy.

Messages of small live streams (poses, STATUS, commands, requests) leave before large ones that have
not begun, so a pose does not wait behind a queue of images. The order within a stream stays.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, get_args

from igtl.options import Policy, QueueOptions
from igtl.session.inbox import EVENTS, REQUESTS, STATES, is_event

T = TypeVar("T")

_LIVE = (EVENTS | STATES | {"STATUS", "SENSOR"}) - {"VIDEO"}


class Entry(NamedTuple, Generic[T]):
    """One message that waits."""

    item: T
    size: int
    stream: bytes
    since: float


class Outbox(Generic[T]):
    """A bounded queue to one peer. Not thread-safe: its owner locks.

    An empty queue takes an item of any size, so that a message over `max_bytes` can pass.

    Args:
        policy: what happens when it is full. "block": the caller asks `has_room` first, and waits.
            "drop_oldest", "drop_newest": that one is dropped. "latest": an item takes the place of
            the one of its stream that waits, full or not; else, and for commands, requests
            and VIDEO, as "drop_oldest".
        max_messages, max_bytes: the bounds.
        lost: called with each item that is dropped, and the cause: the policy's name, or
            "superseded".
        max_age: seconds after which a pose that waits gives way to a newer one of its stream, so
            on a slow network poses are at most that old. None keeps all; so does "block".
        clock: for tests; as `time.monotonic`.
    """

    def __init__(
        self,
        policy: Policy,
        max_messages: int,
        max_bytes: int,
        lost: Callable[[T, str], None],
        *,
        max_age: float | None = QueueOptions.max_age,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {get_args(Policy)}, not {policy!r}")
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("a queue takes at least 1 message and 1 byte")
        self.policy: Policy = policy
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.bytes = 0
        self._lost = lost
        self._max_age = None if policy == "block" else max_age
        self._clock = clock
        self._live: OrderedDict[int, Entry[T]] = OrderedDict()
        self._bulk: OrderedDict[int, Entry[T]] = OrderedDict()
        self._poses: Counter[bytes] = Counter()  # waiting, by stream
        self._places: dict[bytes, int] = {}  # of each stream's item, with the policy "latest"
        self._serial = 0
        self._first = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._bulk)

    def has_room(self, size: int) -> bool:
        """Return whether an item of this size fits without dropping anything."""
        waiting = len(self)
        return not waiting or (waiting < self.max_messages and self.bytes + size <= self.max_bytes)

    def put(self, item: T, size: int, stream: bytes) -> None:
        """Add an item, and drop what the policy says. With "block" it is added in any case.

        Args:
            item: what waits.
            size: its bytes.
            stream: type and device name, as `igtl._core.stream_key` gives them.
        """
        lane = self._lane(stream)
        entry = Entry(item, size, stream, self._clock())
        if self.policy == "latest" and (place := self._places.get(stream)) is not None:
            old = lane[place]  # its place in the line stays
            lane[place] = entry
            self.bytes += size - old.size
            self._lost(old.item, "latest")
            return
        if not self.has_room(size):
            if self.policy == "drop_newest":
                self._lost(item, "drop_newest")
                return
            while self.policy != "block" and not self.has_room(size):
                self._lost(self._pop(self._older_lane()).item, "drop_oldest")
        self._serial += 1
        lane[self._serial] = entry
        self.bytes += size
        self._count(stream)
        if self.policy == "latest" and not is_event(_type_of(stream)):
            self._places[stream] = self._serial

    def _lane(self, stream: bytes) -> OrderedDict[int, Entry[T]]:
        type_name = _type_of(stream)
        if type_name in _LIVE or type_name.startswith(REQUESTS):
            return self._live
        return self._bulk

    def _count(self, stream: bytes) -> None:
        if _type_of(stream) in STATES:
            self._poses[stream] += 1

    def put_back(self, item: T, size: int, stream: bytes) -> None:
        """Put an item at the head of its lane, room or not: it was taken, and has not left."""
        lane = self._lane(stream)
        self._first -= 1
        lane[self._first] = Entry(item, size, stream, self._clock())
        lane.move_to_end(self._first, last=False)
        self.bytes += size
        self._count(stream)

    def discard(self, item: T) -> None:
        """Take an item out whose caller does not wait any more; it may have left."""
        for lane in (self._live, self._bulk):
            for serial, entry in lane.items():
                if entry.item is item:
                    lane.move_to_end(serial, last=False)
                    self._pop(lane)
                    return

    def holds(self, item: T) -> bool:
        """Return whether this very item waits."""
        return any(
            entry.item is item for lane in (self._live, self._bulk) for entry in lane.values()
        )

    def get(self) -> T | None:
        """Take the item that leaves next; None when nothing is left that is worth sending."""
        while self._live:
            entry = self._pop(self._live)
            if not self._is_superseded(entry):
                return entry.item
            self._lost(entry.item, "superseded")
        return self._pop(self._bulk).item if self._bulk else None

    def clear(self, cause: str) -> None:
        """Drop everything, for this cause."""
        while len(self):
            self._lost(self._pop(self._older_lane()).item, cause)

    def _is_superseded(self, entry: Entry[T]) -> bool:
        return (
            self._max_age is not None
            and entry.stream in self._poses
            and self._clock() - entry.since > self._max_age
        )

    def _older_lane(self) -> OrderedDict[int, Entry[T]]:
        """Return the lane whose first item was put first."""
        if not self._live or not self._bulk:
            return self._live or self._bulk
        return min(self._live, self._bulk, key=lambda lane: next(iter(lane)))

    def _pop(self, lane: OrderedDict[int, Entry[T]]) -> Entry[T]:
        _, entry = lane.popitem(last=False)
        self.bytes -= entry.size
        self._places.pop(entry.stream, None)
        if entry.stream in self._poses:
            self._poses[entry.stream] -= 1
            if not self._poses[entry.stream]:
                del self._poses[entry.stream]
        return entry


def _type_of(stream: bytes) -> str:
    return stream[:12].rstrip(b"\0").decode("ascii", "replace")
