"""The oracle: a slow interpreter of the same field lists, in plain Python and `struct`.

It shares no code with `igtl._core`: it reads a message through its public attributes and writes
the bytes by its own means, and reads bytes into plain values. Parts with a form of their own are
written here a second time, from docs/protocol.md.
"""

from __future__ import annotations

import math
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
        # little-endian numbers, each mirrored
        order = slice(None, None, -1) if field.little else slice(None)
        return b"".join(numbers(field.scalar, [v])[order] for v in np.ravel(value))
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


DEEPEST = 8  # messages in messages (docs/protocol.md 8.17 sets no limit)


class BeyondNumpy(Exception):
    """An array that the wire allows and numpy cannot hold: more than 64 dimensions, or extents
    whose product does not fit although one of them is 0."""


def verdict(wire: bytes) -> str:
    """What `unpack` makes of these bytes: the name of an error's class, or "accepted"."""
    if len(wire) < 58 or int.from_bytes(wire[42:50], "big") != len(wire) - 58:
        return "ProtocolError"
    version, body = int.from_bytes(wire[:2], "big"), wire[58:]
    if version > 2:
        return "VersionError"
    if crc64(body) != int.from_bytes(wire[50:58], "big"):
        return "CRCError"
    inner = _inside(body) if version == 2 else body
    return "accepted" if inner is not None and typed(wire[2:14], inner) else "BodyError"


def _inside(body: bytes) -> bytes | None:
    """The content of a version 2 body (docs/protocol.md section 5); None: it contradicts itself."""
    if len(body) < 12:
        return None
    ext, mh, ms = struct.unpack_from(">HHI", body)
    end = len(body) - mh - ms
    if ext < 12 or mh < 2 or end < ext:
        return None
    count = int.from_bytes(body[end : end + 2], "big")
    if 2 + 8 * count > mh:
        return None
    entries = struct.iter_unpack(">HHI", body[end + 2 : end + 2 + 8 * count])
    return body[ext:end] if sum(key + value for key, _, value in entries) == ms else None


def typed(type_name: bytes, raw: bytes, depth: int = 1) -> bool:
    """Whether content bytes are a message of the type of this name, which ends at its NUL. depth:
    1 for a message that lies in no other."""
    name = type_name.partition(b"\0")[0].decode("utf-8", "replace")
    cls = igtl.message_types().get(name)
    return cls is None or not raw or accepts(cls, raw, depth)


def accepts(cls: type[igtl.Message], raw: bytes, depth: int = 1) -> bool:
    """Whether content bytes are a message of this declared class."""
    at = 0
    seen: dict[str, int] = {}
    counts: dict[str, int] = {}  # by the field that they describe
    for field in cls.__fields__:
        left = len(raw) - at
        if field.kind in ("int", "count", "size", "float"):
            size = int(field.scalar[1])
            if left < size:
                if field.optional:
                    continue
                return False
            seen[field.name] = int.from_bytes(raw[at : at + size], "big")
            if field.kind == "count":
                counts[field.of] = seen[field.name]
            if field.constant and seen[field.name] != field.default:
                return False
        elif field.kind == "text":
            size = field.size
        elif field.kind == "matrix":
            size = 48
        elif field.kind == "coded":
            size = left if field.count == "*" else seen[str(field.count)]
            part = raw[at : at + size]
            if left < size or not _part(cls, field.name, part, counts.get(field.name, -1), depth):
                return False
        elif field.kind in ("texts", "elements", "zero_ended") or (
            field.kind == "data" and field.count == "*"
        ):
            break
        elif field.kind == "string" or field.kind == "data":
            size = field.count if isinstance(field.count, int) else seen[str(field.count)]
        else:
            assert field.kind == "array"
            unit = int(field.scalar[1]) * (field.per or 1)
            if isinstance(field.count, tuple):
                return left in [n * unit for n in field.count] or left > field.count[-1] * unit
            if field.count == "*":
                break
            n = field.count if isinstance(field.count, int) else seen[str(field.count)]
            size = n * unit
        if left < size:
            return False
        at += size
    return _CHECKS.get(cls, lambda raw: True)(raw)


def _part(cls: type[igtl.Message], name: str, raw: bytes, count: int, depth: int) -> bool:
    if cls is igtl.Bind:
        return depth <= DEEPEST and _children_in(raw, depth)
    return bool(_CODED_IN[cls, name](raw, count))


def _part_is_inside(raw: bytes, size: int, offset: int) -> bool:
    whole, at, part = (struct.unpack_from(">3H", raw, k) for k in (size, offset, offset + 6))
    return all(a + p <= w for a, p, w in zip(at, part, whole, strict=True))


