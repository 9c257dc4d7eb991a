"""POLYDATA and the meshes of meshio, trimesh, and VTK with PyVista: points, cells, attributes.

Cells of a mesh come in the order of VTK: vertices, lines, polygons, triangle strips; so do the
rows of its cell attributes. What an attribute *is* (see AttributeType) follows from its name and
width where a library does not say: "Normals" and three wide are normals, three wide are vectors,
nine wide tensors, all else scalars.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.errors import EncodeError, FileError
from igtl.extras import need
from igtl.files.blame import blamed
from igtl.message import Message
from igtl.messages.geometry import Attribute, AttributeType, Cells, PolyData

VTK_SUFFIXES: Final = (".vtk", ".vtp")
TRIMESH_SUFFIXES: Final = (".stl", ".ply", ".obj", ".off")
_OF_CELLS: Final = 0x10  # bit of an AttributeType
_WIDTHS: Final = {3: AttributeType.VECTORS, 9: AttributeType.TENSORS}
_KINDS: Final = {  # of meshio's cells
    "vertex": "vertices", "line": "lines", "polyline": "lines",
    "triangle": "polygons", "quad": "polygons", "polygon": "polygons",
}  # fmt: skip


def _attribute(name: str, values: Any, *, cells: bool) -> Attribute:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise EncodeError("PolyData", "attributes", f"{name!r} holds {array.dtype}, not numbers")
    array = array.reshape(len(array), -1) if array.ndim > 2 else array
    width = array.shape[1] if array.ndim == 2 else 1
    kind: int = _WIDTHS.get(width, AttributeType.SCALARS)
    if kind == AttributeType.VECTORS and name.lower().rstrip("_") in ("normals", "normal"):
        kind = AttributeType.NORMALS
    return Attribute(name, array, kind | _OF_CELLS if cells else kind)


def _is_of_cells(attribute: Attribute) -> bool:
    return bool(attribute.type & _OF_CELLS)


def _values(attribute: Attribute) -> npt.NDArray[np.float32]:
    return attribute.values[:, 0] if attribute.components == 1 else attribute.values


def _check_rows(mesh: PolyData) -> None:
    cells = sum(map(len, (mesh.vertices, mesh.lines, mesh.polygons, mesh.triangle_strips)))
    for attribute in mesh.attributes:
        wanted = cells if _is_of_cells(attribute) else len(mesh.points)
        if len(attribute.values) != wanted:
            raise EncodeError(
                "PolyData", "attributes",
                f"{attribute.name!r} has {len(attribute.values)} rows, the mesh {wanted}",
            )  # fmt: skip


def triangles(mesh: PolyData) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The surface in triangles: polygons as fans, strips cut up. Vertices and lines are not in it.

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


# ---- meshio -------------------------------------------------------------------------------------


def to_meshio(mesh: PolyData) -> Any:
    """As a meshio.Mesh. Lines become segments and strips triangles, with the attributes of the
    cell they come from."""
    meshio = need("meshio", "mesh")
    _check_rows(mesh)
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
        point_data={a.name: _values(a) for a in mesh.attributes if not _is_of_cells(a)},
        cell_data={
            a.name: [_values(a)[source] for source in sources]
            for a in mesh.attributes if _is_of_cells(a)
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
            raise EncodeError("PolyData", "polygons", f"{block.type!r} cells are no surface")
        kinds[_KINDS[block.type]].append(n)
    blocks = [n for found in kinds.values() for n in found]  # as POLYDATA counts its cells

    def cells(kind: str) -> Cells:
        return _cells([mesh.cells[n].data for n in kinds[kind]])

    attributes = [
        _attribute(name, values, cells=False) for name, values in mesh.point_data.items()
    ] + [
        _attribute(name, np.concatenate([np.asarray(values[n]) for n in blocks]), cells=True)
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


def load_meshio(path: Path) -> PolyData:
    """By meshio; see `igtl.files.load`."""
    meshio = need("meshio", "mesh")
    with blamed(path), contextlib.redirect_stdout(io.StringIO()):  # it prints its errors
        return from_meshio(meshio.read(path))


def save_meshio(message: Message, path: Path) -> None:
    """By meshio; see `igtl.files.save`."""
    mesh = _mesh(message, path)
    meshio = need("meshio", "mesh")
    with blamed(path):
        meshio.write(path, to_meshio(mesh))


def _mesh(message: Message, path: Path) -> PolyData:
    if not isinstance(message, PolyData):
        raise FileError(path, f"a {message.type_name} is no mesh")
    return message


# ---- trimesh ------------------------------------------------------------------------------------


def to_trimesh(mesh: PolyData) -> Any:
    """As a trimesh.Trimesh of the surface (vertices and lines are not in it), its points as they
    are; attributes of points and faces by name."""
    trimesh = need("trimesh", "mesh")
    _check_rows(mesh)
    faces, source = triangles(mesh)
    return trimesh.Trimesh(
        np.array(mesh.points, np.float64), faces, process=False,
        vertex_attributes={a.name: _values(a) for a in mesh.attributes if not _is_of_cells(a)},
        face_attributes={a.name: _values(a)[source] for a in mesh.attributes if _is_of_cells(a)},
    )  # fmt: skip


def from_trimesh(mesh: Any, *, device_name: str = "") -> PolyData:
    """From anything with `vertices` (n, 3) and `faces` (m, 3), as trimesh and Open3D-like
    libraries have; attributes of trimesh are kept."""
    attributes = [
        _attribute(name, values, cells=cells)
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


def load_trimesh(path: Path) -> PolyData:
    """By trimesh; see `igtl.files.load`."""
    trimesh = need("trimesh", "mesh")
    with blamed(path), path.open("rb") as file:
        found = from_trimesh(trimesh.load_mesh(file, path.suffix.lower()[1:], process=False))
    if not len(found.polygons):
        raise FileError(path, "holds no surface")
    return found


def save_trimesh(message: Message, path: Path) -> None:
    """By trimesh, as triangles; see `igtl.files.save`."""
    mesh = _mesh(message, path)
    if len(mesh.vertices) or len(mesh.lines):
        raise FileError(path, "this format holds a surface, without vertices and lines of its own")
    if mesh.attributes:
        raise FileError(path, "this format holds no attributes; .vtk and .vtu do")
    with blamed(path):
        to_trimesh(mesh).export(path)


# ---- VTK ----------------------------------------------------------------------------------------


def to_vtk(mesh: PolyData) -> Any:
    """As a vtkPolyData, which `pyvista.wrap` takes; needs VTK (`igtl[vtk]`)."""
    core = need("vtkmodules.vtkCommonCore", "vtk")
    model = need("vtkmodules.vtkCommonDataModel", "vtk")
    convert = need("vtkmodules.util.numpy_support", "vtk")
    _check_rows(mesh)
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
        data = out.GetCellData() if _is_of_cells(attribute) else out.GetPointData()
        values = convert.numpy_to_vtk(np.array(_values(attribute), np.float32), deep=True)
        values.SetName(attribute.name)
        data.AddArray(values)
        kind = attribute.type & ~_OF_CELLS
        if kind == AttributeType.NORMALS and attribute.components == 3:
            data.SetActiveNormals(attribute.name)
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
            if array is None:  # of strings
                continue
            found = _attribute(array.GetName() or f"array {n}", numbers(array), cells=of_cells)
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


def load_vtk(path: Path) -> PolyData:
    """By VTK; see `igtl.files.load`."""
    reader: Any
    if path.suffix.lower() == ".vtp":
        reader = need("vtkmodules.vtkIOXML", "vtk").vtkXMLPolyDataReader()
    else:
        reader = need("vtkmodules.vtkIOLegacy", "vtk").vtkPolyDataReader()
        reader.ReadAllScalarsOn()
        reader.ReadAllVectorsOn()
        reader.ReadAllNormalsOn()
        reader.ReadAllTensorsOn()
        reader.ReadAllFieldsOn()
    reader.SetFileName(str(path))
    with _heard() as lines:
        reader.Update()
    if lines or reader.GetErrorCode():
        raise FileError(path, lines[-1] if lines else f"VTK error {reader.GetErrorCode()}")
    with blamed(path):
        return from_vtk(reader.GetOutput())


def save_vtk(message: Message, path: Path) -> None:
    """By VTK; see `igtl.files.save`."""
    mesh = _mesh(message, path)
    writer: Any
    if path.suffix.lower() == ".vtp":
        writer = need("vtkmodules.vtkIOXML", "vtk").vtkXMLPolyDataWriter()
    else:
        writer = need("vtkmodules.vtkIOLegacy", "vtk").vtkPolyDataWriter()
        writer.SetFileTypeToBinary()
    with blamed(path):
        writer.SetInputData(to_vtk(mesh))
    writer.SetFileName(str(path))
    with _heard() as lines:
        written = writer.Write()
    if lines or not written:
        raise FileError(path, lines[-1] if lines else "VTK could not write it")


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What VTK has to say meanwhile, instead of on standard error: for a file that was cut it has
    a warning only."""
    core = need("vtkmodules.vtkCommonCore", "vtk")
    before, window = core.vtkOutputWindow.GetInstance(), core.vtkStringOutputWindow()
    lines: list[str] = []
    core.vtkOutputWindow.SetInstance(window)
    try:
        yield lines
    finally:
        core.vtkOutputWindow.SetInstance(before)
        lines += [line.strip() for line in window.GetOutput().splitlines() if line.strip()]
