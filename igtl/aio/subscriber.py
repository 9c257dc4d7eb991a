"""Callbacks and latest values in asyncio; see `igtl.subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import warnings
import weakref
from typing import Any, Self, TypeVar

from igtl.aio.link import Link
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.exchange import Exchange, new_command
from igtl.limits import seconds
from igtl.log import logger, named
from igtl.message import Message, NoData
from igtl.messages.general import CommandReply
from igtl.messages.queries import Get
from igtl.subscriber import Subscriptions, skip

M = TypeVar("M", bound=Message)


class Subscriber(Subscriptions):
    """Reads a link in a task; see `subscribe`. Others may send on the link, and ask with `query`
    and `command` of this object. Keep it: the link is closed when nothing refers to its
    subscriber any more.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self._requests: dict[Exchange, asyncio.Future[Message]] = {}
        self._over: Exception | None = None
        self._process = os.getpid()
        self._task = asyncio.get_running_loop().create_task(_receive(weakref.ref(self), link))

    def _ended(self, error: Exception) -> None:
        self._over = error
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(self._gone())

    async def _take(self, message: Message) -> None:
        self._keep(message)
        if not self._answers(message):
            for handler in self._wanted(message):
                await self._call(handler, message)

    def _answers(self, message: Message) -> bool:
        """Whether a request waited for it."""
        for exchange, answer in self._requests.items():
            if not answer.done() and exchange.matches(message):
                answer.set_result(message)
                return True
        return False

    def _gone(self) -> ConnectionClosed:
        closed = ConnectionClosed(f"{named(self.link.peer)} is gone", clean=False)
        closed.__cause__ = self._over
        return closed

    async def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask for one message; see `igtl.Link.query`. Not in a handler: nobody would receive."""
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(await self._ask(exchange, timeout))
        return answer

    async def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send a COMMAND and wait for its reply; see `igtl.Link.command`."""
        exchange = Exchange(new_command(name, text, device_name))
        reply: CommandReply = exchange.result(await self._ask(exchange, timeout))
        return reply

    async def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        if asyncio.current_task() is self._task:
            raise RuntimeError("a handler cannot wait for an answer: nobody would receive it")
        timeout = seconds("timeout", timeout)
        if self._over is not None:
            raise self._gone()
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._requests[exchange] = answer
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self.link.send(exchange.request)
                return await answer
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no {exchange} within {timeout} s") from None
            raise
        finally:
            del self._requests[exchange]

    async def _call(self, handler: Any, message: Any) -> None:
        try:
            result = handler(message)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            fields = {"peer": self.link.peer, "cause": error}
            logger.exception("a handler failed", extra=fields)

    async def join(self) -> None:
        """Wait until the link is over."""
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        await self.link.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def __del__(self) -> None:
        """Close the link of a subscriber to which nothing refers any more."""
        task = getattr(self, "_task", None)
        if task is not None and not task.done() and self._process == os.getpid():
            if not self.link._closed:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.link._abandon()  # its task will see that, and close it

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


async def _receive(owner: weakref.ref[Subscriber], link: Link) -> None:
    """The task of a subscriber. While it waits it does not refer to the subscriber, so that one
    that its user has forgotten is collected."""
    while True:
        found: Message | Exception | None = None
        try:
            found = await link.recv()
        except TimeoutError:  # of the link's read_timeout: go on
            pass
        except (ConnectionClosed, MessageTooLarge, OSError) as error:
            found = error
        except ProtocolError as error:
            skip(link.peer, error)
        subscriber = owner()
        if subscriber is None:
            await link.close()
            return
        if isinstance(found, Exception):
            subscriber._ended(found)
            return
        if found is not None:
            await subscriber._take(found)
        del subscriber


def subscribe(link: Link) -> Subscriber:
    """Read a link in a task: callbacks by type and device name, plain or coroutine functions, and
    the newest message of each stream. See `igtl.subscribe`."""
    return Subscriber(link)
