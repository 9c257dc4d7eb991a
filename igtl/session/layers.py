"""Byte layers between a session and its driver: TLS, WebSocket, and one on the other.

A layer turns the bytes of the network into the bytes of the session and back, without any I/O. A
driver feeds it what arrives, reads what that means, and sends what `outgoing` returns.
`igtl.session.tls.TLSLayer` and `igtl.session.websocket.WebSocketLayer` are layers; `Stack` puts one
on another.
"""

from __future__ import annotations

from typing import Protocol

SCRATCH = 256 * 1024  # bytes that a driver takes from the network at once


class Layer(Protocol):
    """What a driver asks of a layer.

    After an exception from `read_into` the driver sends what `outgoing` returns, which may tell the
    peer why, and gives the connection up.
    """

    @property
    def name(self) -> str:
        """What it is, for errors: while a handshake goes on, whose that is."""

    @property
    def ready(self) -> bool:
        """Whether the session's bytes may be sent: a handshake, if there is one, is done."""

    @property
    def clean_end(self) -> bool:
        """Whether the peer has said that it sends nothing more.

        Where it only closed the connection, a third party may have cut it.
        """

    def begin(self) -> None:
        """Prepare what this end sends first, once the connection exists."""

    def feed(self, data: memoryview) -> None:
        """Take bytes of the network."""

    def feed_eof(self) -> None:
        """Note that the network has reached its end."""

    def read_into(self, buffer: memoryview) -> int | None:
        """Write bytes for the session to the start of the buffer; returns how many.

        0 at the end, or None while there are none. A handshake goes on here.

        Raises:
            OSError: the layer has failed.
        """

    def wrap(self, data: memoryview | bytes) -> None:
        """Take bytes of the session, for `outgoing`."""

    def prepare_close(self, reason: Exception | None = None) -> None:
        """Prepare the message that says that this end sends nothing more.

        Args:
            reason: the error that ends the connection, if one does.
        """

    def outgoing(self) -> bytes:
        """Bytes for the network."""


class Stack:
    """A layer that stands on another one."""

    def __init__(self, upper: Layer, lower: Layer) -> None:
        self._upper = upper
        self._lower = lower
        self._begun = False
        self._scratch = memoryview(bytearray(SCRATCH))

    @property
    def name(self) -> str:
        """The name of the layer whose handshake is going on, else of the upper one."""
        return (self._upper if self._lower.ready else self._lower).name

    @property
    def ready(self) -> bool:
        """Whether the handshakes of both layers are done."""
        return self._lower.ready and self._upper.ready

    @property
    def clean_end(self) -> bool:
        """Whether the upper layer has ended cleanly; see `Layer.clean_end`."""
        return self._upper.clean_end  # its own message has come through the one below

    def begin(self) -> None:
        """Begin the lower layer, and the upper one when that is ready."""
        self._lower.begin()
        self._begin_upper()

    def _begin_upper(self) -> None:
        if self._lower.ready and not self._begun:
            self._begun = True
            self._upper.begin()

    def feed(self, data: memoryview) -> None:
        """Take bytes of the network, for the lower layer."""
        self._lower.feed(data)

    def feed_eof(self) -> None:
        """Note that the network has reached its end."""
        self._lower.feed_eof()

    def read_into(self, buffer: memoryview) -> int | None:
        """Write bytes of the upper layer to the start of the buffer; see `Layer.read_into`."""
        while (n := self._upper.read_into(buffer)) is None:
            below = self._lower.read_into(self._scratch)
            self._begin_upper()
            if below is None:
                return None
            if below:
                self._upper.feed(self._scratch[:below])
            else:
                self._upper.feed_eof()
        return n

    def wrap(self, data: memoryview | bytes) -> None:
        """Take bytes of the session, for the upper layer."""
        self._upper.wrap(data)

    def prepare_close(self, reason: Exception | None = None) -> None:
        """Prepare the closing messages of both layers; see `Layer.prepare_close`."""
        self._upper.prepare_close(reason)
        self._descend()
        self._lower.prepare_close(reason)

    def outgoing(self) -> bytes:
        """Bytes of the lower layer for the network."""
        self._descend()
        return self._lower.outgoing()

    def _descend(self) -> None:
        if self._lower.ready and (data := self._upper.outgoing()):
            self._lower.wrap(data)
