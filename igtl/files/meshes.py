"""POLYDATA and the meshes of meshio, trimesh, and VTK with PyVista: points, cells, attributes.

Cells of a mesh come in the order of VTK: vertices, lines, polygons, triangle strips; so do the
rows of its cell attributes. What an attribute *is* (see AttributeType) follows from its name and
width where a library does not say: three or four bytes are colours, "Normals" and three wide are
normals, three wide are vectors, nine wide tensors, all else scalars. Objects are converted in the
coordinates that they are in; only files are turned (`igtl.files.load`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.errors import EncodeError, FileError
from igtl.extras import need
from igtl.files.notes import note
from igtl.messages.geometry import Attribute, AttributeType, Cells, PolyData

__all__ = ["from_meshio", "from_trimesh", "from_vtk", "to_meshio", "to_trimesh", "to_vtk"]

_OF_CELLS: Final = 0x10  # bit of an AttributeType
_WIDTHS: Final = {3: AttributeType.VECTORS, 9: AttributeType.TENSORS}
_KINDS: Final = {  # of meshio's cells
    "vertex": "vertices", "line": "lines", "polyline": "lines",
    "triangle": "polygons", "quad": "polygons", "polygon": "polygons",
}  # fmt: skip


def attribute_of(name: str, values: Any, *, cells: bool) -> Attribute:
    """Named values of points or cells; bytes three or four wide become colours, 0 to 1."""
    array = np.asarray(values)
    if "\0" in name or len(name.encode()) > 255:
        raise EncodeError("PolyData", "attributes", f"the name {name[:40]!r} cannot be sent")
    if array.dtype.kind not in "fiub":
        raise EncodeError("PolyData", "attributes", f"{name!r} holds {array.dtype}, not numbers")
    array = array.reshape(len(array), -1) if array.ndim > 2 else array
    width = array.shape[1] if array.ndim == 2 else 1
    if array.dtype == np.uint8 and width in (3, 4):
        return Attribute(
            name, colours(array), AttributeType.CELL_RGBA if cells else AttributeType.RGBA
        )
    kind: int = _WIDTHS.get(width, AttributeType.SCALARS)
    if kind == AttributeType.VECTORS and name.lower().rstrip("_") in ("normals", "normal"):
        kind = AttributeType.NORMALS
    return Attribute(name, array, kind | _OF_CELLS if cells else kind)


def colours(values: Any) -> npt.NDArray[np.float32]:
    """RGBA from 0 to 1 of (n, 3 or 4) integers of any range, or of floats."""
    array = np.asarray(values)
    out = np.ones((len(array), 4), np.float32)
    top = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    out[:, : array.shape[1]] = array / np.float32(top)
    return out


def is_colour(attribute: Attribute) -> bool:
    """Return whether an attribute is RGB or RGBA."""
    kind = attribute.type & ~_OF_CELLS
    return kind == AttributeType.RGBA and attribute.components in (3, 4)


def bytes_of(attribute: Attribute) -> npt.NDArray[np.uint8]:
    """Colours as bytes."""
    return np.rint(np.clip(attribute.values, 0, 1) * 255).astype(np.uint8)


def columns_of(mesh: PolyData, *, cells: bool) -> tuple[dict[str, Any], list[Attribute]]:
    """Return what formats of named columns hold of the attributes of the points or of the cells.

    These are normals, colours, texture coordinates and scalars; the second value are the attributes
    that they do not hold.
    """
    check_rows(mesh)
    out: dict[str, Any] = {}
    lost = []
    for a in mesh.attributes:
        if is_of_cells(a) != cells:
            continue
        kind = a.type & ~_OF_CELLS
        values = np.asarray(a.values, np.float32)
        found: dict[str, Any] = {}
        if kind == AttributeType.NORMALS and a.components == 3:
            found = dict(zip(("nx", "ny", "nz"), values.T, strict=True))
        elif is_colour(a):
            names = ("red", "green", "blue", "alpha")[: a.components]
            found = dict(zip(names, bytes_of(a).T, strict=True))
        elif kind == AttributeType.TEXTURE and a.components >= 2:
            found = {"s": values[:, 0], "t": values[:, 1]}
        elif a.components == 1 and a.name and not set(a.name) & set(" \t\r\n\0"):
            found = {a.name: values[:, 0]}
        if not found or {"x", "y", "z", *out} & set(found):
            lost.append(a)
        else:
            out |= found
    return out, lost


def is_of_cells(attribute: Attribute) -> bool:
    """Return whether an attribute has a row for each cell, not for each point."""
    return bool(attribute.type & _OF_CELLS)


def _values(attribute: Attribute) -> npt.NDArray[Any]:
    """As the libraries have them: one number a row in one dimension, colours as bytes."""
    if is_colour(attribute):
        return bytes_of(attribute)
    return attribute.values[:, 0] if attribute.components == 1 else attribute.values


def check_rows(mesh: PolyData) -> None:
    """Raise EncodeError where an attribute has another number of rows than the mesh."""
    cells = sum(map(len, (mesh.vertices, mesh.lines, mesh.polygons, mesh.triangle_strips)))
    for attribute in mesh.attributes:
        wanted = cells if is_of_cells(attribute) else len(mesh.points)
        if len(attribute.values) != wanted:
            raise EncodeError(
                "PolyData", "attributes",
                f"{attribute.name!r} has {len(attribute.values)} rows, the mesh {wanted}",
            )  # fmt: skip


def triangles(mesh: PolyData) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the surface in triangles: polygons as fans, strips cut up.

    Vertices and lines are not in it.

    Returns:
        Point indices (n, 3), and for each triangle the cell it comes from (n,), counted over
        vertices, lines, polygons and strips.
    """
    found: list[tuple[int, int, int]] = []
    sources: list[int] = []
    first = len(mesh.vertices) + len(mesh.lines)
    polygons = mesh.polygons
    sizes = np.diff(polygons.offsets)
    if len(sizes) and (sizes == 3).all():
        quick = polygons.connectivity.reshape(-1, 3).astype(np.int64)
        origin = np.arange(first, first + len(quick))
    else:
        quick, origin = np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
        for n, cell in enumerate(polygons):
            for k in range(1, len(cell) - 1):
                found.append((int(cell[0]), int(cell[k]), int(cell[k + 1])))
                sources.append(first + n)
    first += len(polygons)
    for n, strip in enumerate(mesh.triangle_strips):
        for k in range(len(strip) - 2):
            a, b, c = (int(p) for p in strip[k : k + 3])
            found.append((a, b, c) if k % 2 == 0 else (b, a, c))  # every other one is turned
            sources.append(first + n)
    more = np.array(found, np.int64).reshape(-1, 3)
    return np.concatenate([quick, more]), np.concatenate([origin, np.array(sources, np.int64)])


