"""Messages as values: constructors, edits, comparison, header, metadata, errors, own types."""

from __future__ import annotations

import copy
import functools
import gc
import json
import math
import pickle
import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import igtl
from igtl.fields import (
    Array,
    array,
    count_of,
    data,
    elements,
    f32,
    f64,
    i16,
    matrix,
    optional,
    size_of,
    string,
    text,
    u8,
    u16,
)  # fmt: skip
from tests.memory import peak
from tests.wire import extended, frame, reshape

EYE = np.eye(4)


def again(m: Any) -> Any:
    return igtl.unpack(m.pack())


# ---- one truth --------------------------------------------------------------------------------


def test_edits_in_place_count() -> None:
    t = igtl.Transform(EYE, device_name="Probe")
    t.matrix[0, 3] = 12.5
    assert again(t).matrix[0, 3] == 12.5
    got = again(t)
    got.matrix[1, 3] = -1
    got.position[2] = 7
    assert again(got).position.tolist() == [12.5, -1, 7]
    points = again(igtl.Points([igtl.Point("A", position=(1, 2, 3))]))
    points.points.positions[0, 1] = 20
    points.points[0].name = "B"
    points.points[0].color[3] = 0
    first = again(points).points[0]
    assert (first.name, first.position.tolist(), first.color[3]) == ("B", [1, 20, 3], 0)


def test_what_a_user_gave_is_copied() -> None:
    m = np.eye(4)
    t = igtl.Transform(m)
    m[0, 3] = 5
    assert t.matrix[0, 3] == 0


def test_bytes_that_fields_cannot_show_survive_until_assigned() -> None:
    body = b"\0\1" + bytes(8) + b"OK\0junk".ljust(20, b"\xff") + b"text\xff\0more"
    m = igtl.unpack(frame("STATUS", body))
    assert isinstance(m, igtl.Status)
    assert (m.error_name, m.message) == ("OK", "text\N{REPLACEMENT CHARACTER}")
    assert m.pack()[58:] == body
    m.error_name = "OK"
    m.message = "new"
    assert m.pack()[58:] == b"\0\1" + bytes(8) + b"OK".ljust(20, b"\0") + b"new\0"
    named = igtl.unpack(
        b"\0\1"
        + b"STRING".ljust(12, b"\0")
        + b"Dev\0rest".ljust(20, b"x")
        + frame("STRING", b"\0\3\0\0")[34:]
    )
    assert named.device_name == "Dev"
    assert named.pack()[14:34] == b"Dev\0rest".ljust(20, b"x")
    named.device_name = "New"
    assert named.pack()[14:34] == b"New".ljust(20, b"\0")


def test_reshaped_or_replaced_memory_is_refused() -> None:
    t = igtl.Transform(EYE)
    t.matrix[3, 0] = 1
    with pytest.raises(igtl.EncodeError, match="fourth row"):
        t.pack()
    p = igtl.Position(np.array([1.0, 2, 3]))  # of three floats in memory of its own
    p.position.resize(2, refcheck=False)
    with pytest.raises(igtl.EncodeError, match=r"Position.position"):
        p.pack()
    points = igtl.Points([igtl.Point("A", position=(1, 2, 3))])
    reshape(points.points.positions, (3, 1))
    with pytest.raises(igtl.EncodeError, match=r"Point.position"):
        points.pack()


def test_columns_outlive_their_message_and_share_its_memory() -> None:
    tools = [igtl.Tool("A"), igtl.Tool("B", matrix=np.diag([2, 2, 2, 1]))]
    message = igtl.unpack(igtl.TrackingData(tools).pack())
    before = message.tools[1].matrix  # of a column whose array was not asked for yet
    matrices, types = message.tools.matrices, message.tools.types
    assert message.tools.matrices is matrices
    matrices[1, 0, 3] = 5
    assert before[0, 3] == message.tools[1].matrix[0, 3] == 5
    assert igtl.unpack(message.pack()).tools["B"].matrix[0, 3] == 5
    del message
    gc.collect()
    assert before[0, :].tolist() == [2, 0, 0, 5]
    assert types.tolist() == [1, 1]


def test_a_device_name_of_another_kind_of_str() -> None:
    t = igtl.Transform(EYE, device_name=np.str_("Probe"))
    assert type(t.device_name) is str
    assert igtl.unpack(t.pack()).device_name == "Probe"


# ---- construction -----------------------------------------------------------------------------


def test_matrices() -> None:
    full = np.arange(12.0).reshape(3, 4)
    expected = np.vstack([full, [[0, 0, 0, 1]]])
    rotation = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    for given_matrix in (full, full.tolist(), expected, full.astype("f4"), full.astype("i8")):
        np.testing.assert_array_equal(igtl.Transform(given_matrix).matrix, expected)
    np.testing.assert_allclose(
        igtl.Transform(rotation).matrix[:3, :3], rotation.as_matrix(), atol=1e-6
    )
    assert igtl.Transform(full[:, :3]).matrix[:3, 3].tolist() == [0, 0, 0]
    for wrong in (np.zeros((2, 2)), np.zeros(12), np.ones((4, 4))):
        with pytest.raises(igtl.EncodeError, match=r"Transform.matrix"):
            igtl.Transform(wrong)
    with pytest.raises(TypeError):
        igtl.Transform("matrix")  # type: ignore[arg-type]


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: math.hypot(*q) > 1e-3))
def test_quaternions(q: list[float]) -> None:
    ours, theirs = igtl.matrix_of_quaternion(q), Rotation.from_quat(q)
    np.testing.assert_allclose(ours, theirs.as_matrix(), atol=1e-9)
    back = igtl.quaternion_of_matrix(ours)
    assert back[3] >= 0
    np.testing.assert_allclose(abs(back @ theirs.as_quat()), 1, atol=1e-9)
    t = igtl.Transform.from_quaternion((1, 2, 3), q)
    assert t.position.tolist() == [1, 2, 3]
    np.testing.assert_allclose(igtl.matrix_of_quaternion(t.quaternion), ours, atol=1e-5)


