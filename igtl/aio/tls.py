"""TLS under an asyncio connection.

Not asyncio's own: that one does not tell a client why it was refused, and waits for the farewells
of peers that send none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from igtl.aio.connection import Connection
from igtl.protocol import Protocol
from igtl.queues import Queue
from igtl.tls import ALERT, CUT, HUNG_UP, RECORDS, not_tls

_SLICE = 256 * 1024


class TLSConnection(Connection):
    """A Connection whose bytes are encrypted on the way to the transport; `handshake` first."""

    def __init__(
        self,
        protocol: Protocol,
        outbox: Queue[bytes],
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        keepalive: float | None = None,
    ) -> None:
        super().__init__(protocol, outbox, keepalive=keepalive)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self._scratch = bytearray(_SLICE)
        self._heard = False  # whether the peer has said anything
        self._shaken = self._loop.create_future()

    async def handshake(self, timeout: float | None) -> None:
        """Agree with the peer on keys, each side checking the other's certificate.

        Raises:
            ssl.SSLError: a check failed; the text says which. The peer is told.
            TimeoutError: the peer was silent.
            ConnectionError: it hung up.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._shaken
        except TimeoutError:
            raise TimeoutError("the TLS handshake took too long") from None
        finally:
            if not self._ready and not self.transport.is_closing():
                self.abort()

    def _begin(self) -> None:
        self._handshake()

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            self._ready = True
            if not self._shaken.done():
                self._shaken.set_result(None)
            self._pump()

    def _fail(self, error: Exception) -> None:
        self._flush()  # the alert
        self.ended = self.ended or error
        if not self._shaken.done():
            self._shaken.set_exception(error)
        self.transport.close()
        self.on_bytes()

    def _flush(self) -> None:
        if (data := self._out.read()) and not self.transport.is_closing():
            self._written += len(data)
            self.transport.write(data)

    # -- callbacks of the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._scratch)

    def buffer_updated(self, nbytes: int) -> None:
        self._in.write(memoryview(self._scratch)[:nbytes])
        if not self._heard and self._scratch[0] not in RECORDS:
            self.transport.write(ALERT)
            self._fail(not_tls())
            return
        self._heard = True
        if not self._ready:
            self._handshake()
        if self._ready:
            self._decrypt()

    def eof_received(self) -> bool:
        self._in.write_eof()
        if self._ready:
            self._decrypt()
        else:
            self._fail(ConnectionResetError(HUNG_UP))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(ConnectionResetError(HUNG_UP))
        super().connection_lost(exc)

    def _decrypt(self) -> None:
        """Hand on what can be read, until it is enough."""
        if self.ended:
            return
        try:
            while self._reading:
                buffer: Any = super().get_buffer(-1)
                n: Any = self._tls.read(len(buffer), buffer)
                if n == 0:
                    self.ended = True
                    break
                if self._discarding is None:
                    self._arrived(n)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLEOFError:
            self.ended = ConnectionAbortedError(CUT)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()  # new keys, if the peer wants some
        self.on_bytes()

    def resume_reading(self) -> None:
        if not self._reading:
            super().resume_reading()
            self._loop.call_soon(self._decrypt)  # what was left when it was enough

    # -- sending

    def _write(self, data: bytes | memoryview) -> None:
        self._tls.write(data)
        self._flush()

    def _farewell(self) -> None:
        if self._ready:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()  # queues it, then wants the peer's
        self._flush()
