"""What a message is: the base classes and the registry of types.

A message type is one class whose body lists its fields (see `igtl.fields`). At class creation
the list is compiled to a plan that `igtl._core` runs to pack and unpack; everything else here
(constructor, comparison, dict, repr) reads the same list.

A class may say more than its fields can: `_check(self)` runs after reading and raises BodyError,
`_prepare(self)` before writing and raises EncodeError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    TypedDict,
    Unpack,
    dataclass_transform,
    overload,
)  # fmt: skip

import numpy as np

from igtl import _core, fields
from igtl.codec.formatting import plain, printable, short
from igtl.codec.metadata import Metadata, Value
from igtl.errors import EncodeError
from igtl.fields import Field, collect, data


class HeaderFields(TypedDict, total=False):
    """The keyword arguments every message takes besides its own fields."""

    device_name: str
    timestamp: float | None
    message_id: int
    metadata: Mapping[str, Value] | None


class MetadataField:
    """The type of `Message.metadata`: reads as Metadata, accepts any mapping, or None for none."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any = None) -> MetadataField: ...
        @overload
        def __get__(self, obj: object, owner: Any = None) -> Metadata: ...
        def __get__(self, obj: object, owner: Any = None) -> Any: ...
        def __set__(self, obj: object, value: Mapping[str, Value] | None) -> None: ...


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
        """Make the class, compile its fields and register its type names."""
        declared = collect(bases, namespace)
        namespace.setdefault("__slots__", ())
        cls = super().__new__(mcs, name, bases, namespace)
        cls.__fields__ = tuple(declared)
        inherited = getattr(cls, "type_name", "")  # of a subclass that only adds methods
        layout = _core.Layout(
            name, type_name or (inherited if isinstance(inherited, str) else ""), declared,
            check=getattr(cls, "_check", None), prepare=getattr(cls, "_prepare", None),
            prefers_v2=prefers_v2 or getattr(getattr(cls, "__layout__", None), "prefers_v2", False),
        )  # fmt: skip
        cls.__layout__ = layout  # type: ignore[attr-defined]
        for i, field in enumerate(declared):
            setattr(cls, field.name, _core.Slot(i, field))
        positional = tuple(f.name for f in declared if not f.hidden and not f.kw_only)
        type.__setattr__(cls, "__match_args__", positional)
        _core.call_directly(cls)
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
    """Return a header field, for type checkers; at run time `_core.Record` has it."""


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
        device_name: the device that sends, or of a request the device that it asks for; at most
            20 bytes of UTF-8.
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
        peer: address of its sender, or None.
        standard: of the class: whether the type is in the OpenIGTLink specification; False for
            types that only some programs know.
    """

    __slots__ = ()
    type_name: ClassVar[str] = ""
    standard: ClassVar[bool] = True

    if TYPE_CHECKING:
        device_name: str = header(default="", kw_only=True)
        timestamp: float | None = header(default=None, kw_only=True)
        message_id: int = header(default=0, kw_only=True)
        metadata: MetadataField = header(default=None, kw_only=True)
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

    @property
    def surplus(self) -> bytes:
        """Received bytes behind the fields of the type; they are packed again."""
        kept = self._state()[1] or {}
        surplus: bytes = kept.get("surplus", b"")
        return surplus

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
            out[name] = plain(value, arrays)
        return out

    def _contents(self) -> Iterator[tuple[str, Any]]:
        """Name and value of all that a user sees; classes with views of raw parts add to it."""
        for field in type(self).__fields__:
            if not field.hidden:
                yield field.name, getattr(self, field.name)

    def summary(self) -> str:
        """Return the few words of repr that differ from type to type."""
        return " ".join(f"{name}={short(value)}" for name, value in self._contents())

    def __repr__(self) -> str:
        words = [type(self).__name__, repr(self.device_name)]
        if self.timestamp_raw:
            words.append(_clock(self))
        words.append(self.summary())
        if self.message_id:
            words.append(f"id={self.message_id}")
        if self._meta:
            words.append(f"metadata={dict(self._meta)}")
        return f"<{' '.join(w for w in words if w)}>"

    def _repr_html_(self) -> str:
        from html import escape  # with its table of entities, for notebooks only

        from igtl import notebook

        rows = [("device", self.device_name), ("time", _clock(self) if self.timestamp_raw else "–")]
        told = [(name, f"<code>{escape(value)}</code>") for name, value in rows]
        for name, value in self._shown():
            if isinstance(value, np.ndarray) and value.shape == (4, 4):
                told.append((name, notebook.matrix(value)))
            else:
                told.append((name, f"<code>{escape(short(value))}</code>"))
        for key, text in (self._meta or {}).items():
            told.append((f"metadata {key}", f"<code>{escape(text)}</code>"))
        return notebook.facts(self.type_name, told) + self._picture()

    def _shown(self) -> Iterator[tuple[str, Any]]:
        """Name and value of what a notebook shows."""
        return self._contents()

    def _picture(self) -> str:
        """HTML that a notebook shows below the table."""
        return ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self is other or (
            type(self) is type(other)
            and self._wire_type().partition(b"\0")[0] == other._wire_type().partition(b"\0")[0]
            and self.device_name == other.device_name
            and self.timestamp_raw == other.timestamp_raw
            and self.message_id == other.message_id
            and (self._meta or {}) == (other._meta or {})
            and self._same_content(other)
        )

    def _same_content(self, other: Message) -> bool:
        """Return whether both have the same bytes of content.

        If one cannot be packed as it is, the values of the fields are compared instead.
        """
        try:
            return _core.content(self) == _core.content(other)
        except _UNPACKABLE:
            pass
        try:
            return all(
                _same(getattr(self, field.name), getattr(other, field.name))
                for field in type(self).__fields__
            )
        except _UNPACKABLE:
            return False

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # numpy leaves comparing to __eq__

    def __reduce__(self) -> Any:
        return _core.Record.__new__, (type(self),), self._state()


_UNPACKABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


def _same(a: Any, b: Any) -> bool:
    """Return whether two values of a field are equal, bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return type(a) is type(b) and bool(a == b)


