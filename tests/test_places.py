"""Where files lie: each kind of file, with each mark of its coordinates, as every reader places it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Attribute, AttributeType, PolyData
from tests.conftest import Slicer

LPS = np.array([-1.0, -1.0, 1.0])  # RAS <-> LPS
RNG = np.random.default_rng(7)
POINTS = np.round(RNG.normal(0, 80, (10, 3)), 3).astype(np.float32)  # in the file
FACES = [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8], [8, 9, 0]]
MARKS = ["", "LPS", "RAS"]


# ---- meshes, written without igtl -----------------------------------------------------------------


def binary_stl(path: Path, mark: str) -> None:
    head = f"made elsewhere {mark and 'SPACE=' + mark}".encode().ljust(80, b"\0")
    rows = [struct.pack("<12fH", 0, 0, 0, *POINTS[face].ravel(), 0) for face in FACES]
    path.write_bytes(head + struct.pack("<I", len(rows)) + b"".join(rows))


def text_stl(path: Path, mark: str) -> None:
    rows = []
    for face in FACES:
        corners = "".join(f"vertex {x} {y} {z}\n" for x, y, z in POINTS[face].tolist())
        rows.append(f"facet normal 0 0 0\nouter loop\n{corners}endloop\nendfacet\n")
    head = f"solid part {mark and 'SPACE=' + mark}\n"
    path.write_text(head + "".join(rows) + "endsolid\n")


def text_ply(path: Path, mark: str) -> None:
    comment = f"comment SPACE={mark}\n" if mark else ""
    points = "".join(f"{x} {y} {z}\n" for x, y, z in POINTS.tolist())
    path.write_text(
        f"ply\nformat ascii 1.0\n{comment}element vertex 10\nproperty float x\nproperty float y\n"
        "property float z\nelement face 5\nproperty list uchar int vertex_indices\nend_header\n"
        f"{points}" + "".join(f"3 {a} {b} {c}\n" for a, b, c in FACES)
    )


def text_obj(path: Path, mark: str) -> None:
    points = "".join(f"v {x} {y} {z}\n" for x, y, z in POINTS.tolist())
    faces = "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in FACES)
    path.write_text(f"# remark {mark and 'SPACE=' + mark}\n{points}{faces}")


def vtk_text(path: Path, mark: str) -> None:
    points = " ".join(str(x) for x in POINTS.ravel().tolist())
    faces = "".join(f"3 {a} {b} {c}\n" for a, b, c in FACES)
    path.write_text(
        f"# vtk DataFile Version 4.2\ntitle {mark and 'SPACE=' + mark}\nASCII\nDATASET POLYDATA\n"
        f"POINTS 10 float\n{points}\nPOLYGONS 5 20\n{faces}"
    )


def by_vtk(path: Path, mark: str) -> None:
    from vtkmodules.vtkCommonCore import vtkPoints, vtkStringArray
    from vtkmodules.vtkCommonDataModel import (
        VTK_TRIANGLE,
        vtkCellArray,
        vtkPolyData,
        vtkUnstructuredGrid,
    )
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter, vtkXMLUnstructuredGridWriter

    points, cells = vtkPoints(), vtkCellArray()
    for point in POINTS.tolist():
        points.InsertNextPoint(point)
    for face in FACES:
        cells.InsertNextCell(3, face)
    data: Any
    writer: Any
    if path.suffix == ".vtp":
        data, writer = vtkPolyData(), vtkXMLPolyDataWriter()
        data.SetPolys(cells)
    else:
        data, writer = vtkUnstructuredGrid(), vtkXMLUnstructuredGridWriter()
        data.SetCells(VTK_TRIANGLE, cells)
    data.SetPoints(points)
    if mark:
        array = vtkStringArray()
        array.SetName("SPACE")
        array.InsertNextValue(mark)
        data.GetFieldData().AddArray(array)
    writer.SetInputData(data)
    writer.SetFileName(str(path))
    writer.Write()


MESHES: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "binary STL": (".stl", binary_stl),
    "STL": (".stl", text_stl),
    "PLY": (".ply", text_ply),
    "OBJ": (".obj", text_obj),
    "VTK": (".vtk", vtk_text),
    "VTP": (".vtp", by_vtk),
    "VTU": (".vtu", by_vtk),
}


def vtk_points(path: Path) -> Any:
    """The points as VTK reads them, in the coordinates of the file."""
    pyvista = pytest.importorskip("pyvista", reason="PyVista is not installed")
    return np.asarray(pyvista.read(path).points)


def same_places(found: Any, wanted: Any, atol: float = 2e-4) -> None:
    """Points in any order: STL has none."""
    found, wanted = (np.round(np.asarray(x, float), 3) for x in (found, wanted))
    assert len(found) == len(wanted)
    np.testing.assert_allclose(sorted(found.tolist()), sorted(wanted.tolist()), atol=atol)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", MESHES)
def test_meshes(tmp_path: Path, kind: str, mark: str) -> None:
    if kind in ("VTK", "VTP", "VTU"):
        pytest.importorskip("vtkmodules", reason="VTK is not installed")
    suffix, write = MESHES[kind]
    path = tmp_path / f"mesh{suffix}"
    write(path, mark)
    wanted = POINTS * (1 if mark == "RAS" else LPS)
    mesh = igtl.files.load(path)
    assert isinstance(mesh, PolyData)
    same_places(mesh.points, wanted)
    assert len(mesh.polygons) == 5
    same_places(vtk_points(path), POINTS)  # the file is as it was meant
    told = igtl.files.load(path, space="RAS")  # counts for a file without a mark only
    assert isinstance(told, PolyData)
    same_places(told.points, POINTS if mark != "LPS" else wanted)


@pytest.mark.processes
def test_meshes_in_slicer(tmp_path: Path, slicer: Slicer) -> None:
    """Each file lies in 3D Slicer where igtl has it, and so does what each of the two makes of it."""
    pytest.importorskip("vtkmodules", reason="VTK is not installed")
    requests, wanted = [], []
    for kind, (suffix, write) in MESHES.items():
        for mark in MARKS:
            path = tmp_path / f"{kind} {mark}{suffix}"
            write(path, mark)
            requests.append({"do": "model", "path": str(path)})
            wanted.append(POINTS * (1 if mark == "RAS" else LPS))
    for suffix in (".stl", ".ply", ".obj", ".vtk", ".vtp", ".vtu"):
        for space in ("LPS", "RAS"):
            path = tmp_path / f"igtl {space}{suffix}"
            mesh = PolyData(POINTS, polygons=FACES)
            igtl.files.save(mesh, path, space=space)  # type: ignore[arg-type]
            again = tmp_path / f"slicer {space}{suffix}"
            requests.append({"do": "model", "path": str(path), "space": space,
                             "to": "" if suffix == ".vtu" else str(again)})  # fmt: skip
            wanted.append(POINTS)
    for request, facts, points in zip(requests, slicer(requests), wanted, strict=True):
        assert "error" not in facts, (request, facts)
        same_places(facts["points"], points)
        for path in filter(None, (request["path"], request.get("to"))):
            if str(path).endswith(".obj") and path == request.get("to"):
                with pytest.warns(igtl.FileWarning, match="materials are left out"):
                    mesh = igtl.files.load(path)  # type: ignore[assignment]
            else:
                mesh = igtl.files.load(path)  # type: ignore[assignment]
            same_places(mesh.points, points)


@pytest.mark.processes
@pytest.mark.parametrize("suffix", [".vtk", ".vtp"])
def test_directions_of_meshes_in_slicer(tmp_path: Path, slicer: Slicer, suffix: str) -> None:
    """Normals and vectors turn with the points, there and back."""
    pytest.importorskip("vtkmodules", reason="VTK is not installed")
    normals = RNG.normal(0, 1, (10, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mesh = PolyData(POINTS, polygons=FACES, attributes=[
        Attribute("Normals", normals, AttributeType.NORMALS),
        Attribute("Flow", RNG.normal(0, 1, (10, 3)), AttributeType.VECTORS),
        Attribute("Pressure", np.arange(10)),
    ])  # fmt: skip
    path, again = tmp_path / f"mesh{suffix}", tmp_path / f"again{suffix}"
    igtl.files.save(mesh, path)
    (facts,) = slicer([{"do": "model", "path": str(path), "to": str(again), "space": "LPS"}])
    loaded = igtl.files.load(again)
    assert isinstance(loaded, PolyData)
    for name in ("Normals", "Flow", "Pressure"):
        values = mesh.attribute(name).values
        np.testing.assert_allclose(
            np.reshape(facts["arrays"][name], values.shape), values, atol=1e-5
        )
        np.testing.assert_allclose(loaded.attribute(name).values, values, atol=1e-5)
