"""Messages of a real PlusServer and of its client devices: their meaning, and the bytes again."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.codec.xml import element, elements
from igtl.fields import Array, array, data, f32, f64, i16, u8, u16
from tests.conftest import VECTORS

PLUS = VECTORS / "plus"
ALL = json.loads((PLUS / "manifest.json").read_text())["messages"]
GARBAGE = "get_point_reply_garbage.bin"
MEANT = [v for v in ALL if v["file"] != GARBAGE]
IDS = [v["file"] for v in MEANT]


def wire_of(v: dict[str, Any]) -> bytes:
    return (PLUS / v["file"]).read_bytes()


def test_the_set_is_complete() -> None:
    assert len(ALL) == 64
    assert {path.name for path in PLUS.glob("*.bin")} == {v["file"] for v in ALL}


@pytest.mark.parametrize("v", MEANT, ids=IDS)
def test_packs_to_the_bytes_it_came_from(v: dict[str, Any]) -> None:
    wire = wire_of(v)
    m = igtl.unpack(wire)
    assert m.pack() == wire
    assert b"".join(m.pack_parts()) == wire
    assert repr(m)
    assert json.dumps(m.to_dict())


@pytest.mark.parametrize("v", MEANT, ids=IDS)
def test_decodes_to_the_manifest(v: dict[str, Any]) -> None:
    m = igtl.unpack(wire_of(v))
    fields = v["fields"]
    assert m.type_name == v["type"]
    assert m.header_version == v["header_version"]
    full = fields.get("metadata", {}).get("IGTL_DEVICE_NAME", v["device"])
    assert m.device_name == full
    assert (m.timestamp or 0) == pytest.approx(v["timestamp"], abs=1e-6)
    assert m.crc_ok
    assert m.message_id == fields.get("message_id", 0)
    assert dict(m.metadata) == fields.get("metadata", {})
    check(m, fields)


def check(m: igtl.Message, fields: dict[str, Any]) -> None:
    match m:
        case igtl.Transform():
            np.testing.assert_array_equal(m.matrix[:3], np.float32(fields["matrix_rows"]))
        case igtl.Position():
            given = np.float32(fields["position_quaternion"])
            np.testing.assert_array_equal([*m.position, *m.quaternion], given)
        case igtl.Status():
            assert (m.code, m.subcode) == (fields["code"], fields["subcode"])
            assert (m.error_name, m.message) == (fields["error_name"], fields["text"])
        case igtl.Image() | igtl.UsMessage():
            np.testing.assert_array_equal(m.matrix[:3].T, np.float32(fields["matrix_columns"]))
            assert m.size.tolist() == fields["size"]
            assert (m.components, m.scalar_type) == (fields["components"], fields["scalar_type"])
            assert (m.endian, m.coordinate) == (fields["endian"], fields["coordinate"])
            first = m.array.astype("<" + m.array.dtype.str[1:]).tobytes()[:16]
            assert list(first) == fields["first_pixels"]
            if isinstance(m, igtl.UsMessage):
                assert m.parameters.tolist() == [0] * 13
        case igtl.TrackedFrame():
            check_frame(m, fields)
        case igtl.TrackingData():
            for tool, meant in zip(m.tools, fields["elements"], strict=True):
                assert (tool.name, tool.type) == (meant["name"], meant["type"])
                wire = np.float32(meant["matrix_wire"]).reshape(4, 3)
                np.testing.assert_array_equal(tool.matrix[:3].T, wire)
        case igtl.String():
            assert (m.string, m.encoding) == (fields["text"], fields["encoding"])
        case igtl.CommandReply():
            assert (m.command_id, m.name) == (fields["id"], fields["name"])
            assert (m.text, m.encoding) == (fields["text"], fields["encoding"])
        case igtl.ClientInfo():
            assert (m.xml, m.encoding) == (fields["text"], fields["encoding"])
        case igtl.StartTrackingData():
            assert m.resolution_ms == fields["resolution"]
            assert m.coordinate_name == fields["coordinate"]
        case igtl.ReadyTrackingData():
            assert m.status == fields["status"]
        case igtl.Video():
            assert m.codec == "VP90"  # RV24 says so too
            assert m.size.tolist() == [12, 10, 1]
        case igtl.StopTrackingData():
            pass  # it has no content
        case _:
            assert m.type_name == "IMGMETA"  # which says that there are none


def check_frame(m: igtl.TrackedFrame, fields: dict[str, Any]) -> None:
    assert (m.scalar_type, m.components) == (fields["scalar_type"], fields["components"])
    assert (m.image_type, m.orientation) == (fields["image_type"], fields["orientation"])
    assert m.xml == fields["xml"]
    rows = np.float32(fields["matrix_little_endian_rows"])
    np.testing.assert_array_equal(m.ijk_to_world, rows)
    assert m.array.nbytes == fields["image_bytes"]
    assert m.array.shape == ((1, 10, 12, 3) if m.components == 3 else (1, 10, 12))
    assert m.fields["Wert"] == "äµm"
    assert m.fields["Sector Label"].endswith("<a&b>")
    assert set(m.fields) == {"DepthMm", "Sector Label", "Timestamp", "Wert"}
    probe = m.transforms["ProbeToTracker"]
    assert f'Name="ProbeToTrackerTransformStatus" Value="{probe.status}"' in m.xml
    assert probe.valid == (probe.status == "OK")
    assert probe.matrix[:3, 3].tolist() == [probe.matrix[0, 3], 20, 30]


def test_a_frame_says_the_same_place_as_an_image_of_its_instant() -> None:
    """The matrix of an IMAGE is that of the centre, that of a TRACKEDFRAME of the first pixel."""
    frame = igtl.unpack((PLUS / "trackedframe_v2_0.bin").read_bytes())
    assert isinstance(frame, igtl.TrackedFrame)
    images = [igtl.unpack((PLUS / f"image_v{v}_grey.bin").read_bytes()) for v in (1, 2)]
    assert all(isinstance(image, igtl.Image) for image in images)
    # not of one instant, but of one calibration: the depth of the first pixel is the same
    for image in images:
        assert isinstance(image, igtl.Image)
        np.testing.assert_allclose(image.ijk_to_world[2], frame.ijk_to_world[2], atol=1e-5)
        np.testing.assert_allclose(image.spacing, (0.2, 0.25, 0.5), atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(frame.ijk_to_world[:3, :3], axis=0), (0.2, 0.25, 0.5), atol=1e-5
    )


@pytest.mark.parametrize("policy", ["verify", "off"])
def test_what_plus_answers_to_get_point_is_refused(policy: igtl.CRCPolicy) -> None:
    """58 bytes of memory instead of a message: not a version that exists."""
    with pytest.raises(igtl.ProtocolError):
        igtl.unpack((PLUS / GARBAGE).read_bytes(), crc=policy)
    protocol = igtl.Protocol(crc=policy, on_error="skip", resync=True)
    protocol.receive_data((PLUS / GARBAGE).read_bytes())
    after = (PLUS / "transform_v2_ok.bin").read_bytes()
    protocol.receive_data(after)
    assert [m.pack() for m in protocol.messages()] == [after]


# ---- frames made here -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (1, 4, 5, 3)])
def test_a_frame_of_every_type(dtype: str, shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    place = np.array([[0, 0.5, 0, 7], [0.25, 0, 0, 8], [0, 0, 1, 9], [0, 0, 0, 1]])
    pose = np.eye(4)
    pose[:3, 3] = 1.25, -2, 1 / 3
    frame = igtl.TrackedFrame(
        pixels, ijk_to_world=place, fields={"DepthMm": 45, "Label": '<a & "b">\n'},
        transforms={"ProbeToTracker": pose, "StylusToTracker": (np.eye(4), "MISSING")},
        timestamp=1.5,
    )  # fmt: skip
    same = igtl.unpack(frame.pack())
    assert isinstance(same, igtl.TrackedFrame)
    assert same == frame
    np.testing.assert_array_equal(same.array, pixels.reshape(same.array.shape))
    np.testing.assert_array_equal(same.ijk_to_world, place)
    np.testing.assert_allclose(same.transforms["ProbeToTracker"].matrix, pose, rtol=1e-8)
    assert same.transforms["StylusToTracker"].status == "MISSING"
    assert same.fields == {"DepthMm": "45", "Label": '<a & "b">\n'}


def test_wrong_frames() -> None:
    for wrong in (np.zeros(3), np.zeros((1, 2), np.int64), np.zeros((2, 70000), np.uint8)):
        with pytest.raises(igtl.EncodeError):
            igtl.TrackedFrame(wrong)
    with pytest.raises(igtl.EncodeError, match="ijk_to_world"):
        igtl.TrackedFrame(np.zeros((2, 2), np.uint8), ijk_to_world=np.eye(3))
    frame = igtl.TrackedFrame(np.zeros((2, 2), np.uint8))
    frame.size = (3, 3, 1)
    with pytest.raises(igtl.EncodeError, match="size"):
        frame.pack()


def test_fields_that_are_not_well_formed() -> None:
    frame = igtl.TrackedFrame(np.zeros((2, 2), np.uint8))
    for xml in ("<TrackedFrame", "", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "\ud800"):
        frame.xml = xml
        with pytest.raises(igtl.BodyError):
            _ = frame.fields
        assert "not well-formed" in repr(frame)
    frame.xml = (
        '<TrackedFrame><FrameField Name="AToBTransform" Value="1 2"/><FrameField/></TrackedFrame>'
    )
    assert frame.transforms == {}
    assert frame.fields == {}


def test_xml_round_trip() -> None:
    values = {"a": 'x "y" <z> & \n\t\r', "b": "äµ", "c": ""}
    text = element("Outer", {}, [element("Inner", values), element("Inner", {})])
    assert elements(text) == [("Outer", {}), ("Inner", values), ("Inner", {})]


# ---- the kinds of fields that these types need --------------------------------------------------


class Mixed(igtl.Message, type_name="X_PLUS_MIXED"):
    """Arrays of both orders, and bytes of a fixed number."""

    big: Array = array(f32, 2)
    little: Array = array(f64, 3, little=True)
    rows: Array = array(i16, 2, per=2, little=True)
    key: bytes = data(4)
    last: Array = array(u16, little=True)


class Pair(igtl.Element):
    """An element with an array in the other order."""

    kind: int = u8()
    values: Array = array(u16, 2, little=True)


class Pairs(igtl.Message, type_name="X_PLUS_PAIRS"):
    """A list of them."""

    pairs: list[Pair] = igtl.fields.elements(Pair, default=())


def test_little_endian_arrays_and_fixed_bytes() -> None:
    m = Mixed([1, -2], [0.1, 2, -3e100], [[1, -2], [300, 4]], b"abcd", [1, 2, 65535])
    wire = m.pack()
    assert wire[58:] == (
        struct.pack(">2f", 1, -2) + struct.pack("<3d", 0.1, 2, -3e100)
        + struct.pack("<4h", 1, -2, 300, 4) + b"abcd" + struct.pack("<3H", 1, 2, 65535)
    )  # fmt: skip
    same = igtl.unpack(wire)
    assert same == m
    assert isinstance(same, Mixed)
    assert same.little.tolist() == [0.1, 2, -3e100]
    assert same.rows.tolist() == [[1, -2], [300, 4]]
    assert bytes(same.key) == b"abcd"
    m.key = b"abc"
    with pytest.raises(igtl.EncodeError, match="has 3 bytes, must have 4"):
        m.pack()
    frame = bytearray(wire[:58] + wire[58:98])
    frame[42:50] = (40).to_bytes(8, "big")
    with pytest.raises(igtl.BodyError, match="key"):
        igtl.unpack(bytes(frame), crc="off")


def test_little_endian_arrays_in_elements() -> None:
    wire = Pairs([Pair(1, [2, 3]), Pair(4, [5, 6])]).pack()
    assert wire[58:] == struct.pack("<BHHBHH", 1, 2, 3, 4, 5, 6)
    same = igtl.unpack(wire)
    assert isinstance(same, Pairs)
    assert [list(pair.values) for pair in same.pairs] == [[2, 3], [5, 6]]
