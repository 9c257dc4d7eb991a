"""Callbacks and latest values in asyncio; see `igtl.subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import Any, Self, TypeVar

from igtl.aio.link import Link
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.exchange import Exchange, new_command
from igtl.log import logger, named
from igtl.message import Message, NoData
from igtl.messages.general import CommandReply
from igtl.messages.queries import Get
from igtl.subscriber import Subscriptions

M = TypeVar("M", bound=Message)


class Subscriber(Subscriptions):
    """Reads a link in a task; see `subscribe`. Others may send on the link, and ask with `query`
    and `command` of this object.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self._requests: dict[Exchange, asyncio.Future[Message]] = {}
        self._over: Exception | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                message = await self.link.recv()
            except TimeoutError:  # of the link's read_timeout: go on
                continue
            except (ConnectionClosed, MessageTooLarge, OSError) as error:
                self._over = error
                for answer in self._requests.values():
                    if not answer.done():
                        answer.set_exception(self._gone())
                return
            except ProtocolError as error:
                self._skip(self.link.peer, error)
                continue
            self._keep(message)
            if self._answers(message):
                continue
            for handler in self._wanted(message):
                await self._call(handler, message)

    def _answers(self, message: Message) -> bool:
        """Whether somebody waited for it."""
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def subscribe(link: Link) -> Subscriber:
    """Read a link in a task: callbacks by type and device name, plain or coroutine functions, and
    the newest message of each stream. See `igtl.subscribe`."""
    return Subscriber(link)
