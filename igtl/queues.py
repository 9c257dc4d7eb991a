"""A bounded queue whose behaviour when full has a name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar, get_args

T = TypeVar("T")
Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]


class Queue(Generic[T]):
    """First in, first out; bounded by number and by bytes. Not thread-safe: its owner locks.

    An empty queue takes an item of any size, so that a message over `max_bytes` can pass.

    Args:
        policy: what happens when it is full. "block": whoever puts has to wait. "drop_oldest",
            "drop_newest": that one is given up. "latest": an item takes the place of the one with
            the same key, if one is waiting, full or not; else as "drop_oldest".
        max_messages, max_bytes: the bounds.
    """

    def __init__(self, policy: Policy, max_messages: int, max_bytes: int) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {get_args(Policy)}, not {policy!r}")
        if max_messages < 1 or max_bytes < 1:
            raise ValueError("a queue takes at least 1 message and 1 byte")
        self.policy: Policy = policy
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._items)

    def has_room(self, size: int) -> bool:
        """Whether an item of this size fits without dropping anything."""
        return not self._items or (
            len(self._items) < self.max_messages and self.bytes + size <= self.max_bytes
        )

    def put(self, item: T, size: int, key: Hashable = None) -> list[tuple[T, str]]:
        """Add an item; returns what was given up for it, and why. With "block" it is added in
        any case: ask `has_room` first.

        Args:
            key: of the stream it belongs to, for "latest".
        """
        dropped: list[tuple[T, str]] = []
        if self.policy == "latest":
            name: Hashable = key
            if name in self._items:  # its place in the line stays
                old, old_size = self._items[name]
                self._items[name] = item, size
                self.bytes += size - old_size
                return [(old, "latest")]
        else:
            self._serial += 1
            name = self._serial
        if self.policy == "drop_newest" and not self.has_room(size):
            return [(item, "drop_newest")]
        if self.policy != "block":
            while not self.has_room(size):
                dropped.append((self.get(), "drop_oldest"))
        self._items[name] = item, size
        self.bytes += size
        return dropped

    def get(self) -> T:
        """Take the first item; KeyError when empty."""
        _, (item, size) = self._items.popitem(last=False)
        self.bytes -= size
        return item

    def take(self, wanted: Callable[[T], bool]) -> T | None:
        """Take the first item that is wanted."""
        for name, (item, size) in self._items.items():
            if wanted(item):
                del self._items[name]
                self.bytes -= size
                return item
        return None

    def put_back(self, item: T, size: int) -> None:
        """Put an item at the head, room or not."""
        self._serial += 1
        name = -self._serial
        self._items[name] = item, size
        self._items.move_to_end(name, last=False)
        self.bytes += size

    def items(self) -> list[T]:
        """What is waiting, in order."""
        return [item for item, _ in self._items.values()]

    def clear(self) -> list[T]:
        """Empty it; returns what was waiting."""
        out = self.items()
        self._items.clear()
        self.bytes = 0
        return out
