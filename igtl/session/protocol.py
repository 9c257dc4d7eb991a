"""Sans-I/O: a stream of bytes to messages and back, for any transport.

    p = igtl.Protocol()
    n = sock.recv_into(p.get_buffer()); p.received(n)     # or p.receive_data(chunk)
    for message in p.messages(): ...
    for part in p.send(message): sock.sendall(part)

A Protocol belongs to one connection and one owner at a time. It keeps what has arrived in part,
so a time-out or a cancelled wait never loses a byte.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Self

from igtl import _stream
from igtl._core import Frame
from igtl._stream import Stats
from igtl.codec.message import Message
from igtl.errors import MessageTooLarge, ProtocolError, VersionError
from igtl.log import log
from igtl.messages.general import Status
from igtl.options import MAX_SIZE, CRCPolicy, OnError, Version

Parts = list[bytes | memoryview]
"""Buffers to be sent one after the other."""


class Protocol(_stream.Stream):
    """One connection's stream of messages.

    Args:
        max_size: largest message accepted, header included; default 1 GiB, at least 58 bytes. A
            larger one raises MessageTooLarge, and so does every later call: the framing is lost.
        crc: "verify" (default), "warn" or "off", see `igtl.unpack`.
        on_error: "raise" (default): a bad message raises from the iterator, and the next one
            can be read. "skip": it is only counted.
        version: header version written. "auto" (default): 1 until the peer has sent 2.
        cut_names: see `Message.pack`.
        resync: when a message is wrong, look for the next header in it instead of losing the
            framing: for a peer that breaks off and begins again, as PLUS does. Costs the CRC of
            each message, also with crc="off". What was given up is counted in
            `stats.dropped["resync"]`; headers of unknown versions and too large messages are passed
            over alike. Default: no.
        peer: whom log records and messages name.

    Attributes:
        stats, peer_version, last_size: see there.
        peer_takes: whether the peer has said that it reads COMPRESSED messages, and this end's
            user has asked for them; see `igtl.session.compress`.
        method: which of them, "" for none.
        stripped: messages that the peer got without their metadata and id, because it has not shown
            that it understands header version 2.
    """

    method = ""

    def wrap(self, wire: bytes) -> bytes:
        """Return a packed message as this peer should get it."""
        return wire

    def __init__(
        self,
        *,
        max_size: int = MAX_SIZE,
        crc: CRCPolicy = "verify",
        on_error: OnError = "raise",
        version: Version = "auto",
        cut_names: bool = False,
        resync: bool = False,
        peer: Any = None,
    ) -> None:
        if version not in ("auto", 1, 2):
            raise ValueError(f"version must be 'auto', 1 or 2, not {version!r}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        super().__init__(
            max_size, Stats(), crc, 0 if version == "auto" else version, cut_names, peer, resync
        )
        self._on_error = on_error
        self._warned = False
        self.stripped = 0

    # -- receiving

    def next_frame(self) -> Frame | None:
        """Return the next whole message as bytes, or None. Wrong CRCs and bad bodies are included.

        Raises:
            MessageTooLarge, VersionError: see Protocol and Decoder.
        """
        try:
            return super().next_frame()
        except ProtocolError as error:
            self._count_header(error)
            raise

    def _count_header(self, error: ProtocolError) -> None:
        """Count a message whose header is unusable."""
        if not isinstance(error, MessageTooLarge):
            self.stats.count_error(type(error).__name__)
        elif not self.stats.errors["MessageTooLarge"]:  # which is raised again and again
            self.stats.count_error("MessageTooLarge")
            log(logging.WARNING, "%s: %s", self.peer, error, peer=self.peer,
                size=error.size, cause=error)  # fmt: skip

    def frames(self) -> Iterator[Frame]:
        """Yield all whole messages so far, as received bytes: for relays and recorders."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def messages(self) -> Messages:
        """Return an iterator over all whole messages so far.

        After it raised, the next can be read.
        """
        return Messages(self)

    def _failed(self, error: ProtocolError) -> None:
        """Count a message that cannot be used; called by `next_message`."""
        if isinstance(error, MessageTooLarge | VersionError):
            self._count_header(error)
        if isinstance(error, MessageTooLarge) or self._on_error == "raise":
            raise error
        log(logging.DEBUG, "skipped a bad message of %s: %s", self.peer, error,
            peer=self.peer, size=self.last_size, cause=error)  # fmt: skip

    def _warn(self, message: Message) -> None:
        if not self._warned:
            self._warned = True
            log(logging.WARNING, "%s sends wrong CRCs, first in %r", self.peer, message,
                peer=self.peer, type=message.type_name, device=message.device_name,
                size=self.last_size, cause="CRCError")  # fmt: skip

    def decoded(self, frame: Frame) -> Message:
        """Return the message in a frame that was taken from `frames` before.

        Raises:
            ProtocolError: as next_message, and counted alike.
        """
        self.last_size = len(frame)
        message = super().decoded(frame)
        if message.crc_ok is False:
            self._warn(message)
        return message

    def send(self, message: Message | Frame, *, crc: bool = True) -> Parts:
        """Buffers to write, one after the other.

        Large data is not copied; a Frame is sent unchanged.

        Raises:
            EncodeError: the message cannot be sent as it is.
        """
        parts = self.parts(message, crc=crc)
        self.stats.count_sent(parts, sum(map(len, parts)))
        return parts

    def hello(self) -> Parts:
        """Return a version 2 STATUS that tells the peer that this end understands version 2."""
        wire = hello_message()
        self.stats.count_sent(wire, len(wire))
        return [wire]


def hello_message() -> bytes:
    """Return what `Protocol.hello` sends."""
    # code 1 and a name: bare or nameless ones are ignored by Slicer's network code, or end it
    return Status.ok(device_name="igtl").pack(version=2)


class Messages:
    """Iterator over the whole messages in a Protocol; a class, so that it survives raising."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        message = self._protocol.next_message()
        if message is None:
            raise StopIteration
        return message