_WIDTHS = {2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 10: 4, 11: 8}


def _image_in(raw: bytes) -> bool:
    components, scalar = raw[2:4]
    width = _WIDTHS.get(scalar)
    i, j, k = struct.unpack_from(">3H", raw, 66)
    if width is None or components == 0 or not _part_is_inside(raw, 6, 60):
        return False
    return len(raw) - 72 >= i * j * k * components * width


def _tracked_frame_in(raw: bytes) -> bool:
    scalar, components, _, i, j, k, size = struct.unpack_from(">6HI", raw)
    width = _WIDTHS.get(scalar)
    return width is not None and components > 0 and size == i * j * k * components * width


def _us_message_in(raw: bytes) -> bool:
    components, scalar = raw[2:4]
    width = _WIDTHS.get(scalar)
    if width is None or components == 0:
        return False
    i, j, k = struct.unpack_from(">3H", raw, 66)
    return len(raw) - 72 >= i * j * k * components * width + 52


def _video_in(raw: bytes) -> bool:
    return _part_is_inside(raw, 10, 64)


def _cells_in(raw: bytes, count: int) -> bool:
    at = 0
    for _ in range(count):
        if at + 4 > len(raw):
            return False
        at += 4 + 4 * int.from_bytes(raw[at : at + 4], "big")
    return at == len(raw)


def _attributes_in(raw: bytes, count: int) -> bool:
    if 6 * count > len(raw):
        return False
    at = start = 6 * count
    for _ in range(count):
        end = raw.find(b"\0", at, at + 256)
        if end < 0:
            return False
        at = end + 1
    at += (at - start) % 2
    for _, components, tuples in struct.iter_unpack(">BBI", raw[: 6 * count]):
        at += 4 * components * tuples
        if components == 0 or at > len(raw):
            return False
    return True


def _children_in(raw: bytes, depth: int) -> bool:
    if len(raw) == 4:
        return True
    n = int.from_bytes(raw[:2], "big")
    at = 4 + 20 * n
    if len(raw) < at:
        return False
    at += int.from_bytes(raw[at - 2 : at], "big")
    if at > len(raw):
        return False
    for kind, size in struct.iter_unpack(">12sQ", raw[2 : 2 + 20 * n]):
        if size > len(raw) - at or not typed(kind, raw[at : at + size], depth + 1):
            return False
        at = min(at + size + size % 2, len(raw))  # the last one may lack its padding
    return True


def _wanted_in(raw: bytes, count: int) -> bool:
    if len(raw) < 17:
        return True
    at = 4 + 12 * int.from_bytes(raw[:2], "big")
    return at <= len(raw) and at + int.from_bytes(raw[at - 2 : at], "big") <= len(raw)


def _ndarray_in(raw: bytes, count: int) -> bool:
    if len(raw) < 2:
        return False
    width = {2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 10: 4, 11: 8, 13: 16}.get(raw[0])
    dims = raw[1]
    if width is None or len(raw) < 2 + 2 * dims:
        return False
    shape = struct.unpack_from(f">{dims}H", raw, 2)
    if 2 + 2 * dims + math.prod(shape) * width > len(raw):
        return False
    if dims > 64 or math.prod(n or 1 for n in shape) * width >= 1 << 63:
        raise BeyondNumpy
    return True


def _table_in(raw: bytes, count: int) -> bool:
    if len(raw) < 2:
        return False
    size = {3: 256, 5: 65536}.get(raw[0], 0) * {3: 1, 5: 2, 19: 3}.get(raw[1], 0)
    return 0 < size <= len(raw) - 2


_CODED_IN: dict[tuple[type, str], Any] = {
    (igtl.PolyData, "vertices"): _cells_in, (igtl.PolyData, "lines"): _cells_in,
    (igtl.PolyData, "polygons"): _cells_in, (igtl.PolyData, "triangle_strips"): _cells_in,
    (igtl.PolyData, "attributes"): _attributes_in, (igtl.GetBind, "wanted"): _wanted_in,
    (igtl.StartBind, "wanted"): _wanted_in, (igtl.NDArray, "array"): _ndarray_in, (igtl.ColorTable, "table"): _table_in,
}  # fmt: skip
_CHECKS: dict[type, Any] = {
    igtl.Image: _image_in, igtl.Video: _video_in, igtl.TrackedFrame: _tracked_frame_in,
    igtl.UsMessage: _us_message_in,
}  # fmt: skip
