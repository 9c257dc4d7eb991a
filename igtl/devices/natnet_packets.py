"""Packets of NatNet 3 and 4, as far as rigid bodies need them. No I/O.

All numbers are little-endian. A packet is an id and the number of its bytes (u16 each), and these.
A frame of data is a number (i32) and sections, each a count and that many elements: marker sets,
unlabelled markers, rigid bodies, skeletons, assets (from 4.1 on), labelled markers, force plates,
devices. From 4.1 on the size of a section in bytes (u32) follows its count. Then come time codes
and stamps. Positions are in metres, quaternions (x, y, z, w).
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

CONNECT: Final = 0
SERVER_INFO: Final = 1
REQUEST_MODELS: Final = 4
MODELS: Final = 5
FRAME: Final = 7
KEEP_ALIVE: Final = 10
UNRECOGNIZED: Final = 100
Version = tuple[int, int]
FIRST: Final[Version] = (3, 0)
"""The oldest version that is read here."""
_SIZED: Final[Version] = (4, 1)
_NAMED_MARKERS: Final[Version] = (4, 0)
_NAME: Final = 256  # bytes of the server's name
_BODY: Final = struct.Struct("<i7ffH")
_MARKER: Final = 26  # bytes: id, position, size, parameters, residual
_SUFFIX: Final = struct.Struct("<IIdQQQ")  # time code and its part, seconds, three stamps
_TRACKED: Final = 1


class ServerInfo(NamedTuple):
    """What a server says of itself.

    Attributes:
        name: of the program.
        version: of its packets.
        frequency: ticks a second of its stamps; 0: not told.
    """

    name: str
    version: Version
    frequency: int


class Body(NamedTuple):
    """A rigid body in a frame.

    Attributes:
        number: its id.
        position: metres.
        quaternion: (x, y, z, w).
        error: mean error of its markers, metres.
        tracked: whether it is seen.
    """

    number: int
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    error: float
    tracked: bool


class Frame(NamedTuple):
    """A frame of data.

    Attributes:
        number: of the frame.
        bodies: the rigid bodies.
        latency: ticks from the middle of the exposure until it was sent; 0: not told.
    """

    number: int
    bodies: list[Body]
    latency: int


class _Cursor:
    """Reads from a packet, and never beyond it.

    Raises:
        ValueError: the packet ends too early, or counts what it cannot hold.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def skip(self, size: int) -> None:
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"NatNet packet of {len(self._data)} bytes is cut at {self._at}")
        self._at += size

    def read(self, form: struct.Struct) -> tuple[Any, ...]:
        at = self._at
        self.skip(form.size)
        return form.unpack_from(self._data, at)

    def number(self) -> int:
        """Return a 32-bit integer."""
        at = self._at
        self.skip(4)
        return int.from_bytes(self._data[at : self._at], "little", signed=True)

    def count(self, least: int) -> int:
        """Return a number of elements, each of so many bytes at least."""
        found = self.number()
        if not 0 <= found * least <= len(self._data) - self._at:
            raise ValueError(f"NatNet packet counts {found} elements, which it has no room for")
        return found

    def text(self) -> str:
        """Text up to a NUL."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ValueError("NatNet packet has a text without end")
        found = self._data[self._at : end]
        self._at = end + 1
        return found.decode(errors="replace")

    @property
    def at(self) -> int:
        return self._at


def packet(number: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a packet."""
    return struct.pack("<HH", number, len(payload)) + payload


def split(data: bytes) -> tuple[int, bytes]:
    """Id and payload of a packet.

    Raises:
        ValueError: the packet is cut.
    """
    if len(data) < 4:
        raise ValueError(f"a NatNet packet has 4 bytes at least, not {len(data)}")
    number, size = struct.unpack_from("<HH", data)
    if len(data) < 4 + size:
        raise ValueError(f"NatNet packet of {size} bytes is cut after {len(data) - 4}")
    return number, data[4 : 4 + size]