def test_positions() -> None:
    assert len(igtl.Position((1, 2, 3), ()).pack()) == 58 + 12
    assert len(igtl.Position((1, 2, 3), (0, 0, 0.6)).pack()) == 58 + 24
    assert len(igtl.Position((1, 2, 3)).pack()) == 58 + 28
    np.testing.assert_allclose(
        again(igtl.Position((1, 2, 3), (0, 0, 0.6))).orientation, [0, 0, 0.6, 0.8], atol=1e-6
    )
    assert igtl.Position((1, 2, 3), (1, 1, 1)).orientation.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(igtl.Position((1, 2, 3)).matrix[:3, 3], [1, 2, 3])
    with pytest.raises(igtl.EncodeError, match=r"Position.quaternion"):
        igtl.Position((1, 2, 3), (0, 1))
    with pytest.raises(ValueError, match="length 0"):
        igtl.matrix_of_quaternion([0, 0, 0, 0])
    for wrong in (np.eye(2), np.zeros(9), "x"):
        with pytest.raises(ValueError):
            igtl.quaternion_of_matrix(wrong)  # type: ignore[arg-type]


def test_wrong_arguments() -> None:
    for call in (
        lambda: igtl.Transform(),
        lambda: igtl.Message(),
        lambda: igtl._core.Record(),
        lambda: igtl._core.Columns().allocate(3),
        lambda: igtl.Get(),
        lambda: igtl.Transform(EYE, "Probe"),
        lambda: igtl.Transform(EYE, matrix=EYE),
        lambda: igtl.Transform(EYE, device="Probe"),
        lambda: igtl.Image(np.zeros((1, 1, 1), np.uint8), device="x"),
        lambda: igtl.Status("OK"),
        lambda: igtl.Transform(EYE, device_name=3),
        lambda: igtl.Capability("IMAGE"),
        lambda: igtl.String(5),
        lambda: igtl.TrackingData([EYE]),
        lambda: igtl.Point("x"),
        lambda: igtl.Point("x", position=(1, 2, 3), colour=(1, 2, 3, 4)),
        lambda: igtl.Bind(["x"]),
        lambda: igtl.PolyData(np.zeros((1, 3)), attributes=["x"]),
    ):
        with pytest.raises(TypeError):
            call()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: igtl.Status(70000), r"Status.code: 70000 is outside 0..65535"),
        (lambda: igtl.Status(1, 1 << 63), r"Status.subcode"),
        (lambda: igtl.Status(1, 0, "x" * 21).pack(), r"Status.error_name: .*21 bytes, 20 fit"),
        (lambda: igtl.Status(message="a\0b").pack(), r"Status.message: a NUL"),
        (lambda: igtl.Transform(EYE, device_name="x" * 21).pack(), r"Transform.device_name.*cut_name"),
        (lambda: igtl.Transform(EYE, device_name="a\0b").pack(), r"Transform.device_name.*NUL"),
        (lambda: igtl.String("x" * 65536).pack(), r"String.string: 65536 bytes do not fit"),
        (lambda: igtl.String("é", encoding=3).pack(), r"String.string.*encoding=106"),
        (lambda: igtl.Capability(["x" * 13]).pack(), r"Capability.types"),
        (lambda: igtl.Command(1, "x" * 129).pack(), r"Command.name"),
        (lambda: igtl.Point("x" * 65, position=(1, 2, 3)), r"Point.name"),
        (lambda: igtl.Point("x", position=(1, 2)), r"Point.position"),
        (lambda: igtl.Tool("x", 256), r"Tool.type"),
        (lambda: igtl.Points([igtl.Point("", color=(0, 0, 0, 256), position=(0, 0, 0))]), r"Point.color"),
        (lambda: igtl.PolyData([[0, 0, 0]], polygons=[[0, 1, 2]]).pack(), r"PolyData.points: a cell uses point 2"),
        (lambda: igtl.PolyData([[0, 0]]), r"PolyData.points: shape"),
        (lambda: igtl.PolyData([[0, 0, 0]], attributes=[igtl.Attribute("n" * 256, [1])]).pack(), r"PolyData.attributes"),
        (lambda: igtl.NDArray(np.zeros(3, np.int64)), r"NDArray.array: the wire has no int64"),
        (lambda: igtl.NDArray(np.zeros((0, 70000), np.uint8)).pack(), r"NDArray.array: extents"),
        (lambda: igtl.ColorTable(np.zeros(100, np.uint8)), r"ColorTable.table"),
        (lambda: igtl.Bind([igtl.String("x", device_name="n" * 21)]).pack(), r"Bind.children: device name"),
        (lambda: igtl.Unknown("THIRTEENBYTES"), r"type_name"),
        (lambda: igtl.Transform(EYE, timestamp=-5), r"timestamp"),
        (lambda: igtl.Transform(EYE, message_id=1 << 32), r"Transform.message_id"),
        (lambda: setattr(igtl.Transform(EYE), "timestamp_raw", -1), r"Transform.timestamp_raw"),
        (lambda: igtl.Transform(EYE, timestamp=2.0**33), r"timestamp"),
        (lambda: igtl.Transform(EYE, metadata={"k" * 65536: 1}).pack(), r"Transform.metadata"),
        (lambda: igtl.Transform(EYE, metadata={str(k): 1 for k in range(8192)}).pack(), r"8192 entries"),
        (lambda: igtl.Transform(EYE, metadata={"a": 1}).pack(version=1), r"Transform.metadata: header version 1"),
        (lambda: igtl.Transform(EYE, message_id=4).pack(version=1), r"Transform.message_id"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_says_why(make: Any, words: str) -> None:
    with pytest.raises(igtl.EncodeError, match=words) as caught:
        make()
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.type_name
    assert error.field
    assert pickle.loads(pickle.dumps(error)).args == error.args


# ---- header -----------------------------------------------------------------------------------


def test_time_stamps() -> None:
    before = time.time()
    t = igtl.Transform(EYE)
    assert t.timestamp is not None
    assert before - 1e-3 <= t.timestamp <= time.time() + 1e-3
    for unset in (0, None):
        t = igtl.Transform(EYE, timestamp=unset)
        assert (t.timestamp, t.time_ns, t.timestamp_raw) == (None, None, 0)
        assert "1970" not in repr(t)
    t.timestamp = 1700000000.5
    assert t.timestamp_raw == 1700000000 << 32 | 1 << 31
    assert again(t).time_ns == 1_700_000_000_500_000_000


@given(st.integers(1, (1 << 32) * 1_000_000_000 - 1))
def test_nanoseconds_are_lossless(ns: int) -> None:
    t = igtl.Transform(EYE)
    t.time_ns = ns
    assert t.time_ns == ns
    assert again(t).time_ns == ns


def test_versions_of_a_message() -> None:
    t = igtl.Transform(EYE)
    assert t.pack()[:2] == b"\0\1"
    assert t.pack(version=2)[:2] == b"\0\2"
    assert igtl.unpack(t.pack(version=2)).pack()[:2] == b"\0\2"
    assert igtl.Command(1, "Go").pack()[:2] == b"\0\2"
    t.metadata["a"] = "b"
    assert t.pack()[:2] == b"\0\2"
    received = igtl.unpack(igtl.Transform(EYE).pack())
    received.message_id = 5
    assert received.pack()[:2] == b"\0\2"
    with pytest.raises(ValueError):
        t.pack(version=3)  # type: ignore[arg-type]


def test_long_names() -> None:
    name = "ProbeToReferenceTransform µ"
    t = igtl.Transform(EYE, device_name=name)
    wire = t.pack(cut_name=True)
    assert wire[:2] == b"\0\1"
    assert igtl.unpack(wire).device_name == "ProbeToReferenceTran"
    full = t.pack(version=2, cut_name=True)
    got = igtl.unpack(full)
    assert got.device_name == name  # read from IGTL_DEVICE_NAME
    assert got.pack() == full
    got.device_name = "Short"
    assert igtl.unpack(got.pack()).device_name == "Short"
    assert igtl.fit("x" * 19 + "é", 20) == "x" * 19  # no character cut in two
    assert (
        igtl.unpack(igtl.Transform(EYE, device_name="x" * 19 + "é").pack(cut_name=True)).device_name
        == "x" * 19
    )


def test_the_long_name_counts_only_where_the_header_has_its_beginning() -> None:
    name = "LongStylusToolNameToTracker"
    for header, full, shown in (
        (name[:20], name, name),
        (name[:19], name, name[:19]),
        ("Probe", "ProbeToTracker", "Probe"),
        ("Probe", name, "Probe"),
        ("", name, ""),
        ("Another20BytesOfName", name, "Another20BytesOfName"),
        (name[:20], name[:20], name[:20]),
        (name[:20], "", name[:20]),
        (name[:20], name + "\0x", name[:20]),
        (name[:20], name + "x" * 228, name + "x" * 228),
        (name[:20], name + "x" * 229, name[:20]),
        ("x" * 19, "x" * 19 + "é", "x" * 19 + "é"),
        ("x" * 17, "x" * 17 + "😀", "x" * 17 + "😀"),
        ("x" * 17, "x" * 17 + "éa", "x" * 17),
    ):
        m = igtl.Status.ok(device_name=header, metadata={"a": "b", "IGTL_DEVICE_NAME": full})
        wire = m.pack()
        got = igtl.unpack(wire)
        assert got.device_name == igtl.Frame.from_bytes(wire).device_name == shown
        assert got.metadata["IGTL_DEVICE_NAME"] == full
        assert got.pack() == wire
        p = igtl.Protocol(version=2)
        p.receive_data(wire)
        p.next_message()
        p.send(m)
        assert sorted(p.stats.streams) == sorted({("STATUS", shown)})
    with pytest.raises(igtl.EncodeError, match="more than 255 bytes"):
        igtl.Status.ok(device_name="x" * 256).pack(version=2, cut_name=True)


def test_longer_extended_header() -> None:
    body = extended(
        b"surplus!" + igtl.Transform(EYE).pack()[58:], b"\0\1\0\1\0\3\0\0\0\1", b"kv", ext=20
    )
    wire = frame("TRANSFORM", body, version=2)
    m = igtl.unpack(wire)
    assert isinstance(m, igtl.Transform)
    np.testing.assert_array_equal(m.matrix, EYE)
    assert (m.message_id, m.metadata) == (1, {"k": "v"})
    assert m.pack() == wire


# ---- metadata ---------------------------------------------------------------------------------


def test_metadata_is_typed() -> None:
    t = igtl.Transform(
        EYE,
        metadata={
            "n": 5,
            "x": 0.25,
            "yes": True,
            "text": "Größe",
            "raw": b"\xff\0",
            "sj": (17, "日本"),
        },
    )
    got = again(t).metadata
    assert (got["n"], got["x"], got["yes"], got["text"], got["sj"]) == (
        "5",
        "0.25",
        "1",
        "Größe",
        "日本",
    )
    assert (got.get_int("n"), got.get_float("x"), got.get_bool("yes")) == (5, 0.25, True)
    assert (got.get_int("text"), got.get_float("none", 1.5), got.get_bool("n")) == (None, 1.5, None)
    assert [got.encoding(k) for k in ("n", "text", "raw", "sj")] == [3, 106, 106, 17]
    assert got.raw("raw") == b"\xff\0"
    assert list(got) == sorted(got)
    assert got == {**got}
    with pytest.raises(TypeError):
        got[3] = "x"  # type: ignore[index]
    del got["n"]
    assert "n" not in got


def test_metadata_keeps_order_duplicates_and_any_number() -> None:
    head = b"\0\3" + b"\0\1\xff\xff\0\0\0\1" * 3
    wire = frame("STATUS", extended(bytes(31), head, b"b1a2b3"), version=2)
    m = igtl.unpack(wire)
    assert m.metadata == {"b": "3", "a": "2"}  # of duplicates the last
    assert m.metadata.encoding("a") == 0xFFFF
    assert m.pack() == wire
    m.metadata["c"] = 4
    assert list(igtl.unpack(m.pack()).metadata) == ["a", "b", "c"]
    odd = frame("STATUS", extended(bytes(31), b"\0\1\0\1\0\3\0\0\0\0", b"\xfe"), version=2)
    assert igtl.unpack(odd).pack() == odd


# ---- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((70000, "x"), r"^Metadata\.a: the encoding 70000 is outside 0\.\.65535$"),
        ((-1, b"x"), r"^Metadata\.a: the encoding -1 is outside"),
        ((1 << 40, "x"), r"^Metadata\.a: the encoding 1099511627776 is outside"),
        ((3, "é"), r"^Metadata\.a: 'é' has no bytes in ascii; UTF-8 is 106$"),
    ],
)
def test_metadata_that_have_no_bytes(value: Any, reason: str) -> None:
    message = igtl.Status.ok(metadata={"a": "before"})
    for assign in (
        lambda: igtl.Status.ok(metadata={"a": value}),
        lambda: message.metadata.update({"a": value}),
    ):
        with pytest.raises(igtl.EncodeError, match=reason) as error:
            assign()
        assert error.value.field == "a"
    assert igtl.unpack(message.pack()).metadata == {"a": "before"}
    with pytest.raises(TypeError, match="the encoding of 'a' is a number"):
        message.metadata["a"] = ("utf-8", "x")  # type: ignore[assignment]


