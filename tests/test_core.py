"""What the compiled part writes, reads and holds: nothing beyond the memory that it measured, whatever
a field list declares, another thread does meanwhile, or a caller leaves out."""

from __future__ import annotations

import contextlib
import mmap
import re
import sys
import threading
from array import array as array_of
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import igtl
from igtl import Tool, TrackingData, _batch, _core, _stream, fields
from igtl.codec import batch
from igtl.fields import (
    Array,
    array,
    coded,
    count_of,
    data,
    elements,
    f32,
    size_of,
    string,
    text,
    u8,
    u16,
    u32,
)  # fmt: skip
from igtl.messages import geometry
from tests.wire import reshape

APART = 64 * 1024  # data of this size is sent from where it lies


def blobs(numbers: tuple[bool, ...]) -> type[igtl.Message]:
    """A type with a piece of data for each entry, and a number behind those that say so."""
    body: dict[str, Any] = {"__module__": __name__}
    for k in range(len(numbers)):
        body[f"_n{k}"] = size_of(f"data{k}", u32)
    for k, number in enumerate(numbers):
        body[f"data{k}"] = data(f"_n{k}")
        if number:
            body[f"number{k}"] = u16(default=0x1234)
    return type(igtl.Message)("Blobs", (igtl.Message,), body, type_name="X_BLOBS")


@st.composite
def messages_of_blobs(draw: Any) -> igtl.Message:
    numbers = tuple(draw(st.lists(st.booleans(), min_size=1, max_size=4)))
    sizes = st.sampled_from([0, 1, 6000, APART - 1, APART, APART + 1, 2 * APART])
    values = {f"data{k}": bytes([65 + k]) * draw(sizes) for k in range(len(numbers))}
    m: igtl.Message = blobs(numbers)(device_name="x", timestamp=1, **values)
    return m


@settings(max_examples=60)
@given(messages_of_blobs(), st.sampled_from([1, 2]), st.booleans(), st.booleans())
def test_large_data_is_the_same_bytes_in_every_way_of_packing(
    m: igtl.Message, version: Any, crc: bool, tagged: bool
) -> None:
    if tagged and version == 2:
        m.metadata = {"key": "value"}  # type: ignore[assignment]
    whole = m.pack(version=version, crc=crc)
    assert b"".join(m.pack_parts(version=version, crc=crc)) == whole
    protocol = igtl.Protocol(version=version)
    assert b"".join(protocol.parts(m, crc=crc)) == whole
    assert protocol.pack(m, crc=crc) == whole
    kept = bytearray(len(whole))
    assert m.pack_into(kept, version=version, crc=crc) == len(whole)
    assert kept == whole
    got = igtl.unpack(whole, crc="verify" if crc else "off")
    assert got == m
    for field in type(m).__fields__:
        if not field.hidden:
            value = getattr(got, field.name)
            assert (value if field.kind == "int" else bytes(value)) == getattr(m, field.name)


def test_large_data_stays_where_it_lies() -> None:
    big, small = bytearray(2 * APART), b"s" * 10_000
    m = blobs((False, False, True))(big, small, big)  # type: ignore[call-arg]
    parts = m.pack_parts()
    assert [len(part) for part in parts] == [70, 2 * APART, 10_000, 2 * APART, 2]
    assert all(np.shares_memory(np.frombuffer(part, "u1"), np.frombuffer(big, "u1"))
               for part in parts[1::2])  # fmt: skip


# ---- a brief message is written in one pass, others in steps ---------------------------------------


class Words(str):
    """A text of a class of its own."""


def brief_messages() -> Iterator[igtl.Message]:
    texts = [
        "",
        "words",
        Words("words"),
        "w\0rds",
        "wörds",
        "\ud800",
        b"w\xf6rds",
        140 * "w",
        220 * "w",
        5000 * "w",
    ]
    names = ["", "Probe", 20 * "n", 21 * "n", "n\0n", "Gerät"]
    for written in texts:
        for encoding in (None, 3, 106, 4, 1013):
            yield igtl.String(written, encoding=encoding)  # type: ignore[arg-type]
        yield igtl.Status(message=written)  # type: ignore[arg-type]
        yield igtl.Status(error_name=written)  # type: ignore[arg-type]
    for name in names:
        yield igtl.Transform(np.eye(4), device_name=name)
        yield igtl.String("words", device_name=name)
    for extra in ({"message_id": 7}, {"metadata": {"key": "value"}}):
        yield igtl.Transform(np.eye(4), **extra)  # type: ignore[arg-type]
    for row in ([0, 0, 0, 2], [0, 0, np.nan, 1]):
        m = igtl.Transform(np.eye(4))
        m.matrix[3] = row
        yield m
    yield igtl.GetStatus()


