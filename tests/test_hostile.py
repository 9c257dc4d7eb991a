"""Wrong bytes: an IgtlError or a value, never anything else, never a hang, nothing allocated on
the word of a header. (Single inputs, with what becomes of them: `tests/corpus`.)"""

from __future__ import annotations

import copy
import json
import pickle
import random
import struct
import time
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from tests import reference, strategies
from tests.conftest import VECTORS, manifest
from tests.memory import peak
from tests.wire import attributes, bind, entries, extended, frame, mended, wanted


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
        assert agrees(wire, False)
        return None
    repr(m)
    m.to_dict()
    dict(m.metadata)
    assert m.pack() == wire
    assert agrees(wire, True), m
    return m


def agrees(wire: bytes, accepted: bool) -> bool:
    """Whether the oracle says the same of a version 1 content."""
    try:
        return wire[:2] != b"\0\1" or reference.typed(wire[2:14], wire[58:]) == accepted
    except reference.BeyondNumpy:
        return not accepted


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


def test_surplus_is_ignored_and_kept() -> None:
    wire = igtl.Transform(np.eye(4)).pack()
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


def test_empty_content_is_no_data() -> None:
    for cls in strategies.TYPES:
        m = igtl.unpack(frame(cls.type_name, b""))
        if cls.__layout__.minimum:
            assert isinstance(m, igtl.NoData), cls
            assert m.type_name == cls.type_name
        else:
            assert type(m) is cls
        assert m.pack() == frame(cls.type_name, b"")


# ---- many small parts: memory in proportion to the message ---------------------------------------


SMALL_PARTS = {
    "attributes": frame("POLYDATA", attributes(40_000)),
    "the last attribute is bad": frame("POLYDATA", attributes(40_000)[:-4] + b"abcd"),
    "empty cells": frame("POLYDATA", struct.pack(">10I", 0, 60_000, 240_000, *[0] * 7) + bytes(240_000)),
    "children": frame("BIND", bind([(b"STRING", b"")] * 12_000, bytes(12_000))),
    "children that are lists": frame("BIND", bind([(b"TDATA", b"")] * 12_000, bytes(12_000))),
    "children of children": frame(
        "BIND", bind([(b"BIND", bind([(b"STRING", b"")] * 800, bytes(800)))] * 16, bytes(16))
    ),
    "attributes of children": frame("BIND", bind([(b"POLYDATA", attributes(1000))] * 40, bytes(40))),
    "the last child is bad": frame(
        "BIND", bind([(b"POLYDATA", attributes(1000))] * 40 + [(b"NDARRAY", b"??")], bytes(41))
    ),
    "entries wanted": frame("GET_BIND", wanted(20_000)),
    "type names": frame("CAPABILITY", b"".join(b"T%011x" % k for k in range(20_000))),
    "type names that are no text": frame("CAPABILITY", b"\xff" * 240_000),
    "metadata": frame("STATUS", entries(8191), version=2),
    "a wide character behind a million narrow ones": frame(
        "STATUS", bytes(30) + b"a" * 10**6 + "🩺".encode()
    ),
    "the same in a command": frame(
        "COMMAND", bytes(132) + struct.pack(">HI", 3, 10**6 + 4) + b"a" * 10**6 + "🩺".encode()
    ),
    "text that is none": frame("STATUS", bytes(30) + b"\xff" * 10**6),
    "points": frame("POINT", bytes(136 * 7000)),
    "tools": frame("TDATA", bytes(70 * 11000)),
    "surplus": frame("TRANSFORM", bytes(240_000)),
}  # fmt: skip


def unpacked(data: Any) -> igtl.Message | None:
    try:
        return igtl.unpack(data)
    except igtl.BodyError:
        return None


