"""Callbacks and latest values: a link that is read in a thread of its own.

    with igtl.subscribe(link, start=False) as incoming:

        @incoming.on(Transform, "Probe*")
        def _(message): ...

        incoming.start()
        pose = incoming.latest(Transform, "ProbeToTracker")

Handlers run in a second thread, so the connection is read whatever they do. In asyncio
`igtl.aio.subscribe(link)` does the same in tasks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Self, TypeVar

from igtl.blocking.drained import wait
from igtl.blocking.link import Asking, Link
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import log, logger
from igtl.options import seconds
from igtl.session.requests import Exchange
from igtl.session.subscriptions import Subscriptions

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[[Any], Any])


class _Receiving:
    """The threads of a subscriber, and what they share with it. They do not refer to the
    subscriber, so one that its user has forgotten is collected, which closes the link."""

    def __init__(self, link: Link, *, frames: bool) -> None:
        self.link = link
        self._take = link.recv_frame if frames else link.recv
        self.changed = threading.Condition()
        self.state = Subscriptions(link.stats)
        self.threads = [
            threading.Thread(target=self._receive, name="igtl subscriber", daemon=True),
            threading.Thread(target=self._call_handlers, name="igtl handlers", daemon=True),
        ]

    def _receive(self) -> None:
        while self.state.reason is None:
            try:
                message = self._take()
            except TimeoutError:  # of the link's read_timeout: go on
                continue
            except (ConnectionClosed, MessageTooLarge, OSError) as error:
                self._end(error)
                return
            except ProtocolError as error:
                log(logging.DEBUG, "skipped a bad message of %s: %s", self.link.peer, error,
                    peer=self.link.peer, cause=error)  # fmt: skip
                continue
            with self.changed:
                self.state.take(message, self.link.session.protocol.last_size)
                self.changed.notify_all()

    def _end(self, error: Exception) -> None:
        with self.changed:
            self.state.reason = error
            self.changed.notify_all()

    def _call_handlers(self) -> None:
        while True:
            with self.changed:
                while not self.state.waiting and self.state.reason is None:
                    self.changed.wait()
                message = self.state.waiting.take()
            if message is None:
                break
            for handler in self.state.handlers_of(message):
                self._call(handler, message)
        for closed in self.state.on_close:
            self._call(closed, self.state.reason)

    def _call(self, handler: Callable[[Any], Any], argument: Any) -> None:
        try:
            handler(argument)
        except BaseException as error:  # SystemExit would end the thread, and every handler with it
            fields = {"peer": self.link.peer, "cause": error}
            logger.error("a handler failed", exc_info=error, extra=fields)


class Subscriber(Asking):
    """Reads a link in a thread of its own; see `subscribe`. Others may send on the link, and ask
    with `query` and `command`, also in a handler. Keep the subscriber: its link is closed when
    nothing refers to it any more.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link, *, frames: bool) -> None:
        self.link = link
        self._receiving = _Receiving(link, frames=frames)
        self._process = os.getpid()

    def start(self) -> None:
        """Begin to receive, if `subscribe` was told not to."""
        for thread in self._receiving.threads:
            thread.start()

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with each message of a class whose device name fits (wildcards *
        and ?). Handlers run one after the other; what they raise is logged. Messages for which
        they have no time wait, up to 1,000 and 64 MiB of a stream; then the oldest is dropped and
        counted as "unread"."""
        return self._receiving.state.on(kind, name)

    def on_close(self, handler: F) -> F:
        """Decorator: call this with the reason when nothing more will arrive."""
        self._receiving.state.on_close.append(handler)
        return handler

    @property
    def connected(self) -> bool:
        """Whether the peer is there, as far as this end knows."""
        return self._receiving.state.reason is None and self.link.connected

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """The newest message of a class whose device name fits, or None. The newest of each
        (type, device name) is kept, of up to 1000 of them.

        Args:
            max_age: seconds since its arrival; an older one counts as none.

        Raises:
            ConnectionClosed, OSError: the link is closed, and no message is younger than `max_age`.
        """
        max_age = seconds("max_age", max_age)
        with self._receiving.changed:
            return self._receiving.state.newest(kind, name, max_age)

    def wait(
        self,
        kind: type[M],
        name: str = "*",
        *,
        max_age: float | None = None,
        timeout: float | None = None,
    ) -> M:
        """The newest message of a class whose device name fits, as soon as there is one.

        Args:
            max_age: see latest.
            timeout: seconds; None waits without end.

        Raises:
            TimeoutError: none came; the text lists what did.
            ConnectionClosed, OSError: see latest.
        """
        timeout, max_age = seconds("timeout", timeout), seconds("max_age", max_age)
        deadline = None if timeout is None else time.monotonic() + timeout
        state = self._receiving.state
        with self._receiving.changed:
            while (found := state.newest(kind, name, max_age)) is None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if left == 0.0 or not wait(self._receiving.changed, left):
                    text = f"no {kind.__name__} {name!r} within {timeout} s; seen: {state.seen()}"
                    raise TimeoutError(text)
            return found

    def request(self, exchange: Exchange, timeout: float | None) -> Message:
        return self.link.request(exchange, timeout)

    def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        self.link.close()
        for thread in self._receiving.threads:
            if thread.is_alive() and threading.current_thread() is not thread:
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        receiving = getattr(self, "_receiving", None)
        if receiving is None or self._process != os.getpid():
            return
        if receiving.threads[0].is_alive() and not self.link.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            if not sys.is_finalizing():  # see DrainedLink
                with contextlib.suppress(OSError):
                    self.link.close()


def subscribe(link: Link, *, start: bool = True, frames: bool = False) -> Subscriber:
    """Read a link in a thread of its own: callbacks by type and device name, and the newest
    message of each stream. A link that reconnects by itself goes on over all connections.

    Args:
        start: False: receive only from `start()` on, so that handlers registered before miss
            nothing.
        frames: hand out each message as it came, as a Frame: undecoded, its CRC unchecked, for
            relays and recorders. A handler is chosen by the class of the frame's type. Answers to
            `query` and `command` are not among them.
    """
    subscriber = Subscriber(link, frames=frames)
    if start:
        subscriber.start()
    return subscriber