def test_encodings() -> None:
    assert again(igtl.String("plain")).encoding == 3
    assert again(igtl.String("Größe")).encoding == 106
    for encoding, value in ((4, "Größe"), (1013, "日本"), (17, "日本"), (2252, "€"), (60000, "é")):
        got = again(igtl.String(value, encoding=encoding))
        assert (got.string, got.encoding) == (value, encoding)
    assert igtl.String("a").encoding is None
    raw = igtl.String(b"caf\xc3\xa9", encoding=4)  # bytes are taken as they are
    assert again(raw).string == "café"  # valid UTF-8 wins over a wrong label
    assert again(igtl.String("a\0b")).string == "a\0b"


# ---- lists ------------------------------------------------------------------------------------


def test_elements() -> None:
    tools = [igtl.Tool("A", igtl.ToolType.INSTRUMENT_3D, EYE), igtl.Tool("B")]
    m = igtl.TrackingData(tools, device_name="T")
    assert len(m.tools) == 2
    assert m.tools.names == ["A", "B"]
    assert m.tools["B"] == igtl.Tool("B")
    assert [t.name for t in m.tools[::-1]] == ["B", "A"]
    assert m.tools[-1].name == "B"
    with pytest.raises(KeyError):
        m.tools["C"]
    with pytest.raises(IndexError):
        m.tools[2]
    m.tools.append(igtl.Tool("C", matrix=2 * np.eye(3)))
    assert again(m).tools.matrices[2, 0, 0] == 2
    tools[0].name = "changed"
    assert m.tools[0].name == "A"  # the list owns its rows
    assert again(m).tools == m.tools
    assert copy.deepcopy(m) == m == pickle.loads(pickle.dumps(m))
    assert pickle.loads(pickle.dumps(m.tools[2])) == m.tools[2]
    assert "3 × Tool ('A', 'B', 'C')" in repr(m)
    json.dumps(m.to_dict())
    with pytest.raises(igtl.EncodeError):
        m.tools[0].matrix = np.ones((4, 4))


