"""What tasks that share something wait for, and how they call functions of the user."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from igtl.log import log

T = TypeVar("T")


class Changes(contextlib.nullcontext[None]):
    """Told when something has happened; holding it, as the one of threads, has no effect."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Wake all tasks that wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, take: Callable[[], T | None], timeout: float | None) -> T:
        """See `igtl.blocking.changes.Changes.until`."""
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.until(take, None)
        while (found := take()) is None:
            await self._changed.wait()
        return found


async def guarded(handler: Callable[..., Any], *args: Any, peer: Any = None) -> None:
    """Call a function of the user, which may be a coroutine function; what it raises is logged."""
    try:
        result = handler(*args)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        log(logging.ERROR, "a handler failed", peer=peer, cause=error, error=error)
