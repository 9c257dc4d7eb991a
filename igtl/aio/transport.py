"""One connection in asyncio: moves the bytes of a session, perhaps through a layer such as TLS.

Nothing here is a task; the callbacks of asyncio's transport drive it. What waits to be sent stays
in the outbox of the session, under its policy, until the system takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast

from igtl._stream import Waiter
from igtl.aio.sending import Sending
from igtl.codec.message import Message
from igtl.log import log
from igtl.net.sockets import address_of, tune, unsent
from igtl.session.compress import CompressingProtocol
from igtl.session.layers import SCRATCH, Layer
from igtl.session.packed import Packed
from igtl.session.requests import Exchange
from igtl.session.session import Session

# What asyncio and the system hold back has left the outbox, so a pose cannot overtake it: the less,
# the sooner a pose leaves on a slow network. Fast ones were not measured to need more.
_HIGH = 0  # bytes in the transport's buffer beyond which it asks for a pause
_UNSENT = 32 * 1024  # bytes that the system may hold back
_LINGER = "hh" if sys.platform == "win32" else "ii"  # the layout of a struct linger
_GRACE = 0.5  # seconds for a peer to close after this end has said that nothing more comes


_of_thread = threading.local()


def _scratch() -> memoryview:
    """Memory for bytes that are used within the callback that brings them.

    There is one for all connections of an event loop.
    """
    found: memoryview | None = getattr(_of_thread, "scratch", None)
    if found is None:
        found = _of_thread.scratch = memoryview(bytearray(SCRATCH))
    return found


class Connection(Sending, asyncio.BufferedProtocol):
    """Drives a session over a transport of asyncio. See `igtl._stream.Passage`.

    Args:
        session: what happens on the connection; it has an outbox.
        layer: between the session and the network, for example TLS; None: nothing.
        keepalive: see `igtl.options.LinkOptions`.

    Attributes:
        resets: close by RST once the peer has closed, so that its system frees the port at once.
    """

    def __init__(
        self, session: Session, layer: Layer | None = None, *, keepalive: float | None = None
    ) -> None:
        super().__init__(session, layer)
        self._keepalive = keepalive
        self.waiter = Waiter(self._loop)
        self.on_change = self.waiter.wake
        self.resets = False
        self._taken = 0
        if isinstance(session.protocol, CompressingProtocol):
            session.protocol.answer = self._answer

    def _answer(self, offer: bytes) -> bool:
        self.put(Packed(offer, as_it_is=True))
        return True

    # -- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session; asyncio calls this."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH)
        with contextlib.suppress(OSError):  # the peer has gone already; reading will say so
            tune(transport.get_extra_info("socket"), self._keepalive, unsent_low=_UNSENT)
        session = self.session
        if self._writes_past(transport):
            self._descriptor = transport.get_extra_info("socket").fileno()
        session.local = address_of(transport.get_extra_info("sockname"))
        if session.protocol.peer is None:
            peer = address_of(transport.get_extra_info("peername"))
            session.protocol.peer = peer or session.local
        if self.layer is None:
            self._begin()
        else:
            self.layer.begin()
            self._send_layer()

    def _writes_past(self, transport: asyncio.BaseTransport) -> bool:
        """Return whether bytes of messages may be written to the socket past this transport.

        Those of asyncio that look for readiness close it after `connection_lost`, when no thread
        uses it any more. uvloop closes it before, and Windows writes to it by itself.
        """
        return (
            self.layer is None
            and not isinstance(self.session.protocol, CompressingProtocol)
            and isinstance(self._loop, asyncio.SelectorEventLoop)
            and sys.platform != "win32"
        )

    def _begin(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
        self.session.opened()
        self.flush()

    def eof_received(self) -> bool:
        """Note that the peer sends nothing more; asyncio calls this."""
        if self.layer is None:
            self.session.received_eof()
        else:
            self.layer.feed_eof()
            self._read_layer()
        self._turn()
        self.tell_end()
        return True  # half closed: this end may still send

    def connection_lost(self, exc: Exception | None) -> None:
        """End the session; asyncio calls this."""
        session = self.session
        self.stay_shut()
        self.take_over()
        exc = exc or self._broken
        error = exc or ConnectionResetError(f"the peer hung up during the {self._shaking}")
        if isinstance(exc, ConnectionError):
            self._read_rest()
        if exc is not None:
            session.lost(exc)
        elif self.layer is not None:
            session.received_eof(clean=self.layer.clean_end)
        else:
            session.received_eof()
        if not self._ready.done():
            self._fail_handshake(error)
        session.give_up("disconnected")
        if not self._lost.done():
            self._lost.set_result(None)
        if self._later is not None:
            self._later.cancel()
        self._wake_room()
        self.on_change()
        self.tell_end()

    def tell_end(self) -> None:
        """Tell the callbacks of the end that nothing more will arrive, once that is so.

        Not while something of it waits undecoded, which might be cut in the middle of a message.
        """
        session = self.session
        if session.protocol.at_boundary:
            session.end()
        session.over.tell(session.close_reason)

    def fileno(self) -> int:
        """See `igtl.session.facade.Carrier`."""
        if self._lost.done() or not hasattr(self, "transport"):
            return -1
        return int(self.transport.get_extra_info("socket").fileno())

    def _read_rest(self) -> None:
        """Take what came before the peer left: asyncio does not read it once a write has failed."""
        sock = self.transport.get_extra_info("socket")
        with (
            contextlib.suppress(OSError),
            socket.fromfd(sock.fileno(), sock.family, sock.type) as rest,
        ):
            rest.setblocking(False)
            while not self.session.ended and (n := rest.recv_into(self.get_buffer(-1))):
                self.buffer_updated(n)

    # -- receiving

    def _scratch(self) -> memoryview:
        return _scratch()

    def _feed(self, nbytes: int) -> None:
        assert self.layer is not None
        self.layer.feed(_scratch()[:nbytes])
        self._read_layer()

    def _read(self, wanted: bool) -> None:
        """Read, or stop reading."""
        if self.transport.is_closing():
            return
        self._reads = wanted
        if wanted:
            self.session.listens()
            self.transport.resume_reading()
        else:
            self.session.listened()
            self.transport.pause_reading()

    async def _rest(self) -> None:
        """As `more`, of a peer that has left, or is to go on within its time-out."""
        session = self.session
        if (end := session.end()) is not None:
            self.tell_end()
            raise end.with_traceback(None)
        deadline = session.next_deadline()
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        limit = asyncio.timeout(left)
        try:
            async with limit:
                self.update_reading()
                await self.waiter
        except TimeoutError:
            if not limit.expired():
                raise
            self.expired(time.monotonic())

    async def ask(
        self, exchange: Exchange, timeout: float | None, send: Callable[[], Awaitable[None]]
    ) -> Message:
        """Send a request and wait for its answer, while other tasks may send and receive.

        Args:
            exchange: the request.
            timeout: seconds; None waits without end.
            send: sends the request.

        Raises:
            TimeoutError: no answer came in time.
            ConnectionClosed: the connection ended before.
        """
        answer: asyncio.Future[Message] = self._loop.create_future()

        def done(result: Message | Exception) -> None:
            if answer.done():  # the task that asked was cancelled
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.session.sort()  # what came before is no answer
        self.session.ask(exchange, done)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                self.update_reading()
                await send()
                return await answer
        except TimeoutError:
            if limit.expired():
                raise self.session.unseen(exchange, timeout) from None
            raise
        finally:
            self.session.forget(exchange)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, if the task was cancelled meanwhile

    def _read_layer(self) -> None:
        session, layer = self.session, self.layer
        assert layer is not None
        try:
            while (n := layer.read_into(session.get_buffer())) is not None:
                if n == 0:
                    session.received_eof(clean=layer.clean_end)
                    break
                session.received(n)
        except OSError as error:
            self._send_layer()  # it may tell the peer why
            session.lost(error)
            self._fail_handshake(error)
            self.transport.close()
            return
        if not self._full:  # else `flush` does it, and the layer may sum up what it has
            self._send_layer()
        if layer.ready and not self._ready.done():
            self._begin()

    async def handshake(self, timeout: float | None) -> None:
        """Wait until messages may be sent; at once where there is no layer.

        Raises:
            OSError: the layer has failed, for example ssl.SSLError; this end sends the reason.
            TimeoutError: the peer was silent.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise TimeoutError(f"the {self._shaking} took too long") from None
        finally:
            if not self._may_send and not self.transport.is_closing():
                self.abort()

    @property
    def _shaking(self) -> str:
        """What goes on before messages may be sent."""
        return "connection" if self.layer is None else f"{self.layer.name} handshake"

    def count_refusal(self, refused: Counter[str], error: OSError) -> None:
        """Count and log that the handshake has failed."""
        assert self.layer is not None
        refused[self.layer.name.lower()] += 1
        peer = self.session.protocol.peer
        log(logging.WARNING, "%s: %s failed: %s", peer, self._shaking, error,
            peer=peer, cause=error)  # fmt: skip

    def _fail_handshake(self, error: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # the task that waits for it may be gone

    # -- time

    def expired(self, now: float) -> str | None:
        """End the connection if the peer has exceeded a limit, see `Session.expired`."""
        if self.idle:  # without a look at what the system holds
            self.session.moved = now
        elif (taken := self.taken) != self._taken:
            self._taken, self.session.moved = taken, now
        self.session.held = self._buffered
        cause = self.session.expired(now)
        if cause is not None:
            self.session.give_up(cause)
            self.abort()
        return cause

    # -- the end

    async def finish(self, timeout: float | None, *, discard: bool = True) -> None:
        """Send what waits, let the peer's system take it, and close.

        Args:
            timeout: seconds; then it is cut. None: wait without end.
            discard: throw away what comes meanwhile. Else say that nothing more comes, and go on
                receiving for a moment, until the peer closes too.
        """
        if not hasattr(self, "transport"):
            return
        self._discards = discard
        self.stay_shut()  # what other threads send from here on goes through this one
        self.take_over()
        self.flush()
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._until(lambda: self.idle and not unsent(sock), discard)
                if not self.is_over:
                    self._finishing = True
                    self._send_closing()
                if not discard and not self._is_closing:
                    with contextlib.suppress(OSError):  # the peer has just reset it
                        self.transport.write_eof()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_GRACE):
                            await self._until(lambda: self.session.ended, discard)
                if not self._is_closing:
                    self._close()
                await asyncio.shield(self._lost)
        self.abort()
        await asyncio.shield(self._lost)

    def _close(self) -> None:
        if self.resets and self.session.ended:
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER, 1, 0)
                )
        self.transport.close()

    async def _until(self, ready: Callable[[], bool], discard: bool) -> None:
        pause = 0.001
        while not self._lost.done() and not self._is_closing and not ready():
            if discard and not self._reads:
                self._reads = True
                self.transport.resume_reading()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    def abort_threadsafe(self) -> None:
        """As abort, from any thread, for example a collector of garbage."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and everything with it
            self._loop.call_soon_threadsafe(self.abort)