def test_columns() -> None:
    n = 10_000
    positions = np.random.default_rng(1).random((n, 3))
    columns = igtl.Point.columns(names=[f"P{k}" for k in range(n)], positions=positions)
    m = igtl.Points(columns)
    got = again(m)
    np.testing.assert_array_equal(got.points.positions, positions.astype("f4"))
    assert got.points.names[-1] == f"P{n - 1}"
    assert got.points[5].group == "Fiducial"  # the default of the field
    got.points.diameters = np.full(n, 2.5)
    assert again(got).points[77].diameter == 2.5
    with pytest.raises(ValueError):
        got.points.diameters = np.zeros(3)
    with pytest.raises(TypeError):
        igtl.Point.columns(name=["x"])
    assert len(igtl.Point.columns()) == 0


def test_a_message_owns_what_it_was_given() -> None:
    """Whatever another message shows; only the children of a BIND are the messages themselves."""
    mesh = igtl.PolyData(EYE[:, :3], polygons=[[0, 1, 2]], attributes=[igtl.Attribute("a", [1, 2])])
    numbers = np.arange(3.0)
    for one, other in (
        (a := igtl.TrackingData([igtl.Tool("x")]), igtl.TrackingData(a.tools)),
        (b := igtl.Points([igtl.Point("x", position=(1, 2, 3))]), igtl.Points(b.points)),
        (c := igtl.Sensor(numbers), igtl.Sensor(c.values)),
        (d := igtl.NDArray(numbers), igtl.NDArray(d.array)),
        (e := igtl.Transform(EYE), igtl.Transform(e.matrix)),
        (f := igtl.Capability(["A"]), igtl.Capability(f.types)),
        (mesh, igtl.PolyData(mesh.points, polygons=mesh.polygons, attributes=mesh.attributes)),
        (mesh, igtl.PolyData(mesh.points, lines=mesh.polygons, polygons=mesh.polygons)),
    ):
        before = one.pack()
        for name in type(other).__match_args__:
            value: Any = getattr(other, name)
            if isinstance(value, np.ndarray):
                value += 1
            elif isinstance(value, igtl.Cells):
                value.connectivity += 1
                value.offsets += 1
            elif isinstance(value, list) and value and isinstance(value[0], igtl.Attribute):
                value[0].values += 1
                value[0].name = "b"
            elif isinstance(value, list):
                value.append("B")
            elif not isinstance(value, int):
                value.append(value[0])
                for column in value.arrays:
                    column[:] = np.zeros_like(column)
        assert one.pack() == before
    assert numbers.tolist() == [0, 1, 2]