def surface(mesh: PolyData, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Like `triangles`, for formats of a surface alone; FileError if the mesh has more."""
    if len(mesh.vertices) or len(mesh.lines):
        raise FileError(path, "this format holds a surface, without vertices and lines of its own")
    return triangles(mesh)


def cells_of(rows: Sequence[Any]) -> Cells:
    """Cells of index lists; quick for many."""
    sizes = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    flat = np.concatenate([np.zeros(0, np.int64), *(np.asarray(row, np.int64) for row in rows)])
    return Cells.from_arrays(offsets, flat)


# ---- meshio -------------------------------------------------------------------------------------


def to_meshio(mesh: PolyData) -> Any:
    """As a meshio.Mesh.

    Lines become segments and strips triangles, with the attributes of the cell they come from.
    """
    meshio = need("meshio", "mesh")
    check_rows(mesh)
    blocks: list[tuple[str, npt.NDArray[np.int64]]] = []
    sources: list[npt.NDArray[np.int64]] = []

    def add(kind: str, cells: Any, source: Any) -> None:
        if len(cells):
            blocks.append((kind, np.asarray(cells, np.int64)))
            sources.append(np.asarray(source, np.int64))

    points = [([p], n) for n, cell in enumerate(mesh.vertices) for p in cell]
    add("vertex", [p for p, _ in points], [n for _, n in points])
    first = len(mesh.vertices)
    segments = [
        ((cell[k], cell[k + 1]), first + n)
        for n, cell in enumerate(mesh.lines) for k in range(len(cell) - 1)
    ]  # fmt: skip
    add("line", [s for s, _ in segments], [n for _, n in segments])
    first += len(mesh.lines)
    sizes = np.diff(mesh.polygons.offsets)
    for size in np.unique(sizes):
        (chosen,) = np.nonzero(sizes == size)
        flat = mesh.polygons.connectivity
        at = mesh.polygons.offsets[chosen][:, np.newaxis] + np.arange(size)
        add({3: "triangle", 4: "quad"}.get(int(size), "polygon"), flat[at], first + chosen)
    strips = PolyData(mesh.points, triangle_strips=mesh.triangle_strips)
    cut, origin = triangles(strips)
    add("triangle", cut, first + len(mesh.polygons) + origin)
    return meshio.Mesh(
        np.array(mesh.points, np.float64), blocks,
        point_data={a.name: _values(a) for a in mesh.attributes if not is_of_cells(a)},
        cell_data={
            a.name: [_values(a)[source] for source in sources]
            for a in mesh.attributes if is_of_cells(a)
        },
    )  # fmt: skip


def from_meshio(mesh: Any, *, device_name: str = "") -> PolyData:
    """From a meshio.Mesh of vertices, lines and polygons.

    Raises:
        EncodeError: it has other cells (tetrahedra, curved ones): extract its surface first.
    """
    points = np.asarray(mesh.points, np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise EncodeError("PolyData", "points", f"{points.shape}, must be (n, 2) or (n, 3)")
    if points.shape[1] == 2:
        points = np.column_stack([points, np.zeros(len(points))])
    kinds: dict[str, list[int]] = {"vertices": [], "lines": [], "polygons": []}
    for n, block in enumerate(mesh.cells):
        if block.type not in _KINDS:
            raise EncodeError("PolyData", "polygons", f"{block.type!r} cells are not a surface")
        kinds[_KINDS[block.type]].append(n)
    blocks = [n for found in kinds.values() for n in found]  # as POLYDATA counts its cells

    def cells(kind: str) -> Cells:
        return _cells([mesh.cells[n].data for n in kinds[kind]])

    attributes = [
        attribute_of(name, values, cells=False) for name, values in mesh.point_data.items()
    ] + [
        attribute_of(name, np.concatenate([np.asarray(values[n]) for n in blocks]), cells=True)
        for name, values in mesh.cell_data.items() if blocks
    ]  # fmt: skip
    return PolyData(
        points, vertices=cells("vertices"), lines=cells("lines"), polygons=cells("polygons"),
        attributes=attributes, device_name=device_name,
    )  # fmt: skip


def _cells(parts: list[Any]) -> Cells:
    """Of arrays (n, k) of several widths."""
    sizes = np.concatenate(
        [np.zeros(1, np.int64), *(np.full(len(p), np.shape(p)[1]) for p in parts)]
    )
    flat = [np.asarray(p, np.int64).ravel() for p in parts]
    return Cells.from_arrays(np.cumsum(sizes), np.concatenate(flat) if flat else np.zeros(0, "i8"))


# ---- trimesh ------------------------------------------------------------------------------------


def to_trimesh(mesh: PolyData) -> Any:
    """As a trimesh.Trimesh of the surface, without vertices and lines.

    Its points are as they are; attributes of points and faces keep their names.
    """
    trimesh = need("trimesh", "mesh")
    check_rows(mesh)
    faces, source = triangles(mesh)
    return trimesh.Trimesh(
        np.array(mesh.points, np.float64), faces, process=False,
        vertex_attributes={a.name: _values(a) for a in mesh.attributes if not is_of_cells(a)},
        face_attributes={a.name: _values(a)[source] for a in mesh.attributes if is_of_cells(a)},
    )  # fmt: skip


def from_trimesh(mesh: Any, *, device_name: str = "") -> PolyData:
    """From an object with `vertices` (n, 3) and `faces` (m, 3).

    trimesh and libraries like Open3D have these; attributes of trimesh are kept.
    """
    attributes = [
        attribute_of(name, values, cells=cells)
        for cells, found in (
            (False, getattr(mesh, "vertex_attributes", {})),
            (True, getattr(mesh, "face_attributes", {})),
        )
        for name, values in found.items()
    ]
    return PolyData(
        np.asarray(mesh.vertices, np.float64), polygons=np.asarray(mesh.faces, np.int64),
        attributes=attributes, device_name=device_name,
    )  # fmt: skip


# ---- VTK ----------------------------------------------------------------------------------------


def to_vtk(mesh: PolyData) -> Any:
    """As a vtkPolyData, which `pyvista.wrap` takes; needs VTK (`igtl[vtk]`)."""
    core = need("vtkmodules.vtkCommonCore", "vtk")
    model = need("vtkmodules.vtkCommonDataModel", "vtk")
    convert = need("vtkmodules.util.numpy_support", "vtk")
    check_rows(mesh)
    out = model.vtkPolyData()
    points = core.vtkPoints()
    points.SetData(convert.numpy_to_vtk(np.array(mesh.points, np.float32), deep=True))
    out.SetPoints(points)
    for cells, put in (
        (mesh.vertices, out.SetVerts), (mesh.lines, out.SetLines),
        (mesh.polygons, out.SetPolys), (mesh.triangle_strips, out.SetStrips),
    ):  # fmt: skip
        if len(cells):
            array = model.vtkCellArray()
            array.SetData(
                convert.numpy_to_vtkIdTypeArray(np.array(cells.offsets, np.int64), deep=True),
                convert.numpy_to_vtkIdTypeArray(np.array(cells.connectivity, np.int64), deep=True),
            )
            put(array)
    for attribute in mesh.attributes:
        data = out.GetCellData() if is_of_cells(attribute) else out.GetPointData()
        values = convert.numpy_to_vtk(np.ascontiguousarray(_values(attribute)), deep=True)
        values.SetName(attribute.name)
        data.AddArray(values)
        kind = attribute.type & ~_OF_CELLS
        if kind == AttributeType.NORMALS and attribute.components == 3:
            data.SetActiveNormals(attribute.name)
        elif kind == AttributeType.VECTORS and data.GetVectors() is None:
            data.SetActiveVectors(attribute.name)  # 3D Slicer turns these only
    return out


def from_vtk(mesh: Any, *, device_name: str = "") -> PolyData:
    """From a vtkPolyData; every PolyData of PyVista is one."""
    convert = need("vtkmodules.util.numpy_support", "vtk")

    def numbers(array: Any) -> Any:
        return convert.vtk_to_numpy(array)

    def cells(array: Any) -> Cells:
        if array is None or array.GetNumberOfCells() == 0:
            return Cells()
        return Cells.from_arrays(
            numbers(array.GetOffsetsArray()), numbers(array.GetConnectivityArray())
        )

    attributes = []
    for of_cells, data in ((False, mesh.GetPointData()), (True, mesh.GetCellData())):
        normals = data.GetNormals()
        for n in range(data.GetNumberOfArrays()):
            array = data.GetArray(n)
            if array is None:
                note(f"{data.GetAbstractArray(n).GetName()!r}, which holds no numbers, is left out")
                continue
            found = attribute_of(array.GetName() or f"array {n}", numbers(array), cells=of_cells)
            if normals is not None and normals.GetName() == array.GetName():
                found.type = AttributeType.NORMALS | (_OF_CELLS if of_cells else 0)
            attributes.append(found)
    points = mesh.GetPoints()
    return PolyData(
        np.zeros((0, 3)) if points is None else numbers(points.GetData()),
        vertices=cells(mesh.GetVerts()), lines=cells(mesh.GetLines()),
        polygons=cells(mesh.GetPolys()), triangle_strips=cells(mesh.GetStrips()),
        attributes=attributes, device_name=device_name,
    )  # fmt: skip
