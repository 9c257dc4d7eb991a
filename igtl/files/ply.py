"""Meshes in PLY, binary and text: surfaces, edges, strips and clouds with columns of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.errors import FileError
from igtl.files import marks
from igtl.files.meshes import attribute_of, cells_of, colours, columns_of, surface
from igtl.files.notes import note
from igtl.messages.geometry import Attribute, AttributeType, Cells, PolyData

_TYPES: Final = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_COLOURS: Final = (("red", "green", "blue", "alpha"), ("red", "green", "blue"))
_NORMAL: Final = ("nx", "ny", "nz")
_TEXTURE: Final = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
_INDICES: Final = ("vertex_indices", "vertex_index")
_OF_CELLS: Final = 0x10
Columns = dict[str, Any]  # name: (n,), or a list of (k,) of a list property


class _Property(NamedTuple):
    name: str
    type: str
    length: str | None = None  # type of the length of a list


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


def read(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its comments."""
    data = path.read_bytes()
    form, elements, comments, start = _header(data, path)
    if form == "ascii":
        found = _text(elements, data[start:].split(), path)
    else:
        order = {"binary_little_endian": "<", "binary_big_endian": ">"}[form]
        found = _binary(elements, memoryview(data)[start:], order, path)
    return _mesh(found, path), comments


def _header(data: bytes, path: Path) -> tuple[str, list[_Element], str, int]:
    if data[:3] != b"ply" or (end := data.find(b"end_header")) < 0:
        raise FileError(path, "is not a PLY file, or its header is cut")
    form, elements, comments = "", [], []
    for line in data[:end].decode("utf-8", "replace").splitlines()[1:]:
        words = line.split()
        match words:
            case ["format", form, _] if form in ("ascii", "binary_little_endian",
                                                 "binary_big_endian"):  # fmt: skip
                pass
            case ["comment" | "obj_info", *_]:
                comments.append(line)
            case ["element", name, count]:
                elements.append(_Element(name, int(count), []))
            case ["property", "list", count, type_, name] if elements:
                elements[-1].properties.append(_Property(name, _TYPES[type_], _TYPES[count]))
            case ["property", type_, name] if elements:
                elements[-1].properties.append(_Property(name, _TYPES[type_]))
            case [_, *_]:
                raise FileError(path, f"its header has the line {line!r}")
    if not form:
        raise FileError(path, "its header names no format")
    if any(element.rows < 0 for element in elements):
        raise FileError(path, "its header has a negative count")
    start = data.find(b"\n", end) + 1 or len(data)
    return form, elements, "\n".join(comments), start


def _short(path: Path, element: _Element) -> FileError:
    return FileError(path, f"is cut: it does not hold the {element.rows} of {element.name!r}")


def _text(elements: list[_Element], words: list[bytes], path: Path) -> dict[str, Columns]:
    found: dict[str, Columns] = {}
    at = 0
    for element in elements:
        width = len(element.properties)
        if element.rows * width > len(words) - at:
            raise _short(path, element)
        if not any(p.length for p in element.properties):
            end = at + element.rows * width
            table = np.array(words[at:end], np.float64).reshape(element.rows, width)
            found[element.name] = {
                p.name: table[:, n].astype(p.type) for n, p in enumerate(element.properties)
            }
            at = end
            continue
        rows: dict[str, list[Any]] = {p.name: [] for p in element.properties}
        for _ in range(element.rows):
            for p in element.properties:
                size = 1
                if p.length:
                    if at >= len(words):
                        raise _short(path, element)
                    size, at = int(words[at]), at + 1
                if not 0 <= size <= len(words) - at:
                    raise _short(path, element)
                values = np.array(words[at : at + size], np.float64).astype(p.type)
                rows[p.name].append(values if p.length else values[0])
                at += size
        found[element.name] = _columns(element, rows)
    return found


def _binary(
    elements: list[_Element], data: memoryview, order: str, path: Path
) -> dict[str, Columns]:
    found: dict[str, Columns] = {}
    at = 0
    for element in elements:
        least = sum(np.dtype(p.length or p.type).itemsize for p in element.properties)
        if element.rows * least > len(data) - at:
            raise _short(path, element)
        if not element.rows:
            found[element.name] = {
                p.name: [] if p.length else np.zeros(0, p.type) for p in element.properties
            }
            continue
        columns, size = _alike(element, data[at:], order)
        if columns is None:
            columns, size = _one_by_one(element, data[at:], order, path)
        found[element.name] = columns
        at += size
    return found