@pytest.mark.parametrize("wire", SMALL_PARTS.values(), ids=SMALL_PARTS)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_small_parts_take_no_more_memory_than_large_ones(wire: bytes, kind: Any) -> None:
    data = kind(wire)
    assert peak(lambda: unpacked(data)) <= 4 * len(wire) + 64 * 1024
    m = unpacked(data)
    if m is not None:
        assert m.pack() == wire  # before anything of it is decoded
        assert pickle.loads(pickle.dumps(m)) == m
        if kind is bytes:
            repr(m)
            assert m.pack() == wire  # and after that


def test_the_time_for_small_parts_grows_with_their_number() -> None:
    """Compared with the time for a tenth of them; a square would take a hundred times as long."""

    def took(count: int) -> float:
        wire = frame("POLYDATA", attributes(count))
        start = time.process_time()
        for _ in range(3):
            igtl.unpack(wire)
        return time.process_time() - start

    assert took(1_000_000) < 50 * took(100_000) + 0.1


def test_what_was_left_for_later_is_as_it_came_when_the_buffer_is_used_again() -> None:
    wire = frame("BIND", bind([(b"STRING", b"\0\3\0\2hi")], b"A\0"))
    buffer = bytearray(wire)
    m = igtl.unpack(buffer)
    buffer[:] = bytes(len(buffer))
    assert isinstance(m, igtl.Bind)
    assert m["A"] == igtl.String("hi", device_name="A", timestamp=0)
    assert m.pack() == wire


def test_edits_of_what_was_left_for_later_count() -> None:
    mesh = igtl.PolyData([[0, 0, 0]], attributes=[igtl.Attribute("a", [1])])
    got = igtl.unpack(mesh.pack())
    assert isinstance(got, igtl.PolyData)
    got.attributes.append(igtl.Attribute("b", [2]))
    got.attributes[0].values[0] = 7
    again = igtl.unpack(got.pack())
    assert isinstance(again, igtl.PolyData)
    assert [(a.name, a.values.tolist()) for a in again.attributes] == [("a", [[7]]), ("b", [[2]])]
    note = igtl.unpack(igtl.Command(1, "Go", "é" * 40_000, encoding=106).pack())
    assert isinstance(note, igtl.Command)
    note.encoding = 4  # the text is written anew
    assert note.pack()[-40_000 - 2 : -2] == b"\xe9" * 40_000


# ---- arrays without numbers -----------------------------------------------------------------------

NUMBERS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8", 13: "c16"}
SHAPES = [(), (0,), (0, 65535), (65535, 0), (65535, 65535, 0), (65535, 65535, 65535, 0), (2, 0, 3),
          (1,) * 64, (3,), (2, 3), (70,)]  # fmt: skip


def strange_shapes() -> dict[str, bytes]:
    found = {}
    for code, scalar in NUMBERS.items():
        for shape in SHAPES:
            head = struct.pack(f">BB{len(shape)}H", code, len(shape), *shape)
            values = bytes(prod(shape) * int(scalar[1:]))
            found[f"NDARRAY {scalar} {shape}"] = frame("NDARRAY", head + values)
            if len(shape) == 3 and code != 13:
                size = struct.pack(">3H", *(max(1, n) for n in shape))
                head = bytes((0, 1, 3, code, 1, 1)) + size + bytes(54)
                found[f"IMAGE {scalar} {shape}"] = frame("IMAGE", head + struct.pack(">3H", *shape))
    return found


STRANGE = strange_shapes()


