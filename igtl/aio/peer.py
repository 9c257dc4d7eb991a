"""One client of a server: what waits to be sent to it, and what has come from it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, TypeVar

from igtl import _core
from igtl._core import Frame
from igtl.aio.connection import Connection
from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.exchange import Exchange, new_command
from igtl.limits import seconds
from igtl.link import MAX_WAITING, LinkBase, Packed
from igtl.log import log, named
from igtl.message import Message, NoData
from igtl.messages.general import CommandReply
from igtl.messages.queries import Get
from igtl.queues import Queue

M = TypeVar("M", bound=Message)
_LEAVE = 10.0  # seconds to send what is queued for one who is disconnected
# what has come and waits for the handlers: reading pauses from here on, unless the server waits for
# an answer of this client; then it may be more, and after that the oldest is given up
_INBOUND, _INBOUND_BYTES = 1000, 64 << 20
Limit = Literal["max_requests", "max_commands", "max_streams"]
"""What is in progress for one client, and bounded; the cause of a refusal in its `stats`."""


class Peer(LinkBase):
    """One client of a server.

    Attributes:
        id: number of this client, from 1 on, never used again.
        peer: its address, (host, port).
        connected: when it came, seconds since 1970.
        stats, header_version: see `igtl.Link`.
        stripped: broadcast messages that it got without their metadata and id, because it has
            not shown that it understands header version 2.
        close_reason: why it is gone; None while it is there.
    """

    def __init__(
        self,
        handle: Callable[[Peer, Message], Awaitable[None]],
        connection: Connection,
        number: int,
        limits: Mapping[Limit, int],
    ) -> None:
        super().__init__(connection.protocol, connection.local, None, None, False)
        self.id = number
        self.connected = time.time()
        self.stripped = 0
        self._gone = ""
        self._since = time.monotonic()
        self._moved, self._taken = connection.heard, -1  # when it took something last
        self._handle = handle
        self._connection = connection
        self._inbound: Queue[Message] = Queue("drop_oldest", MAX_WAITING, 2 * _INBOUND_BYTES)
        self._requests: list[tuple[Exchange, asyncio.Future[Message]]] = []
        self._limits = limits
        self._work: dict[Limit, dict[asyncio.Task[None], Any]] = {kind: {} for kind in limits}
        self._wake = asyncio.Event()
        self.facade: Any = None  # this peer for other threads, see igtl.server
        connection.on_bytes = self._on_bytes

    @property
    def uptime(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self._since

    @property
    def queued(self) -> int:
        """Messages that wait to be sent to it."""
        return len(self._connection.outbox)

    async def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Queue a message for this client under the server's policy; with "block", wait for room.

        Raises:
            EncodeError: the message cannot be sent to it as it is.
            ConnectionClosed: it is gone.
        """
        await self._connection.send(message, crc=crc)

    def _wire_of(self, packed: Packed) -> bytes:
        wire, stripped = packed.wire_for(self._protocol)
        self.stripped += stripped
        return wire

    async def query(self, request: Get[M], *, timeout: float | None = None) -> M | NoData:
        """Ask this client for a message; see `igtl.Link.query`."""
        exchange = Exchange(request)
        answer: M | NoData = exchange.result(await self._ask(exchange, timeout))
        return answer

    async def command(
        self, name: str, text: str = "", *, device_name: str = "", timeout: float | None = 5.0
    ) -> CommandReply:
        """Send this client a COMMAND and wait for the reply; see `igtl.Link.command`."""
        exchange = Exchange(new_command(name, text, device_name))
        reply: CommandReply = exchange.result(await self._ask(exchange, timeout))
        return reply

    async def _ask(self, exchange: Exchange, timeout: float | None) -> Message:
        timeout = seconds("timeout", timeout)
        entry = exchange, asyncio.get_running_loop().create_future()
        self._requests.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await self.send(exchange.request)
                self._on_bytes()  # reading may have paused
                answer: Message = await entry[1]
                return answer
        except TimeoutError:
            raise TimeoutError(f"no {exchange} within {timeout} s") from None
        finally:
            self._requests.remove(entry)

    async def disconnect(self) -> None:
        """Send what is queued for it, then close."""
        self._gone = self._gone or "disconnected"
        await self._connection.finish(_LEAVE, discard=False)

    # -- what arrives

    def _on_bytes(self) -> None:
        """Sort what has arrived: answers to the server's own requests, the rest to the handlers.
        Read on while there is room for more."""
        try:
            while self._has_room:
                message = self._next_message()
                if message is None:
                    self._connection.resume_reading()
                    break
                if not self._answers(message):
                    self._keep(message)
            else:
                self._connection.pause_reading()  # its handlers lag: let the peer feel it
        except (MessageTooLarge, MemoryError) as error:  # the framing is lost
            self.close_reason = self.close_reason or error
            self._connection.abort()
        finally:
            self._wake.set()

    @property
    def _has_room(self) -> bool:
        """Whether the handlers keep up; an answer may stand behind any number of messages."""
        return bool(self._requests) or (
            len(self._inbound) < _INBOUND and self._inbound.bytes < _INBOUND_BYTES
        )

    def _next_message(self) -> Message | None:
        while True:
            try:
                return self._protocol.next_message()
            except (MessageTooLarge, MemoryError):
                raise
            except Exception as error:  # a type's own check: this message is bad, not the next one
                self.stats.errors[type(error).__name__] += 1
                log(
                    logging.ERROR, "a message of %s could not be decoded", self.peer,
                    peer=self.peer, size=self._protocol.last_size, cause=error, error=error,
                )  # fmt: skip

    def _answers(self, message: Message) -> bool:
        for exchange, answer in self._requests:
            if not answer.done() and exchange.matches(message):
                answer.set_result(message)
                return True
        return False

    def _keep(self, message: Message) -> None:
        for lost, cause in self._inbound.put(message, self._protocol.last_size):
            self.stats.count_dropped(_core.stream_head(lost), cause)

    async def _run(self) -> None:
        """Handle what arrives, one message after the other, until the connection ends."""
        while True:
            self._wake.clear()
            while self._inbound:
                await self._handle(self, self._inbound.get())
                if not self._connection.reading and len(self._inbound) < _INBOUND // 2:
                    self._on_bytes()  # what had come before the pause
            if self._connection.ended and not self._inbound:
                break
            await self._wake.wait()

    def _left(self) -> None:
        """The connection has ended: say why, and stop what was begun for this client."""
        ended = self._connection.ended
        if self.close_reason is None:
            if isinstance(ended, ConnectionError):
                self._end(f"{named(self.peer)}: {ended}", clean=False)
            elif isinstance(ended, Exception):
                self.close_reason = ended
            else:
                self._end_of_stream()
        for _, answer in self._requests:
            if not answer.done():
                answer.set_exception(ConnectionClosed(f"{named(self.peer)} is gone"))
                answer.exception()  # the one who asked may have gone too
        for tasks in self._work.values():
            for task in tasks:
                task.cancel()

    # -- work in progress

    def _begin(
        self, limit: Limit, request: Message, work: Coroutine[Any, Any, None], key: Any = None
    ) -> bool:
        """Run something beside the handlers, for as long as the client is there.

        Returns:
            False: so much of this kind is in progress for this client that it was not begun; then
            it is closed, and the request counted.
        """
        tasks = self._work[limit]
        if len(tasks) >= self._limits[limit]:
            work.close()
            self.stats.count_dropped(_core.stream_head(request), limit)
            return False
        task = asyncio.get_running_loop().create_task(work)
        tasks[task] = key
        task.add_done_callback(tasks.pop)
        return True

    def _stop(self, wanted: Callable[[Any], bool]) -> list[asyncio.Task[None]]:
        """Stop the streams whose key is wanted; returns their tasks, of which some may take a
        moment to end, or may have been stopped before."""
        tasks = [task for task, key in self._work["max_streams"].items() if wanted(key)]
        for task in tasks:
            if not task.cancelling():
                task.cancel()
        return tasks
