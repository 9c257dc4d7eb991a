"""How a message type is declared: one line per field, in wire order.

The functions here are the vocabulary. Each returns a :class:`Field`; `igtl.codec.message` collects
them from a class body and compiles them to the plan that `igtl._core` runs. Numbers are big
endian on the wire, except in arrays that are declared little endian. Field names that start with an
underscore are on the wire only: computed when packing, checked when unpacking, never set by the
user.

    class Force(igtl.Message, type_name="FORCE"):
        tool: str = text(20)
        _count: int = count_of("samples", u16)
        samples: Array = array(f32, "_count", per=3)   # (n, 3)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, overload

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Array",
    "Codec",
    "Field",
    "NestingCodec",
    "array",
    "coded",
    "constant",
    "count_of",
    "data",
    "elements",
    "f32",
    "f64",
    "forms",
    "i8",
    "i16",
    "i32",
    "i64",
    "matrix",
    "mib",
    "optional",
    "reserved",
    "rest",
    "size_of",
    "string",
    "text",
    "texts",
    "u8",
    "u16",
    "u32",
    "u64",
    "zero_ended",
]  # fmt: skip

T = TypeVar("T")
REQUIRED: Final[Any] = type("Required", (), {"__repr__": lambda self: "required"})()

rest: Final = "*"
"""As a count or length: all bytes that remain."""


class Array:
    """The type of array fields: reads as an ndarray, accepts whatever numpy can convert.

    Assigning copies: the message owns its numbers, and edits in place (`t.matrix[0, 3] = 5`)
    change what is sent.
    """

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any = None) -> Array: ...
        @overload
        def __get__(self, obj: object, owner: Any = None) -> npt.NDArray[Any]: ...
        def __get__(self, obj: object, owner: Any = None) -> Any: ...
        def __set__(self, obj: object, value: npt.ArrayLike) -> None: ...


class Codec(Protocol[T]):
    """Both directions of a part whose form no other field kind describes."""

    def decode(self, data: memoryview, count: int) -> T:
        """Value of these bytes; count is that of its `count_of` field, or -1.

        ValueError says what is wrong with them. A codec may have `minimum`, the bytes it needs
        at least; `size(value)`, the bytes a value takes when that can be said without encoding
        it: what follows them is kept as surplus; `check(data, count)`, which raises what decode
        would, without making the value: then decode is called when the field is first read.

        A codec with `nests = True` holds messages and has a `check`: all three also get how deep
        they lie. Its `decode` returns with the value a mark that shows later whether it was
        edited, and `print_of(value, depth)` returns that mark again.
        """

    def encode(self, value: T) -> bytes:
        """Bytes of this value. ValueError says why it cannot be encoded."""

    def coerce(self, value: Any) -> T:
        """Return the value to keep for what a user assigned."""


class NestingCodec(Protocol[T]):
    """A Codec of a part that holds messages, each of which may hold others.

    Attributes:
        nests: True.
    """

    nests: bool

    def decode(self, data: memoryview, count: int, depth: int) -> tuple[T, Any]:
        """See Codec.decode; also returns what `print_of` returns until the value is edited.

        depth is 1 for a message that is in no other.
        """

    def print_of(self, value: T, depth: int) -> Any:
        """Return what shows whether a value was edited since it was decoded.

        It is not a copy of the value.
        """

    def encode(self, value: T, depth: int) -> bytes:
        """See Codec.encode."""

    def coerce(self, value: Any) -> T:
        """See Codec.coerce."""


class Field:
    """One declared field: what the specifier functions return and everything else reads.

    Attributes:
        kind: "int", "float", "text", "array", "matrix", "data", "texts", "elements", "string",
            "zero_ended", "count", "size" or "coded".
        scalar: number type as numpy spells it without byte order: "u1" … "f8".
        size: bytes of a text (each of them, for texts).
        count: elements: a number, a hidden field's name, `rest`, or a tuple of possible counts.
        per: numbers per element; 0 for a flat array.
        of: the field that a hidden count or size describes.
        encoding: the field that holds the text encoding of a string.
        item: the element class, or the codec.
        default: value when the constructor is not given one.
        optional: may be missing at the end of the content.
        constant: always `default`; anything else on the wire is refused.
        kw_only: the constructor takes it by keyword only.
        little: the numbers of an array are little endian on the wire.
        plural: name of the column of an element list ("positions" of Point.position).
    """

    __slots__ = (
        "constant",
        "count",
        "default",
        "encoding",
        "item",
        "kind",
        "kw_only",
        "little",
        "name",
        "of",
        "optional",
        "per",
        "plural",
        "scalar",
        "size",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        scalar: str = "",
        *,
        size: int = 0,
        count: int | str | tuple[int, ...] = 1,
        per: int = 0,
        of: str = "",
        encoding: str = "",
        item: Any = None,
        default: Any = REQUIRED,
    ) -> None:
        self.kind = kind
        self.scalar = scalar
        self.size = size
        self.count = count
        self.per = per
        self.of = of
        self.encoding = encoding
        self.item = item
        self.default = default
        self.optional = False
        self.constant = False
        self.kw_only = False
        self.little = False
        self.name = ""
        self.plural = ""

    @property
    def hidden(self) -> bool:
        """On the wire, but not for the user."""
        return self.name.startswith("_")

    def __repr__(self) -> str:
        facts = [
            f"{key}={getattr(self, key)!r}"
            for key in ("scalar", "size", "count", "per", "of", "encoding")
            if getattr(self, key) not in ("", 0, 1)
        ]
        return f"<{self.kind} {self.name}{' ' if facts else ''}{' '.join(facts)}>"


def _number(scalar: str, default: Any) -> Any:
    return Field("float" if scalar[0] == "f" else "int", scalar, default=default)


def u8(*, default: int = REQUIRED) -> Any:
    """Unsigned 8-bit integer."""
    return _number("u1", default)


def u16(*, default: int = REQUIRED) -> Any:
    """Unsigned 16-bit integer."""
    return _number("u2", default)


def u32(*, default: int = REQUIRED) -> Any:
    """Unsigned 32-bit integer."""
    return _number("u4", default)


def u64(*, default: int = REQUIRED) -> Any:
    """Unsigned 64-bit integer."""
    return _number("u8", default)


def i8(*, default: int = REQUIRED) -> Any:
    """Signed 8-bit integer."""
    return _number("i1", default)


def i16(*, default: int = REQUIRED) -> Any:
    """Signed 16-bit integer."""
    return _number("i2", default)


def i32(*, default: int = REQUIRED) -> Any:
    """Signed 32-bit integer."""
    return _number("i4", default)


def i64(*, default: int = REQUIRED) -> Any:
    """Signed 64-bit integer."""
    return _number("i8", default)


def f32(*, default: float = REQUIRED) -> Any:
    """32-bit floating point number."""
    return _number("f4", default)


def f64(*, default: float = REQUIRED) -> Any:
    """64-bit floating point number."""
    return _number("f8", default)


Scalar = Callable[..., Any]
_SCALARS: Final[dict[Scalar, str]] = {
    u8: "u1", u16: "u2", u32: "u4", u64: "u8", i8: "i1", i16: "i2", i32: "i4", i64: "i8",
    f32: "f4", f64: "f8",
}  # fmt: skip


def text(size: int, *, default: str = REQUIRED) -> Any:
    """Text in a fixed field of `size` bytes, filled with zeros (docs/protocol.md section 1)."""
    return Field("text", size=size, default=default)


def texts(size: int, *, default: Any = REQUIRED) -> Any:
    """Return all that remains as a list of texts of `size` bytes each."""
    return Field("texts", size=size, count=rest, default=default)


def zero_ended(*, default: str = REQUIRED) -> Any:
    """Text up to its final NUL, or the end of the content (STATUS)."""
    return Field("zero_ended", default=default)


def string(length: str, encoding: str, *, default: str = REQUIRED) -> Any:
    """Text of as many bytes as the hidden field `length` says.

    Args:
        length: name of the `size_of` field.
        encoding: name of the field with the IANA MIBenum, or "" for UTF-8.
        default: value when the constructor is not given one.
    """
    return Field("string", count=length, encoding=encoding, default=default)


def array(
    scalar: Scalar,
    count: int | str | tuple[int, ...] = rest,
    *,
    per: int = 0,
    default: npt.ArrayLike = REQUIRED,
    kw_only: bool = False,
    little: bool = False,
) -> Any:
    """Numbers of one kind.

    Args:
        scalar: their type, for example `f32`.
        count: a number, the name of a `count_of` field, `rest`, or `forms(...)`.
        per: numbers in one row: the array has shape (count, per). 0: shape (count,).
        default: value when the constructor is not given one.
        kw_only: the constructor takes it by keyword only.
        little: they are little endian on the wire, unlike everything else in OpenIGTLink.
    """
    field = Field("array", _SCALARS[scalar], count=count, per=per, default=default)
    field.kw_only = kw_only
    field.little = little
    return field


def forms(*counts: int) -> tuple[int, ...]:
    """Return the counts an array at the end of the content may have; its size tells which."""
    return tuple(sorted(counts))


def matrix(*, default: npt.ArrayLike | None = REQUIRED) -> Any:
    """4x4 matrix, float32, of which the upper three rows travel (section 1.2)."""
    return Field("matrix", "f4", count=12, default=default)


def data(length: str | int = rest, *, default: bytes = REQUIRED) -> Any:
    """Raw bytes: a fixed number, as many as the hidden field `length` says, or all that remain."""
    return Field("data", "u1", count=length, default=default)


def elements(item: type[Any], *, default: Any = REQUIRED) -> Any:
    """Return all that remains as a list of `item`; a remainder shorter than one is ignored."""
    return Field("elements", item=item, count=rest, default=default)


def coded(
    codec: Codec[Any] | NestingCodec[Any], length: str = rest, *, default: Any = REQUIRED
) -> Any:
    """Declare a part with a form of its own.

    It has `length` bytes (a `size_of` field), or all that remain.
    """
    return Field("coded", item=codec, count=length, default=default)


def count_of(field: str, scalar: Scalar, *, init: Literal[False] = False) -> Any:
    """Hidden: how many elements `field` has. Never set by the user."""
    return Field("count", _SCALARS[scalar], of=field, default=0)


def size_of(field: str, scalar: Scalar, *, init: Literal[False] = False) -> Any:
    """Hidden: how many bytes `field` has. Never set by the user."""
    return Field("size", _SCALARS[scalar], of=field, default=0)


def mib(*, default: int | None = None, kw_only: bool = True) -> Any:
    """Text encoding of a `string`, u16: an IANA MIBenum.

    None: chosen when packing, 3 (US-ASCII) for ASCII, else 106 (UTF-8).
    """
    field = _number("u2", default)
    field.kw_only = kw_only
    return field


def constant(scalar: Scalar, value: int, *, init: Literal[False] = False) -> Any:
    """Hidden: a number that is always the same (the version of IMAGE and VIDEO)."""
    field = _number(_SCALARS[scalar], value)
    field.constant = True
    return field


def reserved(scalar: Scalar, *, init: Literal[False] = False) -> Any:
    """Hidden: 0 in a new message; a received value is kept."""
    return _number(_SCALARS[scalar], 0)


def optional(field: Any, *, default: Any = None) -> Any:
    """Return a number at the end of the content that may be missing: None then."""
    field.optional = True
    field.default = default
    return field


def collect(bases: tuple[type, ...], namespace: dict[str, Any]) -> list[Field]:
    """Fields of the bases, then those of this class body, which are taken out of it."""
    found: list[Field] = []
    for base in bases:
        found += getattr(base, "__fields__", ())
    for name in [key for key, value in namespace.items() if isinstance(value, Field)]:
        field = namespace.pop(name)
        field.name = name
        found.append(field)
    return found