@pytest.mark.parametrize(
    "options", [{}, {"version": 1}, {"version": 2}, {"crc": False}, {"cut_name": True}]
)
def test_a_brief_message_is_the_same_bytes_or_error_in_every_way_of_packing(options: Any) -> None:
    """What `content` gives is always written in steps."""
    kept = bytearray(20_000)
    for m in brief_messages():
        m.timestamp = 12.5
        ways: list[Callable[[], bytes]] = [
            lambda m=m: m.pack(**options),
            lambda m=m: b"".join(m.pack_parts(**options)),
            lambda m=m: bytes(kept[: m.pack_into(kept, **options)]),
        ]
        try:
            content = _core.content(m)
            wire = ways[0]()
        except igtl.EncodeError as error:
            for way in ways:
                with pytest.raises(igtl.EncodeError, match=re.escape(str(error))):
                    way()
            continue
        start = 58 + 12 * (wire[1] - 1)
        assert wire[start : start + len(content)] == content
        got = igtl.unpack(wire, crc="verify" if options.get("crc", True) else "off")
        assert got.timestamp == m.timestamp
        assert m.device_name.startswith(got.device_name)
        assert all(way() == wire for way in ways)
        small = bytearray(len(wire) - 1)
        with pytest.raises(ValueError, match=f"{len(wire)} bytes, the buffer has {len(wire) - 1}"):
            m.pack_into(small, **options)
        assert not any(small)


# ---- a message that another thread edits while it is packed ----------------------------------------


class _Edited:
    """A codec whose encoding takes a moment, in which `edit` runs."""

    edit: Callable[[], None] = staticmethod(lambda: None)

    def decode(self, view: memoryview, count: int) -> bytes:
        return bytes(view)

    def coerce(self, value: bytes) -> bytes:
        return value

    def encode(self, value: bytes) -> bytes:
        self.edit()
        return value


CODEC = _Edited()


class Mixed(igtl.Message, type_name="X_MIXED"):
    """Every kind of field whose size is measured before it is written."""

    _n: int = count_of("rows", u16)
    _m: int = size_of("blob", u32)
    _k: int = size_of("slow", u16)
    rows: Array = array(f32, "_n", per=3)
    blob: Any = data("_m")
    slow: bytes = coded(CODEC, "_k")
    tools: Any = elements(Tool)


def mixed() -> Mixed:
    return Mixed(np.ones((50, 3)), bytearray(100_000), b"slow", [Tool("a"), Tool("b")],
                 device_name="x", metadata={"k": "v"})  # fmt: skip


def append(m: Mixed) -> None:
    for k in range(50):
        m.tools.append(Tool(f"b{k}"))


def replace_rows(m: Mixed) -> None:
    m.rows = np.zeros((100_000, 3))


def shorten_rows(m: Mixed) -> None:
    m.rows = np.zeros((0, 3))


def resize_rows(m: Mixed) -> None:
    with pytest.raises(ValueError, match="referenced"):
        m.rows.resize((100_000, 3))


def reshape_rows(m: Mixed) -> None:
    reshape(m.rows, (150, 1))


def resize_blob(m: Mixed) -> None:
    with pytest.raises(BufferError):
        m.blob.clear()


def replace_blob(m: Mixed) -> None:
    m.blob = b""


def replace_tools(m: Mixed) -> None:
    m.tools = []


def replace_columns(m: Mixed) -> None:
    m.tools.arrays[:] = [column[:0].copy() for column in m.tools.arrays]


def shorten_columns(m: Mixed) -> None:
    del m.tools.arrays[1:]


EDITS = [append, replace_rows, shorten_rows, resize_rows, reshape_rows, resize_blob, replace_blob,
         replace_tools, replace_columns, shorten_columns]  # fmt: skip


def packed_into(m: Mixed) -> bytes:
    room = bytearray(200_000)
    return bytes(room[: m.pack_into(room, version=2)])


PACKING: dict[str, Callable[[Mixed], bytes]] = {
    "pack": lambda m: m.pack(version=2),
    "pack_into": packed_into,
    "pack_parts": lambda m: b"".join(m.pack_parts(version=2)),
    "Protocol.parts": lambda m: b"".join(igtl.Protocol(version=2).parts(m)),
    "Protocol.pack": lambda m: igtl.Protocol(version=2).pack(m),
    "in a BIND": lambda m: igtl.Bind([m]).pack(version=2),
    "content": lambda m: igtl.Unknown("X_MIXED", _core.content(m)).pack(version=2),
}