def test_comparing_never_raises() -> None:
    def odd() -> list[Any]:
        t, u, s, p = (igtl.Transform(EYE, timestamp=1), igtl.TrackingData([igtl.Tool("a")], timestamp=1),
                      igtl.Sensor([1, 2], timestamp=1), igtl.PolyData([[0, 0, 0]], timestamp=1))  # fmt: skip
        t.matrix[3, 3] = 2
        u.tools.__setstate__((5, u.tools.arrays))
        reshape(s.values, (1, 2))
        p.attributes.append("no attribute")  # type: ignore[arg-type]
        bare = igtl.Image.__new__(igtl.Image)
        return [t, u, s, p, bare, type(u.tools)(), igtl.NDArray([1 + 2j], timestamp=1), igtl.Tool("a"),
                igtl.Cells([[0, 1]])]  # fmt: skip

    others = [None, 1, "x", b"x", [], {}, np.zeros(3), np.zeros((4, 4)), float("nan"), object()]
    first, second = odd(), odd()
    for k, a in enumerate(first):
        for b in [*second, *others]:
            assert isinstance(a == b, bool)
            assert isinstance(b == a, bool)
        assert a == second[k]
        assert [m == a for m in second].count(True) == 1
    first[0].matrix[0, 0] = 9
    assert first[0] != second[0]
    x, y = igtl.Bind([], timestamp=1), igtl.Bind([], timestamp=1)
    x.children.append(x)
    y.children.append(y)
    assert x != y


@pytest.mark.parametrize("dims", [64, 65, 255])
def test_an_array_of_more_dimensions_than_numpy_has_is_bytes(dims: int) -> None:
    shape = b"\0\1" * (dims - 1) + b"\0\3"
    wire = frame("NDARRAY", bytes([3, dims]) + shape + b"abc")
    got: Any = igtl.unpack(wire)
    if isinstance(got.array, np.ndarray):
        assert dims == 64
        assert got.array.shape == (1,) * 63 + (3,)
    else:
        assert got.array == wire[58:]
    assert got.pack()[58:] == wire[58:]
    assert copy.deepcopy(got) == got
    assert got.to_dict()
    with pytest.raises(igtl.BodyError, match="3 numbers announced, 2 bytes are left"):
        igtl.unpack(frame("NDARRAY", wire[58:-1]))
    empty = igtl.unpack(frame("NDARRAY", bytes([3, dims]) + bytes(2 * dims)))
    assert empty.pack()[58:] == bytes([3, dims]) + bytes(2 * dims)


# ---- whole and parts --------------------------------------------------------------------------


def test_bind() -> None:
    image = igtl.Image(np.ones((1, 2, 3), np.uint8), device_name="I")
    m = igtl.Bind(
        [image, igtl.Transform(EYE, device_name="T"), igtl.String("odd", device_name="S")]
    )
    got = again(m)
    assert got["T"].matrix[0, 0] == 1
    got["T"].matrix[0, 3] = 4
    got["I"].array = np.zeros((2, 2, 2), np.uint8)
    changed = again(got)
    assert changed["T"].matrix[0, 3] == 4
    assert changed["I"].array.shape == (2, 2, 2)
    with pytest.raises(KeyError):
        got["X"]
    assert again(igtl.Bind([])).children == []
    garbage = igtl.unpack(frame("BIND", b"\xde\xad\xbe\xef"))
    assert isinstance(garbage, igtl.Bind)
    assert garbage.children == []
    assert garbage.pack()[58:] == b"\xde\xad\xbe\xef"


def nested(depth: int, innermost: igtl.Message) -> igtl.Message:
    """A message in so many BINDs, one in the other."""
    for _ in range(depth):
        innermost = igtl.Bind([innermost])
    return innermost


def nested_wire(depth: int, names: bytes = b"\0\0", inner: bytes = bytes(1 << 20)) -> bytes:
    """The same, written by hand, with a table of names that igtl would write or not."""
    kind, body = "BLOB", inner
    for _ in range(depth):
        head = struct.pack(">H12sQH", 1, kind.encode(), len(body), len(names))
        kind, body = "BIND", head + names + body + bytes(len(body) % 2)
    return frame(kind, body)


def test_bind_in_bind_goes_eight_deep() -> None:
    deepest = nested(8, igtl.String("x"))
    wire = deepest.pack()
    assert igtl.unpack(wire) == deepest
    for inner in (deepest, nested(12, igtl.String("x")), nested(2000, igtl.String("x"))):
        too_deep = igtl.Bind([inner])
        with pytest.raises(igtl.EncodeError, match="in more than 8 messages"):
            too_deep.pack()
    endless = igtl.Bind([])
    endless.children.append(endless)
    with pytest.raises(igtl.EncodeError, match="in more than 8 messages"):
        endless.pack()
    assert igtl.unpack(nested_wire(8)).pack() == nested_wire(8)
    received = igtl.unpack(wire)
    with pytest.raises(igtl.EncodeError, match="in more than 8 messages"):
        igtl.Bind([received]).pack()
    inner_most = igtl.unpack(nested(7, igtl.String("x")).pack())
    assert igtl.Bind([inner_most]).pack()[58:] == wire[58:]
    for depth in (9, 10, 1000):
        with pytest.raises(igtl.BodyError, match="in more than 8 messages"):
            igtl.unpack(nested_wire(depth))


@pytest.mark.parametrize("names", [b"\0\0", b"a\0", b"ab", b"a name of more than 20 bytes\0\0"])
def test_bind_in_bind_is_not_copied_at_each_level(names: bytes) -> None:
    wire = nested_wire(8, names)
    got: list[Any] = []
    assert peak(lambda: got.append(igtl.unpack(wire))) < 4 * len(wire)
    assert peak(lambda: got.append(got[0].pack())) < 4 * len(wire)
    assert got[1] == wire
    again_from = pickle.loads(pickle.dumps(got[0]))
    assert again_from.pack() == wire
    assert again_from == got[0]
    child = got[0]
    for _ in range(7):
        child = child.children[0]
    child.children[0].content = b"edited"
    for message in (got[0], again_from):
        child = message.children[0]
        child.device_name = "short"
        if message is got[0] and len(names) < 20:  # else the names of the others are too long
            assert b"edited" in message.pack()


def test_a_child_of_a_bind_counts_as_received() -> None:
    """What its sender got wrong is no reason not to send it on, or to copy it at each level."""
    mesh = igtl.PolyData([[0, 0, 0]], polygons=[[0, 0, 0]])
    wire = bytearray(nested(8, mesh).pack())
    wire[-4:] = (7).to_bytes(4, "big")  # a point that there is not
    got: list[Any] = []
    assert peak(lambda: got.append(igtl.unpack(wire, crc="off"))) < 200_000
    assert got[0].pack(crc=False)[58:] == wire[58:]


