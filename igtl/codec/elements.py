"""Elements of list messages (POINT, TDATA, …): declared like messages, kept as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Self,
    TypeVar,
    dataclass_transform,
    overload,
)

import numpy as np

from igtl import _core, fields
from igtl.codec.formatting import plain, short
from igtl.fields import Field, collect

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
        @overload
        def __getitem__(self, key: int | str, /) -> E: ...
        @overload
        def __getitem__(self, key: slice, /) -> list[E]: ...
        def __getitem__(self, key: Any, /) -> Any: ...

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[E]:
        return (_core.element_at(self.__item__, self, row) for row in range(self.rows))

    def _chosen(self, key: Any) -> Any:
        """Return the elements of an index that is not an int.

        It is a slice, a name, or an integer of another type.
        """
        if isinstance(key, slice):
            rows = range(*key.indices(self.rows))
            return [_core.element_at(self.__item__, self, row) for row in rows]
        if isinstance(key, str):
            for row, name in enumerate(self.names):
                if name == key:
                    return _core.element_at(self.__item__, self, row)
            raise KeyError(key)
        return _core.element_at(self.__item__, self, range(self.rows)[key])

    def append(self, element: E) -> None:
        """Add one element, copied. For many at once build the list first."""
        joined = type(self).of([*self, element])
        self.__setstate__((joined.rows, joined.arrays))

    @classmethod
    def of(cls, items: Iterable[Any]) -> Self:
        """Columns of a list of elements (copied)."""
        self = cls()
        self.take(list(items))
        return self

    def copy(self) -> Self:
        """Return the same elements, in columns of their own."""
        other = type(self)()
        other.__setstate__((self.rows, [column.copy() for column in self.arrays]))
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Elements) or self.__item__ is not other.__item__:
            return NotImplemented
        return self.rows == other.rows and [a.tobytes() for a in self.arrays or ()] == [
            b.tobytes() for b in other.arrays or ()
        ]

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # numpy leaves comparing to __eq__

    def __reduce__(self) -> Any:
        return _restore_elements, (self.__item__, self.rows, [a.copy() for a in self.arrays or ()])

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


class _Column(_core.Column):
    """Attribute access to one column of an element list."""

    __slots__ = ()

    def __set__(self, columns: Any, values: Any) -> None:
        target = columns.array(self.i)
        if len(values) != columns.rows:
            raise ValueError(f"{self.field.plural}: {len(values)} values for {columns.rows} rows")
        if self.field.kind == "text" and (texts := _short_texts(values, target.dtype)) is not None:
            target[:] = texts
        elif self.field.kind in ("text", "matrix"):
            for row, value in enumerate(values):
                columns.put(self.i, row, value)
        else:
            given = _core.as_numbers(
                values, target.dtype, columns.__item__.__name__, self.field.name
            )
            if given.shape != target.shape:
                raise ValueError(f"{self.field.plural}: {given.shape}, must be {target.shape}")
            target[:] = given


def _short_texts(values: Any, dtype: np.dtype[Any]) -> Any:
    """Return all texts of a column at once; None if one of them has to be looked at by itself."""
    if set(map(type, values)) != {str}:
        return None
    try:
        texts = list(map(str.encode, values))
    except UnicodeEncodeError:
        return None
    if max(map(len, texts)) > dtype.itemsize or b"\0" in b"".join(texts):
        return None
    return np.array(texts, dtype)


def _plural(name: str) -> str:
    """Name of a field's column: positions, entries, matrices."""
    if name.endswith("x"):
        return name[:-1] + "ces"
    return name[:-1] + "ies" if name.endswith("y") else name + "s"


class ElementMeta(type):
    """Compiles the fields of an element class and builds its column class."""

    __fields__: tuple[Field, ...]
    __shown__: tuple[Field, ...]
    __columns__: type[Elements[Any]]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> ElementMeta:
        """Make the element class and its column class."""
        declared = collect(bases, namespace)
        namespace.setdefault("__slots__", ())
        cls = super().__new__(mcs, name, bases, namespace)
        cls.__fields__ = tuple(declared)
        for field in declared:
            fixed = field.kind in ("int", "float", "text", "matrix") or (
                field.kind == "array" and isinstance(field.count, int) and not field.per
            )
            if not fixed or field.optional:
                raise TypeError(f"{name}.{field.name}: elements have fields of fixed size only")
        layout = _core.Layout(name, "", declared, header=False)
        columns: dict[str, Any] = {"__slots__": (), "__layout__": layout, "__item__": cls}
        for i, field in enumerate(declared):
            setattr(cls, field.name, _core.Cell(i, field))
            field.plural = _plural(field.name)
            columns[field.plural] = _Column(i, field)
        cls.__layout__ = layout  # type: ignore[attr-defined]
        cls.__shown__ = tuple(f for f in declared if not f.hidden)
        positional = tuple(f.name for f in cls.__shown__ if not f.kw_only)
        type.__setattr__(cls, "__match_args__", positional)
        cls.__columns__ = type(f"{name}Elements", (Elements,), columns)
        _core.call_directly(cls)
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
class Element(_core.Row, metaclass=ElementMeta):
    """Base of the elements of list messages, declared like a message.

    An element made by itself owns its values; one taken from a list reads and writes through.
    """

    __slots__ = ()
    if TYPE_CHECKING:
        __match_args__: ClassVar[tuple[str, ...]]

    @classmethod
    def coerce(cls, value: Any) -> Elements[Self]:
        """Return the columns a list message keeps for what it was given."""
        if isinstance(value, Elements) and value.__item__ is cls:
            return value.copy()
        return cls.__columns__.of(value)

    @classmethod
    def columns(cls, **columns: Any) -> Elements[Self]:
        """Many elements at once, from whole columns: `Point.columns(names=..., positions=...)`.

        Columns left out have the field's default, or are empty texts and zeros.

        Raises:
            TypeError: there is no such column.
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
                column = self.array(i := columns_index[field.name])
                if self.rows:
                    self.put(i, 0, field.default)
                    column[1:] = column[0]
        if columns:
            raise TypeError(f"{cls.__name__} has no column {next(iter(columns))!r}")
        return self

    def to_dict(self, *, arrays: bool = True) -> dict[str, Any]:
        """Return all fields as JSON-able values."""
        return {f.name: plain(getattr(self, f.name), True) for f in type(self).__shown__}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return type(self).__columns__.of([self]) == type(self).__columns__.of([other])

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # numpy leaves comparing to __eq__

    def __reduce__(self) -> Any:
        return _core.element_at, (type(self), type(self).__columns__.of([self]), 0)

    def __repr__(self) -> str:
        shown = (f"{f.name}={short(getattr(self, f.name))}" for f in type(self).__shown__)
        return f"{type(self).__name__}({', '.join(shown)})"
