"""Callbacks and latest values in asyncio; see `igtl.subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import Any, Self

from igtl.aio.link import Link
from igtl.errors import ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import logger
from igtl.subscriber import Subscriptions


class Subscriber(Subscriptions):
    """Reads a link in a task; see `subscribe`.

    Attributes:
        link: the link, which this owns from now on.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                message = await self.link.recv()
            except TimeoutError:  # of the link's read_timeout: go on
                continue
            except (ConnectionClosed, MessageTooLarge, OSError):
                return
            except ProtocolError as error:
                self._skip(self.link.peer, error)
                continue
            self._keep(message)
            for handler in self._wanted(message):
                await self._call(handler, message)

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
