"""What a receiving task awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any


class Waiter:
    """What a receiver awaits, one task at a time, again and again.

    Once woken, the task goes on at once, within the callback that brought the bytes: a Future would
    wake it a turn of the event loop later, with one more look at the sockets.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
        self._context: Any = None
        self._cancelled: asyncio.CancelledError | None = None

    def wake(self) -> None:
        """Let the task go on."""
        resume, self._resume = self._resume, None
        if resume is None:
            return
        if asyncio.current_task(self._loop) is None:
            self._context.run(resume, self)
        else:  # one task at a time
            self._loop.call_soon(resume, self, context=self._context)

    # -- what asyncio wants of an object that a task can wait for, as far as a task uses it

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def add_done_callback(self, fn: Callable[[Any], object], *, context: Any) -> None:
        """Remember what resumes the task."""
        self._resume, self._context = fn, context

    def cancel(self, msg: Any = None) -> bool:
        """Resume the task with a CancelledError; returns whether it waited."""
        resume, self._resume = self._resume, None
        if resume is None:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._loop.call_soon(resume, self, context=self._context)
        return True

    def result(self) -> None:
        """Raise the CancelledError of `cancel`, if there is one."""
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise cancelled
