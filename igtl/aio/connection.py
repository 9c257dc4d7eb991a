"""Between an asyncio transport and a Protocol: bytes in as they are wanted, messages out of a
bounded queue in slices. Nothing here is a task; the transport's callbacks drive it.

Reading stops while more has arrived than was taken, writing while the transport's buffer is full:
so memory stays bounded and the peer feels it. A message that has begun always goes out whole,
whatever happens to whoever sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Hashable
from typing import Any, cast

from igtl._core import Frame, Stream
from igtl.compressing import CompressingProtocol
from igtl.compression import stream_of
from igtl.errors import ConnectionClosed
from igtl.log import named
from igtl.message import Message
from igtl.protocol import Protocol
from igtl.queues import Queue
from igtl.sockets import tune, unsent

_SLICE = 256 * 1024
_HIGH = 64 * 1024  # bytes in the transport's buffer from which it asks for a pause
_AHEAD = 256 * 1024  # bytes that may lie here before anybody wants them
_GRACE = 0.5  # seconds for a peer to close after this end has said that nothing more comes
_BESIDE = 256 * 1024  # bytes from which a message is compressed in a thread
_UNSENT = 128 * 1024  # bytes the system may hold back: what is older waits here, under a policy


class _Waiter:
    """What a receiver awaits, one task at a time, again and again. Once woken it goes on at once,
    within the callback that brought the bytes: a Future would wake it a turn of the event loop
    later, with one more look at the sockets."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_loop", "_resume")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._resume: Callable[[Any], object] | None = None
        self._context: Any = None
        self._cancelled: asyncio.CancelledError | None = None

    def wake(self) -> None:
        """What was waited for is there."""
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
        return self._loop

    def add_done_callback(self, fn: Callable[[Any], object], *, context: Any) -> None:
        self._resume, self._context = fn, context

    def cancel(self, msg: Any = None) -> bool:
        resume, self._resume = self._resume, None
        if resume is None:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._loop.call_soon(resume, self, context=self._context)
        return True

    def result(self) -> None:
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise cancelled


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Args:
        protocol: its stream of messages.
        outbox: what waits to be sent, packed.
        keepalive: see `igtl.connect`.

    Attributes:
        ended: set when nothing more can come: the reason, or True for the end of the stream.
        on_bytes: called when bytes have arrived or the connection has ended.
    """

    transport: asyncio.Transport

    def __init__(
        self, protocol: Protocol, outbox: Queue[bytes], *, keepalive: float | None = None
    ) -> None:
        self.protocol = protocol
        self.outbox = outbox
        self.ended: Exception | bool = False
        self._loop = asyncio.get_running_loop()
        self._waiter = _Waiter(self._loop)
        self.on_bytes: Callable[[], None] = self._waiter.wake
        self.local: Any = None
        self._keepalive = keepalive
        self._made = False
        self._ready = False  # whether messages may be sent
        self._room: asyncio.Future[None] | None = None
        self._putting = asyncio.Lock()
        self._compressing = asyncio.Lock()
        if isinstance(protocol, CompressingProtocol):
            protocol.answer = self._answer
        self._current: memoryview | None = None  # what is left of the message that is going out
        self._written = 0
        self._full = False  # the transport asked for a pause
        self._goodbye = False  # the peer was told that nothing more comes
        self._reading = True
        self._discarding: bytearray | None = None
        self._lost = self._loop.create_future()

    # -- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._made = True
        self.transport.set_write_buffer_limits(high=_HIGH)
        sock = transport.get_extra_info("socket")
        tune(sock, self._keepalive, unsent_low=_UNSENT)
        if self.protocol.peer is None:
            self.protocol.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))
        self._begin()

    def _begin(self) -> None:
        self._ready = True
        self._pump()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._discarding is not None:
            return memoryview(self._discarding)
        return self.protocol.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._discarding is None:
            self._arrived(nbytes)
        self.on_bytes()

    def _arrived(self, nbytes: int) -> None:
        self.protocol.received(nbytes)
        if self.protocol.waiting > _AHEAD:
            self.pause_reading()

    def eof_received(self) -> bool:
        self.ended = self.ended or True
        self.on_bytes()
        return True  # half closed: this end may still send

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ConnectionError):
            self._read_rest()
        if exc is not None and self.ended is False:
            self.ended = exc
        self.ended = self.ended or True
        if not self._lost.done():
            self._lost.set_result(None)
        self._give_up("disconnected")
        self._wake_room()
        self.on_bytes()
        # for the last time: what receives here refers to this, and both are now let go at once
        self.on_bytes = self._waiter.wake

    def _read_rest(self) -> None:
        """What came before the peer left: asyncio does not read it once a write has failed."""
        sock = self.transport.get_extra_info("socket")
        with (
            contextlib.suppress(OSError),
            socket.fromfd(sock.fileno(), sock.family, sock.type) as rest,
        ):
            rest.setblocking(False)
            while not self.ended and (n := rest.recv_into(self.get_buffer(-1))):
                self.buffer_updated(n)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pump()

    # -- receiving

    def pause_reading(self) -> None:
        """Take nothing more from the peer."""
        if self._reading and self._made:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if not self._reading:
            self._reading = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def more(self) -> _Waiter:
        """Done when bytes have arrived or the connection has ended; for one task."""
        self.resume_reading()
        if self.ended:
            self._loop.call_soon(self.on_bytes)
        return self._waiter

    # -- sending

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be sent."""
        return self._lost.done() or (self._made and self.transport.is_closing())

    @property
    def taken(self) -> int:
        """Bytes that the system has taken so far: while it stays the same, nothing leaves."""
        return self._written - self._buffered()

    def _buffered(self) -> int:
        return 0 if self.is_over or not self._made else self.transport.get_write_buffer_size()

    @property
    def idle(self) -> bool:
        """Whether everything has left."""
        return not self.outbox and self._current is None and not self._buffered()

    def put_now(self, wire: bytes) -> bool:
        """Hand a packed message on past the queue, if nothing waits there; whether it was."""
        if (
            self._full
            or self.outbox.bytes
            or self._current is not None
            or len(wire) > _SLICE
            or not self._ready
            or self._goodbye
            or self.transport.is_closing()
        ):
            return False
        self._write(wire)
        self.protocol.stats.count_sent(wire, len(wire))
        return True

    def _answer(self, offer: bytes) -> bool:
        self.put(offer, None)
        return True

    def put(self, wire: bytes, key: Hashable) -> None:
        """Queue a packed message, under the policy of the outbox."""
        if self._goodbye:
            self.protocol.stats.count_dropped(wire, "disconnected")
            return
        if self.put_now(wire):
            return
        for dropped, cause in self.outbox.put(wire, len(wire), key):
            self.protocol.stats.count_dropped(dropped, cause)
        self._pump()

    async def send(
        self,
        message: Message | Frame,
        *,
        crc: bool = True,
        timeout: float | None = None,
        wait: bool = False,
    ) -> None:
        """Pack a message at once, and queue it as it is or compressed.

        Args:
            timeout: see put_wait.
            wait: for room, whatever the policy of the outbox.
        """
        wire = Stream.pack(self.protocol, message, crc=crc)
        if self.protocol.peer_takes or self._compressing.locked():
            async with self._compressing:  # what is sent later stays behind it
                if len(wire) < _BESIDE:
                    wire = self.protocol.wrap(wire)
                else:
                    wire = await asyncio.to_thread(self.protocol.wrap, wire)
                await self._queue(wire, timeout, wait)
        else:
            await self._queue(wire, timeout, wait)

    async def _queue(self, wire: bytes, timeout: float | None, wait: bool) -> None:
        if wait or self.outbox.policy == "block" or self.is_over:
            await self.put_wait(wire, stream_of(wire), timeout)
        else:
            self.put(wire, stream_of(wire))

    async def put_wait(self, wire: bytes, key: Hashable, timeout: float | None) -> None:
        """Queue it when there is room. Cancelled before: it is not sent.

        Raises:
            ConnectionClosed: the connection is over.
            TimeoutError: the peer took nothing for `timeout` seconds; the connection is cut.
        """
        if self._putting.locked() or not self.outbox.has_room(len(wire)):
            async with self._putting:  # first come, first served
                while not self.outbox.has_room(len(wire)) and not self.is_over:
                    await self._wait_room(timeout)
        if self.is_over or self._goodbye:
            reason = self.ended if isinstance(self.ended, Exception) else None
            text = f"{named(self.protocol.peer)}: {reason or 'closed'}"
            raise ConnectionClosed(text, clean=reason is None) from reason
        self.put(wire, key)

    async def _wait_room(self, timeout: float | None) -> None:
        before = self.taken
        self._room = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._room
        except TimeoutError:
            if self.taken == before:
                self.abort()
                raise TimeoutError(f"the peer took nothing for {timeout} s") from None
        finally:
            self._room = None

    def _wake_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _pump(self) -> None:
        """Hand on what is queued, until the transport asks for a pause."""
        took = False
        while self._ready and not self._full and not self.is_over:
            if self._current is None:
                if not self.outbox:
                    break
                self._current = memoryview(self.outbox.get())
                took = True
            whole = self._current.obj
            head, self._current = self._current[:_SLICE], self._current[_SLICE:] or None
            self._write(head)
            if self._current is None:
                self.protocol.stats.count_sent(whole, len(whole))  # type: ignore[arg-type]
        if took:
            self._wake_room()

    def _write(self, data: bytes | memoryview) -> None:
        self._written += len(data)
        self.transport.write(data)

    def _give_up(self, cause: str) -> None:
        """What is queued will never be sent."""
        lost = self.outbox.clear()
        if self._current is not None:
            lost.append(self._current.obj)  # type: ignore[arg-type]
            self._current = None
        for wire in lost:
            self.protocol.stats.count_dropped(wire, cause)

    # -- the end

    async def finish(self, timeout: float, *, discard: bool = True) -> None:
        """Send what is queued, let the peer's system take it, and close; cut it after `timeout`
        seconds.

        Args:
            discard: throw away what comes meanwhile. Else say that nothing more comes, and go on
                receiving for a moment, until the peer closes too.
        """
        if not self._made:
            return
        if discard:
            self._discarding = bytearray(_SLICE)
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._until(lambda: self.idle and not unsent(sock), discard)
                if not self.is_over:
                    self._goodbye = True
                    self._farewell()
                if not discard and not self.is_over:
                    with contextlib.suppress(OSError):  # the peer has just reset it
                        self.transport.write_eof()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_GRACE):
                            await self._until(lambda: bool(self.ended), discard)
                if not self.is_over:
                    self.transport.close()
                await asyncio.shield(self._lost)
        self.abort()
        await asyncio.shield(self._lost)

    def _farewell(self) -> None:
        """Say, above the transport, that nothing more comes."""

    async def _until(self, ready: Callable[[], bool], discard: bool) -> None:
        pause = 0.001
        while not self.is_over and not ready():
            if discard:
                self.resume_reading()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    def abort(self) -> None:
        """Cut it at once."""
        if self._made and not self._lost.done():
            self.transport.abort()


def _address(name: Any) -> Any:
    return name[:2] if isinstance(name, tuple) else name or None


class Arrival(asyncio.Protocol):
    """A client that has just connected.

    Args:
        admit: gives the Connection for its address, or None to refuse it.
        welcome: called with that Connection.
    """

    def __init__(
        self, admit: Callable[[Any], Connection | None], welcome: Callable[[Connection], None]
    ) -> None:
        self._admit = admit
        self._welcome = welcome

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        peer = _address(transport.get_extra_info("peername"))
        connection = self._admit(peer)
        if connection is None:
            transport.abort()
            return
        connection.protocol.peer = peer
        transport.set_protocol(connection)
        connection.connection_made(transport)
        self._welcome(connection)
