"""Everything else: STATUS, CAPABILITY, STRING, SENSOR, NDARRAY, BIND, COMMAND, QUERY."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, Final, Self, Unpack

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.message import HeaderFields, Message, _take_header
from igtl.codec.units import Unit
from igtl.errors import BodyError, EncodeError
from igtl.fields import (
    Array,
    array,
    coded,
    count_of,
    f64,
    i64,
    mib,
    size_of,
    string,
    text,
    texts,
    u8,
    u16,
    u32,
    u64,
    zero_ended,
)  # fmt: skip


class StatusCode(IntEnum):
    """Codes of STATUS (protocol.md 8.4)."""

    INVALID = 0
    OK = 1
    UNKNOWN_ERROR = 2
    PANIC = 3
    NOT_FOUND = 4
    ACCESS_DENIED = 5
    BUSY = 6
    TIME_OUT = 7
    OVERFLOW = 8
    CHECKSUM_ERROR = 9
    CONFIG_ERROR = 10
    RESOURCE_ERROR = 11
    UNKNOWN_INSTRUCTION = 12
    NOT_READY = 13
    MANUAL_MODE = 14
    DISABLED = 15
    NOT_PRESENT = 16
    UNKNOWN_VERSION = 17
    HARDWARE_FAILURE = 18
    SHUTTING_DOWN = 19


class Status(Message, type_name="STATUS"):
    """How the sender is, or how a request went (protocol.md 8.4).

    Args:
        code: see StatusCode; peers may send others.
        subcode: device specific.
        error_name: at most 20 bytes.
        message: text without NUL.
    """

    code: int = u16(default=StatusCode.OK)
    subcode: int = i64(default=0)
    error_name: str = text(20, default="")
    message: str = zero_ended(default="")

    @classmethod
    def ok(cls, message: str = "", **header: Unpack[HeaderFields]) -> Self:
        """Code 1 with error name "OK"."""
        return cls(StatusCode.OK, 0, "OK", message, **header)

    @property
    def is_ok(self) -> bool:
        """Whether the code is OK."""
        return self.code == StatusCode.OK

    def summary(self) -> str:
        """Return the code's name (or number), the subcode and the texts, as `repr` shows them."""
        known = self.code in StatusCode._value2member_map_
        words = [StatusCode(self.code).name if known else f"code={self.code}"]
        words += [f"subcode={self.subcode}"] if self.subcode else []
        words += [repr(t) for t in (self.error_name, self.message) if t]
        return " ".join(words)


class Capability(Message, type_name="CAPABILITY"):
    """The types that the sender understands (protocol.md 8.5).

    Args:
        types: names of types on the wire, for example "TRANSFORM".
    """

    types: list[str] = texts(12, default=())


class String(Message, type_name="STRING"):
    """A text (protocol.md 8.14).

    Args:
        string: at most 65,535 bytes. bytes are taken as they are.
        encoding: IANA MIBenum. Default: 3 (US-ASCII) for ASCII, else 106 (UTF-8).
    """

    encoding: int | None = mib(default=None, kw_only=True)
    _length: int = size_of("string", u16)
    string: str = string("_length", "encoding")


class Sensor(Message, type_name="SENSOR"):
    """Up to 255 numbers of one unit (protocol.md 8.12).

    Args:
        values: (n,), float64.
        unit: a `Unit`, its text ("mm/s^2", "N*m"), or the 64-bit number.
        status: reserved, 0.

    Attributes:
        unit_raw: the unit as the 64-bit number on the wire.
    """

    _length: int = count_of("values", u8)
    status: int = u8()
    unit_raw: int = u64()
    values: Array = array(f64, "_length")

    def __init__(
        self,
        values: npt.ArrayLike,
        unit: Unit | str | int = 0,
        *,
        status: int = 0,
        **header: Unpack[HeaderFields],
    ) -> None:
        _take_header(self, dict(header))
        self.values = values
        self.unit = Unit(unit)
        self.status = status

    @property
    def unit(self) -> Unit:
        """The unit of all values; `str()` of it is its text."""
        return Unit(self.unit_raw)

    @unit.setter
    def unit(self, value: Unit | str | int) -> None:
        self.unit_raw = int(Unit(value))

    def _contents(self) -> Iterator[tuple[str, Any]]:
        yield "status", self.status
        yield "unit", str(self.unit)
        yield "values", self.values


_NUMPY_DIMENSIONS: Final = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


@functools.cache  # a format is spelled and looked up once, not for each message
def _ndarray_head(dims: int) -> struct.Struct:
    return struct.Struct(f">BB{dims}H")


