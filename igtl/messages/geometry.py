"""Points, trajectories and meshes: POINT, TRAJ, POLYDATA."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, overload

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.elements import Element, ElementList
from igtl.codec.message import HeaderFields, Message
from igtl.errors import EncodeError
from igtl.fields import (
    Array,
    array,
    coded,
    count_of,
    elements,
    f32,
    reserved,
    size_of,
    text,
    u8,
    u32,
)


class Point(Element):
    """One point or fiducial (protocol.md 8.8).

    Args:
        name: label. 3D Slicer shows it beside the point.
        position: x, y, z in mm.
        group: for example "Fiducial", "Landmark".
        color: r, g, b, a, 0..255.
        diameter: mm, 0 = not stated.
        owner: device name of the image it belongs to.
    """

    name: str = text(64, default="")
    group: str = text(32, default="Fiducial")
    color: Array = array(u8, 4, default=(255, 255, 0, 255))
    position: Array = array(f32, 3, kw_only=True)
    diameter: float = f32(default=0.0)
    owner: str = text(20, default="")


class Points(Message, type_name="POINT"):
    """A list of points.

    Args:
        points: `points.positions` is (n, 3), `points[0].name` the name of the first one.
    """

    points: ElementList[Point] = elements(Point, default=())

    @classmethod
    def from_arrays(
        cls,
        positions: npt.ArrayLike,
        *,
        names: Sequence[str] | None = None,
        selected: npt.ArrayLike | bool | None = None,
        visible: npt.ArrayLike | bool | None = None,
        color: npt.ArrayLike | None = None,
        groups: Sequence[str] | None = None,
        diameters: npt.ArrayLike | None = None,
        owners: Sequence[str] | None = None,
        **header: Unpack[HeaderFields],
    ) -> Self:
        """Many points at once, from arrays of one row for each point.

        Args:
            positions: (n, 3), mm.
            names: n labels; default: empty.
            selected: (n,) or one for all: whether 3D Slicer shows a point as selected. It is the
                group that says so ("Unselected" or another), so give this or `groups`.
            visible: (n,) or one for all; points that are not get the alpha 0.
            color: one for all or (n, 3 or 4), 0 to 255.
            groups: n texts; default: that of `Point`.
            diameters: (n,), mm; default: 0, not stated.
            owners: n device names of images; default: empty.
            header: see Message.

        Raises:
            ValueError: the arrays have different lengths, or `selected` and `groups` are given.
        """
        place = np.asarray(positions, np.float32).reshape(-1, 3)
        n = len(place)
        if selected is not None:
            if groups is not None:
                raise ValueError("selected and groups say the same thing: give one of them")
            chosen = np.broadcast_to(np.asarray(selected, bool), (n,))
            if not chosen.all():
                groups = ["Fiducial" if each else "Unselected" for each in chosen.tolist()]
        points = Point.columns(positions=place)
        given = {"names": names, "groups": groups, "diameters": diameters, "owners": owners}
        for plural, values in given.items():
            if values is not None:
                setattr(points, plural, values)
        if color is not None:
            colors = np.asarray(color)
            points.colors[:, : colors.shape[-1]] = _core.as_numbers(
                np.broadcast_to(colors, (n, colors.shape[-1])), np.dtype("u1"), "Points", "color"
            )
        if visible is not None:
            points.colors[~np.broadcast_to(np.asarray(visible, bool), (n,)), 3] = 0
        return cls(points, **header)


class TrajectoryType(IntEnum):
    """Which ends of a trajectory count (protocol.md 8.9)."""

    ENTRY_ONLY = 1
    TARGET_ONLY = 2
    ENTRY_AND_TARGET = 3


class Trajectory(Element):
    """One planned path (protocol.md 8.9).

    Args:
        name: label.
        group: for example "Trajectory".
        type: see TrajectoryType.
        color: r, g, b, a, 0..255.
        entry: x, y, z of the entry point in mm.
        target: x, y, z of the target in mm.
        diameter: mm, 0 = not stated.
        owner: device name of the image it belongs to.
    """

    name: str = text(64, default="")
    group: str = text(32, default="Trajectory")
    type: int = u8(default=TrajectoryType.ENTRY_AND_TARGET)
    _reserved: int = reserved(u8)
    color: Array = array(u8, 4, default=(255, 255, 0, 255))
    entry: Array = array(f32, 3, default=(0, 0, 0))
    target: Array = array(f32, 3, default=(0, 0, 0))
    diameter: float = f32(default=0.0)
    owner: str = text(20, default="")


class Trajectories(Message, type_name="TRAJ"):
    """A list of trajectories.

    Args:
        trajectories: `trajectories.entries` and `trajectories.targets` are (n, 3).
    """

    trajectories: ElementList[Trajectory] = elements(Trajectory, default=())


class Cells(Sequence[npt.NDArray[np.uint32]]):
    """Cells of a mesh: cell c consists of the points connectivity[offsets[c]:offsets[c + 1]].

    Args:
        cells: index lists, or an (n, k) array when all cells have k points.
    """

    __slots__ = ("connectivity", "offsets")
    offsets: npt.NDArray[np.int64]
    connectivity: npt.NDArray[np.uint32]

    def __init__(self, cells: Iterable[npt.ArrayLike] | npt.NDArray[Any] = ()) -> None:
        if isinstance(cells, np.ndarray) and cells.ndim == 2:
            self.offsets = np.arange(len(cells) + 1, dtype=np.int64) * cells.shape[1]
            flat = cells.reshape(-1)
        else:
            listed = [np.asarray(cell, np.int64).reshape(-1) for cell in cells]
            self.offsets = np.zeros(len(listed) + 1, np.int64)
            np.cumsum([len(cell) for cell in listed], out=self.offsets[1:])
            flat = np.concatenate(listed) if listed else np.zeros(0, np.int64)
        self.connectivity = _core.as_numbers(flat, np.dtype("u4"), "PolyData", "cells")

    @classmethod
    def from_arrays(cls, offsets: npt.ArrayLike, connectivity: npt.ArrayLike) -> Cells:
        """From offsets (n + 1, starting at 0) and connectivity, as VTK and Arrow keep them."""
        self = cls()
        self.offsets = np.array(offsets, np.int64)
        self.connectivity = _core.as_numbers(connectivity, np.dtype("u4"), "PolyData", "cells")
        return self

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, cell: Any) -> Any:
        if isinstance(cell, slice):
            return [self[c] for c in range(*cell.indices(len(self)))]
        c = range(len(self))[cell]
        return self.connectivity[self.offsets[c] : self.offsets[c + 1]]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Cells)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.connectivity, other.connectivity)
        )

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # numpy leaves comparing to __eq__

    def to_dict(self, *, arrays: bool = False) -> dict[str, Any]:
        """Return the number of cells; with arrays=True their index lists as well."""
        out: dict[str, Any] = {"cells": len(self)}
        if arrays:
            out["indices"] = [cell.tolist() for cell in self]
        return out

    def __repr__(self) -> str:
        return f"{len(self)} cells"


class CellList:
    """The type of cell fields: reads as Cells, accepts index lists and arrays."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, obj: None, owner: Any = None) -> CellList: ...
        @overload
        def __get__(self, obj: object, owner: Any = None) -> Cells: ...
        def __get__(self, obj: object, owner: Any = None) -> Any: ...
        def __set__(self, obj: object, value: Cells | Iterable[npt.ArrayLike]) -> None: ...


