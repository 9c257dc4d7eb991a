"""What a message is: the base classes, the registry of types, and `unpack`.

A message type is one class whose body lists its fields (see `igtl.fields`). At class creation
the list is compiled to a plan that `igtl._core` runs to pack and unpack; everything else here
(constructor, comparison, dict, repr) reads the same list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    dataclass_transform,
    overload,
)  # fmt: skip

import numpy as np

from igtl import _core, fields
from igtl.errors import EncodeError
from igtl.fields import Field, data
from igtl.metadata import Metadata, Value

CRCPolicy = Literal["verify", "warn", "off"]
_SHOWN = 64  # arrays up to this size are written out in to_dict


class HeaderFields(TypedDict, total=False):
    """The keyword arguments every message takes besides its own fields."""

    device_name: str
    timestamp: float | None
    message_id: int
    metadata: Mapping[str, Value] | None


def _declared(bases: tuple[type, ...], namespace: dict[str, Any]) -> list[Field]:
    """Fields of the bases, then those of this class body, which are taken out of it."""
    found: list[Field] = []
    for base in bases:
        found += getattr(base, "__fields__", ())
    for name in [key for key, value in namespace.items() if isinstance(value, Field)]:
        field = namespace.pop(name)
        field.name = name
        found.append(field)
    return found


class MessageMeta(type):
    """Compiles the fields of a class body and registers the type."""

    __fields__: tuple[Field, ...]

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type_name: str = "",
        aliases: tuple[str, ...] = (),
        prefers_v2: bool = False,
    ) -> MessageMeta:
        declared = _declared(bases, namespace)
        namespace.setdefault("__slots__", ())
        cls = super().__new__(mcs, name, bases, namespace)
        cls.__fields__ = tuple(declared)
        layout = _core.Layout(
            name, type_name, declared,
            check=getattr(cls, "_check", None), prepare=getattr(cls, "_prepare", None),
            prefers_v2=prefers_v2,
        )  # fmt: skip
        cls.__layout__ = layout  # type: ignore[attr-defined]
        for i, field in enumerate(declared):
            setattr(cls, field.name, _core.Slot(i, field))
        positional = tuple(f.name for f in declared if not f.hidden and not f.kw_only)
        type.__setattr__(cls, "__match_args__", positional)
        if type_name:
            cls.type_name = type_name  # type: ignore[attr-defined]
            for wire_name in (type_name, *aliases):
                _register(wire_name, cls)
        return cls

    def __init__(cls, name: str, bases: Any, namespace: Any, **_: Any) -> None:
        super().__init__(name, bases, namespace)


def _register(wire_name: str, cls: type) -> None:
    raw = wire_name.encode()
    if not 0 < len(raw) <= 12 or b"\0" in raw:
        raise TypeError(f"{cls.__name__}: type name {wire_name!r} must have 1 to 12 bytes")
    known = _core.registered().get(wire_name)
    # the same class again is a notebook cell run twice
    if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(
            f"{wire_name} is declared already, by {known.__module__}.{known.__qualname__}"
        )
    _core.register(raw, cls)


def header(*, default: Any, kw_only: Literal[True] = True) -> Any:
    """A header field, for type checkers; at run time `_core.Record` has it."""


# type checkers want the specifiers written out, here and at Element
@dataclass_transform(
    eq_default=False,
    field_specifiers=(
        header,
        fields.array,
        fields.coded,
        fields.constant,
        fields.count_of,
        fields.data,
        fields.elements,
        fields.f32,
        fields.f64,
        fields.i16,
        fields.i32,
        fields.i64,
        fields.i8,
        fields.matrix,
        fields.mib,
        fields.optional,
        fields.reserved,
        fields.size_of,
        fields.string,
        fields.text,
        fields.texts,
        fields.u16,
        fields.u32,
        fields.u64,
        fields.u8,
        fields.zero_ended,
    ),
)
class _Declared(_core.Record, metaclass=MessageMeta):
    """Carries the typing rules of declared classes (they do not apply to their own class)."""


class Message(_Declared):
    """Base of all messages.

    Args:
        device_name: who sends, or what is asked for; at most 20 bytes of UTF-8.
        timestamp: seconds since 1970 (UTC). Default: now. 0 or None: not set.
        message_id: 0 for none. Needs header version 2.
        metadata: mapping of keys to values (see `igtl.Metadata`). Needs header version 2.

    Attributes:
        type_name: name on the wire.
        timestamp_raw: the time stamp as on the wire, in units of 2**-32 s; 0 = not set.
        time_ns: the time stamp in nanoseconds, rounded to nearest, or None.
        header_version: 1 or 2 if it was received, else 0.
        crc_ok: of a received message: whether its CRC was right; None if unchecked or not received.
        received: arrival, seconds since 1970; None if it did not arrive by a link.
        peer: address it came from, or None.
    """

    __slots__ = ()
    type_name: ClassVar[str] = ""

    if TYPE_CHECKING:
        device_name: str = header(default="", kw_only=True)
        timestamp: float | None = header(default=None, kw_only=True)
        message_id: int = header(default=0, kw_only=True)
        metadata: Mapping[str, Value] | None = header(default=None, kw_only=True)
    else:

        @property
        def metadata(self) -> Metadata:
            """Keys and values that travel with the message (docs/protocol.md section 5)."""
            if self._meta is None:
                self._meta = Metadata()
            return self._meta

        @metadata.setter
        def metadata(self, entries: Mapping[str, Value] | None) -> None:
            self._meta = None if entries is None else Metadata(entries)

    def pack(
        self, *, version: Literal[1, 2] | None = None, crc: bool = True, cut_name: bool = False
    ) -> bytes:
        """The whole message, ready to send.

        Args:
            version: header version. Default: the received one, else 2 if the message has
                metadata or an id or is a COMMAND, else 1 (docs/protocol.md section 2.1).
            crc: False writes 0 in its place.
            cut_name: cut a device name over 20 bytes at a character, and with header version 2
                send the whole one as metadata IGTL_DEVICE_NAME. Default: EncodeError.

        Raises:
            EncodeError: a field cannot be sent as it is.
        """
        return _core.pack(self, version, crc, cut_name)

    def pack_parts(
        self, *, version: Literal[1, 2] | None = None, crc: bool = True, cut_name: bool = False
    ) -> list[bytes | memoryview]:
        """As `pack`, in parts to be sent one after the other: pixels and other large data are
        not copied, but stand in the list as they lie in memory."""
        return _core.pack(self, version, crc, cut_name, False)

    @staticmethod
    def _with_full_name(metadata: Metadata | None, name: str) -> Metadata:
        full = Metadata(metadata)
        full["IGTL_DEVICE_NAME"] = name
        return full

    def to_dict(self, *, arrays: bool = False) -> dict[str, Any]:
        """Everything as JSON-able values, keyed by attribute name.

        Args:
            arrays: write large arrays out in full. Default: as dtype, shape and SHA-256.
        """
        out: dict[str, Any] = {
            "type": self.type_name,
            "device_name": self.device_name,
            "timestamp": self.timestamp,
            "time_ns": self.time_ns,
        }
        if self.message_id:
            out["message_id"] = self.message_id
        if self._meta:
            out["metadata"] = dict(self._meta)
        for name, value in self._contents():
            out[name] = _plain(value, arrays)
        return out

    def _contents(self) -> Iterator[tuple[str, Any]]:
        """Name and value of all that a user sees; classes with views of raw parts add to it."""
        for field in type(self).__fields__:
            if not field.hidden:
                yield field.name, getattr(self, field.name)

    def _summary(self) -> str:
        """The few words of repr that differ from type to type."""
        return " ".join(f"{name}={_short(value)}" for name, value in self._contents())

    def __repr__(self) -> str:
        words = [type(self).__name__, repr(self.device_name)]
        if self.timestamp_raw:
            words.append(_clock(self))
        words.append(self._summary())
        if self.message_id:
            words.append(f"id={self.message_id}")
        if self._meta:
            words.append(f"metadata={dict(self._meta)}")
        return f"<{' '.join(w for w in words if w)}>"

    def _repr_html_(self) -> str:
        rows = [("device", self.device_name), ("time", _clock(self) if self.timestamp_raw else "–")]
        rows += [(name, _short(value)) for name, value in self._contents()]
        rows += [(f"metadata {key}", value) for key, value in (self._meta or {}).items()]
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'><code>{escape(str(value))}</code></td></tr>"
            for name, value in rows
        )
        return f"<table><caption>{escape(self.type_name)}</caption>{cells}</table>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self is other or (
            type(self) is type(other)
            and self._wire_type() == other._wire_type()
            and self.device_name == other.device_name
            and self.timestamp_raw == other.timestamp_raw
            and self.message_id == other.message_id
            and (self._meta or {}) == (other._meta or {})
            and _core.content(self) == _core.content(other)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return _core.Record.__new__, (type(self),), self._state()


def _plain(value: Any, arrays: bool) -> Any:
    """A JSON-able form of a field value."""
    if isinstance(value, np.ndarray):
        if not arrays and value.size > _SHOWN:
            digest = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
            return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": digest}
        if value.dtype.kind == "c":
            return [_plain(row, True) for row in value] if value.ndim > 1 else [
                [z.real, z.imag] for z in value.tolist()
            ]  # fmt: skip
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        if arrays or len(raw) <= _SHOWN:
            return raw.hex()
        return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    if hasattr(value, "to_dict"):
        return value.to_dict(arrays=arrays)
    if isinstance(value, Elements | list | tuple):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _short(value: Any) -> str:
    """A field value in a few words."""
    if isinstance(value, np.ndarray):
        if value.size <= 16:
            return np.array2string(value, precision=4, suppress_small=True, separator=", ").replace(
                "\n", ""
            )
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{memoryview(value).nbytes} bytes"
    if isinstance(value, Elements):
        return repr(value)
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(repr, value[:8]))}, … {len(value)}]"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _clock(message: Message) -> str:
    """Time stamp to the millisecond, in UTC."""
    seconds = message.timestamp_raw / 2**32
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Unknown(Message):
    """A message whose type nobody declared. Its content can be read and sent on unchanged."""

    content: bytes = data()

    def __init__(
        self, type_name: str, content: bytes = b"", **header: Unpack[HeaderFields]
    ) -> None:
        _take_header(self, dict(header))
        self._set_wire_type(_type_bytes(type_name))
        self.content = content

    type_name = property(lambda self: self._wire_type().rstrip(b"\0").decode("utf-8", "replace"))


class NoData(Message):
    """An empty message of a type that has a fixed part: "there is none" as an answer."""

    def __init__(self, type_name: str, **header: Unpack[HeaderFields]) -> None:
        _take_header(self, dict(header))
        self._set_wire_type(_type_bytes(type_name))

    type_name = property(lambda self: self._wire_type().rstrip(b"\0").decode("utf-8", "replace"))

    def _summary(self) -> str:
        return str(self.type_name)


def _take_header(message: Message, header: dict[str, Any]) -> None:
    message._init_header(header)
    if header:
        raise TypeError(f"{type(message).__name__}() has no field {next(iter(header))!r}")


def _type_bytes(type_name: str) -> bytes:
    raw = type_name.encode()
    if not 0 < len(raw) <= 12 or b"\0" in raw:
        raise EncodeError("Unknown", "type_name", f"{type_name!r} must have 1 to 12 bytes")
    return raw.ljust(12, b"\0")


# ---- elements of list messages ----------------------------------------------------------------

E = TypeVar("E", bound="Element")


class Elements(_core.Columns, Generic[E]):
    """The elements of a list message, kept as one array per field.

    `points[i]` reads and writes through to row i; `points.positions` is the whole column, an
    ndarray whose edits count; `points["Nasion"]` is the first element of that name. Text
    columns read as lists of str.
    """

    __slots__ = ()
    __item__: ClassVar[type[Any]]

    if TYPE_CHECKING:

        def __getattr__(self, column: str) -> Any: ...

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[E]:
        return (self.__item__._at(self, row) for row in range(self.rows))

    @overload
    def __getitem__(self, key: int | str) -> E: ...
    @overload
    def __getitem__(self, key: slice) -> list[E]: ...
    def __getitem__(self, key: int | str | slice) -> E | list[E]:
        if isinstance(key, slice):
            return [self.__item__._at(self, row) for row in range(*key.indices(self.rows))]
        if isinstance(key, str):
            for row, name in enumerate(self.names):
                if name == key:
                    return self.__item__._at(self, row)  # type: ignore[no-any-return]
            raise KeyError(key)
        row = range(self.rows)[key]
        return self.__item__._at(self, row)  # type: ignore[no-any-return]

    def append(self, element: E) -> None:
        """Add one element, copied. For many at once build the list first."""
        joined = type(self).of([*self, element])
        self.__setstate__((joined.rows, joined.arrays))

    @classmethod
    def of(cls, items: Iterable[Any]) -> Self:
        """Columns of a list of elements (copied)."""
        listed = list(items)
        for item in listed:
            if not isinstance(item, cls.__item__):
                raise TypeError(f"{type(item).__name__} in a list of {cls.__item__.__name__}")
        self = cls()
        self.allocate(len(listed))
        for i, column in enumerate(self.arrays):
            for row, item in enumerate(listed):
                column[row] = item._columns.arrays[i][item._row]
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Elements) or self.__item__ is not other.__item__:
            return NotImplemented
        return self.rows == other.rows and all(
            a.tobytes() == b.tobytes() for a, b in zip(self.arrays, other.arrays, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return _restore_elements, (self.__item__, self.rows, [a.copy() for a in self.arrays])

    def __repr__(self) -> str:
        names = self.names if "name" in self.__item__.__layout__.index else []
        shown = ", ".join(map(repr, names[:6])) + (", …" if len(names) > 6 else "")
        return f"{self.rows} × {self.__item__.__name__}" + (f" ({shown})" if shown else "")


def _restore_elements(item: type[Any], rows: int, arrays: list[Any]) -> Any:
    columns = item.__columns__()
    columns.__setstate__((rows, arrays))
    return columns


class ElementList(Generic[E]):
    """The type of element list fields: reads as Elements, accepts any iterable of elements."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any = None) -> ElementList[E]: ...
        @overload
        def __get__(self, obj: object, owner: Any = None) -> Elements[E]: ...
        def __get__(self, obj: object, owner: Any = None) -> Any: ...
        def __set__(self, obj: object, value: Iterable[E]) -> None: ...


