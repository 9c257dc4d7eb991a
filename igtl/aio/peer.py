"""One client of a server: what is sent to it, what has come from it, what is done for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Literal

from igtl._core import Frame
from igtl.aio.link import Asking
from igtl.aio.transport import Connection
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, ProtocolError
from igtl.log import log
from igtl.options import seconds
from igtl.session.requests import Exchange
from igtl.session.serving import PeerBase

_LEAVE = 10.0  # seconds to send what is queued for a client that is disconnected
Limit = Literal["max_requests", "max_commands", "max_streams"]
"""What is in progress for one client, and bounded; the cause of a refusal in its `stats`."""


class Peer(PeerBase, Asking):
    """One client of a server.

    Attributes:
        connection: moves its bytes.
        gone: why it has left, for `Server.gone`; "" while it is there.
        facade: this peer for other threads, see `igtl.blocking.server`.
        others: see `PeerBase`.
    """

    def __init__(
        self,
        handle: Callable[[Peer, Message], Awaitable[None]],
        connection: Connection,
        number: int,
        limits: Mapping[Limit, int],
        left: Callable[[Peer], None],
    ) -> None:
        super().__init__(connection, number)
        self.connection = connection
        self.gone = ""
        self.facade: Any = None
        self._handle = handle
        self._limits = limits
        self._left = left  # takes it out of the clients
        self._work: dict[Limit, dict[asyncio.Task[None], Any]] = {kind: {} for kind in limits}
        self._wake = asyncio.Event()
        connection.drains = True
        connection.on_change = self._wake.set

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Queue a message for this client under the server's policy; with "block", wait for room.

        See `igtl.Peer.send`.
        """
        await self.connection.send(message, crc=crc)

    async def request(self, exchange: Exchange, timeout: float | None) -> Message:
        """See `igtl.Peer.request`."""
        send = partial(self.send, exchange.request)
        return await self.connection.ask(exchange, seconds("timeout", timeout), send)

    async def disconnect(self) -> None:
        """See `igtl.Peer.disconnect`."""
        self.gone = self.gone or "disconnected"
        await self.connection.finish(_LEAVE, discard=False)
        self._left(self)

    # -- what arrives

    async def run(self) -> None:
        """Handle what arrives, one message after the other, until the connection ends."""
        session = self.session
        session.sort()  # a hello may be there already
        while True:
            self._wake.clear()
            self._log_errors()
            while (message := session.inbox.take()) is not None:
                await self._handle(self, message)
            if session.end() is not None:
                return
            await self._wake.wait()

    def _log_errors(self) -> None:
        """Errors of the protocol are only counted; others are of the program."""
        errors = self.session.inbox.errors
        while errors:
            error = errors.popleft()
            if not isinstance(error, ProtocolError):
                self.stats.errors[type(error).__name__] += 1
                log(
                    logging.ERROR, "a message of %s could not be decoded", self.peer,
                    peer=self.peer, cause=error, error=error,
                )  # fmt: skip

    def leave(self) -> None:
        """Stop what was begun for this client, since its connection has ended."""
        self.session.lost(ConnectionClosed(f"{self.peer} is gone"))
        for tasks in self._work.values():
            for task in tasks:
                task.cancel()

    # -- work in progress

    def begin(
        self, limit: Limit, request: Message, work: Coroutine[Any, Any, None], key: Any = None
    ) -> bool:
        """Run a task in parallel to the handlers, for as long as the client is connected.

        Returns:
            False: so much of this kind is in progress for this client that it was not begun; then
            it is closed, and the request counted.
        """
        tasks = self._work[limit]
        if len(tasks) >= self._limits[limit]:
            work.close()
            self.stats.count_dropped(request, limit)
            return False
        task = asyncio.get_running_loop().create_task(work)
        tasks[task] = key
        task.add_done_callback(tasks.pop)
        return True

    def stop(self, wanted: Callable[[Any], bool]) -> list[asyncio.Task[None]]:
        """Stop the streams whose key is wanted; returns their tasks.

        Some may take a moment to end, or may have been stopped before.
        """
        tasks = [task for task, key in self._work["max_streams"].items() if wanted(key)]
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        return tasks