class _CellsCodec:
    def decode(self, view: memoryview, count: int) -> Cells:
        cells = Cells()
        cells.offsets, cells.connectivity = _core.split_cells(view, count)
        return cells

    def size(self, value: Cells) -> int:
        return 4 * (len(value) + len(value.connectivity))

    def coerce(self, value: Any) -> Cells:
        if isinstance(value, Cells):
            return Cells.from_arrays(value.offsets, value.connectivity)
        return Cells(value)

    def encode(self, value: Cells) -> bytes:
        return _core.join_cells(
            np.ascontiguousarray(value.offsets, np.int64),
            np.ascontiguousarray(value.connectivity, np.uint32),
        )


class AttributeType(IntEnum):
    """What an attribute is. Cell attributes have one row per cell, the others one per point."""

    SCALARS = 0x00
    VECTORS = 0x01
    NORMALS = 0x02
    TENSORS = 0x03
    RGBA = 0x04
    TEXTURE = 0x05
    CELL_SCALARS = 0x10
    CELL_VECTORS = 0x11
    CELL_NORMALS = 0x12
    CELL_TENSORS = 0x13
    CELL_RGBA = 0x14
    CELL_TEXTURE = 0x15


# Components of the types that the official library always writes and reads nine wide
_TRUE_WIDTH: Final = {0x04: 4, 0x05: 3, 0x11: 3, 0x12: 3, 0x14: 4, 0x15: 3}
_LIBRARY_WIDTH: Final = 9


