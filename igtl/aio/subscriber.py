"""Callbacks and latest values in asyncio; see `igtl.subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from typing import Self

from igtl.aio.changes import Changes, guarded
from igtl.aio.link import Asking, Link
from igtl.aio.steps import method, run
from igtl.session import subscribing
from igtl.session.subscribing import SubscriberOf


class Subscriber(SubscriberOf[Link], Asking):
    """Reads a link in a task; see `subscribe`.

    All else is as in `igtl.Subscriber`: its link is closed when nothing refers to it any more.

    Attributes: see `SubscriberOf`.
    """

    def __init__(self, link: Link, *, frames: bool) -> None:
        super().__init__(link, Changes(), guarded, frames=frames)
        loop = asyncio.get_running_loop()
        self._reading = loop.create_task(run(self._receiving.receive()))
        self._handling = loop.create_task(run(self._receiving.call_handlers()))

    wait = method(subscribing.wait)

    async def join(self) -> None:
        """Wait until the link has closed, and the handlers are done."""
        await asyncio.shield(self._handling)

    async def close(self) -> None:
        """Close the link, and wait for a handler that is at work."""
        await self.link.close()
        await self._reading
        if self._handling is not asyncio.current_task():
            with contextlib.suppress(asyncio.CancelledError):
                await self._handling

    def __del__(self) -> None:
        reading = getattr(self, "_reading", None)
        if reading is None or reading.done() or self._process != os.getpid():
            return
        if not self.link.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.link.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


def subscribe(link: Link, *, frames: bool = False) -> Subscriber:
    """Read a link in a task: callbacks, and the newest message of each stream.

    Callbacks are plain or coroutine functions. See `igtl.subscribe`.
    """
    return Subscriber(link, frames=frames)