def read_server_info(payload: bytes) -> ServerInfo:
    """Read the payload of SERVER_INFO.

    Raises:
        ValueError: the payload is damaged.
    """
    cursor = _Cursor(payload)
    cursor.skip(_NAME)
    name = payload[:_NAME].partition(b"\0")[0].decode(errors="replace")
    *_, major, minor, _, _ = cursor.read(struct.Struct("<8B"))  # of the program, of the packets
    room = len(payload) - cursor.at >= 8
    frequency = cursor.read(struct.Struct("<Q"))[0] if room else 0
    return ServerInfo(name, (major, minor), frequency)


def read_names(payload: bytes, version: Version) -> dict[int, str]:
    """Read the payload of MODELS: the names of the rigid bodies by their id.

    Before 4.1 the descriptions behind one of an unknown kind cannot be found: they are left out.

    Raises:
        ValueError: the payload is damaged.
    """
    cursor = _Cursor(payload)
    names: dict[int, str] = {}
    for _ in range(cursor.count(4)):
        kind = cursor.number()
        end = None
        if version >= _SIZED:
            size = cursor.number()
            end = cursor.at + size
        if kind == 0:  # marker set
            cursor.text()
            for _ in range(cursor.count(1)):
                cursor.text()
        elif kind == 1:
            number, name = _described_body(cursor, version)
            names[number] = name
        elif kind == 2:  # skeleton
            cursor.text()
            cursor.skip(4)
            for _ in range(cursor.count(1)):
                _described_body(cursor, version)
        elif end is None:
            break
        if end is not None:
            cursor.skip(end - cursor.at)
    return names


def _described_body(cursor: _Cursor, version: Version) -> tuple[int, str]:
    name = cursor.text()
    number = cursor.number()
    cursor.skip(4 + 12)  # parent, offset
    markers = cursor.count(16)
    cursor.skip(16 * markers)  # positions, labels
    if version >= _NAMED_MARKERS:
        for _ in range(markers):
            cursor.text()
    return number, name


def read_frame(payload: bytes, version: Version) -> Frame:
    """Read the payload of FRAME.

    Raises:
        ValueError: the payload is damaged.
    """
    cursor = _Cursor(payload)
    number = cursor.number()
    for _ in range(_section(cursor, version, 5)):  # marker sets
        cursor.text()
        cursor.skip(12 * cursor.count(12))
    cursor.skip(12 * _section(cursor, version, 12))  # markers without label
    bodies = [_body(cursor) for _ in range(_section(cursor, version, _BODY.size))]
    for _ in range(_section(cursor, version, 8)):  # skeletons
        cursor.skip(4)
        cursor.skip(_BODY.size * cursor.count(_BODY.size))
    if version >= _SIZED:
        for _ in range(_section(cursor, version, 12)):  # assets
            cursor.skip(4)
            cursor.skip(_BODY.size * cursor.count(_BODY.size))
            cursor.skip(_MARKER * cursor.count(_MARKER))
    cursor.skip(_MARKER * _section(cursor, version, _MARKER))
    for _ in range(2):  # force plates, devices
        for _ in range(_section(cursor, version, 8)):
            cursor.skip(4)
            for _ in range(cursor.count(4)):  # channels
                cursor.skip(4 * cursor.count(4))
    _, _, _, exposed, _, sent = cursor.read(_SUFFIX)
    return Frame(number, bodies, sent - exposed if 0 < exposed <= sent else 0)


def _section(cursor: _Cursor, version: Version, least: int) -> int:
    found = cursor.count(least)
    if version >= _SIZED:
        cursor.skip(4)
    return found


def _body(cursor: _Cursor) -> Body:
    number, *place, error, parameters = cursor.read(_BODY)
    x, y, z, qx, qy, qz, qw = place
    return Body(number, (x, y, z), (qx, qy, qz, qw), error, bool(parameters & _TRACKED))
