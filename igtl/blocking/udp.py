"""Messages as datagrams, blocking; `igtl.net.datagrams` says what travels, and the arguments."""

from __future__ import annotations

from typing import Any, Self

from igtl._core import Frame
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.net.datagrams import Incoming, Outgoing


class Sender(Outgoing):
    """Sends messages to one address; arguments as `igtl.net.datagrams.Outgoing`."""

    def send(self, message: Message | Frame, *, crc: bool = True) -> None:
        """Send one message, header version 2 only if it needs it (or goes by RTP).

        Raises:
            EncodeError: it cannot be sent.
            ConnectionClosed: the sender was closed.
        """
        self._send(message, crc)


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
        return self._receive(False, timeout)

    def recv_frame(self, *, timeout: float | None = None) -> tuple[Frame, Any]:
        """As recv, but the message as it came: undecoded, its CRC unchecked."""
        return self._receive(True, timeout)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Message, Any]:
        try:
            return self._receive(False, None)
        except ConnectionClosed:
            raise StopIteration from None
