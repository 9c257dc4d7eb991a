"""Messages as datagrams, blocking; `igtl.net.datagrams` says what travels, and the arguments."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.net.datagrams import Incoming, Outgoing
from igtl.options import seconds

T = TypeVar("T")
_LINUX = sys.platform == "linux"


class Sender(Outgoing):
    """Sends messages to one address; arguments as `igtl.net.datagrams.Outgoing`."""

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message, header version 2 only if it needs it (or goes by RTP).

        Raises:
            EncodeError: it cannot be sent.
            ConnectionClosed: the sender was closed.
        """
        for packet in self._datagrams(message, crc):
            try:  # without `suppress`, which costs as much as packing
                self._sock.sendto(packet, self.address)
            except ConnectionRefusedError:
                continue  # an earlier one met a closed port, and UDP does not promise anything


class Receiver(Incoming):
    """Receives messages on one port; arguments as `igtl.net.datagrams.Incoming`.

    Iterating yields (message, address) until it is closed.
    """

    def recv(self, *, timeout: float | None = None) -> tuple[Message, Any]:
        """Receive the next message and where it came from.

        Raises:
            TimeoutError: none came within `timeout` seconds; None (the default) waits for ever.
            ConnectionClosed: the receiver was closed.
            ProtocolError: a bad datagram, with on_error="raise".
        """
        return self._next(self._take, timeout)

    def recv_frame(self, *, timeout: float | None = None) -> tuple[Frame, Any]:
        """As recv, but the message as it came: undecoded, its CRC unchecked."""
        return self._next(self._take_frame, timeout)

    def _next(self, take: Callable[..., T | None], timeout: float | None) -> tuple[T, Any]:
        timeout = seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                self._await(deadline)
                data, address, stamp = self._receive()
            except TimeoutError:
                now = time.monotonic()
                self._give_up(now)
                if deadline is not None and now >= deadline:
                    raise TimeoutError(f"no message within {timeout} s") from None
                continue
            except (OSError, ValueError) as error:
                if self._closed:
                    raise ConnectionClosed("this receiver was closed") from error
                raise
            if (found := take(data, address, stamp)) is not None:
                return found, address

    def _await(self, deadline: float | None) -> None:
        """Return when there is something to read.

        TimeoutError at the deadline, or when a message is to be given up.
        """
        until = self._expiry()
        if deadline is not None and deadline < until:
            until = deadline
        if until < math.inf:
            self._readable(until - time.monotonic())
        elif not _LINUX:  # elsewhere nothing but a time-out ends a receive
            self._readable(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Message, Any]:
        try:
            return self.recv()
        except ConnectionClosed:
            raise StopIteration from None

    def close(self) -> None:
        """Stop receiving; a recv that waits in another thread ends."""
        if self._end():
            with contextlib.suppress(OSError):  # wakes a waiting recv on Linux
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
