"""The RTP wrapper of the official library (docs/protocol.md section 10.3), as pure functions.

It splits messages of any size into datagrams. Only header version 2 messages can travel in it: the
fragment number lives in the message id, of which the lower 16 bits survive. A message whose id is
above 65,535 does not pass its CRC at the other end; the official receiver loses those above 255 as
soon as there are two fragments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from igtl.errors import BodyError, EncodeError

PAYLOAD_LENGTH: Final = 8900
PAYLOAD_TYPE: Final = 96
_RTP: Final = struct.Struct(">BBHII")
_FRONT: Final = 70  # header and extended header, which every packet repeats
_MAX_FRAGMENTS: Final = 8192


class Packet(NamedTuple):
    """One datagram, taken apart.

    Attributes:
        sequence, time, ssrc, payload_type: of the RTP header. time is in units of 10 ms.
        message_id: lower 16 bits of the message id.
        fragment: number of this fragment, from 0.
        last: whether it is the last one.
        front: header and extended header of the message, 70 bytes, id restored.
        data: this fragment's share of what follows them.
    """

    sequence: int
    time: int
    ssrc: int
    payload_type: int
    message_id: int
    fragment: int
    last: bool
    front: bytes
    data: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole message, as its header says."""
        return 58 + int.from_bytes(self.front[42:50], "big")

    @property
    def key(self) -> tuple[int, int, bytes]:
        """What only the fragments of one message share.

        It is their source, the sequence number of the first fragment, and the headers.
        """
        return self.ssrc, (self.sequence - self.fragment) & 0xFFFF, self.front


def split(
    message: bytes | memoryview,
    *,
    sequence: int,
    time: int,
    ssrc: int,
    payload_length: int = PAYLOAD_LENGTH,
    payload_type: int = PAYLOAD_TYPE,
) -> list[bytes]:
    """Return the datagrams of one packed message.

    Args:
        message: a whole message with header version 2.
        sequence: RTP sequence number of the first datagram (mod 2**16). The official library
            byte-swaps the start value that it is given on little-endian hosts.
        time: RTP time, wall clock in units of 10 ms (mod 2**32).
        ssrc: number of the source (mod 2**32), the same in all datagrams of a sender.
        payload_length: bytes of a datagram behind its 12-byte RTP header, at most.
        payload_type: of the RTP header; default that of the official library.

    Raises:
        EncodeError: header version 1, or more than 8192 fragments.
        ValueError: payload_length leaves no room for data, or exceeds what a datagram takes.
    """
    raw = memoryview(message).cast("B")
    room = payload_length - _FRONT
    if not 0 < room <= 65507 - _FRONT - _RTP.size:
        raise ValueError(f"payload_length {payload_length} is outside 71..65495")
    if bytes(raw[:2]) != b"\0\2" or len(raw) < _FRONT:
        raise EncodeError("rtp", "message", "only header version 2 fits RTP: pack with version=2")
    rest = raw[_FRONT:]
    total = max(1, -(-len(rest) // room))
    if total > _MAX_FRAGMENTS:
        raise EncodeError(
            "rtp", "message", f"{total} fragments, at most {_MAX_FRAGMENTS}: raise payload_length"
        )
    front, message_id = bytes(raw[:66]), bytes(raw[68:70])
    packets = []
    for k in range(total):
        field = 0 if total == 1 else (0xE000 if k == total - 1 else 0x8000) + k
        head = _RTP.pack(
            0x80, payload_type, (sequence + k) & 0xFFFF, time & 0xFFFFFFFF, ssrc & 0xFFFFFFFF
        )
        packets.append(
            b"".join(
                (head, front, message_id, field.to_bytes(2, "big"), rest[k * room : (k + 1) * room])
            )
        )
    return packets


def parse(packet: bytes | memoryview) -> Packet:
    """One datagram, taken apart.

    Raises:
        BodyError: the datagram is not one of this wrapper.
    """
    raw = bytes(packet)
    if len(raw) < _RTP.size + _FRONT:
        raise BodyError("rtp", "packet", f"has {len(raw)} bytes, at least {_RTP.size + _FRONT}")
    first, payload_type, sequence, time, ssrc = _RTP.unpack_from(raw)
    if first != 0x80:
        raise BodyError("rtp", "packet", f"first byte is {first:#04x}, not 0x80")
    if raw[12:14] != b"\0\2":
        raise BodyError("rtp", "packet", "holds no header version 2 message")
    message_id, field = struct.unpack_from(">HH", raw, 78)
    kind, fragment = field >> 13, field & 0x1FFF
    if kind not in (0b000, 0b100, 0b111) or (kind == 0 and fragment):
        raise BodyError("rtp", "fragment", f"{field:#06x} is not a fragment number")
    if kind and len(raw) == _RTP.size + _FRONT:
        raise BodyError("rtp", "fragment", f"{fragment} is empty")
    front = raw[12:78] + message_id.to_bytes(4, "big")
    return Packet(
        sequence,
        time,
        ssrc,
        payload_type & 0x7F,
        message_id,
        fragment,
        kind != 0b100,
        front,
        raw[82:],
    )


def join(packets: Iterable[Packet]) -> bytes:
    """Return the message of all its fragments, given in any order, duplicates allowed.

    Raises:
        BodyError: fragments are missing, or belong to different messages.
    """
    by_number = {p.fragment: p for p in packets}
    last = [p for p in by_number.values() if p.last]
    if len(last) != 1 or len(by_number) != last[0].fragment + 1:
        raise BodyError("rtp", "fragment", f"{len(by_number)} fragments are not a whole message")
    ordered = [by_number[k] for k in range(len(by_number))]
    if any(p.key != ordered[0].key for p in ordered):
        raise BodyError("rtp", "fragment", "fragments of different messages")
    return b"".join((ordered[0].front, *(p.data for p in ordered)))