def test_mesh() -> None:
    mesh = igtl.PolyData(
        np.random.default_rng(2).random((5, 3)),
        polygons=np.array([[0, 1, 2], [2, 3, 4]]),
        lines=[[0, 1], [1, 2, 3]],
        attributes=[igtl.Attribute("rgba", np.full((5, 4), 0.5), igtl.AttributeType.RGBA)],
    )
    got = again(mesh)
    assert got.polygons.connectivity.tolist() == [0, 1, 2, 2, 3, 4]
    assert got.polygons.offsets.tolist() == [0, 3, 6]
    assert [c.tolist() for c in got.lines] == [[0, 1], [1, 2, 3]]
    assert got.attribute("rgba").values.shape == (5, 4)
    assert got.attribute("rgba").padded  # the only form the official library reads
    assert mesh.pack()[58 + 40 + 60 + 28 + 32 :][:2] == b"\4\x09"
    with pytest.raises(KeyError):
        got.attribute("x")
    plain = igtl.Attribute("rgba", np.full((5, 4), 0.5), igtl.AttributeType.RGBA, padded=False)
    by_format = igtl.PolyData(np.zeros((5, 3)), attributes=[plain])
    assert again(by_format).attribute("rgba").values.shape == (5, 4)
    assert not again(by_format).attribute("rgba").padded
    got.polygons.connectivity[0] = 4
    assert again(got).polygons[0].tolist() == [4, 1, 2]
    assert again(igtl.PolyData([], triangle_strips=igtl.Cells.from_arrays([0], []))) is not None


@pytest.mark.parametrize("kind", ["vertices", "lines", "polygons", "triangle_strips"])
def test_cells_of_every_kind_name_points_that_there_are(kind: str) -> None:
    points = np.zeros((3, 3))
    good: Any = igtl.PolyData(points, **{kind: [[0, 1, 2]]})  # type: ignore[arg-type]
    assert getattr(again(good), kind).connectivity.tolist() == [0, 1, 2]
    with pytest.raises(igtl.EncodeError, match="a cell uses point 3, there are 3"):
        igtl.PolyData(points, **{kind: [[0, 1, 3]]}).pack()  # type: ignore[arg-type]
    at = ["vertices", "lines", "polygons", "triangle_strips"].index(kind)
    for cells, words in (
        ([1, 0, 0], "1 cells take 8 bytes, 12 are announced"),
        ([1], "cell 0 of 1 has 1 points"),
        ([3, 0, 0], "cell 0 of 1 has 3 points"),
    ):
        counts = [0] * 10
        counts[1 + 2 * at], counts[2 + 2 * at] = 1, 4 * len(cells)
        body = struct.pack(f">{10 + len(cells)}I", *counts, *cells)
        with pytest.raises(igtl.BodyError, match=words):
            igtl.unpack(frame("POLYDATA", body))


def test_comparison() -> None:
    t = igtl.Transform(EYE, device_name="A", timestamp=5)
    same = igtl.Transform(EYE, device_name="A", timestamp=5)
    assert t == same
    same.received, same.peer = 1.0, "x"
    assert t == same  # when and from whom does not count
    assert t == igtl.unpack(t.pack(version=2))
    for other in (
        igtl.Transform(EYE, device_name="B", timestamp=5),
        igtl.Transform(EYE, device_name="A", timestamp=6),
        igtl.Transform(2 * np.diag([1, 1, 1, 0.5]), device_name="A", timestamp=5),
        igtl.Transform(EYE, device_name="A", timestamp=5, message_id=1),
        igtl.Transform(EYE, device_name="A", timestamp=5, metadata={"a": 1}),
        igtl.NoData("TRANSFORM", device_name="A", timestamp=5),
        "text",
    ):
        assert t != other
    with pytest.raises(TypeError):
        hash(t)
    assert igtl.Unknown("A", b"x", timestamp=0) != igtl.Unknown("B", b"x", timestamp=0)


def test_aliases_and_unknown() -> None:
    wire = frame("COLORTABLE", igtl.ColorTable(np.arange(256, dtype=np.uint8)).pack()[58:])
    m = igtl.unpack(wire)
    assert isinstance(m, igtl.ColorTable)
    assert m.pack() == wire
    assert igtl.ColorTable(m.table).pack()[2:8] == b"COLORT"
    assert isinstance(igtl.unpack(frame("GET_TRANSFOR", b"")), igtl.GetTransform)
    unknown = igtl.unpack(frame("X_STRANGE", b"\1\2\3"))
    assert isinstance(unknown, igtl.Unknown)
    assert (unknown.type_name, bytes(unknown.content)) == ("X_STRANGE", b"\1\2\3")
    assert igtl.Unknown("X_STRANGE", b"\1\2\3", device_name="Dev", timestamp=0) == unknown
    assert "X_STRANGE" not in igtl.message_types()
    assert igtl.GetImage.answer is igtl.Image
    assert igtl.StopVideo.answer is igtl.Video


# ---- types of one's own -----------------------------------------------------------------------


def declare() -> type[Any]:
    class Probe(igtl.Element):
        name: str = text(8)
        gain: float = f64(default=1.0)
        place: Array = array(i16, 2, default=(0, 0))

    class Force(igtl.Message, type_name="X_FORCE"):
        """Everything a field can be."""

        tool: str = text(20)
        _count: int = count_of("samples", u16)
        _note_size: int = size_of("note", u8)
        _raw_size: int = size_of("raw", u16)
        samples: Array = array(f32, "_count", per=3)
        weights: Array = array(f32, "_count", default=())
        pose: Array = matrix(default=None)
        note: str = string("_note_size", "", default="")
        raw: bytes = data("_raw_size", default=b"")
        probes: Any = elements(Probe, default=())

    Force.Probe = Probe  # type: ignore[attr-defined]
    return Force