class Attribute:
    """Values that belong to the points or cells of a mesh.

    Args:
        name: at most 255 bytes.
        values: (n,) or (n, components), float32; RGBA is 0..1 by the format.
        type: see AttributeType.
        padded: write nine numbers for each point or cell, with zeros behind the values: the only
            form of this type that the official library reads correctly (protocol.md 8.16).
            Default: for RGBA, texture coordinates, and cell vectors, normals and colours. For cell
            scalars with other than nine components, no form is read correctly by that library and
            can also be read back.
    """

    __slots__ = ("name", "padded", "type", "values")

    def __init__(
        self,
        name: str,
        values: npt.ArrayLike,
        type: int = AttributeType.SCALARS,
        *,
        padded: bool | None = None,
    ) -> None:
        array = np.array(values, np.float32, order="C")
        if array.ndim not in (1, 2):
            raise EncodeError("PolyData", "attributes", f"{name!r}: {array.shape}, must be (n, c)")
        self.name = name
        self.values: npt.NDArray[np.float32] = array.reshape(len(array), -1) if len(array) else (
            array.reshape(0, array.shape[1] if array.ndim == 2 else 1)
        )  # fmt: skip
        self.type = int(type)
        self.padded = self.type in _TRUE_WIDTH if padded is None else padded

    @property
    def components(self) -> int:
        """Numbers per point or cell."""
        return int(self.values.shape[1])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Attribute)
            and (self.name, self.type) == (other.name, other.type)
            and np.array_equal(self.values, other.values, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self, *, arrays: bool = False) -> dict[str, Any]:
        """Name, type and values; without `arrays` only the shape of these."""
        values = self.values.tolist() if arrays else list(self.values.shape)
        return {"name": self.name, "type": self.type, "values": values}

    def __repr__(self) -> str:
        return f"Attribute({self.name!r}, float32{list(self.values.shape)}, type={self.type:#04x})"


