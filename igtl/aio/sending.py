"""The sending half of a connection in asyncio.

From the outbox of a session, through its layer, to the transport; and past all of them, straight to
the socket, while nothing waits. Only the latter happens in other threads too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from igtl._core import Frame
from igtl._stream import Passage, pass_on
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed, ProtocolError
from igtl.net.sockets import unsent
from igtl.session.layers import Layer
from igtl.session.packed import Packed
from igtl.session.session import SLICE, Session, closed_by

_BESIDE = 256 * 1024  # bytes from which a message is compressed in a thread


class Sending(Passage):
    """Sends what a session has to send. See `igtl.aio.transport.Connection`.

    Attributes:
        transport: of asyncio, once there is one.
    """

    transport: asyncio.Transport

    def __init__(self, session: Session, layer: Layer | None) -> None:
        super().__init__(session, layer)
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()  # after a handshake
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._descriptor = -1  # of the socket, if messages may be written to it past the transport
        self._broken: OSError | None = None  # the socket, when that was done
        self._full = False  # the transport asked for a pause
        self._finishing = False  # this end has said that nothing more comes
        self._handed = 0  # bytes
        self._room: asyncio.Future[None] | None = None
        self._putting = asyncio.Lock()
        self._compressing = asyncio.Lock()

    def pause_writing(self) -> None:
        """Note that the transport asks for a pause; asyncio calls this."""
        self._full = True

    def resume_writing(self) -> None:
        """Send again; asyncio calls this."""
        self._full = False
        # asyncio calls this from within its own write, and does not expect another one there
        self._loop.call_soon(self.flush)

    def resume(self) -> None:
        """Send what has left in part; in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything with it
            self._loop.call_soon_threadsafe(self.flush)

    def _send_layer(self) -> None:
        """Send what the layer has to send of its own."""
        assert self.layer is not None
        if (data := self.layer.outgoing()) and not self.transport.is_closing():
            self._handed += len(data)
            self.transport.write(data)

    def _send_closing(self) -> None:
        """Send the closing message of the layer, if there is one."""
        if self.layer is not None:
            self.layer.prepare_close(self.session.close_reason)
            self._send_layer()

    @property
    def _may_send(self) -> bool:
        """Whether the layer, if there is one, is through with its handshake."""
        return self._ready.done() and self._ready.exception() is None

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be sent."""
        return self._lost.done() or self._is_closing

    @property
    def _is_closing(self) -> bool:
        return hasattr(self, "transport") and self.transport.is_closing()

    @property
    def _buffered(self) -> int:
        """Bytes that asyncio holds."""
        return 0 if self._lost.done() else self.transport.get_write_buffer_size()

    @property
    def idle(self) -> bool:
        """Whether everything has left."""
        return not self.session.has_more and not self._buffered

    def put_now(self, wire: bytes) -> bool:
        """Hand a packed message to the system past the outbox, if nothing waits there.

        Returns whether it was handed over.
        """
        if self.pass_now(wire):
            return True
        if not self.is_open or len(wire) > SLICE or self.transport.is_closing():
            return False
        if not self._write(wire):
            return False
        self.session.protocol.stats.count_sent(wire, len(wire))
        return True

    def put(self, packed: Packed) -> None:
        """Send a packed message at once where nothing waits and its form is settled.

        Otherwise it is queued under the policy of the outbox.
        """
        protocol = self.session.protocol
        if (
            self.is_open
            and packed.whole(protocol.version) is not None
            and self.put_now(packed.wire_for(protocol))
        ):
            return
        self._queue(packed)
        self.flush()

    def _queue(self, packed: Packed) -> None:
        if self.is_over or self._finishing:
            self.session.protocol.stats.count_dropped(packed.wire, "disconnected")
            return
        self.take_over()
        self.session.put(packed)

    def pass_on(self, packed: Packed) -> bool:
        """Send a packed message at once if nothing waits, in any thread.

        Returns whether that was done; else give it to `put_left`, in the thread of the loop.
        """
        return not pass_on([self], packed)

    def put_left(self, packed: Packed) -> None:
        """As `put`, of a message that `pass_on` has left."""
        self.arrived()
        self.put(packed)

    def put_first(self, waiting: Iterable[Packed]) -> None:
        """Send these, between `take_over` and what other threads have sent since then."""
        for packed in waiting:
            self._queue(packed)
            self._hand_on()
        self.flush()

    def _packed(self, wire: bytes) -> Packed:
        return Packed(wire, as_it_is=True)

    async def send(self, message: Message | Frame, *, crc: bool = True, wait: bool = False) -> None:
        """Pack a message at once and queue it, compressed if the peer takes that.

        Args:
            message: a Frame is sent on as it came.
            crc: False writes 0 in its place.
            wait: for room, whatever the policy of the outbox.
        """
        await self.send_packed(self.session.pack(message, crc=crc), None, wait=wait)

    async def send_packed(
        self, packed: Packed, timeout: float | None, *, wait: bool = False
    ) -> None:
        """As `send`, of a packed message.

        Args:
            packed: the message.
            timeout: see put_wait.
            wait: see send.
        """
        protocol = self.session.protocol
        if protocol.peer_takes or self._compressing.locked():
            async with self._compressing:  # what is sent later stays behind it
                if packed.size >= _BESIDE:
                    await asyncio.to_thread(packed.wire_for, protocol)
                await self.queue(packed, timeout, wait=wait)
        else:
            await self.queue(packed, timeout, wait=wait)

    async def queue(self, packed: Packed, timeout: float | None, *, wait: bool = False) -> None:
        """Queue a packed message; wait for room where the policy is to block."""
        outbox = self.session.outbox
        assert outbox is not None
        if wait or outbox.policy == "block" or self.is_over:
            await self.put_wait(packed, timeout)
        else:
            self.put(packed)

    async def put_wait(self, packed: Packed, timeout: float | None) -> None:
        """Queue a packed message when there is room.

        If this is cancelled before, the message is not sent.

        Raises:
            ConnectionClosed: the connection is closed.
            TimeoutError: the peer took nothing for `timeout` seconds; the connection is cut.
        """
        outbox = self.session.outbox
        assert outbox is not None
        if self._putting.locked() or not outbox.has_room(packed.size):
            async with self._putting:  # first come, first served
                while not outbox.has_room(packed.size) and not self.is_over:
                    await self._wait_room(timeout)
        if self.is_over or self._finishing:
            reason = self.session.close_reason or ConnectionClosed("this link was closed")
            raise closed_by(self.session.protocol.peer, reason)
        self.put(packed)

    async def _wait_room(self, timeout: float | None) -> None:
        before = self.taken
        self._room = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._room
        except TimeoutError:
            if self.taken == before:
                error = TimeoutError(f"the peer took nothing for {timeout} s")
                self.session.lost(error)
                self.abort()
                raise error from None
        finally:
            self._room = None

    def _wake_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def flush(self) -> None:
        """Hand on what waits, until the transport asks for a pause."""
        self.take_over()
        self._hand_on()
        if (
            self._may_send
            and not (self._full or self.is_over or self.session.has_more)
            and not self._putting.locked()  # who waits for room comes first
        ):
            self.open(self._descriptor)
        self._wake_room()

    def take_over(self) -> None:
        """From here on this thread alone sends, until it flushes."""
        try:
            begun = self.shut()
        except OSError as error:
            self._broken = error
            self.transport.abort()
        else:
            if begun is not None:
                self.session.begun(*begun)

    def _hand_on(self) -> None:
        session = self.session
        if self.layer is not None and not self._full:
            self._send_layer()
        while not self._full and self._may_send and not self._is_closing:
            piece = session.to_send()
            if piece is None:
                self._flush_later()
                break
            if not self._write(piece):
                break
            session.sent(len(piece))

    def _flush_later(self) -> None:
        """Send what waits for the peer's header version when the time for that has passed."""
        if self.session.has_more and self._later is None:
            wait = max(0.0, self.session.next_deadline() - time.monotonic())
            self._later = self._loop.call_later(wait, self._flush_now)

    def _flush_now(self) -> None:
        self._later = None
        self.flush()

    def _write(self, data: bytes | memoryview) -> bool:
        """Hand bytes on; whether the layer takes them. If not, the connection is cut."""
        if self.layer is None:
            self._handed += len(data)
            self.transport.write(data)
            return True
        try:
            self.layer.wrap(data)
        except OSError as error:  # the peer has ended TLS or the WebSocket, or broken it
            self.session.lost(error)
            self.abort()
            return False
        self._send_layer()
        return True

    @property
    def taken(self) -> int:
        """Bytes that the peer's system has taken so far: while it stays the same, nothing arrives.

        Bytes that this end's system has taken, where it does not tell.
        """
        handed = self._handed + self.passed
        if self._lost.done() or self._is_closing:
            return handed
        sock = self.transport.get_extra_info("socket")
        return handed - self._buffered - unsent(sock)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is lost."""
        return self._lost.done()

    def abort(self) -> None:
        """Cut it at once."""
        if hasattr(self, "transport") and not self._lost.done():
            if isinstance(self.session.close_reason, ProtocolError):
                self._send_closing()  # it tells the peer why
            self.transport.abort()