def test_own_type_gets_everything() -> None:
    Force = declare()
    m = Force("Drill", [[1, 2, 3], [4, 5, 6]], [0.5, 0.25], device_name="Robot", note="é", raw=b"xyz",
              probes=[Force.Probe("p", place=(3, -4))])  # fmt: skip
    got = igtl.unpack(m.pack())
    assert type(got) is Force
    assert got == m
    assert got.samples.shape == (2, 3)
    assert (got.note, bytes(got.raw), got.probes[0].place.tolist()) == ("é", b"xyz", [3, -4])
    assert m.to_dict()["samples"] == [[1, 2, 3], [4, 5, 6]]
    match got:
        case igtl.Transform():
            pytest.fail("no transform")
        case Force(tool=tool, samples=samples):
            assert (tool, samples[1, 2]) == ("Drill", 6)
    m.weights = [1.0]
    with pytest.raises(igtl.EncodeError, match=r"Force.weights: 1 elements, but samples has 2"):
        m.pack()
    m.samples, m.weights = np.zeros((70000, 3)), np.zeros(70000)
    with pytest.raises(igtl.EncodeError, match=r"Force.samples: 70000 elements do not fit"):
        m.pack()


def test_a_subclass_that_adds_methods_keeps_the_type() -> None:
    class Pose(igtl.Transform):
        def moved(self, x: float) -> Pose:
            self.matrix[0, 3] += x
            return self

    class Order(igtl.Command):
        pass

    wire = Pose(EYE, device_name="P").moved(3).pack()
    got = igtl.unpack(wire)
    assert type(got) is igtl.Transform
    assert got.matrix[0, 3] == 3
    assert Order(1, "x").pack()[:2] == b"\0\2"


def test_declaring_again() -> None:
    first, second = declare(), declare()  # a notebook cell run twice
    assert igtl.message_types()["X_FORCE"] is second is not first
    with pytest.raises(TypeError, match="declared already"):

        class Other(igtl.Message, type_name="X_FORCE"):
            pass

    with pytest.raises(TypeError, match="1 to 12 bytes"):

        class Long(igtl.Message, type_name="X_MUCH_TOO_LONG"):
            pass

    with pytest.raises(TypeError, match="no field 'missing'"):

        class Bad(igtl.Message, type_name="X_BAD"):
            _n: int = count_of("missing", u16)

    with pytest.raises(TypeError, match="only the last field"):

        class Worse(igtl.Message, type_name="X_WORSE"):
            everything: bytes = data()
            more: int | None = optional(u8())
            again: bytes = data()

    for name in ("X_BAD", "X_WORSE"):
        assert name not in igtl.message_types()


def test_streams_do_not_mix() -> None:
    """What a header's type and name say is kept for the next message of the stream."""
    sent = [
        cls(device_name=f"Dev{k}") if cls is not igtl.Transform else cls(np.eye(4), device_name=f"Dev{k}")
        for k in range(200)
        for cls in (igtl.Transform, igtl.GetImage, igtl.StopTrackingData)
    ]  # fmt: skip
    wires = [m.pack() for m in sent]
    for _ in range(2):
        for m, wire in zip(sent, wires, strict=True):
            assert igtl.unpack(wire) == m
    odd = bytearray(sent[0].pack())
    odd[14:34] = b"Dev0\0rest of a name!"[:20]
    for _ in range(2):  # what the name does not show stays with each message
        m = igtl.unpack(bytes(odd))
        assert m.device_name == "Dev0"
        assert m.pack() == bytes(odd)
    assert igtl.unpack(wires[0]).pack() == wires[0]


def test_a_type_declared_again_replaces_the_one_that_was_unpacked_before() -> None:
    namespace = {"__module__": __name__}
    first = type("Again", (igtl.Message,), {**namespace}, type_name="AGAIN")
    wire = first(device_name="x").pack()
    assert type(igtl.unpack(wire)) is first
    second = type("Again", (igtl.Message,), {**namespace}, type_name="AGAIN")
    assert type(igtl.unpack(wire)) is second


def test_pack_into() -> None:
    m = igtl.Transform(np.eye(4), device_name="Probe")
    wire = m.pack()
    ring = np.zeros(200, np.uint8)
    assert m.pack_into(ring[10:]) == 106
    assert ring[10:116].tobytes() == wire
    assert not ring[:10].any()
    assert not ring[116:].any()
    buffer = bytearray(105)
    with pytest.raises(ValueError, match="Transform takes 106 bytes, the buffer has 105"):
        m.pack_into(buffer)
    assert buffer == bytes(105)
    for wrong in (b"x" * 200, memoryview(b"x" * 200)):
        with pytest.raises(BufferError):
            m.pack_into(wrong)
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        m.pack_into(np.zeros(400, np.uint8)[::2])
    with pytest.raises(TypeError):
        m.pack_into([0] * 200)
    m.device_name = "x" * 21
    with pytest.raises(igtl.EncodeError):
        m.pack_into(ring)
    image = igtl.Image(np.arange(60000, dtype="u2").reshape(3, 100, 200))
    room = bytearray(200000)
    for _ in range(2):  # the memory is used again
        size = image.pack_into(room, version=2, crc=False)
        assert room[:size] == image.pack(version=2, crc=False)