def _alike(element: _Element, data: memoryview, order: str) -> tuple[Columns | None, int]:
    """Return all rows at once, if all lists are as long as those of the first row."""
    fields: list[Any] = []
    lengths: list[tuple[str, int]] = []
    at = 0
    for p in element.properties:
        size = 1
        if p.length:
            kind = np.dtype(order + p.length)
            if at + kind.itemsize > len(data):
                return None, 0
            size = int(np.frombuffer(data, kind, 1, at)[0])
            lengths.append((f"\0{p.name}", size))
            fields.append((f"\0{p.name}", kind))
            at += kind.itemsize
        if not 0 <= size * np.dtype(p.type).itemsize <= len(data) - at:
            return None, 0
        fields.append((p.name, order + p.type, (size,)) if p.length else (p.name, order + p.type))
        at += size * np.dtype(p.type).itemsize
    if at * element.rows > len(data):
        return None, 0
    rows = np.frombuffer(data, np.dtype(fields), element.rows)
    if any((rows[name] != size).any() for name, size in lengths):
        return None, 0
    return {p.name: rows[p.name] for p in element.properties}, at * element.rows


def _one_by_one(element: _Element, data: memoryview, order: str, path: Path) -> tuple[Columns, int]:
    kinds = [
        (p.name, np.dtype(order + p.length) if p.length else None, np.dtype(order + p.type))
        for p in element.properties
    ]
    rows: dict[str, list[Any]] = {p.name: [] for p in element.properties}
    at = 0
    for _ in range(element.rows):
        for name, count, kind in kinds:
            size = 1
            if count is not None:
                if at + count.itemsize > len(data):
                    raise _short(path, element)
                size, at = int(np.frombuffer(data, count, 1, at)[0]), at + count.itemsize
            if not 0 <= size * kind.itemsize <= len(data) - at:
                raise _short(path, element)
            values = np.frombuffer(data, kind, size, at)
            rows[name].append(values if count is not None else values[0])
            at += size * kind.itemsize
    return _columns(element, rows), at


def _columns(element: _Element, rows: dict[str, list[Any]]) -> Columns:
    return {
        p.name: rows[p.name] if p.length else np.array(rows[p.name], p.type)
        for p in element.properties
    }