class _Column:
    """Attribute access to one column of an element list."""

    def __init__(self, i: int, field: Field) -> None:
        self.i = i
        self.field = field

    def __get__(self, columns: Any, owner: Any = None) -> Any:
        if columns is None:
            return self
        return columns.texts(self.i) if self.field.kind == "text" else columns.arrays[self.i]

    def __set__(self, columns: Any, values: Any) -> None:
        target = columns.arrays[self.i]
        if len(values) != columns.rows:
            raise ValueError(f"{self.field.plural}: {len(values)} values for {columns.rows} rows")
        if self.field.kind in ("text", "matrix"):
            for row, value in enumerate(values):
                target[row] = _cell_value(columns.__item__, self.field, value)
        else:
            given = _core.as_numbers(
                values, target.dtype, columns.__item__.__name__, self.field.name
            )
            if given.shape != target.shape:
                raise ValueError(f"{self.field.plural}: {given.shape}, must be {target.shape}")
            target[:] = given


class _Cell:
    """Attribute access to one field of one element."""

    def __init__(self, i: int, field: Field) -> None:
        self.i = i
        self.field = field

    def __get__(self, element: Any, owner: Any = None) -> Any:
        if element is None:
            return self
        cell = element._columns.arrays[self.i][element._row]
        if self.field.kind == "text":
            return cell.partition(b"\0")[0].decode("utf-8", "replace")
        return cell.item() if self.field.kind in ("int", "float") else cell

    def __set__(self, element: Any, value: Any) -> None:
        column = element._columns.arrays[self.i]
        column[element._row] = _cell_value(type(element), self.field, value)