def test_encoded_metadata_are_kept_until_an_entry_changes() -> None:
    m = igtl.Transform(EYE, metadata={"b": 1, "a": "é"})
    wire = m.pack()
    assert m.pack() == wire
    got = igtl.unpack(wire)
    other = igtl.Metadata(got.metadata)
    assert got.pack() == wire
    for change in (
        lambda data: data.__setitem__("a", "x"),
        lambda data: data.__delitem__("a"),
        lambda data: data.update(c=(106, b"y")),
        lambda data: data.clear(),
    ):
        for each in (m, got):
            change(each.metadata)
            again = igtl.unpack(each.pack(version=2))
            assert again.metadata == each.metadata == dict(each.metadata)
    assert other.to_wire("") == igtl.unpack(wire).metadata.to_wire("")
    assert not m.metadata
    assert m.pack()[:2] == b"\0\1"
    for made in (copy.copy(other), copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert type(made) is igtl.Metadata
        made["b"] = 2
        assert (made["b"], other["b"], made.raw("a")) == ("2", "1", "é".encode())


# ---- constructors: called directly in C, and still what Python says they are ---------------------


def test_a_constructor_can_be_called_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pose = np.eye(4)
    made = [
        igtl.Transform(pose, device_name="a"),
        igtl.Transform(*[pose], device_name="a"),
        igtl.Transform(matrix=pose, device_name="a"),
        type.__call__(igtl.Transform, pose, device_name="a"),
        functools.partial(igtl.Transform, device_name="a")(pose),
    ]
    assert all(m.device_name == "a" and np.array_equal(m.matrix, pose) for m in made)
    for call in (igtl.Transform, functools.partial(type.__call__, igtl.Transform)):
        for args, kwargs, words in (
            ((), {}, "needs 'matrix'"),
            ((pose, 1), {}, "takes 1 positional arguments, 2 were given"),
            ((pose,), {"matrix": pose}, "got 'matrix' twice"),
            ((pose,), {"nonsense": 1}, "no field 'nonsense'"),
            ((pose,) * 60, {}, "arguments"),
        ):
            with pytest.raises(TypeError, match=words):
                call(*args, **kwargs)

    class Named(igtl.Transform):
        def __init__(self, name: str) -> None:
            super().__init__(pose, device_name=name)

    assert Named("b").device_name == "b"
    seen: list[Any] = []
    monkeypatch.setattr(igtl.Transform, "__init__", lambda self, *a, **k: seen.append((a, k)))
    igtl.Transform(1, x=2)  # type: ignore[call-arg, arg-type]
    assert seen == [((1,), {"x": 2})]


def test_an_element_can_be_constructed_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pose = np.eye(4)
    for call in (igtl.Tool, functools.partial(type.__call__, igtl.Tool)):
        tools = [call("a", 1, pose), call(*["a"], matrix=pose), call(matrix=pose, name="a", type=1)]
        assert all(tool == igtl.Tool("a") for tool in tools)
        for args, kwargs, words in (
            ((), {}, r"Tool\(\) needs 'name'"),
            (("a", 1, pose, 0), {}, "takes 3 positional arguments, 4 were given; its fields are name, type, matrix"),
            (("a",), {"name": "a"}, r"Tool\(\) got 'name' twice"),
            (("a",), {"nonsense": 1}, "has no field 'nonsense'; it has name, type, matrix"),
            (("a",), {"device_name": "b"}, "has no field 'device_name'"),
            (("a",), {"_reserved": 1}, "has no field '_reserved'"),
        ):  # fmt: skip
            with pytest.raises(TypeError, match=words):
                call(*args, **kwargs)
    with pytest.raises(TypeError, match="not constructed"):
        igtl.Tool.__new__(igtl.Tool).name

    class Named(igtl.Tool):
        def __init__(self) -> None:
            super().__init__("b", type=3)

    assert igtl.TrackingData([Named()]).tools["b"].type == 3
    seen: list[Any] = []
    monkeypatch.setattr(igtl.Tool, "__init__", lambda self, *a, **k: seen.append((a, k)))
    igtl.Tool(1, x=2)  # type: ignore[call-arg, arg-type]
    assert seen == [((1,), {"x": 2})]


def test_an_element_owns_its_values() -> None:
    """As one of a list does; arrays are views, which keep the memory that they lie in."""
    point = igtl.Point("p", position=[1, 2.5, 3], color=[1, 2, 3, 4])
    place, listed = point.position, igtl.Points([point]).points
    place[0] = 7
    assert (point.position.tolist(), listed.positions.tolist()) == ([7, 2.5, 3], [[1, 2.5, 3]])
    for each in (point, listed[0], copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        each.diameter, each.position, each.color = 2, np.array([4, 5, 6.0]), (0, 0, 255, 0)
        each.name = "é"
        assert (each.name, each.diameter, each.group) == ("é", 2.0, "Fiducial")
        assert (each.position.tolist(), each.color.tolist()) == ([4, 5, 6], [0, 0, 255, 0])
        for field, value, words in (
            ("color", (0, 0, 0, 256), "values 0..256 do not fit uint8"),
            ("color", (0, 0, 0, -1), "values -1..0 do not fit uint8"),
            ("color", (0, 0, 0, 1 << 80), "does not become uint8"),
            ("color", (0, 0, 0.5, 0), "does not become uint8"),
            ("position", (1, 2), r"shape \(2,\), must be \(3,\)"),
            ("name", "é" * 33, "has 66 bytes, 64 fit"),
            ("name", "a\0b", "a NUL would end the text"),
        ):
            with pytest.raises((igtl.EncodeError, TypeError), match=words):
                setattr(each, field, value)
        with pytest.warns(RuntimeWarning, match="overflow"):
            each.diameter = 1e300
        each.diameter = float("inf")
        assert (each.position.tolist(), each.color.tolist()) == ([4, 5, 6], [0, 0, 255, 0])
    del point
    gc.collect()
    assert place.tolist() == [4, 5, 6]


def test_a_reserved_field_of_a_message() -> None:
    from igtl.fields import reserved, u8, u16

    class Gap(igtl.Message, type_name="GAP"):
        first: int = u8()
        _gap: int = reserved(u16)
        last: int = u8()

    wire = Gap(1, 2).pack()
    assert wire[58:] == bytes([1, 0, 0, 2])
    other = wire[:58] + bytes([1, 7, 8, 2])
    assert igtl.unpack(other, crc="off").pack()[58:] == bytes([1, 7, 8, 2])


def test_a_class_packs_by_a_method_of_its_own_unless_it_has_another() -> None:
    """What the interpreter calls without a search through the bases."""

    class Louder(igtl.Transform):
        def pack(self, **how: Any) -> Any:
            return b"loud" + super().pack(**how)

    class Loudest(Louder):
        pass

    plain = igtl.Transform(EYE, device_name="Probe", timestamp=1.5)
    assert igtl.Transform.pack.__objclass__ is igtl.Transform
    assert igtl.Transform.pack(plain, version=2) == plain.pack(version=2) != plain.pack()
    assert Loudest(EYE, device_name="Probe", timestamp=1.5).pack() == b"loud" + plain.pack()
    with pytest.raises(TypeError, match="'Transform' object"):
        igtl.Transform.pack(igtl.String("not a transform"))
