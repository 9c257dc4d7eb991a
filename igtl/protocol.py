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
from typing import Any, Literal, Self

from igtl import _core
from igtl._core import Decoder, Frame, Stats
from igtl.errors import EncodeError, MessageTooLarge, ProtocolError
from igtl.log import log
from igtl.message import CRCPolicy, Message
from igtl.messages.general import Status

PORT = 18944
"""The port OpenIGTLink uses by convention."""
MAX_SIZE = 1 << 30
Version = Literal["auto", 1, 2]
OnError = Literal["raise", "skip"]
Parts = list[bytes | memoryview]
"""Buffers to be sent one after the other."""


class Protocol:
    """One connection's stream of messages.

    Args:
        max_size: largest message accepted, header included; default 1 GiB. A larger one raises
            MessageTooLarge, and so does every later call: the framing is lost.
        crc: "verify" (default), "warn" or "off", see `igtl.unpack`.
        on_error: "raise" (default): a bad message raises from the iterator, and the next one
            can be read. "skip": it is only counted.
        version: header version written. "auto" (default): 1 until the peer has sent 2.
        cut_names: see `Message.pack`.
        peer: whom log records and messages name.

    Attributes:
        stats, peer_version, last_size: see there.
    """

    def __init__(
        self,
        *,
        max_size: int = MAX_SIZE,
        crc: CRCPolicy = "verify",
        on_error: OnError = "raise",
        version: Version = "auto",
        cut_names: bool = False,
        peer: Any = None,
    ) -> None:
        if version not in ("auto", 1, 2):
            raise ValueError(f"version must be 'auto', 1 or 2, not {version!r}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        if crc not in ("verify", "warn", "off"):
            raise ValueError(f"crc must be 'verify', 'warn' or 'off', not {crc!r}")
        self._decoder = Decoder(max_size, Stats())
        self._crc: CRCPolicy = crc
        self._on_error = on_error
        self._version: Version = version
        self._cut_names = cut_names
        self._warned = False
        self.peer = peer

    @property
    def stats(self) -> Stats:
        """Counters, see `igtl.Stats`."""
        stats = self._decoder.stats
        assert stats is not None
        return stats

    @property
    def peer_version(self) -> int:
        """Highest header version the peer has sent; 0 before its first message."""
        return self._decoder.peer_version

    @property
    def last_size(self) -> int:
        """Bytes of the last whole message."""
        return self._decoder.last_size

    # -- receiving

    def get_buffer(self) -> memoryview:
        """Memory for the next bytes from the peer; large bodies go straight into their own."""
        return self._decoder.get_buffer()

    def received(self, n: int) -> None:
        """n bytes were written to the start of what get_buffer returned."""
        self._decoder.received(n)

    def receive_data(self, data: Any) -> None:
        """Take bytes that arrived; they are copied."""
        self._decoder.feed(data)

    @property
    def at_boundary(self) -> bool:
        """Whether the peer may close now without cutting a message."""
        return self._decoder.at_boundary

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and nobody has taken: whoever has enough stops reading."""
        return self._decoder.waiting

    def next_frame(self) -> Frame | None:
        """The next whole message as it came, or None. Wrong CRCs and bad bodies included.

        Raises:
            MessageTooLarge, VersionError: see Protocol and Decoder.
        """
        try:
            return self._decoder.next_frame()
        except MessageTooLarge as error:
            if not self.stats.errors["MessageTooLarge"]:
                self.stats.count_error("MessageTooLarge")
                log(logging.WARNING, "%s: %s", self.peer, error, peer=self.peer,
                    size=error.size, cause=error)  # fmt: skip
            raise
        except ProtocolError as error:
            self.stats.count_error(type(error).__name__)
            raise

    def frames(self) -> Iterator[Frame]:
        """All whole messages so far, as they came: for relays and recorders."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def messages(self) -> Messages:
        """Iterator over all whole messages so far. After it raised, the next can be read."""
        return Messages(self)

    def next_message(self) -> Message | None:
        """The next message, or None while there is no whole one."""
        while True:
            try:
                frame = self.next_frame()
                if frame is None:
                    return None
                return self._unpack(frame)
            except MessageTooLarge:
                raise
            except ProtocolError as error:
                if self._on_error == "raise":
                    raise
                log(logging.DEBUG, "skipped a bad message of %s: %s", self.peer, error,
                    peer=self.peer, size=self.last_size, cause=error)  # fmt: skip

    def _unpack(self, frame: Frame) -> Message:
        try:
            message: Message = frame.unpack_from(self.peer, self._crc)
        except ProtocolError as error:
            self.stats.count_error(type(error).__name__, frame)
            raise
        if message.crc_ok is False:
            self.stats.count_error("CRCError", frame)
            if not self._warned:
                self._warned = True
                log(logging.WARNING, "%s sends wrong CRCs, first in %r", self.peer, message,
                    peer=self.peer, type=message.type_name, device=message.device_name,
                    size=len(frame), cause="CRCError")  # fmt: skip
        return message

    # -- sending

    @property
    def version(self) -> Literal[1, 2]:
        """Header version of what is sent now."""
        if self._version == "auto":
            return 2 if self._decoder.peer_version == 2 else 1
        return self._version

    def parts(self, message: Message | Frame, *, crc: bool = True) -> Parts:
        """As `send`, but not counted as sent."""
        if isinstance(message, Frame):
            return [message.data]
        return _core.pack(message, self._version_for(message), crc, self._cut_names, False)

    def pack(self, message: Message | Frame, *, crc: bool = True) -> bytes:
        """As `parts`, in one piece of its own: for whatever waits in a queue."""
        if isinstance(message, Frame):
            return bytes(message.data)
        return message.pack(version=self._version_for(message), crc=crc, cut_name=self._cut_names)

    def _version_for(self, message: Message) -> Literal[1, 2]:
        version = self.version
        if version == 1 and _core.needs_v2(message):
            what = "metadata" if message.metadata else "message_id"
            raise EncodeError(
                type(message).__name__,
                what,
                "this link still writes header version 1, which cannot carry it: connect with "
                "version=2, or with hello=True and wait for an answer",
            )
        return version

    def send(self, message: Message | Frame, *, crc: bool = True) -> Parts:
        """Buffers to write, one after the other. Large data is not copied; a Frame goes out as
        it came.

        Raises:
            EncodeError: the message cannot be sent as it is.
        """
        parts = self.parts(message, crc=crc)
        self.stats.count_sent(parts[0], sum(map(len, parts)))
        return parts

    def hello(self) -> Parts:
        """A version 2 STATUS that tells the peer that this end understands version 2."""
        wire = hello_message()
        self.stats.count_sent(wire, len(wire))
        return [wire]


def hello_message() -> bytes:
    """What `Protocol.hello` sends."""
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