class _NDArrayCodec:
    """NDARRAY: type and extents follow from the array; always big endian (protocol.md 8.13)."""

    minimum = 2
    _types: Final = {
        code: np.dtype(kind)
        for code, kind in (
            (2, "i1"), (3, "u1"), (4, "i2"), (5, "u2"), (6, "i4"), (7, "u4"), (10, "f4"),
            (11, "f8"), (13, "c16"),
        )
    }  # fmt: skip
    _codes: Final = {dtype: code for code, dtype in _types.items()}

    def decode(self, view: memoryview, count: int) -> npt.NDArray[Any] | bytes:
        code, dims = view[0], view[1]
        native = self._types.get(code)
        if native is None:
            raise ValueError(f"scalar type {code} does not exist")
        head = _ndarray_head(dims)
        left = len(view) - head.size
        if left < 0:
            raise ValueError(f"{dims} dimensions announced, {len(view) - 2} bytes are left")
        shape = head.unpack_from(view)[2:]
        size = math.prod(shape)
        if size * native.itemsize > left:
            raise ValueError(f"{size} numbers announced, {left} bytes are left")
        if dims > _NUMPY_DIMENSIONS:
            return bytes(view)
        return _core.numbers_in(view, head.size, native, shape)

    def size(self, value: npt.NDArray[Any] | bytes) -> int:
        if isinstance(value, bytes):
            return len(value)
        return 2 + 2 * value.ndim + value.nbytes

    def coerce(self, value: Any) -> npt.NDArray[Any]:
        array = np.array(value)
        self._code(array.dtype)
        return array

    def _code(self, dtype: np.dtype[Any]) -> int:
        if code := self._codes.get(dtype):
            return code
        for kind, code in self._codes.items():  # another byte order, or another name for it
            if dtype.newbyteorder("=") == kind:
                return code
        wanted = "int8 … uint32, float32, float64 or complex128"
        raise EncodeError(
            "NDArray", "array", f"the wire has no {dtype.name}: convert it to {wanted}"
        )

    def encode(self, value: npt.NDArray[Any] | bytes) -> bytes:
        if isinstance(value, bytes):
            return value
        if value.ndim > 255 or max(value.shape, default=0) > 65535:
            raise ValueError(f"extents {value.shape}: at most 65535 each")
        code = self._code(value.dtype)
        head = _ndarray_head(value.ndim).pack(code, value.ndim, *value.shape)
        return _core.bytes_of_numbers(head, value)


class NDArray(Message, type_name="NDARRAY"):
    """An array of numbers of any shape (protocol.md 8.13).

    Args:
        array: int8 … uint32, float32, float64 or complex128; extents up to 65,535 each. Of a
            received message with more dimensions than numpy has (64): its content, as bytes.
    """

    array: Array = coded(_NDArrayCodec())


Wanted = tuple[str, str]
"""Type name and device name of a message asked for."""


def _take(view: memoryview, at: int, size: int, what: str) -> memoryview:
    if size > len(view) - at:
        raise ValueError(f"{what} needs {size} bytes, {len(view) - at} are left")
    return view[at : at + size]


def _split_names(table: memoryview, count: int) -> list[str]:
    names = bytes(table).split(b"\0", count)[:count]
    return [name.decode("utf-8", "replace") for name in names] + [""] * (count - len(names))


Print = tuple[int, int]
"""Number of the children of a BIND, and a checksum of them: shows whether one was edited."""


class _ChildrenCodec:
    """BIND: types and sizes, names, contents, each content padded to even (protocol.md 8.17)."""

    minimum = 4
    nests = True

    def check(self, view: memoryview, count: int, depth: int = 1) -> None:
        for _ in self._read(view, depth):
            pass

    def decode(self, view: memoryview, count: int, depth: int = 1) -> tuple[list[Message], Print]:
        children, bodies = [], []
        for child, body in self._read(view, depth):
            children.append(child)
            bodies.append(body)
        if children:
            names = _split_names(self._names(view, len(children)), len(children))
            for child, name in zip(children, names, strict=True):
                child.device_name = name
        return children, self._print(children, bodies)

    def _names(self, view: memoryview, n: int) -> memoryview:
        at = 2 + 20 * n
        size = int.from_bytes(_take(view, at, 2, "name table size"), "big")
        return _take(view, at + 2, size, "name table")

    def _read(self, view: memoryview, depth: int) -> Iterator[tuple[Message, memoryview]]:
        """One child after the other, without its name, and its bytes."""
        if len(view) == 4:  # the library sends four undefined bytes for "no children"
            return
        n = int.from_bytes(view[:2], "big")
        heads = _take(view, 2, 20 * n, f"table of {n} children")
        at = 4 + 20 * n + len(self._names(view, n))
        for k in range(n):
            type_name, size = struct.unpack_from(">12sQ", heads, 20 * k)
            body = _take(view, at, size, f"child {k}")
            try:
                child = _core.unpack_content(type_name, body, depth + 1)
            except BodyError as error:
                raise ValueError(f"child {k}: {error}") from None
            yield child, body
            at = min(at + size + size % 2, len(view))

    def coerce(self, value: Iterable[Message]) -> list[Message]:
        children = list(value)
        for child in children:
            if not isinstance(child, Message):
                raise TypeError(f"{type(child).__name__} is not a message")
        return children

    def _print(self, children: list[Message], bodies: Iterable[bytes | memoryview]) -> Print:
        crc = 0
        for child, body in zip(children, bodies, strict=True):
            head = f"{child.device_name}\0{len(body)}\0".encode()
            for part in (child._wire_type(), head, body):
                crc = _core.crc64(part, crc)
        return len(children), crc

    def print_of(self, value: list[Message], depth: int) -> Print:
        return self._print(value, (_core.content(child, depth + 1) for child in value))

    def encode(self, value: list[Message], depth: int = 1) -> bytes:
        if len(value) > 65535:
            raise ValueError(f"{len(value)} children, at most 65535 fit")
        heads: list[bytes] = []
        names: list[bytes] = []
        bodies: list[bytes] = []
        for child in value:
            body = _core.content(child, depth + 1)
            name = child.device_name.encode()
            if len(name) > 20 or b"\0" in name:
                raise ValueError(
                    f"device name {child.device_name!r} has {len(name)} bytes or a NUL, 20 fit"
                )
            heads.append(child._wire_type() + struct.pack(">Q", len(body)))
            names.append(name + b"\0")
            bodies += body, bytes(len(body) % 2)
        table = b"".join(names)
        table += bytes(len(table) % 2)
        if len(table) > 65535:
            raise ValueError(f"the names take {len(table)} bytes, 65535 fit")
        count, size = struct.pack(">H", len(value)), struct.pack(">H", len(table))
        return b"".join((count, *heads, size, table, *bodies))


