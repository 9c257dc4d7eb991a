"""Messages as datagrams, in asyncio; `igtl.net.datagrams` says what travels, and the arguments."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, Self

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.net.datagrams import Incoming, Outgoing
from igtl.options import seconds

_RETRY = 0.001  # seconds between two looks where the loop cannot watch a socket


class Sender(Outgoing):
    """Sends messages to one address; arguments as `igtl.net.datagrams.Outgoing`."""

    _waits = False

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message; waits while the system has no room.

        See `igtl.blocking.udp.Sender.send`.
        """
        for packet in self._datagrams(message, crc):
            while True:
                try:
                    self._hand_on(packet)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_RETRY)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class Receiver(Incoming):
    """Receives messages on one port; `async for` yields (message, address) until it is closed.

    Arguments are those of `igtl.net.datagrams.Incoming`.
    """

    _waits = False
    _waiter: asyncio.Future[None] | None = None

    async def recv(self, *, timeout: float | None = None) -> tuple[Message, Any]:
        """Receive the next message and where it came from; see `igtl.blocking.udp.Receiver.recv`.

        It may be cancelled without loss. One task at a time receives.
        """
        return await self._next(False, timeout)

    async def recv_frame(self, *, timeout: float | None = None) -> tuple[Frame, Any]:
        """See `igtl.blocking.udp.Receiver.recv_frame`."""
        return await self._next(True, timeout)

    async def _next(self, framed: bool, timeout: float | None) -> tuple[Any, Any]:
        if self._waiter is not None:
            raise RuntimeError("another task is receiving")
        timeout = seconds("timeout", timeout)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while (found := self._look(framed)) is None:
                    await self._wait()
                return found
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no message within {timeout} s") from None
            raise

    async def _wait(self) -> None:
        """Return when there is something to read, or a message is to be given up."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        try:
            loop.add_reader(self._sock, self._wake)
        except NotImplementedError:  # the default loop of Windows
            self._waiter = None
            await asyncio.sleep(_RETRY)
            return
        expiry = self._expiry()
        timer = None
        if expiry < math.inf:
            timer = loop.call_later(max(0.0, expiry - time.monotonic()), self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if not self._closed:
                loop.remove_reader(self._sock)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Message, Any]:
        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving; a recv that waits in another task ends."""
        if self._waiter is not None:
            with contextlib.suppress(RuntimeError):
                self._waiter.get_loop().remove_reader(self._sock)
            self._wake()
        super().close()