def _cell_value(owner: type, field: Field, value: Any) -> Any:
    """What a column keeps for one value; checked, so that nothing is cut or wrapped."""
    if field.kind == "text":
        return _core.encode_field(value, field.size, owner.__name__, field.name)
    if field.kind == "matrix":
        return _core.as_matrix(value, owner.__name__, field.name)
    if field.kind == "float":
        return float(value)
    numbers = _core.as_numbers(value, np.dtype(field.scalar), owner.__name__, field.name)
    shape = () if field.kind == "int" else (field.count,)
    if numbers.shape != shape:
        raise EncodeError(owner.__name__, field.name, f"shape {numbers.shape}, must be {shape}")
    return numbers


def _plural(name: str) -> str:
    return name[:-1] + "ies" if name.endswith("y") else name + "s"


class ElementMeta(type):
    """Compiles the fields of an element class and builds its column class."""

    __fields__: tuple[Field, ...]
    __shown__: tuple[Field, ...]
    __columns__: type[Elements[Any]]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> ElementMeta:
        declared = _declared(bases, namespace)
        namespace.setdefault("__slots__", ())
        cls = super().__new__(mcs, name, bases, namespace)
        cls.__fields__ = tuple(declared)
        for field in declared:
            fixed = field.kind in ("int", "float", "text", "matrix") or (
                field.kind == "array" and isinstance(field.count, int) and not field.per
            )
            if not fixed or field.optional:
                raise TypeError(f"{name}.{field.name}: elements have fields of fixed size only")
        layout = _core.Layout(name, "", declared)
        columns: dict[str, Any] = {"__slots__": (), "__layout__": layout, "__item__": cls}
        for i, field in enumerate(declared):
            setattr(cls, field.name, _Cell(i, field))
            field.plural = field.plural or _plural(field.name)
            columns[field.plural] = _Column(i, field)
        cls.__layout__ = layout  # type: ignore[attr-defined]
        cls.__shown__ = tuple(f for f in declared if not f.hidden)
        positional = tuple(f.name for f in cls.__shown__ if not f.kw_only)
        type.__setattr__(cls, "__match_args__", positional)
        cls.__columns__ = type(f"{name}Elements", (Elements,), columns)
        return cls