class Bind(Message, type_name="BIND"):
    """Several messages in one (protocol.md 8.17).

    Args:
        children: any messages. They travel without time stamp, id and metadata.
    """

    children: list[Message] = coded(_ChildrenCodec())

    def __getitem__(self, device_name: str) -> Message:
        for child in self.children:
            if child.device_name == device_name:
                return child
        raise KeyError(device_name)


class _WantedCodec:
    """GET_BIND, STT_BIND: types and names of what is wanted; the names are not padded here."""

    _shortest = 17  # below that the library means "everything" and sends undefined bytes

    def _split(self, view: memoryview) -> tuple[memoryview, memoryview]:
        """Return the table of types and that of names."""
        n = int.from_bytes(view[:2], "big")
        types = _take(view, 2, 12 * n, f"table of {n} types")
        at = 2 + 12 * n
        size = int.from_bytes(_take(view, at, 2, "name table size"), "big")
        return types, _take(view, at + 2, size, "name table")

    def check(self, view: memoryview, count: int) -> None:
        if len(view) >= self._shortest:
            self._split(view)

    def decode(self, view: memoryview, count: int) -> list[Wanted]:
        if len(view) < self._shortest:
            return []
        table, names = self._split(view)
        types = [
            raw.partition(b"\0")[0].decode("utf-8", "replace")
            for (raw,) in struct.iter_unpack("12s", table)
        ]
        return list(zip(types, _split_names(names, len(types)), strict=True))

    def coerce(self, value: Iterable[Wanted]) -> list[Wanted]:
        return [(type_name, device_name) for type_name, device_name in value]

    def encode(self, value: list[Wanted]) -> bytes:
        if not value:
            return b""
        heads = [_core.encode_field(t, 12, "GetBind", "wanted") for t, _ in value]
        table = b"".join(d.encode() + b"\0" for _, d in value)
        if len(value) > 65535 or len(table) > 65535:
            raise ValueError(f"{len(value)} entries with {len(table)} bytes of names do not fit")
        count, size = struct.pack(">H", len(value)), struct.pack(">H", len(table))
        return b"".join((count, *heads, size, table))


class Command(Message, type_name="COMMAND", prefers_v2=True):
    """A command to the peer (protocol.md 8.18).

    Args:
        command_id: chosen by the sender; the peer copies it into its reply.
        name: at most 128 bytes.
        text: usually XML. The official library takes up to 65,535 bytes.
        encoding: IANA MIBenum. Default: 3 (US-ASCII) for ASCII, else 106 (UTF-8).
    """

    command_id: int = u32()
    name: str = text(128)
    encoding: int | None = mib(default=None, kw_only=True)
    _length: int = size_of("text", u32)
    text: str = string("_length", "encoding", default="")


class CommandReply(Message, type_name="RTS_COMMAND", prefers_v2=True):
    """The answer to a Command (protocol.md 8.18).

    Args:
        command_id: that of the command.
        name: that of the command.
        text: usually XML.
        encoding: IANA MIBenum. Default: 3 (US-ASCII) for ASCII, else 106 (UTF-8).
    """

    command_id: int = u32()
    name: str = text(128)
    encoding: int | None = mib(default=None, kw_only=True)
    _length: int = size_of("text", u32)
    text: str = string("_length", "encoding", default="")


class Query(Message, type_name="QUERY"):
    """A message of the official library that no peer is known to answer (protocol.md 8.19).

    Args:
        query_id: chosen by the asker.
        data_type: name of the type that is wanted.
        device_uid: name of the device that is wanted.
    """

    query_id: int = u32()
    data_type: str = text(32)
    _length: int = size_of("device_uid", u16)
    device_uid: str = string("_length", "", default="")