@pytest.mark.parametrize("moment", ["measured", "written"])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("way", PACKING)
def test_an_edit_while_a_message_is_packed(
    way: str, edit: Callable[[Mixed], None], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent with what it had, or refused; nothing else is ever written or sent."""
    m = mixed()
    done = []

    def once(*_: Any) -> Any:
        if not done:
            done.append(True)
            edit(m)
        return b"\0\0", b""

    if moment == "measured" or way in ("content", "in a BIND"):
        monkeypatch.setattr(CODEC, "edit", once)
    else:  # the metadata are encoded when all sizes are known
        monkeypatch.setattr(igtl.Metadata, "to_wire", once)
    wire = None
    refused = ""
    try:
        wire = PACKING[way](m)
    except igtl.EncodeError as error:
        refused = str(error)
    assert done
    if wire is None:
        assert re.search("changed while it was packed|must stay contiguous|has no column", refused)
    else:
        got: Any = igtl.unpack(wire)
        got = got.children[0] if isinstance(got, igtl.Bind) else got
        assert got.rows.shape == (50, 3)
        assert (got.rows == 1).all()
        assert bytes(got.blob) == bytes(100_000)
        assert len(got.tools) in (2, 52)
        assert all((tool.matrix == np.eye(4)).all() for tool in got.tools)


def test_points_replaced_while_the_cells_of_a_mesh_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m = igtl.PolyData(np.ones((1000, 3)), polygons=[[0, 1, 2]])
    before = m.pack()
    real = geometry._CellsCodec.encode

    def encode(self: Any, cells: geometry.Cells) -> bytes:
        m.points = np.zeros((1, 3))
        return real(self, cells)

    monkeypatch.setattr(geometry._CellsCodec, "encode", encode)
    assert m.pack() == before


def test_what_is_counted_changes_while_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    m = igtl.PolyData(np.ones((3, 3)), attributes=[igtl.Attribute("a", [1, 2, 3])])
    real = geometry._AttributesCodec.encode

    def encode(self: Any, value: list[igtl.Attribute]) -> bytes:
        value.append(igtl.Attribute("b", [1, 2, 3]))
        return real(self, value)

    monkeypatch.setattr(geometry._AttributesCodec, "encode", encode)
    with pytest.raises(igtl.EncodeError, match="attributes: changed while it was packed"):
        m.pack()


def test_elements_appended_by_another_thread() -> None:
    m = TrackingData([Tool("a")], metadata={f"k{k}": "v" for k in range(50)})
    stop = threading.Event()

    def edit() -> None:
        while not stop.is_set():
            for _ in range(20):
                m.tools.append(Tool("b"))
            m.tools = [Tool("a")]  # type: ignore[assignment]

    thread = threading.Thread(target=edit)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300):
            m.metadata["x"] = "1"  # so that the metadata is encoded again, in Python
            with contextlib.suppress(igtl.EncodeError):
                assert isinstance(igtl.unpack(m.pack()), TrackingData)
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()


def test_a_batch_whose_places_another_thread_edits() -> None:
    n = 20_000
    ids, ends = np.zeros(n, np.int32), np.arange(n + 1, dtype=np.int64)
    tools = Tool.columns(names=["t"] * n)
    wires = {batch.pack(TrackingData, np.arange(n), "x", offsets=ends, tools=tools)}
    stop = threading.Event()

    def edit() -> None:
        while not stop.is_set():
            ids[n // 2 :] = 1 << 30
            ends[n // 2] = 1 << 40
            ids[n // 2 :] = 0
            ends[n // 2] = n // 2

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        for _ in range(50):
            with contextlib.suppress(ValueError):
                wires.add(batch.pack(TrackingData, np.arange(n), ["x"], device_ids=ids,
                                     offsets=ends, tools=tools))  # fmt: skip
    finally:
        stop.set()
        thread.join()
    assert len(wires) == 1


# ---- buffers ------------------------------------------------------------------------------------


def any_buffer(wire: bytes) -> list[Any]:
    """The same bytes in buffers of other items and shapes."""
    assert len(wire) % 2 == 0
    return [
        array_of("H", wire),
        memoryview(wire).cast("H"),
        np.frombuffer(wire, np.uint16),
        np.frombuffer(wire, ">u2"),
        np.frombuffer(wire, "V2"),
        np.frombuffer(wire, np.uint8).reshape(2, -1),
        bytearray(wire),
        mapped(wire),
    ]


def mapped(wire: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(wire))
    memory[:] = wire
    return memory


def test_any_contiguous_buffer_is_read_as_bytes() -> None:
    wire = igtl.Unknown("BLOB", bytes(range(100)), device_name="x").pack()
    for buffer in any_buffer(wire):
        got: Any = igtl.unpack(buffer)
        assert bytes(got.content) == bytes(range(100))
        frame = igtl.Frame.from_bytes(buffer)
        assert bytes(frame) == wire
        assert len(frame) == len(wire)
        unpacked: Any = frame.unpack()
        assert bytes(unpacked.content) == bytes(range(100))
        p = igtl.Protocol()
        p.receive_data(buffer)
        assert p.next_message() == got
        assert igtl.crc64(buffer) == igtl.crc64(wire)
        child: Any = _core.unpack_content(b"BLOB", buffer)
        assert bytes(child.content) == wire
    run = igtl.Transform(np.eye(4), device_name="x").pack() * 3
    for buffer in any_buffer(run):
        assert len(batch.unpack(buffer)) == 3


def test_what_is_no_contiguous_buffer_is_refused() -> None:
    wire = np.frombuffer(igtl.Status.ok().pack() * 2, np.uint8)
    for wrong in (
        wire[::2],
        memoryview(wire)[::2],
        wire.reshape(2, -1).T,
        np.asfortranarray(wire.reshape(2, -1)),
    ):
        for take in (igtl.unpack, igtl.Frame.from_bytes, igtl.Protocol().receive_data,
                     igtl.crc64, batch.unpack):  # fmt: skip
            with pytest.raises(BufferError):
                take(wrong)  # type: ignore[operator]
    for wrong in ("text", 5, None, [1, 2]):
        for take in (igtl.unpack, igtl.Frame.from_bytes, igtl.Protocol().receive_data,
                     igtl.crc64, batch.unpack):  # fmt: skip
            with pytest.raises(TypeError):
                take(wrong)  # type: ignore[operator]


def test_a_frame_holds_its_buffer() -> None:
    wire = bytearray(igtl.String("hello", device_name="dev").pack())
    frame = igtl.Frame.from_bytes(wire)
    with pytest.raises(BufferError):
        wire.clear()
    wire[42:50] = (1 << 40).to_bytes(8, "big")  # an edit is seen, but no size is believed again
    assert (frame.body_size, len(frame)) == (len(wire) - 58, len(wire))
    assert frame.unpack("off").device_name == "dev"
    with pytest.raises(igtl.ProtocolError):
        igtl.unpack(wire)
    data = memoryview(frame.data)
    del frame
    with pytest.raises(BufferError):
        wire.clear()
    data.release()
    wire.clear()


def test_a_message_holds_the_buffer_that_it_shows() -> None:
    wire = bytearray(igtl.Unknown("BLOB", b"abc").pack())
    m: Any = igtl.unpack(wire)
    with pytest.raises(BufferError):
        wire.clear()
    wire[-1:] = b"d"
    assert bytes(m.content) == b"abd"
    del m
    wire.clear()


def test_a_large_frame_whose_header_is_edited_before_it_is_decoded() -> None:
    wire = igtl.Unknown("BLOB", bytes(100_000)).pack()
    p = igtl.Protocol()
    p.receive_data(wire[:60])
    assert p.next_frame() is None
    p.receive_data(wire[60:])
    frame = p.next_frame()
    assert frame is not None
    memoryview(frame.data)[42:50] = (1 << 40).to_bytes(8, "big")
    got: Any = frame.unpack("off")
    assert len(got.content) == 100_000


def test_a_buffer_that_changes_while_it_is_unpacked() -> None:
    """As one that another thread receives into: it is read right or refused."""
    wire = bytearray(igtl.Transform(np.eye(4), device_name="x").pack() * 1000)
    headers = np.ndarray((1000,), np.dtype(">u8"), wire, 42, (106,))
    stop = threading.Event()

    def edit() -> None:
        while not stop.is_set():
            headers[500:] = 1 << 40
            headers[500:] = 48

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        for _ in range(200):
            with contextlib.suppress(igtl.ProtocolError, ValueError):
                assert (batch.unpack(wire, crc="off")["matrix"] == np.eye(4)).all()
    finally:
        stop.set()
        thread.join()


# ---- misuse -------------------------------------------------------------------------------------

ARGUMENTS: list[tuple[Any, ...]] = [
    (), (0,), (-1,), (70,), (1 << 40,), (None,), ("a",), (bytes(120),), ((5, [None]),), (0, 0),
    ("CRCError", None), (bytes(120), "cause"), (bytes(120), 0.0), (None, None), ("x", 2, 3),
    ({},),
]  # fmt: skip


def poke(thing: Any) -> None:
    """Use all that a thing has in every wrong way; of a class, its methods with another self."""
    for name in dir(thing):
        if name in ("__class__", "__init_subclass__", "__subclasshook__", "__reduce_ex__"):
            continue
        with contextlib.suppress(Exception):
            found = getattr(thing, name)
            repr(found)
            for arguments in ARGUMENTS if callable(found) else ():
                with contextlib.suppress(Exception):
                    repr(found(*arguments))


COMPILED = (_core, _stream, _batch)
CLASSES = [cls for module in COMPILED for cls in vars(module).values()
           if isinstance(cls, type) and cls.__module__ == module.__name__
           and cls is not _stream.Lock]  # waits for a lock that it holds, as threading.Lock does  # fmt: skip
OWN: list[type] = [igtl.Protocol, igtl.Message, igtl.Transform, TrackingData, igtl.Point, Tool,
                   type(TrackingData([]).tools)]  # fmt: skip


@pytest.mark.parametrize("cls", [*CLASSES, *OWN], ids=lambda cls: cls.__name__)
def test_what_was_not_constructed_raises_at_most(cls: type) -> None:
    for arguments in ARGUMENTS:
        for make in (cls, lambda *args: cls.__new__(cls, *args)):
            try:
                thing = make(*arguments)
            except Exception:
                continue
            poke(thing)
    poke(cls)


HARMFUL = ("register", "set_special", "call_directly")  # what they are given is used ever after


@pytest.mark.parametrize("function", [found for module in COMPILED for name, found in vars(module).items()
                                      if isinstance(found, BuiltinFunctionType) and name not in HARMFUL
                                      and found.__module__ == module.__name__])  # fmt: skip
def test_functions_given_what_they_do_not_take(function: Callable[..., object]) -> None:
    for arguments in ARGUMENTS:
        with contextlib.suppress(Exception):
            repr(function(*arguments))


def test_a_frame_that_nobody_made() -> None:
    frame = igtl.Frame.__new__(igtl.Frame)
    for use in (lambda: frame.type_name, frame.unpack, lambda: igtl.unpack(frame),
                lambda: frame.body_size, lambda: igtl.Protocol().send(frame),
                lambda: igtl.Protocol().pack(frame), lambda: igtl.Protocol().decoded(frame),
                lambda: igtl.Stats().count_received(frame, 0.0)):  # fmt: skip
        with pytest.raises(TypeError, match="frames come from"):
            use()


def test_a_protocol_whose_constructor_was_not_called() -> None:
    class Careless(igtl.Protocol):
        def __init__(self) -> None:
            pass

    p = Careless()
    for use in (lambda: p.receive_data(b"x"), p.get_buffer, lambda: p.received(1), p.next_message,
                p.next_frame):  # fmt: skip
        with pytest.raises(TypeError, match=r"Careless.__init__ did not call super"):
            use()


def test_a_protocol_constructed_again_begins_anew() -> None:
    p = igtl.Protocol()
    p.receive_data(igtl.Unknown("BLOB", bytes(200_000)).pack()[:150_000])
    p.next_message()
    igtl.Protocol.__init__(p)
    assert p.at_boundary
    p.receive_data(igtl.Status.ok(device_name="x").pack())
    message = p.next_message()
    assert message is not None
    assert message.device_name == "x"


def test_fields_that_cannot_be_read_or_written_are_refused() -> None:
    class Empty(igtl.Element):
        pass

    wrong: list[dict[str, Any]] = [
        {"a": elements(Empty)},
        {"a": text(0)},
        {"a": text(-5)},
        {"a": array(f32, -5)},
        {"a": array(f32, 3, per=-1)},
        {"a": array(f32, 1 << 40)},
        {"a": u16(), "b": array(f32, "a")},  # no count_of
        {"a": count_of("b", u16), "b": data("a")},  # no size_of
        {"a": data(), "_n": size_of("a", u16)},  # behind what it measures
        {"e": u8(), "_n": size_of("a", u16), "a": string("_n", "e")},  # no mib
        {"_n": size_of("a", u16), "a": string("_n", "e"), "e": u16()},
        {"a": fields.Field("float", "f2")},
        {"a": fields.Field("array", "c16", count=2)},
    ]
    for k, body in enumerate(wrong):
        with pytest.raises(TypeError):
            type(igtl.Message)("Wrong", (igtl.Message,), dict(body), type_name=f"X_WRONG{k}")
        assert f"X_WRONG{k}" not in igtl.message_types()


def test_an_array_reshaped_in_place_is_refused() -> None:
    sensor = igtl.Sensor([1.0])
    reshape(sensor.values, ())
    with pytest.raises(igtl.EncodeError, match="must stay contiguous"):
        sensor.pack()
