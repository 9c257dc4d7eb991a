"""Messages as columns: the same values, verdicts and errors as one by one."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import igtl
from igtl.codec import batch
from tests.conftest import VECTORS, manifest

rng = np.random.default_rng(5)


def pose() -> Any:
    out = np.eye(4)
    out[:3] = rng.normal(size=(3, 4))
    return out


def tools(kind: Any, n: int) -> list[Any]:
    if kind is igtl.Tool:
        return [igtl.Tool(f"T{k}", k + 1, pose()) for k in range(n)]
    return [
        igtl.QuaternionTool(f"T{k}", position=rng.normal(size=3), quaternion=(0, 0, 1, k))
        for k in range(n)
    ]


MAKERS: dict[str, Any] = {
    "TRANSFORM": lambda k, **h: igtl.Transform(pose(), **h),
    "POSITION": lambda k, **h: igtl.Position((k, 2, 3), (0, 0, 1, k), **h),
    "POSITION 24": lambda k, **h: igtl.Position((k, 2, 3), (0, 0, 1), **h),
    "POSITION 12": lambda k, **h: igtl.Position((k, 2, 3), (), **h),
    "QTRANS": lambda k, **h: igtl.QuaternionTransform((k, 2, 3), (0, 0, 1, k), **h),
    "TDATA": lambda k, **h: igtl.TrackingData(tools(igtl.Tool, k % 4), **h),
    "QTDATA": lambda k, **h: igtl.QuaternionTrackingData(tools(igtl.QuaternionTool, k % 3), **h),
    "SENSOR": lambda k, **h: igtl.Sensor([k, -k, 0.5], "mm/s", status=k, **h),
    "SENSOR 0": lambda k, **h: igtl.Sensor([], **h),
    "STATUS": lambda k, **h: igtl.Status(k % 20, -k, f"é{k}", "x" * k, **h),
    "POINT": lambda k, **h: igtl.Points([igtl.Point(f"P{k}", position=(k, 1, 2))] * k, **h),
}


def run_of(name: str, n: int = 40) -> list[Any]:
    messages = [MAKERS[name](k, device_name=f"D{k % 3}") for k in range(n)]
    for k, m in enumerate(messages):
        m.time_ns = 10**18 + 123456789 * k if k % 5 else None
    return messages


@pytest.mark.parametrize("name", MAKERS)
def test_columns_hold_what_the_messages_hold(name: str) -> None:
    messages = run_of(name)
    wire = b"".join(m.pack() for m in messages)
    got = batch.unpack(wire)
    assert got.kind is type(messages[0])
    assert len(got) == len(messages)
    assert got.crc_ok is not None
    assert got.crc_ok.all()
    assert got.time_ns.tolist() == [m.time_ns or 0 for m in messages]
    assert got.device_names == ("D0", "D1", "D2")
    assert [got.device_names[k] for k in got.device_ids] == [m.device_name for m in messages]
    assert got.is_from("D1").tolist() == [m.device_name == "D1" for m in messages]
    assert not got.is_from("D9").any()
    for field in got.kind.__fields__:
        if field.hidden:
            assert field.name not in got.columns
        elif field.kind == "elements":
            assert got.offsets is not None
            values = got[field.name]
            for k, m in enumerate(messages):
                mine = list(values[got.offsets[k] : got.offsets[k + 1]])
                assert mine == list(getattr(m, field.name))
        elif field.kind == "text":
            assert [x.decode() for x in got[field.name]] == [m.error_name for m in messages]
        elif field.kind == "zero_ended":
            assert got[field.name] == [m.message for m in messages]
        else:
            assert np.array_equal(got[field.name], [getattr(m, field.name) for m in messages])
    assert got.pack() == wire
    assert repr(got) == f"<40 {got.kind.type_name} from 'D0', 'D1', 'D2'>"


@pytest.mark.parametrize("vector", manifest(), ids=lambda v: v["file"])
def test_golden_vectors(vector: Any) -> None:
    """Whatever has columns reads as `unpack` does; the rest says so."""
    wire = (VECTORS / vector["file"]).read_bytes()
    one = igtl.unpack(wire, crc="warn")
    if not type(one).__layout__.columnar:
        with pytest.raises((TypeError, ValueError), match=r"columns|no content"):
            batch.unpack(wire * 3, crc="warn")
        return
    got = batch.unpack(wire * 3, crc="warn")
    assert len(got) == 3
    assert got.kind is type(one)
    for field in type(one).__fields__:
        if field.name in got.columns and field.kind in ("int", "float", "matrix", "array"):
            assert np.array_equal(got[field.name][2], getattr(one, field.name), equal_nan=True)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 2**32 * 10**9 - 10))
def test_round_trip(counts: list[int], start: int) -> None:
    messages = [igtl.TrackingData(tools(igtl.Tool, n)) for n in counts]
    for k, m in enumerate(messages):
        m.time_ns = start + k
    wire = b"".join(m.pack() for m in messages)
    assert batch.unpack(wire).pack() == wire


def test_header_version_2_and_metadata() -> None:
    messages: list[Any] = run_of("TRANSFORM", 6)
    messages[2].metadata = {"a": "b"}
    messages[4].message_id = 7
    wire = b"".join(m.pack(version=2 if k % 2 == 0 else 1) for k, m in enumerate(messages))
    got = batch.unpack(wire)
    assert np.array_equal(got["matrix"], [m.matrix for m in messages])
    status = b"".join(igtl.Status.ok("é" * k).pack(version=2) for k in range(5))
    assert batch.unpack(status)["message"] == ["é" * k for k in range(5)]


def test_any_declared_type_of_fixed_fields() -> None:
    from igtl.fields import f64, reserved, u8, u16

    class Force(igtl.Message, type_name="BATCHFORCE"):
        tool: int = u8()
        _gap: int = reserved(u16)
        newtons: float = f64()

    wire = b"".join(Force(k, k / 2).pack() for k in range(5))
    got = batch.unpack(wire)
    assert got["tool"].dtype == np.uint8
    assert got["tool"].tolist() == [0, 1, 2, 3, 4]
    assert got["newtons"].tolist() == [0, 0.5, 1, 1.5, 2]
    assert got.pack() == wire


def test_a_buffer_is_copied() -> None:
    wire = bytearray(b"".join(m.pack() for m in run_of("TRANSFORM", 3)))
    got = batch.unpack(memoryview(wire))
    before = got["matrix"].copy()
    wire[:] = bytes(len(wire))
    assert np.array_equal(got["matrix"], before)


# ---- bad bytes ----------------------------------------------------------------------------------


def damaged(k: int, at: int, name: str = "TRANSFORM") -> bytes:
    frames = [bytearray(m.pack()) for m in run_of(name, 5)]
    frames[k][at] ^= 1
    return b"".join(frames)


def test_crc_verdicts() -> None:
    wire = damaged(3, 70)
    with pytest.raises(igtl.CRCError) as caught:
        batch.unpack(wire)
    assert caught.value.__notes__ == ["in message 3 of the run"]
    assert caught.value.expected != caught.value.actual
    verdicts = batch.unpack(wire, crc="warn").crc_ok
    assert verdicts is not None
    assert verdicts.tolist() == [True, True, True, False, True]
    assert batch.unpack(wire, crc="off").crc_ok is None
    with pytest.raises(ValueError, match="crc"):
        batch.unpack(wire, crc="no")  # type: ignore[arg-type]


def test_not_a_run() -> None:
    a, b = igtl.Transform(pose()).pack(), igtl.Status.ok().pack()
    with pytest.raises(ValueError, match="message 1 is STATUS, the first is TRANSFORM"):
        batch.unpack(a + b)
    with pytest.raises(ValueError, match="no messages"):
        batch.unpack(b"")
    for cut in (1, 57, 58, 105):
        with pytest.raises(igtl.ProtocolError, match=f"message 1 is cut: {cut} bytes are left"):
            batch.unpack(a + a[:cut])
    with pytest.raises(TypeError, match="does not fit columns"):
        batch.unpack(igtl.String("x").pack())
    with pytest.raises(TypeError, match="does not fit columns"):
        batch.unpack(igtl.Image(np.zeros((1, 2, 2), np.uint8)).pack())
    with pytest.raises(igtl.VersionError):
        batch.unpack(a[:1] + b"\3" + a[2:])


def header_only(wire: bytes) -> bytes:
    return wire[:42] + bytes(16)


def test_of_another_shape_than_the_first() -> None:
    sensor = igtl.Sensor([1, 2, 3]).pack()
    for odd in (igtl.Sensor([1, 2]), igtl.Sensor([1, 2, 3, 4])):
        with pytest.raises(ValueError, match="message 1 does not have the shape of the first"):
            batch.unpack(sensor + odd.pack())
    whole = igtl.Position((1, 2, 3)).pack()
    with pytest.raises(ValueError, match="message 1 does not have the shape of the first"):
        batch.unpack(whole + igtl.Position((1, 2, 3), ()).pack())
    one = igtl.Transform(pose()).pack()
    with pytest.raises(ValueError, match="message 1 does not have the shape of the first"):
        batch.unpack(one + header_only(one))
    with pytest.raises(ValueError, match="message 0 has no content"):
        batch.unpack(header_only(one) * 2)


def test_bad_bodies() -> None:
    one = igtl.Transform(pose()).pack()
    short = one[:42] + (20).to_bytes(8, "big") + one[50 : 58 + 20]
    with pytest.raises(igtl.BodyError, match=r"TRANSFORM\.matrix: needs 48 bytes") as caught:
        batch.unpack(one + short, crc="off")
    assert caught.value.__notes__ == ["in message 1 of the run"]
    lies = bytearray(igtl.Sensor([1, 2, 3]).pack())
    lies[58] = 200
    with pytest.raises(igtl.BodyError, match="200 elements announced"):
        batch.unpack(igtl.Sensor([1, 2, 3]).pack() + lies, crc="off")
    extended = bytearray(igtl.Transform(pose()).pack(version=2))
    extended[58:60] = b"\xff\xff"
    for first in (b"", one):
        with pytest.raises(igtl.BodyError, match="extended header"):
            batch.unpack(first + extended, crc="off")


@given(st.binary(max_size=400), st.sampled_from(sorted(MAKERS)), st.integers(0, 400))
def test_no_bytes_do_harm(noise: bytes, name: str, at: int) -> None:
    """Each message reads as `unpack` reads it, or the whole says what is wrong."""
    wire = bytearray(b"".join(m.pack() for m in run_of(name, 4)))
    wire[at : at + len(noise)] = noise
    try:
        got = batch.unpack(wire, crc="off")
    except (igtl.ProtocolError, ValueError, TypeError):
        return
    decoder = igtl.Decoder()
    decoder.feed(wire)
    for k in range(len(got)):
        one: Any = decoder.next_frame().unpack(crc="off")
        assert type(one) is got.kind
        assert (one.time_ns or 0) == got.time_ns[k]


def test_memory_that_changes_meanwhile() -> None:
    """Sizes are checked where they are used: another thread may write the buffer."""
    whole = b"".join(m.pack() for m in run_of("TDATA", 200))
    wire = bytearray(whole)
    stop = threading.Event()

    def scramble() -> None:
        while not stop.is_set():
            wire[42:50] = (1 << 40).to_bytes(8, "big")
            wire[:] = whole

    thread = threading.Thread(target=scramble)
    thread.start()
    try:
        for _ in range(300):
            with contextlib.suppress(igtl.ProtocolError, ValueError):
                assert len(batch.unpack(wire, crc="off")) == 200
    finally:
        stop.set()
        thread.join()


# ---- packing ------------------------------------------------------------------------------------


def test_pack_from_arrays() -> None:
    times = np.arange(5) * 10**9 + 10**18
    poses = np.array([pose() for _ in range(5)])
    wire = batch.pack(igtl.Transform, times, "Probe", matrix=poses)
    singles = []
    for k in range(5):
        m = igtl.Transform(poses[k], device_name="Probe")
        m.time_ns = int(times[k])
        singles.append(m.pack())
    assert wire == b"".join(singles)
    assert len(batch.unpack(wire[:106])) == 1
    assert batch.pack(igtl.Transform, [], matrix=np.zeros((0, 4, 4))) == b""
    assert igtl.unpack(batch.pack(igtl.Transform, [1], matrix=poses[:1], crc=False), crc="off")


def test_one_value_stands_for_all() -> None:
    wire = batch.pack(igtl.Sensor, [1, 2], ["a", "b"], values=[1, 2, 3], unit_raw=5, status=0)
    got = batch.unpack(wire)
    assert got["values"].tolist() == [[1, 2, 3]] * 2
    assert got["unit_raw"].tolist() == [5, 5]
    assert got.device_names == ("a", "b")
    got = batch.unpack(batch.pack(igtl.Status, [1, 2], error_name="E", message="m", code=[1, 2]))
    assert got["code"].tolist() == [1, 2]
    assert got["subcode"].tolist() == [0, 0]
    assert got["error_name"].tolist() == [b"E", b"E"]
    assert got["message"] == ["m", "m"]
    same = batch.pack(igtl.Status, [1, 2], error_name=["x", "yy"], message=["", "z"])
    assert batch.unpack(same)["error_name"].tolist() == [b"x", b"yy"]
    got = batch.unpack(batch.pack(igtl.TrackingData, [1, 2], tools=tools(igtl.Tool, 6)))
    assert got.offsets is not None
    assert got.offsets.tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"matrix": np.zeros((2, 4, 4))}, igtl.EncodeError, "fourth row"),
        ({"matrix": np.eye(3)}, igtl.EncodeError, r"must be \(N, 4, 4\)"),
        ({"matrix": np.zeros((3, 4, 4))}, igtl.EncodeError, r"shape \(3, 4, 4\), must be \(2"),
        ({}, TypeError, "needs 'matrix'"),
        ({"matrix": np.eye(4), "pose": 1}, TypeError, "no field 'pose'"),
        ({"matrix": np.eye(4), "device_names": "x" * 21}, igtl.EncodeError, "20 fit"),
        ({"matrix": np.eye(4), "device_names": list("abc")}, ValueError, "there is no device|for 2"),
        ({"matrix": np.eye(4), "device_ids": [0]}, ValueError, "1 device ids for 2"),
        ({"matrix": np.eye(4), "device_ids": [0, 1]}, ValueError, "there is no device 1"),
        ({"matrix": np.eye(4), "device_ids": [0, -1]}, ValueError, "there is no device -1"),
        ({"matrix": np.eye(4), "time_ns": [1, -1]}, igtl.EncodeError, "1970"),
        ({"matrix": np.eye(4), "time_ns": [1, 1 << 62]}, igtl.EncodeError, "1970"),
        ({"matrix": np.eye(4), "time_ns": 5}, igtl.EncodeError, r"must be \(N,\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent(settings: Any, error: type[Exception], text: str) -> None:
    settings = {"time_ns": [1, 2], **settings}
    with pytest.raises(error, match=text):
        batch.pack(igtl.Transform, **settings)


def test_what_lists_and_texts_cannot_send() -> None:
    six = igtl.Tool.columns(names=["a"] * 6)
    for offsets in ([0, 3, 5], [0, 3, 7], [0, 4], [1, 3, 6], [0, 7, 6]):
        with pytest.raises(ValueError, match="offsets"):
            batch.pack(igtl.TrackingData, [1, 2], tools=six, offsets=offsets)
    six.matrices[4, 3, 3] = 2
    with pytest.raises(igtl.EncodeError, match=r"Tool\.matrix: the fourth row"):
        batch.pack(igtl.TrackingData, [1, 2], tools=six)
    for bad in (
        {"message": "a\0b"},
        {"error_name": "x" * 21},
        {"error_name": np.array([b"x" * 21])},
    ):
        with pytest.raises(igtl.EncodeError):
            batch.pack(igtl.Status, [1, 2], **bad)  # type: ignore[arg-type]
    with pytest.raises(igtl.EncodeError, match="do not fit"):
        batch.pack(igtl.Status, [1, 2], code=[1, 70000])
    with pytest.raises(igtl.EncodeError, match="do not fit the wire"):
        batch.pack(igtl.Sensor, [1, 2], values=np.zeros((2, 256)), unit_raw=0, status=0)
    with pytest.raises(igtl.EncodeError, match="must be one of"):
        batch.pack(igtl.Position, [1, 2], position=(1, 2, 3), quaternion=np.zeros((2, 2)))
    with pytest.raises(igtl.EncodeError, match="4 numbers, must be 3"):
        batch.pack(igtl.Position, [1, 2], position=np.zeros((2, 4)))
    with pytest.raises(TypeError, match="does not fit columns"):
        batch.pack(igtl.String, [1, 2], string="x")
