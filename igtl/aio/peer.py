"""One client of a server: what waits to be sent to it, and what has come from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from igtl._core import Frame
from igtl.aio.connection import Connection
from igtl.errors import ConnectionClosed, MessageTooLarge
from igtl.exchange import Exchange, new_command
from igtl.link import LinkBase, Packed
from igtl.log import named
from igtl.message import Message, NoData
from igtl.messages.general import CommandReply
from igtl.messages.queries import Get
from igtl.queues import Queue

M = TypeVar("M", bound=Message)
_LEAVE = 10.0  # seconds to send what is queued for one who is disconnected
_INBOUND, _INBOUND_BYTES = 1000, 64 << 20  # what has come, until its handlers have time


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
    ) -> None:
        super().__init__(connection.protocol, connection.local, None, None, False)
        self.id = number
        self.connected = time.time()
        self.stripped = 0
        self._gone = ""
        self._heard = self._moved = self._since = time.monotonic()
        self._taken = -1
        self._handle = handle
        self._connection = connection
        self._inbound: Queue[Message] = Queue("block", _INBOUND, _INBOUND_BYTES)
        self._requests: list[tuple[Exchange, asyncio.Future[Message]]] = []
        self._streams: dict[tuple[type[Message], str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
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
        entry = exchange, asyncio.get_running_loop().create_future()
        self._requests.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await self.send(exchange.request)
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
        """Sort what has arrived: answers to those who wait, the rest to the handlers."""
        try:
            while self._inbound.has_room(0):
                message = self._protocol.next_message()
                if message is None:
                    break
                self._heard = message.received_monotonic or self._heard
                if not self._answers(message):
                    self._inbound.put(message, self._protocol.last_size)
            else:
                self._connection.pause_reading()  # its handlers lag: let the peer feel it
        except MessageTooLarge as error:
            self.close_reason = error
            self._connection.abort()
        self._wake.set()

    def _answers(self, message: Message) -> bool:
        for exchange, answer in self._requests:
            if not answer.done() and exchange.matches(message):
                answer.set_result(message)
                return True
        return False

    async def _run(self) -> None:
        """Handle what arrives, one message after the other, until the connection ends."""
        try:
            while True:
                self._wake.clear()
                while self._inbound:
                    await self._handle(self, self._inbound.get())
                    if not self._connection._reading and len(self._inbound) < _INBOUND // 2:
                        self._connection.resume_reading()
                        self._on_bytes()  # what had come before the pause
                if self._connection.ended and not self._inbound:
                    break
                await self._wake.wait()
        finally:
            self._over()

    def _over(self) -> None:
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
                answer.exception()  # whoever asked may have gone too
        for task in (*self._streams.values(), *self._tasks):
            task.cancel()

    def _start(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run something beside the handlers, for as long as the client is there."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
