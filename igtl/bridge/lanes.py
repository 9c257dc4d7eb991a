"""The queues in front of Zenoh: what a message needs is decided by its type.

    live    poses, sensors       the newest of each stream; before all others
    bulk    2D images, video     the newest of each stream (VIDEO: all, in order)
    state   everything else      all, in order

Zenoh waits wherever there is no room (its "block"), so it never drops; each lane has a thread of
its own, which waits with it. What is given up meanwhile is given up here, where it is counted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from igtl._core import Frame
from igtl.blocking.changes import Changes
from igtl.bridge.events import joined
from igtl.log import log
from igtl.session.inbox import STATES, is_event
from igtl.session.outbox import Outbox

T = TypeVar("T")
Kind = Literal["live", "bulk", "state"]
_LIVE: Final = STATES | {"SENSOR"}


def is_live(type_name: str) -> bool:
    """Return whether messages of a type describe the present only."""
    return type_name in _LIVE


def is_kept(type_name: str) -> bool:
    """Return whether the last message of a stream is kept for those that come later."""
    return not is_live(type_name) and not is_event(type_name)


def kind_of(frame: Frame) -> Kind:
    """Return the lane of a message."""
    name = frame.type_name
    if name in _LIVE:
        return "live"
    if name == "VIDEO" or (name == "IMAGE" and _slices(frame) == 1):
        return "bulk"
    return "state"


def _slices(frame: Frame) -> int:
    """Return the slices of an IMAGE; 0 if it is too short to tell."""
    data = memoryview(frame.data)
    content = 58 + (int.from_bytes(data[58:60], "big") if frame.header_version == 2 else 0)
    return int.from_bytes(data[content + 10 : content + 12], "big")


def quality(zenoh: Any, kind: Kind) -> dict[str, Any]:
    """Return what Zenoh is told of the messages of a lane."""
    # Bulk and state share a connection, and what waits there for longer than a moment behind what
    # goes before it would end it: so they are equal. Messages that wait leave together ("express"
    # is off): else a slow way carries two poses for each piece of an image.
    priority = zenoh.Priority.REAL_TIME if kind == "live" else zenoh.Priority.DATA_LOW
    return {
        "congestion_control": zenoh.CongestionControl.BLOCK,
        "priority": priority,
    }


class Bounds(NamedTuple):
    """How much waits in a lane at most."""

    messages: int
    size: int


class Lane(Generic[T]):
    """A queue, and a thread that hands on what waits while there is a way.

    Args:
        send: called in the thread, one item after the other; may wait.
        lost: called with each item that is given up, and the cause: "superseded" by a newer one of
            its stream, or "overflow".
    """

    def __init__(
        self,
        kind: Kind,
        bounds: Bounds,
        send: Callable[[T], None],
        lost: Callable[[T, str], None],
    ) -> None:
        causes = {"latest": "superseded", "drop_oldest": "overflow"}
        self._send = send
        self._lost = lost
        self._box: Outbox[T] = Outbox(
            "drop_oldest" if kind == "state" else "latest", *bounds,
            lambda item, cause: lost(item, causes.get(cause, cause)), max_age=None,
        )  # fmt: skip
        self._changed = Changes()
        self._open = False
        self._closed = False
        self._sending = False
        self._thread = threading.Thread(target=self._run, name=f"igtl bridge {kind}", daemon=True)
        self._thread.start()

    def put(self, item: T, size: int, stream: bytes) -> None:
        """Add an item; returns at once."""
        with self._changed:
            self._box.put(item, size, stream)
            self._changed.notify_all()

    def open(self, there: bool) -> None:
        """Note whether there is a way; while there is none, items wait."""
        with self._changed:
            self._open = there
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many items wait, or are on their way out."""
        return len(self._box) + self._sending

    def drain(self, timeout: float | None) -> bool:
        """Wait until nothing waits; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, timeout)

    def close(self) -> None:
        """Give up what waits, as "closed", and let the thread end."""
        with self._changed:
            self._closed = True
            self._box.clear("closed")
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread, after `close`."""
        joined(self._thread)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or (self._open and len(self._box)))
                if self._closed:
                    return
                item = self._box.get()
                self._sending = True
            if item is not None:
                try:
                    self._send(item)
                except Exception as error:  # the others are sent
                    log(logging.ERROR, "not sent: %s", error, cause=error, error=error)
                    self._lost(item, "failed")
