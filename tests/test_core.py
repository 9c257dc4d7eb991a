"""What the compiled part writes, reads and holds: nothing beyond the memory that it measured, whatever
a field list declares, another thread does meanwhile, or a caller leaves out."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import igtl
from igtl import Tool, TrackingData, _core, batch
from igtl.fields import Array, array, coded, count_of, data, elements, f32, size_of, u16, u32
from igtl.messages import geometry

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
    m.rows.shape = (150, 1)


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
    try:
        wire = PACKING[way](m)
    except igtl.EncodeError as error:
        assert re.search("changed while it was packed|must stay contiguous|has no column", str(error))
    else:
        got: Any = igtl.unpack(wire)
        got = got.children[0] if isinstance(got, igtl.Bind) else got
        assert got.rows.shape == (50, 3)
        assert (got.rows == 1).all()
        assert bytes(got.blob) == bytes(100_000)
        assert len(got.tools) in (2, 52)
        assert all((tool.matrix == np.eye(4)).all() for tool in got.tools)
    assert done


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