def _mesh(found: dict[str, Columns], path: Path) -> PolyData:
    vertex = found.pop("vertex", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise FileError(path, "has no points")
    points = np.stack([np.asarray(vertex.pop(axis), np.float64) for axis in "xyz"], 1)
    face, edge, strip = (found.pop(name, {}) for name in ("face", "edge", "tristrips"))
    polygons = _lists(face, _INDICES)
    lines = Cells()
    if {"vertex1", "vertex2"} <= set(edge):
        lines = Cells(np.stack([np.asarray(edge.pop(f"vertex{n}"), np.int64) for n in (1, 2)], 1))
    strips = Cells([
        part for row in _lists(strip, _INDICES, signed=True)
        for part in np.split(row[row >= 0], np.nonzero(row < 0)[0] - np.arange((row < 0).sum()))
        if len(part)
    ])  # fmt: skip
    attributes = _attributes(vertex)
    if len(lines) or len(strips):
        edge |= face  # whose rows are not those of all cells
    else:
        attributes += _attributes(face, cells=True)
    if found or edge or strip:
        note(f"{', '.join(map(repr, [*found, *edge, *strip]))} of this file are left out")
    surfaces = len(polygons) + len(lines) + len(strips)
    return PolyData(
        points, vertices=() if surfaces else np.arange(len(points))[:, np.newaxis], lines=lines,
        polygons=polygons, triangle_strips=strips, attributes=attributes,
    )  # fmt: skip


def _lists(columns: Columns, names: tuple[str, ...], *, signed: bool = False) -> Any:
    for name in names:
        if name in columns:
            rows = columns.pop(name)
            if signed:
                return [np.asarray(row, np.int64) for row in rows]
            return Cells(rows.astype(np.int64)) if isinstance(rows, np.ndarray) else cells_of(rows)
    return [] if signed else Cells()


def _attributes(columns: Columns, *, cells: bool = False) -> list[Attribute]:
    """Return the attributes of columns.

    Normals, colours and texture coordinates have their usual names, other columns their own.
    """
    side = _OF_CELLS if cells else 0
    found = []

    def take(names: tuple[str, ...]) -> npt.NDArray[Any] | None:
        if not set(names) <= set(columns):
            return None
        return np.stack([np.asarray(columns.pop(name)) for name in names], 1)

    if (normals := take(_NORMAL)) is not None:
        found.append(Attribute("Normals", normals, AttributeType.NORMALS | side))
    for names in _COLOURS:
        if (values := take(names)) is not None:
            found.append(Attribute("Colors", colours(values), AttributeType.RGBA | side))
    for pair in _TEXTURE:
        if (values := take(pair)) is not None:
            wide = np.column_stack([values, np.zeros(len(values))])
            found.append(Attribute("Texture", wide, AttributeType.TEXTURE | side))
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 1:
            found.append(attribute_of(name, values, cells=cells))
        elif len(values):
            note(f"the lists {name!r} are left out")
    return found


def write(mesh: PolyData, path: Path, mark: str) -> None:
    """Write binary PLY; the mark is a comment. Triangle strips become triangles."""
    cloud = len(mesh.vertices) == len(mesh.points) and not any(
        map(len, (mesh.lines, mesh.polygons, mesh.triangle_strips))
    )
    if len(mesh.vertices) and not cloud:
        raise FileError(path, "this format holds vertices of their own only as a cloud")
    if any(len(line) != 2 for line in mesh.lines):
        raise FileError(path, "this format holds lines of two points only")
    points = [("x", "f4"), ("y", "f4"), ("z", "f4")]
    columns, lost = columns_of(mesh, cells=False)
    points += [(name, values.dtype.str[1:]) for name, values in columns.items()]
    rows = np.zeros(len(mesh.points), [(name, f"<{kind}") for name, kind in points])
    for n, axis in enumerate("xyz"):
        rows[axis] = mesh.points[:, n]
    for name, values in columns.items():
        rows[name] = values
    simple = not len(mesh.lines) and not len(mesh.triangle_strips) and not cloud
    of_cells = [a for a in mesh.attributes if a.type & _OF_CELLS]
    faces: dict[str, Any] = {}
    if simple:
        faces, of_cells = columns_of(mesh, cells=True)
    marks.left_out(lost + of_cells)
    polygons = mesh.polygons
    if len(mesh.triangle_strips):
        only = PolyData(mesh.points, triangle_strips=mesh.triangle_strips)
        polygons = cells_of([*polygons, *surface(only, path)[0]])
    head = ["ply", "format binary_little_endian 1.0", f"comment {mark}",
            f"element vertex {len(rows)}", *_properties(points)]  # fmt: skip
    body = [rows.tobytes()]
    if not cloud:
        kinds = [(name, values.dtype.str[1:]) for name, values in faces.items()]
        sizes = np.diff(polygons.offsets)
        count = "uchar" if sizes.max(initial=0) < 256 else "uint"  # some readers know uchar only
        head += [f"element face {len(polygons)}", f"property list {count} int vertex_indices",
                 *_properties(kinds)]  # fmt: skip
        body += _face_rows(polygons, sizes, np.dtype("<" + _TYPES[count]), faces)
    if len(mesh.lines):
        head += [f"element edge {len(mesh.lines)}", "property int vertex1", "property int vertex2"]
        body.append(np.asarray(mesh.lines.connectivity, "<i4").tobytes())
    path.write_bytes("\n".join([*head, "end_header\n"]).encode() + b"".join(body))


def _properties(columns: list[tuple[str, str]]) -> list[str]:
    names = {"f4": "float", "u1": "uchar"}
    return [f"property {names[kind]} {name}" for name, kind in columns]


def _face_rows(
    polygons: Cells, sizes: Any, count: np.dtype[Any], columns: dict[str, Any]
) -> list[bytes]:
    extra = [(name, values.dtype.str) for name, values in columns.items()]
    if len(sizes) and (sizes == sizes[0]).all():
        rows = np.zeros(len(sizes), [("n", count), ("at", "<i4", (int(sizes[0]),)), *extra])
        rows["n"] = sizes
        rows["at"] = polygons.connectivity.reshape(len(sizes), -1)
        for name, values in columns.items():
            rows[name] = values
        return [rows.tobytes()]
    out = []
    for n, cell in enumerate(polygons):
        out += [count.type(len(cell)).tobytes(), np.asarray(cell, "<i4").tobytes()]
        out += [values[n].tobytes() for values in columns.values()]
    return out
