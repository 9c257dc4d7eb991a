"""The state of a subscription, without I/O.

It knows which handler wants what, the newest message of each stream, and what waits for the
handlers.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from igtl._core import Frame
from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.session.inbox import Inbox
from igtl.session.requests import fits

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=Message)
MAX_STREAMS = 1000


class Subscriptions:
    """The state of one subscription. Not thread-safe: its owner locks.

    Args:
        stats: where a message counts that its handlers had no time for ("unread").

    Attributes:
        waiting: messages that wait for their handlers.
        reason: why nothing more will arrive; None while something may.
        on_close: called with that reason.
    """

    def __init__(self, stats: Stats) -> None:
        self.waiting = Inbox(stats, max_age=None)
        self.reason: Exception | None = None
        self.on_close: list[Callable[[Exception], Any]] = []
        self._handlers: list[tuple[type[Message], str, Callable[[Any], Any]]] = []
        self._newest: OrderedDict[tuple[str, str], tuple[Message | Frame, float]] = OrderedDict()

    def on(self, kind: type[Message], name: str) -> Callable[[F], F]:
        """Register the decorated function as a handler."""
        if not (isinstance(kind, type) and issubclass(kind, Message)):
            raise TypeError(f"a handler is called for a class of messages, not for {kind!r}")

        def register(handler: F) -> F:
            self._handlers.append((kind, name, handler))
            return handler

        return register

    def handlers_of(self, message: Message | Frame) -> list[Callable[[Any], Any]]:
        """Return the handlers that want this message."""
        return [handler for kind, name, handler in self._handlers if fits(message, kind, name)]

    def take(self, message: Message | Frame, size: int) -> None:
        """Note a message that has arrived, decoded or as it came."""
        key = message.type_name, message.device_name
        arrived = getattr(message, "received_monotonic", None)  # which a frame does not know
        self._newest[key] = message, time.monotonic() if arrived is None else arrived
        self._newest.move_to_end(key)
        if len(self._newest) > MAX_STREAMS:
            self._newest.popitem(last=False)
        if self.handlers_of(message):
            self.waiting.put(message, len(message) if isinstance(message, Frame) else size)

    def newest(self, kind: type[M], name: str, max_age: float | None) -> M | None:
        """Return the newest message of a class whose device name fits, at most so many seconds old.

        None if there is none.

        Raises:
            the reason: nothing more will arrive, and no message is that young.
        """
        for message, arrived in reversed(self._newest.values()):
            if fits(message, kind, name):
                age = time.monotonic() - arrived
                if age <= max_age if max_age is not None else self.reason is None:
                    return cast(M, message)
                break
        if self.reason is not None:
            raise self.reason.with_traceback(None)
        return None

    def all(self) -> list[Any]:
        """Return the newest message, or frame, of each stream."""
        return [message for message, _ in self._newest.values()]

    def seen(self) -> str:
        """Return the streams that have arrived, for the text of an error."""
        return ", ".join(f"{type_name} {name!r}" for type_name, name in self._newest) or "nothing"
