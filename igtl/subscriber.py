"""Callbacks and latest values: a link that is read in a thread of its own.

    with igtl.subscribe(link, start=False) as incoming:

        @incoming.on(Transform, "Probe*")
        def _(message): ...

        incoming.start()
        pose = incoming.latest(Transform, "ProbeToTracker")

In asyncio `igtl.aio.subscribe(link)` does the same in a task.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.exchange import Exchange, fits, new_command
from igtl.limits import seconds
from igtl.log import log, logger, named
from igtl.message import Message, NoData
from igtl.messages.general import CommandReply
from igtl.messages.queries import Get
from igtl.sync import Link

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[[Any], Any])
MAX_STREAMS = 1000


class Subscriptions:
    """What blocking and asyncio subscriptions share: who wants what, and the newest of each
    stream. Bad messages are skipped and counted."""

    def __init__(self) -> None:
        self._handlers: list[tuple[type[Message], str, Callable[[Any], Any]]] = []
        self._newest: OrderedDict[tuple[str, str], Message] = OrderedDict()

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with each message of a class whose device name fits (wildcards *
        and ?). Handlers run one after the other; what they raise is logged."""

        def register(handler: F) -> F:
            self._handlers.append((kind, name, handler))
            return handler

        return register

    def latest(self, kind: type[M], name: str = "*") -> M | None:
        """The newest message of a class whose device name fits, or None. The newest of each
        (type, device name) is kept, of up to 1000 of them."""
        for message in reversed(list(self._newest.values())):
            if fits(message, kind, name):
                return cast(M, message)
        return None

    def _keep(self, message: Message) -> None:
        key = message.type_name, message.device_name
        self._newest[key] = message
        self._newest.move_to_end(key)
        if len(self._newest) > MAX_STREAMS:
            self._newest.popitem(last=False)

    def _wanted(self, message: Message) -> list[Callable[[Any], Any]]:
        return [handler for kind, name, handler in self._handlers if fits(message, kind, name)]


def skip(peer: Any, error: ProtocolError) -> None:
    """Note that a bad message was left out."""
    log(logging.DEBUG, "skipped a bad message of %s: %s", peer, error, peer=peer, cause=error)


class Subscriber(Subscriptions):
    """Reads a link in a thread of its own; see `subscribe`. Others may send on the link, and ask
    with `query` and `command` of this object. Keep it: the link is closed when nothing refers to
    its subscriber any more.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._requests: dict[Exchange, Message | None] = {}
        self._over: Exception | None = None
        self._process = os.getpid()
        self._forgotten = False  # whether nothing refers to it any more
        self._thread = threading.Thread(
            target=_receive, args=(weakref.ref(self), link), name="igtl subscriber", daemon=True
        )

    def start(self) -> None:
        """Begin to receive, if `subscribe` was told not to."""
        self._thread.start()

    def _ended(self, error: Exception) -> None:
        with self._changed:
            self._over = error
            self._changed.notify_all()

    def _take(self, message: Message) -> None:
        with self._changed:
            self._keep(message)
            self._changed.notify_all()
            answered = next(
                (e for e, m in self._requests.items() if m is None and e.matches(message)), None
            )
            if answered is not None:
                self._requests[answered] = message
                return
        for handler in self._wanted(message):
            try:
                handler(message)
            except Exception as error:
                fields = {"peer": self.link.peer, "cause": error}
                logger.exception("a handler failed", extra=fields)

    def wait(self, kind: type[M], name: str = "*", *, timeout: float | None = None) -> M:
        """The newest message of a class whose device name fits, as soon as there is one.

        Raises:
            TimeoutError: none came; the text lists what did.
            ConnectionClosed, OSError: the link is over.
        """
        timeout = seconds("timeout", timeout)
        with self._changed:
            found: M | None = None

            def is_decided() -> bool:
                nonlocal found
                found = self.latest(kind, name)
                return found is not None or self._over is not None

            if not self._changed.wait_for(is_decided, timeout):
                seen = ", ".join(f"{t} {d!r}" for t, d in self._newest) or "nothing"
                raise TimeoutError(f"no {kind.__name__} {name!r} yet; seen: {seen}")
            if found is None:
                raise self._gone()
            return found

    def _gone(self) -> Exception:
        assert self._over is not None
        return self._over.with_traceback(None)  # which would grow each time that it is raised

    def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask for one message; see `igtl.Link.query`. From any thread but a handler's."""
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(self._ask(exchange, timeout))
        return answer

    def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send a COMMAND and wait for its reply; see `igtl.Link.command`."""
        exchange = Exchange(new_command(name, text, device_name))
        reply: CommandReply = exchange.result(self._ask(exchange, timeout))
        return reply

    def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a handler cannot wait for an answer: nobody would receive it")
        timeout = seconds("timeout", timeout)
        with self._changed:
            self._requests[exchange] = None
        try:
            self.link.send(exchange.request)
            with self._changed:
                answered = lambda: self._requests[exchange] is not None or self._over  # noqa: E731
                if not self._changed.wait_for(answered, timeout):
                    raise TimeoutError(f"no {exchange} within {timeout} s")
                answer = self._requests[exchange]
            if answer is None:
                closed = ConnectionClosed(f"{named(self.link.peer)} is gone", clean=False)
                raise closed from self._over
            return answer
        finally:
            with self._changed:
                del self._requests[exchange]

    def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        self.link.close()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        """Close the link of a subscriber to which nothing refers any more."""
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.is_alive() and self._process == os.getpid():
            if not self.link._closed:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self._forgotten = True
            self.link._abandon()  # its thread will see that, and close it


def _receive(owner: weakref.ref[Subscriber], link: Link) -> None:
    """The thread of a subscriber. While it waits it does not refer to the subscriber, so that one
    that its user has forgotten is collected."""
    while True:
        found: Message | Exception | None = None
        try:
            found = link.recv()
        except TimeoutError:  # of the link's read_timeout: go on
            pass
        except (ConnectionClosed, MessageTooLarge, OSError) as error:
            found = error
        except ProtocolError as error:
            skip(link.peer, error)
        subscriber = owner()
        if subscriber is None or subscriber._forgotten:
            link.close()
            return
        if isinstance(found, Exception):
            subscriber._ended(found)
            return
        if found is not None:
            subscriber._take(found)
        del subscriber


def subscribe(link: Link, *, start: bool = True) -> Subscriber:
    """Read a link in a thread of its own: callbacks by type and device name, and the newest
    message of each stream. A link that heals itself goes on over reconnections.

    Args:
        start: False: receive only from `start()` on, so that handlers registered before miss
            nothing.
    """
    subscriber = Subscriber(link)
    if start:
        subscriber.start()
    return subscriber
