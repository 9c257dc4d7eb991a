"""Wrong bytes: an IgtlError or a value, never anything else, never a hang, nothing allocated on
the word of a header."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from tests import reference, strategies
from tests.conftest import VECTORS, manifest
from tests.wire import extended, frame, mended


def smallest() -> list[tuple[str, bytes]]:
    """The smallest vector of each type that has content, in both header versions."""
    found: dict[tuple[str, int], bytes] = {}
    for v in sorted(manifest(), key=lambda v: v["size"]):
        empty = v["body_size"] - (14 if v["header_version"] == 2 else 0) <= 0
        if not empty:
            found.setdefault((v["type"], v["header_version"]), (VECTORS / v["file"]).read_bytes())
    return [(f"{t}_v{n}", wire) for (t, n), wire in sorted(found.items())]


SMALLEST = smallest()
each = pytest.mark.parametrize("wire", [w for _, w in SMALLEST], ids=[n for n, _ in SMALLEST])


def check(wire: bytes) -> igtl.Message | None:
    """Decode; what is accepted must print, and pack to the same bytes."""
    try:
        m = igtl.unpack(wire)
    except igtl.IgtlError:
        return None
    repr(m)
    m.to_dict()
    dict(m.metadata)
    assert m.pack() == wire
    if wire[0:2] == b"\0\1" and type(m).type_name and not coded(type(m)):
        assert reference.accepts(type(m), wire[58:]), m
    return m


def coded(cls: Any) -> bool:
    return any(f.kind == "coded" for f in cls.__fields__)


@each
def test_content_cut_at_every_length(wire: bytes) -> None:
    content = wire[58:]
    lengths = (
        range(len(content))
        if len(content) < 2000
        else random.Random(1).sample(range(len(content)), 2000)
    )
    for length in lengths:
        check(mended(wire[: 58 + length]))


@each
def test_a_bit_flipped_at_every_byte(wire: bytes) -> None:
    rng = random.Random(2)
    places = (
        range(58, len(wire))
        if len(wire) < 2000
        else [*range(58, 158), *rng.sample(range(158, len(wire)), 1000)]
    )
    for at in places:
        flipped = bytearray(wire)
        flipped[at] ^= 1 << rng.randrange(8)
        check(mended(bytes(flipped)))


@each
def test_bytes_set_to_extremes(wire: bytes) -> None:
    """Counts and lengths at their largest and at zero, alone and with all that follows."""
    for at in range(58, min(len(wire), 58 + 200)):
        for value in (0, 0x7F, 0xFF):
            for width in (1, 2, 4, 8):
                changed = wire[:at] + bytes([value]) * width + wire[at + width :]
                check(mended(changed[: len(wire)]))


@each
def test_a_wrong_crc_under_each_policy(wire: bytes) -> None:
    flipped = bytearray(wire)
    flipped[57] ^= 1
    with pytest.raises(igtl.CRCError) as caught:
        igtl.unpack(bytes(flipped))
    assert caught.value.expected != caught.value.actual
    assert igtl.unpack(bytes(flipped), crc="warn").crc_ok is False
    assert igtl.unpack(bytes(flipped), crc="off").crc_ok is None


@pytest.mark.parametrize("cls", strategies.TYPES, ids=lambda c: c.type_name)
@given(content=st.binary(max_size=120))
def test_random_content(cls: type[igtl.Message], content: bytes) -> None:
    check(frame(cls.type_name, content))


def test_not_one_whole_message() -> None:
    wire = igtl.Status.ok().pack()
    for bad in (b"", wire[:57], wire[:-1], wire + b"\0", wire + wire):
        with pytest.raises(igtl.ProtocolError):
            igtl.unpack(bad)


def test_versions() -> None:
    wire = igtl.Status.ok("up", device_name="D").pack(version=1)
    assert igtl.unpack(b"\0\0" + wire[2:]).is_ok  # 0 is read like 1
    for version in (3, 4, 0xFFFF):
        with pytest.raises(igtl.VersionError) as caught:
            igtl.unpack(struct.pack(">H", version) + wire[2:])
        assert caught.value.version == version


LIES = {
    "200 dimensions": frame("NDARRAY", b"\x03\xc8" + b"\xff\xff" * 200),
    "255 dimensions, some empty": frame("NDARRAY", b"\x03\xff" + bytes(510)),
    "65535 children": frame("BIND", b"\xff\xff" + b"STRING".ljust(12, b"\0") + b"\xff" * 8),
    "a child of 2**64-1 bytes": frame(
        "BIND", b"\0\1" + b"STRING".ljust(12, b"\0") + b"\xff" * 8 + b"\0\2A\0"
    ),
    "an image of 65535 cubed": frame(
        "IMAGE",
        bytes((0, 1, 255, 11, 2, 1))
        + b"\xff\xff" * 3
        + bytes(48)
        + bytes(6)
        + b"\xff\xff" * 3
        + b"x",
    ),
    "a part outside its image": frame(
        "IMAGE",
        bytes((0, 1, 1, 3, 2, 1)) + b"\0\1" * 3 + bytes(48) + b"\0\1" * 3 + b"\0\1" * 3 + b"x",
    ),
    "2**32-1 points": frame("POLYDATA", b"\xff" * 4 + bytes(36)),
    "2**32-1 attributes": frame("POLYDATA", bytes(36) + b"\xff" * 4),
    "2**32-1 cells": frame("POLYDATA", bytes(12) + b"\xff" * 4 + bytes(24)),
    "a cell that overruns": frame(
        "POLYDATA", struct.pack(">10I", 0, 0, 0, 1, 8, 0, 0, 0, 0, 0) + struct.pack(">II", 7, 0)
    ),
    "a cell section that overruns": frame(
        "POLYDATA", struct.pack(">10I", 0, 0, 0, 1, 0xFFFFFFF0, 0, 0, 0, 0, 0)
    ),
    "fewer cells than announced": frame(
        "POLYDATA", struct.pack(">10I", 0, 0, 0, 2, 8, 0, 0, 0, 0, 0) + struct.pack(">II", 1, 0)
    ),
    "attribute of 2**32-1 tuples": frame(
        "POLYDATA", bytes(36) + struct.pack(">IBBI", 1, 0, 255, 0xFFFFFFFF) + b"a\0"
    ),
    "attribute name without end": frame(
        "POLYDATA", bytes(36) + struct.pack(">IBBI", 1, 0, 1, 0) + b"a" * 300
    ),
    "string longer than its content": frame("STRING", b"\0\3\xff\xffhi"),
    "command of 4 GiB": frame("COMMAND", bytes(132) + b"\0\3\xff\xff\xff\xff<x/>"),
    "255 sensor values": frame("SENSOR", b"\xff\0" + bytes(8) + bytes(16)),
    "extended header of 4": frame("STATUS", extended(bytes(31), ext=4), version=2),
    "extended header beyond the body": frame("STATUS", extended(bytes(31), ext=60000), version=2),
    "no room for an extended header": frame("STATUS", b"\0\x0c\0\2", version=2),
    "metadata header of 0": frame("STATUS", extended(bytes(31), mh=0), version=2),
    "metadata beyond the body": frame("STATUS", extended(bytes(31), ms=0xFFFFFFFF), version=2),
    "65535 metadata entries": frame("STATUS", extended(bytes(31), b"\xff\xff"), version=2),
    "metadata entries longer than announced": frame(
        "STATUS", extended(bytes(31), struct.pack(">HHHI", 1, 3, 3, 99), b"abc"), version=2
    ),
    "metadata shorter than announced": frame(
        "STATUS", extended(bytes(31), struct.pack(">HHHI", 1, 1, 3, 1), b"abcdef"), version=2
    ),
    "position of 13 bytes": frame("POSITION", bytes(13)),
    "colour table of an unknown type": frame("COLORT", b"\x09\x03" + bytes(256)),
    "colour table that is short": frame("COLORT", b"\x05\x05" + bytes(256)),
    "image version 2": frame("IMAGE", b"\0\2" + bytes(70)),
    "video version 0": frame("VIDEO", bytes(76)),
}


@pytest.mark.parametrize("wire", LIES.values(), ids=LIES)
def test_lies_are_refused_without_allocating(wire: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(igtl.BodyError) as caught:
            igtl.unpack(wire)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    error = caught.value
    assert error.type_name == wire[2:14].rstrip(b"\0").decode()
    assert error.field
    assert error.reason


def test_surplus_is_ignored_and_kept() -> None:
    wire = igtl.Transform(igtl_eye()).pack()
    longer = mended(wire + b"surplus")
    m = igtl.unpack(longer)
    assert isinstance(m, igtl.Transform)
    assert m.pack() == longer
    assert (m.surplus, igtl.unpack(wire).surplus) == (b"surplus", b"")
    listed = mended(igtl.Points([igtl.Point("A", position=(1, 2, 3))]).pack() + b"rest")
    points = igtl.unpack(listed)
    assert isinstance(points, igtl.Points)
    assert len(points.points) == 1
    assert points.pack() == listed


def igtl_eye() -> Any:
    import numpy as np

    return np.eye(4)


def test_empty_content_is_no_data() -> None:
    for cls in strategies.TYPES:
        m = igtl.unpack(frame(cls.type_name, b""))
        if cls.__layout__.minimum:
            assert isinstance(m, igtl.NoData), cls
            assert m.type_name == cls.type_name
        else:
            assert type(m) is cls
        assert m.pack() == frame(cls.type_name, b"")
