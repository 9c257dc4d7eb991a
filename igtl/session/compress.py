"""Links that compress, without I/O: who may be sent COMPRESSED messages, and how they are opened.

An end whose user asked for it (`connect(…, compression=True)`, `serve` and `listen` likewise) says
so by CAPABILITY with "COMPRESSED" among its types (and "COMPRESSED.Z", if it reads zstd), under the
device name "igtl.compression". A client sends it first; a server only in answer to one, so a
standard client never sees any of this. From then on each end wraps what pays, and opens
what comes. A peer that has not said so receives every message uncompressed; GET_CAPABIL is
never sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from igtl._core import Frame
from igtl._stream import Stream
from igtl.codec.compression import Compressed, Compression, has_zstd
from igtl.codec.message import Message, message_types
from igtl.errors import BodyError, MessageTooLarge, ProtocolError, VersionError
from igtl.log import log
from igtl.messages.general import Capability
from igtl.options import CRCPolicy
from igtl.session.protocol import Parts, Protocol

OFFER: Final = "igtl.compression"
TAKES: Final = "COMPRESSED"
TAKES_ZSTD: Final = "COMPRESSED.Z"


def capabilities(*, compression: bool) -> Capability:
    """Return the CAPABILITY with the message types that this end reads."""
    types = sorted(set(message_types()) - {TAKES})
    if compression:
        types += [TAKES, TAKES_ZSTD] if has_zstd() else [TAKES]
    return Capability(types)


class CompressingProtocol(Protocol):
    """A Protocol whose user asked for compression.

    Args:
        compression: how to compress.
        others: see Protocol.

    Attributes:
        peer_takes: see Protocol.
        answer: called with an offer that should be sent now, without waiting; returns
            whether it was. Else it goes out before the next message.
    """

    def __init__(self, compression: Compression, **settings: Any) -> None:
        super().__init__(**settings)
        self.compression = compression
        self._crc: CRCPolicy = settings.get("crc", "verify")
        self.answer: Callable[[bytes], bool] = lambda wire: False
        self._offered = False
        self._owed: list[bytes] = []

    def offer(self) -> bytes:
        """Return the CAPABILITY to send first, packed."""
        self._offered = True
        capability = capabilities(compression=True)
        capability.device_name = OFFER
        return super().pack(capability)

    # -- sending

    def wrap(self, wire: bytes) -> bytes:
        """Return a packed message, compressed if the peer reads that."""
        return self.compression.wrap(wire, zstd=self.method == "zstd") if self.peer_takes else wire

    def pack(self, message: Message | Frame, *, crc: bool = True) -> bytes:
        """See `Protocol.pack`; compressed if the peer reads that."""
        return self.wrap(super().pack(message, crc=crc))

    def parts(self, message: Message | Frame, *, crc: bool = True) -> Parts:
        """See `Protocol.parts`; compressed if the peer reads that, with an offer that is due."""
        parts: Parts = []
        if self.peer_takes:
            parts.append(self.pack(message, crc=crc))
        else:
            parts += super().parts(message, crc=crc)
        while self._owed:
            offer = self._owed.pop()
            self.stats.count_sent(offer, 0)  # whose bytes count with those of the message
            parts.append(offer)
        return parts

    # -- receiving

    def next_frame(self) -> Frame | None:
        """See `Protocol.next_frame`; a COMPRESSED is opened, unless it is damaged."""
        try:
            frame = self._next()
            if frame is None or frame.type_name != TAKES:
                return frame
            try:
                return self._opened(frame)
            except ProtocolError:
                return frame  # as it came; `decoded` says what is wrong
        except (MessageTooLarge, VersionError) as error:
            self._count_header(error)
            raise

    def next_message(self) -> Message | None:
        """See `Protocol.next_message`; a COMPRESSED is opened."""
        while True:
            try:
                frame = self._next()
                return None if frame is None else self.decoded(frame)
            except ProtocolError as error:
                self._failed(error)

    def decoded(self, frame: Frame) -> Message:
        """See `Protocol.decoded`; a COMPRESSED is opened."""
        if frame.type_name != TAKES:
            return super().decoded(frame)
        try:
            inner = self._opened(frame)
        except ProtocolError as error:
            self.stats.count_error(type(error).__name__, frame)
            raise
        return super().decoded(inner)

    def _next(self) -> Frame | None:
        """Return the next frame off the wire that is not the peer's offer."""
        while True:
            frame = Stream.next_frame(self)
            if frame is None or frame.type_name != Capability.type_name or not self._heard(frame):
                return frame

    def _heard(self, frame: Frame) -> bool:
        """Take note of what the peer reads; whether it is an offer, and no answer to a request."""
        try:
            types = frame.unpack().types  # type: ignore[attr-defined]
        except (ProtocolError, AttributeError):  # AttributeError: an empty one
            return False
        if TAKES in types:
            self.peer_takes = True
            self.method = "zstd" if TAKES_ZSTD in types else "deflate"
        if frame.device_name != OFFER:
            return False
        log(logging.INFO, "%s takes compressed messages", self.peer, peer=self.peer)
        if not self._offered:
            offer = self.offer()
            if not self.answer(offer):
                self._owed.append(offer)
        return True

    def _opened(self, frame: Frame) -> Frame:
        outer = frame.unpack(self._crc)
        if not isinstance(outer, Compressed):
            raise BodyError(TAKES, "payload", "is empty")
        try:
            return Frame.from_bytes(outer.wire(max_size=self.max_size))
        except ModuleNotFoundError as error:
            raise BodyError(TAKES, "method", str(error)) from None


def protocol_for(compression: Compression | bool, **settings: Any) -> Protocol:
    """Return the Protocol of a link: one that compresses, if that was asked for."""
    if compression is False:
        return Protocol(**settings)
    if compression is True:
        compression = Compression()
    return CompressingProtocol(compression, **settings)
