"""The oracle: a slow interpreter of the same field lists, in plain Python and `struct`.

It shares no code with `igtl._core`: it reads a message through its public attributes and writes
the bytes by its own means, and reads bytes into plain values. Parts with a form of their own are
written here a second time, from docs/protocol.md.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

import igtl
from igtl.fields import Field

_FORMATS = {
    "u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q",
    "f4": "f", "f8": "d",
}  # fmt: skip
POLY = 0x42F0E1EBA9EA3693


class Bad(Exception):
    """These bytes are not a message of this type."""


def _table() -> list[int]:
    table = []
    for i in range(256):
        c = i << 56
        for _ in range(8):
            c = (c << 1) ^ (POLY | 1 << 64) if c >> 63 else c << 1
        table.append(c)
    return table


_CRC = _table()


def crc64(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC[crc >> 56 ^ byte] ^ (crc << 8) & (1 << 64) - 1
    return crc


# ---- writing ----------------------------------------------------------------------------------


def text(value: str, size: int) -> bytes:
    raw = value.encode()
    assert len(raw) <= size
    return raw + bytes(size - len(raw))


def numbers(scalar: str, values: Any) -> bytes:
    if scalar[0] == "f":  # bit patterns, so that a NaN stays the NaN it is
        bits = np.ascontiguousarray(values, scalar).reshape(-1).view("u" + scalar[1])
        return b"".join(struct.pack(">" + _FORMATS["u" + scalar[1]], int(v)) for v in bits)
    return b"".join(struct.pack(">" + _FORMATS[scalar], int(v)) for v in np.ravel(values))


def matrix(value: Any) -> bytes:
    return numbers("f4", [value[r][c] for c in range(4) for r in range(3)])


def content(m: igtl.Message) -> bytes:
    parts: dict[str, bytes] = {}
    for field in type(m).__fields__:
        parts[field.name] = b"" if field.kind in ("count", "size") else _written(m, field)
    for field in type(m).__fields__:
        if field.kind == "count":
            parts[field.name] = numbers(field.scalar, [len(getattr(m, field.of))])
        elif field.kind == "size":
            parts[field.name] = numbers(field.scalar, [len(parts[field.of])])
    return b"".join(parts.values())


def _written(m: igtl.Message, field: Field) -> bytes:
    if field.constant:
        return numbers(field.scalar, [field.default])
    if isinstance(m, igtl.Image) and field.name == "_pixels":
        order = ">" if m.endian == 1 else "<"
        return m.array.astype(m.array.dtype.newbyteorder(order)).tobytes()
    value = getattr(m, field.name)
    if field.kind in ("int", "float"):
        if value is None and field.optional:
            return b""
        if value is None:  # an encoding left to the library
            string = next(f for f in type(m).__fields__ if f.encoding == field.name)
            value = 3 if getattr(m, string.name).isascii() else 106
        return numbers(field.scalar, [value])
    if field.kind == "text":
        return text(value, field.size)
    if field.kind == "texts":
        return b"".join(text(t, field.size) for t in value)
    if field.kind == "zero_ended":
        return bytes(value.encode()) + b"\0"
    if field.kind == "string":
        return bytes(value.encode())
    if field.kind == "array":
        return numbers(field.scalar, value)
    if field.kind == "matrix":
        return matrix(value)
    if field.kind == "data":
        return bytes(value)
    if field.kind == "elements":
        return b"".join(_element(e) for e in value)
    return _CODED_OUT[type(m), field.name.removeprefix("_")](value)


def _element(e: igtl.Element) -> bytes:
    out = []
    for field in type(e).__fields__:
        value = getattr(e, field.name)
        if field.kind == "text":
            out.append(text(value, field.size))
        elif field.kind == "matrix":
            out.append(matrix(value))
        else:
            out.append(numbers(field.scalar, np.ravel(value)))
    return b"".join(out)


def _cells(cells: Any) -> bytes:
    return b"".join(numbers("u4", [len(c), *c]) for c in cells)


def _attributes(attributes: list[igtl.Attribute]) -> bytes:
    heads, names, blocks = b"", b"", b""
    for a in attributes:
        rows, width = a.values.shape
        wide = a.type in (0x04, 0x05, 0x11, 0x12, 0x14, 0x15)
        heads += struct.pack(">BBI", a.type, 9 if wide else width, rows)
        names += a.name.encode() + b"\0"
        blocks += numbers("f4", a.values) + (bytes(4 * rows * (9 - width)) if wide else b"")
    return heads + names + bytes(len(names) % 2) + blocks


def _children(children: list[igtl.Message]) -> bytes:
    heads, names, bodies = numbers("u2", [len(children)]), b"", b""
    for child in children:
        body = content(child)
        heads += text(child.type_name, 12) + numbers("u8", [len(body)])
        names += child.device_name.encode() + b"\0"
        bodies += body + bytes(len(body) % 2)
    names += bytes(len(names) % 2)
    return heads + numbers("u2", [len(names)]) + names + bodies


def _wanted(wanted: list[tuple[str, str]]) -> bytes:
    if not wanted:
        return b""
    names = b"".join(d.encode() + b"\0" for _, d in wanted)
    heads = b"".join(text(t, 12) for t, _ in wanted)
    return numbers("u2", [len(wanted)]) + heads + numbers("u2", [len(names)]) + names


def _ndarray(array: Any) -> bytes:
    code = {"i1": 2, "u1": 3, "i2": 4, "u2": 5, "i4": 6, "u4": 7, "f4": 10, "f8": 11, "c16": 13}
    kind = array.dtype.str[1:]
    flat = np.ascontiguousarray(array).reshape(-1)
    values = numbers("f8", flat.view("f8")) if kind == "c16" else numbers(kind, flat)
    return bytes([code[kind], array.ndim]) + numbers("u2", array.shape) + values


def _table_out(table: Any) -> bytes:
    index = 3 if len(table) == 256 else 5
    kind = 19 if table.ndim == 2 else {1: 3, 2: 5}[table.itemsize]
    return bytes([index, kind]) + numbers(table.dtype.str[1:], table)


_CODED_OUT: dict[tuple[type, str], Any] = {
    (igtl.PolyData, "vertices"): _cells, (igtl.PolyData, "lines"): _cells,
    (igtl.PolyData, "polygons"): _cells, (igtl.PolyData, "triangle_strips"): _cells,
    (igtl.PolyData, "attributes"): _attributes, (igtl.Bind, "children"): _children,
    (igtl.GetBind, "wanted"): _wanted, (igtl.StartBind, "wanted"): _wanted,
    (igtl.NDArray, "array"): _ndarray, (igtl.ColorTable, "table"): _table_out,
}  # fmt: skip


def message(m: igtl.Message, version: int) -> bytes:
    """The whole message, header and metadata included."""
    body = content(m)
    if version == 2:
        entries = sorted(
            (k.encode(), m.metadata.encoding(k), m.metadata.raw(k)) for k in m.metadata
        )
        head = struct.pack(">H", len(entries))
        head += b"".join(struct.pack(">HHI", len(k), e, len(v)) for k, e, v in entries)
        data = b"".join(k + v for k, _, v in entries)
        body = struct.pack(">HHII", 12, len(head), len(data), m.message_id) + body + head + data
    head = struct.pack(">H", version) + text(m.type_name, 12) + text(m.device_name, 20)
    return head + struct.pack(">QQQ", m.timestamp_raw, len(body), crc64(body)) + body


# ---- reading: sizes and counts only, to know which bytes are acceptable ------------------------


def accepts(cls: type[igtl.Message], raw: bytes) -> bool:
    """Whether content bytes are a message of this declared class (no coded fields)."""
    at = 0
    seen: dict[str, int] = {}
    for field in cls.__fields__:
        left = len(raw) - at
        if field.kind in ("int", "count", "size", "float"):
            size = int(field.scalar[1])
            if left < size:
                if field.optional:
                    continue
                return False
            seen[field.name] = int.from_bytes(raw[at : at + size], "big")
            if field.constant and seen[field.name] != field.default:
                return False
        elif field.kind == "text":
            size = field.size
        elif field.kind == "matrix":
            size = 48
        elif field.kind in ("texts", "elements", "zero_ended") or (
            field.kind == "data" and field.count == "*"
        ):
            return True
        elif field.kind == "string" or field.kind == "data":
            size = seen[str(field.count)]
        else:
            assert field.kind == "array"
            unit = int(field.scalar[1]) * (field.per or 1)
            if isinstance(field.count, tuple):
                return left in [n * unit for n in field.count] or left > field.count[-1] * unit
            if field.count == "*":
                return True
            n = field.count if isinstance(field.count, int) else seen[str(field.count)]
            size = n * unit
        if left < size:
            return False
        at += size
    return True
