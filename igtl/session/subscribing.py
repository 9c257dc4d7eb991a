"""What blocking and asyncio subscribers share, in steps (see `igtl.session.steps`).

That is what they show, and what their threads or tasks do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.log import log
from igtl.options import seconds
from igtl.session.facade import AnyLink
from igtl.session.operations import OVER
from igtl.session.requests import Exchange, Selection
from igtl.session.steps import Steps
from igtl.session.subscriptions import Subscriptions

F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=AnyLink)
M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Changing(AbstractContextManager[Any], Interface):
    """Held while something shared is used, and told when it has changed.

    The `Changes` of `igtl.blocking` and of `igtl.aio` are such.
    """

    def tell(self) -> None:
        """Wake all that wait."""

    def until(self, take: Callable[[], Any], timeout: float | None) -> Any:
        """Wait until `take` returns something, and return that."""


class Heard:
    """What shows the messages that have arrived, and calls functions of the user with them.

    Attributes:
        state, changed: what has arrived, and what guards it.
    """

    state: Subscriptions
    changed: Changing

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Call the decorated function with each message of a class and device name.

        The name may have the wildcards * and ?; in asyncio a coroutine function is awaited.
        Handlers run one after the other; what they raise is logged. Messages for which they have no
        time wait, up to 1,000 and 64 MiB of a stream; then the oldest is dropped and counted as
        "unread".
        """
        return self.state.on(kind, name)

    def latest(self, kind: type[M], name: str = "*", *, max_age: float | None = None) -> M | None:
        """Return the newest message of a class whose device name fits, or None.

        The newest of each (type, device name) is kept, of up to 1000 of them.

        Args:
            kind: class of the message.
            name: with the wildcards * and ?.
            max_age: seconds since its arrival; an older one is not returned.

        Raises:
            ConnectionClosed, OSError: the link is closed, and no message is younger than `max_age`.
        """
        max_age = seconds("max_age", max_age)
        with self.changed:
            return self.state.newest(kind, name, max_age)


def until(
    heard: Heard, take: Callable[[], T | None], wanted: object, timeout: float | None
) -> Steps[T]:
    """Wait until `take` returns something, and return that.

    Raises:
        TimeoutError: that took too long; the text says what has arrived.
        ConnectionClosed, or another error: nothing more will arrive.
    """
    try:
        found: T = yield heard.changed.until(take, timeout)
        return found
    except TimeoutError:
        text = f"no {wanted} within {timeout} s; seen: {heard.state.seen()}"
        raise TimeoutError(text) from None


def wait(
    heard: Heard,
    kind: type[M],
    name: str = "*",
    *,
    max_age: float | None = None,
    timeout: float | None = None,
) -> Steps[M]:
    """Return the newest message of a class whose device name fits, as soon as there is one.

    Args:
        kind: class of the message.
        name: with the wildcards * and ?.
        max_age: see latest.
        timeout: seconds; None waits without end.

    Raises:
        TimeoutError: no such message arrived; the text lists the messages that did.
        ConnectionClosed, OSError: see latest.
    """
    timeout, max_age = seconds("timeout", timeout), seconds("max_age", max_age)
    take = lambda: heard.state.newest(kind, name, max_age)  # noqa: E731
    return (yield from until(heard, take, Selection(kind, name), timeout))


class Receiving:
    """What the threads or tasks of a subscriber do, and share with it.

    They do not refer to the subscriber, so one that its user has forgotten is collected, which
    closes the link.

    Args:
        link: which is read.
        changed: of the driver.
        call: calls a function of the user, whatever that raises.
        frames: take messages as they come.
    """

    def __init__(
        self, link: AnyLink, changed: Changing, call: Callable[..., Any], *, frames: bool
    ) -> None:
        self.link = link
        self.state = Subscriptions(link.stats)
        self.changed = changed
        self._call = call
        self._take: Callable[[], Any] = link.recv_frame if frames else link.recv

    def receive(self) -> Steps[None]:
        """Take what arrives, until the link has ended."""
        while self.state.reason is None:
            try:
                message: Message | Frame = yield self._take()
            except TimeoutError:  # of the link's read_timeout: go on
                continue
            except (*OVER, OSError) as error:
                self.state.reason = error
                self.changed.tell()
            except ProtocolError as error:
                log(logging.DEBUG, "skipped a bad message of %s: %s", self.link.peer, error,
                    peer=self.link.peer, cause=error)  # fmt: skip
            else:
                with self.changed:
                    self.state.take(message, self.link.session.protocol.last_size)
                self.changed.tell()

    def call_handlers(self) -> Steps[None]:
        """Call the handlers of what arrives, one after the other."""
        while not isinstance(message := (yield self.changed.until(self._next, None)), Exception):
            for handler in self.state.handlers_of(message):
                yield self._call(handler, message, peer=self.link.peer)
        for closed in self.state.on_close:
            yield self._call(closed, message, peer=self.link.peer)

    def _next(self) -> Message | Frame | Exception | None:
        """Return the next message that waits for its handlers; in the end the reason of that."""
        message: Message | Frame | None = self.state.waiting.take()
        return self.state.reason if message is None else message


class SubscriberOf(Heard, Generic[L]):
    """What blocking and asyncio subscribers share.

    Attributes:
        link: the link, which this owns from now on.
        state, changed: what has arrived, and what guards it.
    """

    def __init__(
        self, link: L, changed: Changing, call: Callable[..., Any], *, frames: bool
    ) -> None:
        self.link = link
        self._receiving = Receiving(link, changed, call, frames=frames)
        self.state, self.changed = self._receiving.state, changed
        self._process = os.getpid()

    def on_close(self, handler: F) -> F:
        """Call the decorated function with the reason when nothing more will arrive."""
        self.state.on_close.append(handler)
        return handler

    @property
    def connected(self) -> bool:
        """Whether the peer is there, as far as this end knows."""
        return self.state.reason is None and self.link.connected

    def request(self, exchange: Exchange, timeout: float | None) -> Any:
        """Send a request on the link and wait for its answer."""
        return self.link.request(exchange, timeout)