def _clock(message: Message) -> str:
    """Time stamp to the millisecond, in UTC."""
    seconds = message.timestamp_raw / 2**32
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class _OfAnyType(Message):
    """A message whose object, not its class, says of what type it is."""

    @property
    def type_name(self) -> str:  # type: ignore[override]
        """Name on the wire."""
        return self._wire_type().partition(b"\0")[0].decode("utf-8", "replace")


class Unknown(_OfAnyType):
    """A message of an undeclared type. Its content can be read and sent on unchanged.

    Args:
        type_name: name on the wire.
        content: the bytes behind the header.
    """

    content: bytes = data()

    def __init__(
        self, type_name: str, content: bytes = b"", **header: Unpack[HeaderFields]
    ) -> None:
        _take_header(self, dict(header))
        self._set_wire_type(_type_bytes(type_name))
        self.content = content


class NoData(_OfAnyType):
    """An empty message of a type that has a fixed part: "there is none" as an answer."""

    def __init__(self, type_name: str, **header: Unpack[HeaderFields]) -> None:
        _take_header(self, dict(header))
        self._set_wire_type(_type_bytes(type_name))

    def summary(self) -> str:
        """Return the type name, as `repr` shows it."""
        return printable(self.type_name)


def _take_header(message: Message, header: dict[str, Any]) -> None:
    message._init_header(header)
    if header:
        import inspect  # for the error only

        cls = type(message)
        own = list(inspect.signature(cls).parameters)[:-1]  # the last one takes the header fields
        fields = ", ".join([*own, *HeaderFields.__annotations__])
        raise TypeError(f"{cls.__name__}() has no field {next(iter(header))!r}; it has {fields}")


def _type_bytes(type_name: str) -> bytes:
    raw = type_name.encode()
    if not 0 < len(raw) <= 12 or b"\0" in raw:
        raise EncodeError("Unknown", "type_name", f"{type_name!r} must have 1 to 12 bytes")
    return raw.ljust(12, b"\0")


_core.set_special(Unknown, NoData, Metadata)


def message_types() -> dict[str, type[Message]]:
    """Return all declared types by their name on the wire, aliases and the user's own included."""
    return _core.registered()