@dataclass_transform(
    eq_default=False,
    field_specifiers=(
        fields.array,
        fields.coded,
        fields.constant,
        fields.count_of,
        fields.data,
        fields.elements,
        fields.f32,
        fields.f64,
        fields.i16,
        fields.i32,
        fields.i64,
        fields.i8,
        fields.matrix,
        fields.mib,
        fields.optional,
        fields.reserved,
        fields.size_of,
        fields.string,
        fields.text,
        fields.texts,
        fields.u16,
        fields.u32,
        fields.u64,
        fields.u8,
        fields.zero_ended,
    ),
)
class Element(metaclass=ElementMeta):
    """Base of the elements of list messages, declared like a message.

    An element made by itself owns its values; one taken from a list reads and writes through.
    """

    __slots__ = ("_columns", "_row")
    if TYPE_CHECKING:
        __match_args__: ClassVar[tuple[str, ...]]
        _columns: Any
        _row: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        self._columns = cls.__columns__()
        self._columns.allocate(1)
        self._row = 0
        if len(args) > len(cls.__match_args__):
            raise TypeError(
                f"{cls.__name__}() takes {len(cls.__match_args__)} positional arguments"
            )
        given = dict(zip(cls.__match_args__, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise TypeError(f"{cls.__name__}() got {name!r} twice")
            given[name] = value
        for field in cls.__shown__:
            value = given.pop(field.name, field.default)
            if value is fields.REQUIRED:
                raise TypeError(f"{cls.__name__}() needs {field.name!r}")
            setattr(self, field.name, value)
        if given:
            raise TypeError(f"{cls.__name__}() has no field {next(iter(given))!r}")

    @classmethod
    def _at(cls, columns: Any, row: int) -> Self:
        self = cls.__new__(cls)
        self._columns = columns
        self._row = row
        return self

    @classmethod
    def coerce(cls, value: Any) -> Elements[Self]:
        """The columns a list message keeps for what it was given."""
        if isinstance(value, Elements) and value.__item__ is cls:
            return value
        return cls.__columns__.of(value)

    @classmethod
    def columns(cls, **columns: Any) -> Elements[Self]:
        """Many elements at once, from whole columns: `Point.columns(names=..., positions=...)`.

        Columns left out have the field's default, or are empty texts and zeros.
        """
        if not columns:
            return cls.__columns__.of([])
        self = cls.__columns__()
        self.allocate(len(next(iter(columns.values()))))
        columns_index = self.__layout__.index
        for field in cls.__shown__:
            if field.plural in columns:
                setattr(self, field.plural, columns.pop(field.plural))
            elif field.default is not fields.REQUIRED:
                column = self.arrays[columns_index[field.name]]
                column[:] = _cell_value(cls, field, field.default)
        if columns:
            raise TypeError(f"{cls.__name__} has no column {next(iter(columns))!r}")
        return self

    def to_dict(self, *, arrays: bool = True) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return {f.name: _plain(getattr(self, f.name), True) for f in type(self).__shown__}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return type(self).__columns__.of([self]) == type(self).__columns__.of([other])

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return type(self)._at, (type(self).__columns__.of([self]), 0)

    def __repr__(self) -> str:
        shown = (f"{f.name}={_short(getattr(self, f.name))}" for f in type(self).__shown__)
        return f"{type(self).__name__}({', '.join(shown)})"


_core.set_special(Unknown, NoData, Metadata)


def unpack(data: Any, *, crc: CRCPolicy = "verify") -> Message:
    """The message in these bytes: exactly one, header included.

    Arrays the message can use as they lie (native byte order, aligned) are views of `data`.

    Args:
        data: bytes, or anything else with a contiguous buffer.
        crc: "verify": CRCError when it is wrong. "warn": the message has crc_ok=False. "off":
            not computed.

    Raises:
        VersionError, CRCError, BodyError, ProtocolError: the bytes are wrong.
    """
    return _core.unpack(data, crc)


def message_types() -> dict[str, type[Message]]:
    """All declared types by their name on the wire, aliases and the user's own included."""
    return _core.registered()
