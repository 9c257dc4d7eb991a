"""Messages as datagrams: one message each, up to 65,507 bytes.

Nothing here recovers what the network loses, doubles or reorders.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Self

from igtl.errors import ConnectionClosed, EncodeError, ProtocolError
from igtl.message import CRCPolicy, Message, unpack
from igtl.protocol import PORT, OnError, Stats
from igtl.sync import wait_readable

MAX_DATAGRAM = 65507


class Sender:
    """Sends messages to one address.

    Args:
        host, port: where to.
    """

    def __init__(self, host: str, port: int = PORT) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self.address: Any = address
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self.stats = Stats()

    def send(self, message: Message, *, crc: bool = True) -> None:
        """Send one message as one datagram, header version 2 only if it needs it.

        Raises:
            EncodeError: it cannot be sent, or has more than 65,507 bytes.
        """
        wire = message.pack(crc=crc)
        if len(wire) > MAX_DATAGRAM:
            reason = f"{len(wire)} bytes do not fit a datagram of {MAX_DATAGRAM}: send it by TCP"
            raise EncodeError(type(message).__name__, "message", reason)
        self._sock.sendto(wire, self.address)
        self.stats.sent += 1
        self.stats.sent_bytes += len(wire)

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Receiver:
    """Receives messages on one port. Iterating yields (message, address) until it is closed.

    Args:
        port: default 18944; 0 takes a free one, see `port`.
        host: address to listen on, default loopback only; "0.0.0.0" for everybody.
        crc: see `igtl.unpack`.
        on_error: "skip" (default) counts datagrams that are no message, "raise" raises.
    """

    def __init__(
        self,
        port: int = PORT,
        host: str = "127.0.0.1",
        *,
        crc: CRCPolicy = "verify",
        on_error: OnError = "skip",
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.bind((host, port))
        self._crc: CRCPolicy = crc
        self._on_error = on_error
        self._closed = False
        self.host, self.port = self._sock.getsockname()[:2]
        self.stats = Stats()

    def recv(self, *, timeout: float | None = None) -> tuple[Message, Any]:
        """The next message and where it came from.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionClosed: the receiver was closed.
            ProtocolError: a bad datagram, with on_error="raise".
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                wait_readable(self._sock, None if deadline is None else deadline - time.monotonic())
                data, address = self._sock.recvfrom(MAX_DATAGRAM + 1)
            except TimeoutError:
                raise TimeoutError(f"no datagram within {timeout} s") from None
            except (OSError, ValueError) as error:
                if self._closed:
                    raise ConnectionClosed("this receiver was closed") from error
                raise
            if self._closed:
                raise ConnectionClosed("this receiver was closed")
            self.stats.received += 1
            self.stats.received_bytes += len(data)
            try:
                message = unpack(data, crc=self._crc)
            except ProtocolError as error:
                self.stats.errors[type(error).__name__] += 1
                if self._on_error == "raise":
                    raise
                continue
            message.peer = address
            message.received = time.time()
            return message, address

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Message, Any]:
        try:
            return self.recv()
        except ConnectionClosed:
            raise StopIteration from None

    def close(self) -> None:
        """Stop receiving; a recv that waits in another thread ends."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # wakes a waiting recv on Linux
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
