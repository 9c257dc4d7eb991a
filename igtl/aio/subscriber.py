"""Callbacks and latest values in asyncio; see `igtl.subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, Self, TypeVar

from igtl.aio.link import Asking, Link
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import log
from igtl.options import seconds
from igtl.session.requests import Exchange
from igtl.session.subscriptions import Subscriptions

M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])


class _Receiving:
    """The tasks of a subscriber, and what they share with it. They do not refer to the subscriber,
    so one that its user has forgotten is collected, which closes the link."""

    def __init__(self, link: Link, *, frames: bool) -> None:
        self.link = link
        self._take = link.recv_frame if frames else link.recv
        self.state = Subscriptions(link.stats)
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.receiving = loop.create_task(self._receive())
        self.handling = loop.create_task(self._call_handlers())

    def tell(self) -> None:
        """Wake all tasks that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next message, or the end."""
        await self._changed.wait()

    async def _receive(self) -> None:
        while True:
            try:
                message = await self._take()
            except TimeoutError:  # of the link's read_timeout: go on
                continue
            except (ConnectionClosed, MessageTooLarge, OSError) as error:
                self.state.reason = error
                self.tell()
                return
            except ProtocolError as error:
                log(logging.DEBUG, "skipped a bad message of %s: %s", self.link.peer, error,
                    peer=self.link.peer, cause=error)  # fmt: skip
                continue
            self.state.take(message, self.link.session.protocol.last_size)
            self.tell()

    async def _call_handlers(self) -> None:
        while True:
            while (message := self.state.waiting.take()) is not None:
                for handler in self.state.handlers_of(message):
                    await self._call(handler, message)
            if self.state.reason is not None:
                break
            await self.change()
        for closed in self.state.on_close:
            await self._call(closed, self.state.reason)

    async def _call(self, handler: Callable[..., Any], argument: Any) -> None:
        try:
            result = handler(argument)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            log(logging.ERROR, "a handler failed", peer=self.link.peer, cause=error, error=error)


class Subscriber(Asking):
    """Reads a link in a task; see `subscribe`. Others may send on the link, and ask with `query`
    and `command`, also in a handler. Keep the subscriber: its link is closed when nothing refers to
    it any more.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link, *, frames: bool) -> None:
        self.link = link
        self._receiving = _Receiving(link, frames=frames)
        self._process = os.getpid()

    def on(self, kind: type[Message] = Message, name: str = "*") -> Callable[[F], F]:
        """Decorator: call this with each message of a class whose device name fits; a coroutine
        function is awaited. See `igtl.Subscriber.on`."""
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
        """The newest message of a class whose device name fits, or None; see
        `igtl.Subscriber.latest`."""
        return self._receiving.state.newest(kind, name, seconds("max_age", max_age))

    async def wait(
        self,
        kind: type[M],
        name: str = "*",
        *,
        max_age: float | None = None,
        timeout: float | None = None,
    ) -> M:
        """The newest message of a class whose device name fits, as soon as there is one; see
        `igtl.Subscriber.wait`."""
        timeout, max_age = seconds("timeout", timeout), seconds("max_age", max_age)
        state = self._receiving.state
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while (found := state.newest(kind, name, max_age)) is None:
                    await self._receiving.change()
                return found
        except TimeoutError:
            if limit.expired():
                text = f"no {kind.__name__} {name!r} within {timeout} s; seen: {state.seen()}"
                raise TimeoutError(text) from None
            raise

    async def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """Send a request and wait for its answer."""
        return await self.link.request(exchange, timeout)

    async def join(self) -> None:
        """Wait until the link has closed, and the handlers are done."""
        await asyncio.shield(self._receiving.handling)

    async def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        await self.link.close()
        await self._receiving.receiving
        if self._receiving.handling is not asyncio.current_task():
            with contextlib.suppress(asyncio.CancelledError):
                await self._receiving.handling

    def __del__(self) -> None:
        receiving = getattr(self, "_receiving", None)
        if receiving is None or receiving.receiving.done() or self._process != os.getpid():
            return
        if not self.link.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.link.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def subscribe(link: Link, *, frames: bool = False) -> Subscriber:
    """Read a link in a task: callbacks by type and device name, plain or coroutine functions, and
    the newest message of each stream. See `igtl.subscribe`."""
    return Subscriber(link, frames=frames)