class _AttributesCodec:
    """Headers, names, then one block of floats per attribute (protocol.md 8.16)."""

    def check(self, view: memoryview, count: int) -> None:
        _core.check_attributes(view, count)

    def decode(self, view: memoryview, count: int) -> list[Attribute]:
        at = start = 6 * count
        names: list[str] = []
        for _ in range(count):
            raw = bytes(view[at : at + 256]).partition(b"\0")[0]
            names.append(raw.decode("utf-8", "replace"))
            at += len(raw) + 1
        at += (at - start) % 2
        found = []
        for k, name in enumerate(names):
            kind, components, tuples = struct.unpack_from(">BBI", view, 6 * k)
            padded = kind in _TRUE_WIDTH and components == _LIBRARY_WIDTH
            width = _TRUE_WIDTH[kind] if padded else components
            values = np.frombuffer(view, ">f4", width * tuples, at).astype(np.float32)
            found.append(Attribute(name, values.reshape(tuples, width), kind, padded=padded))
            at += 4 * components * tuples
        return found

    def coerce(self, value: Iterable[Attribute]) -> list[Attribute]:
        listed = list(value)
        for attribute in listed:
            if not isinstance(attribute, Attribute):
                raise TypeError(f"{type(attribute).__name__} in a list of Attribute")
        return [Attribute(a.name, a.values, a.type, padded=a.padded) for a in listed]

    def encode(self, value: list[Attribute]) -> bytes:
        heads, names, blocks = [], [], []
        for attribute in value:
            rows, width = attribute.values.shape
            wire = _LIBRARY_WIDTH if attribute.padded else width
            name = attribute.name.encode()
            if not 1 <= width <= 255 or width > wire:
                raise ValueError(
                    f"{attribute.name!r} has {width} components, at most {min(wire, 255)}"
                )
            if len(name) > 255 or b"\0" in name:
                raise ValueError(f"name {attribute.name!r} has {len(name)} bytes or a NUL, 255 fit")
            if attribute.padded and width != _TRUE_WIDTH.get(attribute.type, width):
                raise ValueError(
                    f"{attribute.name!r} has {width} components, type {attribute.type:#04x} has "
                    f"{_TRUE_WIDTH[attribute.type]}"
                )
            heads.append(struct.pack(">BBI", attribute.type, wire, rows))
            names.append(name + b"\0")
            blocks.append(attribute.values.astype(">f4").tobytes())
            blocks.append(bytes(4 * rows * (wire - width)))
        table = b"".join(names)
        return b"".join((*heads, table, bytes(len(table) % 2), *blocks))


class PolyData(Message, type_name="POLYDATA"):
    """A mesh, or polylines, or a cloud of points (protocol.md 8.16).

    Args:
        points: (n, 3), mm.
        vertices, lines, polygons, triangle_strips: `Cells`, index lists, or an (n, k) array.
            3D Slicer's network code corrupts its memory on vertices: send it clouds as Points.
        attributes: list of Attribute.
    """

    _npoints: int = count_of("points", u32)
    _nvertices: int = count_of("vertices", u32)
    _vertices_size: int = size_of("vertices", u32)
    _nlines: int = count_of("lines", u32)
    _lines_size: int = size_of("lines", u32)
    _npolygons: int = count_of("polygons", u32)
    _polygons_size: int = size_of("polygons", u32)
    _ntriangle_strips: int = count_of("triangle_strips", u32)
    _triangle_strips_size: int = size_of("triangle_strips", u32)
    _nattributes: int = count_of("attributes", u32)
    points: Array = array(f32, "_npoints", per=3)
    vertices: CellList = coded(_CellsCodec(), "_vertices_size", default=())
    lines: CellList = coded(_CellsCodec(), "_lines_size", default=())
    polygons: CellList = coded(_CellsCodec(), "_polygons_size", default=())
    triangle_strips: CellList = coded(_CellsCodec(), "_triangle_strips_size", default=())
    attributes: list[Attribute] = coded(_AttributesCodec(), default=())

    def attribute(self, name: str) -> Attribute:
        """Return the first attribute of that name; raise KeyError if there is none."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise KeyError(name)

    def _cells(self) -> Iterator[Cells]:
        yield from (self.vertices, self.lines, self.polygons, self.triangle_strips)

    def _prepare(self) -> None:
        """Refuse an index that names no point, or an attribute of another length."""
        for cells in self._cells():
            if len(cells.connectivity) and int(cells.connectivity.max()) >= len(self.points):
                if self.header_version:
                    return  # as received: it is for the sender to mend
                raise EncodeError(
                    "PolyData", "points",
                    f"a cell uses point {cells.connectivity.max()}, there are {len(self.points)}",
                )  # fmt: skip
