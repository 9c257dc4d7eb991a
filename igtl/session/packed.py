"""A message that was packed once, and the forms of it that different peers get.

Version and compression are decided where a message leaves, for each connection. A form that is
not there yet is made of the packed bytes on demand and kept, so a broadcast is packed once for each
form in use, and a client that connects meanwhile gets the right one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from igtl import _core
from igtl._core import Frame
from igtl._stream import Wire
from igtl.codec.compression import stream_of
from igtl.session.protocol import Protocol

# extended header: size 12, index of the metadata 2 bytes, no metadata, message id 0
_EXTENDED: Final = b"\0\x0c\0\x02" + bytes(8)
_NO_METADATA: Final = b"\0\0"


class Form(NamedTuple):
    """A message in one header version.

    Attributes:
        wire: its bytes.
        lost: what version 1 could not hold: "metadata", "message id".
    """

    wire: bytes
    lost: tuple[str, ...] = ()


def in_version(wire: bytes, version: int) -> Form:
    """Return a packed message in the other header version (docs/protocol.md section 5).

    The content is the same, with or without an extended header. A message that has nothing else in
    its body becomes version 1, as links write it.

    A wrong CRC stays wrong. A body whose extended header makes no sense stays as it is, in its own
    version.
    """
    now = int.from_bytes(wire[:2], "big") or 1
    body = memoryview(wire)[58:]
    if len(body) in (0, 14) and bytes(body) in (b"", _EXTENDED + _NO_METADATA):
        version = 1
    if now == version or now > 2:
        return Form(wire)
    lost: tuple[str, ...] = ()
    if version == 2:
        new = b"".join((_EXTENDED, body, _NO_METADATA))
    else:
        size, index = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        metadata = index + int.from_bytes(body[4:8], "big")
        if size < 12 or size + metadata > len(body):
            return Form(wire)
        new = bytes(body[size : len(body) - metadata])
        if metadata > len(_NO_METADATA):
            lost += ("metadata",)
        if any(body[8:12]):
            lost += ("message id",)
    wrong = int.from_bytes(wire[50:58], "big") ^ _core.crc64(body)
    crc = _core.crc64(new) ^ wrong
    head = version.to_bytes(2, "big") + wire[2:42] + len(new).to_bytes(8, "big")
    return Form(b"".join((head, crc.to_bytes(8, "big"), new)), lost)


class Packed(Wire):
    """A packed message and its forms.

    Args:
        wire: the message as it was packed.
        as_it_is: it goes to every peer in this very form, as a relayed frame does.

    Attributes:
        wire: see there.
        size: its bytes, as bounds count them.
        others: see `igtl._stream.Wire`.
    """

    __slots__ = ()

    @classmethod
    def of(cls, frame: Frame) -> Packed:
        """Return a frame that is sent on as it came."""
        return cls(bytes(frame.data), as_it_is=True)

    @property
    def stream(self) -> bytes:
        """Type and device name, which lanes and policies go by."""
        return stream_of(self.wire)

    def form(self, version: int) -> Form:
        """Return the message in this header version, or as it is."""
        if self.version in (0, version):
            return Form(self.wire)
        if self.other is None:
            self.other = in_version(self.wire, version)
        return self.other

    def whole(self, version: int) -> bytes | None:
        """Return its bytes in this header version; None where that cannot hold all of it."""
        form = self.form(version)
        return None if form.lost else form.wire

    def wire_for(self, protocol: Protocol) -> bytes:
        """Return the bytes that the peer of this protocol gets, compressed if it takes that.

        A message that loses what version 1 cannot hold is counted in `protocol.stripped`.
        """
        form = self.form(protocol.version)
        protocol.stripped += bool(form.lost)
        if not protocol.peer_takes:
            return form.wire
        if self.compressed is None:
            self.compressed = {}
        key = protocol.version, protocol.method
        if key not in self.compressed:
            self.compressed[key] = protocol.wrap(form.wire)
        return self.compressed[key]