@pytest.mark.parametrize("wire", STRANGE.values(), ids=STRANGE)
def test_whatever_its_shape_an_array_can_be_shown_and_copied(wire: bytes) -> None:
    m = igtl.unpack(wire)

    def show() -> None:
        repr(m)
        m._repr_html_()
        json.dumps(m.to_dict())
        json.dumps(m.to_dict(arrays=True))

    assert peak(show) < 1 << 20
    for again in (copy.copy(m), copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert again == m
        assert again.pack() == wire


def test_complex_numbers_in_json() -> None:
    for shape in ((), (2,), (1, 2)):
        numbers = np.full(shape, 1 - 2j)
        shown = igtl.NDArray(numbers).to_dict()["array"]
        assert shown == np.full((*shape, 2), (1.0, -2.0)).tolist()


# ---- names ---------------------------------------------------------------------------------------


def test_a_type_name_ends_at_its_nul() -> None:
    """docs/protocol.md section 1: whatever stands behind it."""
    plain, strange = (
        struct.pack(">H12s", 1, kind) + frame("X", b"\0\3\0\2hi")[14:] for kind in (b"STRING", b"STRING\0junk")
    )  # fmt: skip
    m = igtl.unpack(strange)
    assert (type(m), m.type_name) == (igtl.String, "STRING")
    assert m == igtl.unpack(plain)
    assert m.pack() == strange
    body = bind([(b"STRING\0\0junk", b"\0\3\0\2hi"), (b"ODD\0junk", b"")], b"A\0B\0")
    both = igtl.unpack(frame("BIND", body))
    assert isinstance(both, igtl.Bind)
    assert [(type(c), c.type_name) for c in both.children] == [
        (igtl.String, "STRING"), (igtl.Unknown, "ODD"),
    ]  # fmt: skip
    assert both.pack() == frame("BIND", body)
    asked = igtl.unpack(frame("GET_BIND", struct.pack(">H12sH", 1, b"IMAGE\0junk", 2) + b"A\0"))
    assert isinstance(asked, igtl.GetBind)
    assert asked.wanted == [("IMAGE", "A")]
    can = igtl.unpack(frame("CAPABILITY", b"IMAGE\0junk\0\0"))
    assert isinstance(can, igtl.Capability)
    assert can.types == ["IMAGE"]


def test_a_run_of_messages_is_of_one_type_whatever_is_behind_its_nul() -> None:
    wire = igtl.Transform(np.eye(4)).pack()
    strange = wire[:13] + b"!" + wire[14:]
    assert len(igtl.batch.unpack(wire + strange)) == 2


@pytest.mark.parametrize(
    ("header", "full", "shown"),
    [
        ("LongStylusToolNameTo", b"LongStylusToolNameToTracker", "LongStylusToolNameToTracker"),
        ("Short", b"Shorter", "Short"),  # it was not cut
        ("x" * 19, b"x" * 19 + "é".encode(), "x" * 19 + "é"),
        ("Probe", b"Robot", "Probe"),
        ("Probe", b"Pro", "Probe"),
        ("Probe", b"", "Probe"),
        ("Probe", b"probeToTracker", "Probe"),
    ],
)
def test_the_long_name_counts_where_it_goes_on_what_the_header_has(
    header: str, full: bytes, shown: str
) -> None:
    head = (
        struct.pack(">H", 2) + struct.pack(">HHI", 16, 3, len(full)) + struct.pack(">HHI", 1, 3, 1)
    )
    body = extended(bytes(31), head, b"IGTL_DEVICE_NAME" + full + b"kv")
    wire = frame("STATUS", body, version=2)
    wire = wire[:14] + header.encode().ljust(20, b"\0") + wire[34:]
    m = igtl.unpack(wire)
    assert m.device_name == shown
    assert m.metadata["IGTL_DEVICE_NAME"] == full.decode()
    assert m.pack() == wire


def test_the_long_name_of_plus() -> None:
    wire = (VECTORS / "plus" / "transform_v2_longname.bin").read_bytes()
    m = igtl.unpack(wire)
    assert m.device_name == "LongStylusToolNameToTracker"
    assert m.pack() == wire


def test_of_two_long_names_the_last_one_counts() -> None:
    """As with every key (docs/protocol.md section 5.3)."""
    cut = b"D" * 20
    for names, shown in (((cut + b"A", cut + b"B"), cut + b"B"), ((cut + b"A", b"Other"), cut)):
        head = struct.pack(">H", 2) + b"".join(struct.pack(">HHI", 16, 3, len(n)) for n in names)
        data = b"".join(b"IGTL_DEVICE_NAME" + n for n in names)
        wire = frame("STATUS", extended(bytes(31), head, data), version=2)
        assert igtl.unpack(wire[:14] + cut + wire[34:]).device_name == shown.decode()
