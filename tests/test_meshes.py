"""POLYDATA and the meshes of others: points, cells and attributes come back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Attribute, AttributeType, PolyData
from igtl.files import meshes

meshio = pytest.importorskip("meshio", reason="meshio is not installed")
trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")

CORNERS = np.array([[x, y, z] for z in (0, 2) for y in (0, 3) for x in (0, 5)], float) + 10
QUADS = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]]


def received(mesh: PolyData) -> PolyData:
    """As it comes from a link."""
    m = igtl.unpack(mesh.pack())
    assert isinstance(m, PolyData)
    return m


def box() -> PolyData:
    """A closed box: four quadrangles and, for the last two sides, triangles."""
    polygons: list[Any] = [*QUADS[:4]]
    for a, b, c, d in QUADS[4:]:
        polygons += [[a, b, c], [a, c, d]]
    return PolyData(
        CORNERS, polygons=polygons, device_name="Box",
        attributes=[
            Attribute("Pressure", np.arange(8)),
            Attribute("Normals", np.eye(3)[np.arange(8) % 3], AttributeType.NORMALS),
            Attribute("Flow", np.arange(24).reshape(8, 3), AttributeType.VECTORS),
            Attribute("Stress", np.arange(72).reshape(8, 9), AttributeType.TENSORS),
            Attribute("Side", np.arange(8) + 100, AttributeType.CELL_SCALARS),
            Attribute("Push", np.arange(24).reshape(8, 3), AttributeType.CELL_VECTORS),
        ],
    )  # fmt: skip


def everything() -> PolyData:
    """Vertices, a polyline, polygons of three sizes, and a strip."""
    return PolyData(
        np.random.default_rng(4).normal(0, 50, (12, 3)),
        vertices=[[0], [1]], lines=[[0, 1, 2], [3, 4]],
        polygons=[[0, 1, 2], [3, 4, 5, 6], [1, 2, 3], [0, 2, 4, 6, 8]],
        triangle_strips=[[7, 8, 9, 10, 11]],
        attributes=[
            Attribute("cell", np.arange(9), AttributeType.CELL_SCALARS),
            Attribute("point", np.arange(12)),
        ],
    )  # fmt: skip


def cell_set(cells: Any) -> list[tuple[int, ...]]:
    return [tuple(int(p) for p in cell) for cell in cells]


def same(a: PolyData, b: PolyData) -> None:
    np.testing.assert_allclose(a.points, b.points, rtol=1e-6)
    for kind in ("vertices", "lines", "polygons", "triangle_strips"):
        assert cell_set(getattr(a, kind)) == cell_set(getattr(b, kind)), kind
    assert {x.name: x.type for x in a.attributes} == {x.name: x.type for x in b.attributes}
    for attribute in a.attributes:
        np.testing.assert_allclose(attribute.values, b.attribute(attribute.name).values)


def sorted_box() -> PolyData:
    """The box with its quadrangles behind the triangles, as blocks of one size come."""
    mesh = box()
    order = [4, 5, 6, 7, 0, 1, 2, 3]
    mesh.polygons = [mesh.polygons[n] for n in order]
    for name in ("Side", "Push"):
        mesh.attribute(name).values = mesh.attribute(name).values[order]
    return mesh


# ---- meshio -----------------------------------------------------------------------------------


def test_meshio_and_back() -> None:
    there = meshes.to_meshio(received(box()))
    assert [(block.type, len(block.data)) for block in there.cells] == [
        ("triangle", 4),
        ("quad", 4),
    ]
    assert there.cell_data["Side"][0].tolist() == [104, 105, 106, 107]
    assert there.point_data["Stress"].shape == (8, 9)
    same(meshes.from_meshio(there), sorted_box())


def test_meshio_of_all_kinds_of_cells() -> None:
    there = meshes.to_meshio(received(everything()))
    blocks = [(block.type, block.data.tolist()) for block in there.cells]
    assert blocks == [
        ("vertex", [[0], [1]]) if np.ndim(there.cells[0].data) == 2 else ("vertex", [0, 1]),
        ("line", [[0, 1], [1, 2], [3, 4]]),
        ("triangle", [[0, 1, 2], [1, 2, 3]]),
        ("quad", [[3, 4, 5, 6]]),
        ("polygon", [[0, 2, 4, 6, 8]]),
        ("triangle", [[7, 8, 9], [9, 8, 10], [9, 10, 11]]),
    ]
    assert [x.tolist() for x in there.cell_data["cell"]] == [
        [0, 1], [2, 2, 3], [4, 6], [5], [7], [8, 8, 8]
    ]  # fmt: skip
    back = meshes.from_meshio(there)
    assert cell_set(back.vertices) == [(0,), (1,)]
    assert cell_set(back.lines) == [(0, 1), (1, 2), (3, 4)]
    assert len(back.polygons) == 7
    assert back.attribute("cell").values.ravel().tolist() == [0, 1, 2, 2, 3, 4, 6, 5, 7, 8, 8, 8]


@pytest.mark.parametrize("make", [box, everything])
@pytest.mark.parametrize("suffix", [".vtk", ".vtp"])
def test_files_of_vtk(tmp_path: Path, suffix: str, make: Any) -> None:
    pyvista = pytest.importorskip("pyvista", reason="PyVista is not installed")
    mesh = received(make())
    path = tmp_path / f"mesh{suffix}"
    igtl.files.save(mesh, path)
    other = pyvista.read(path)
    np.testing.assert_allclose(other.points, mesh.points, rtol=1e-6)
    assert other.n_cells == (8 if make is box else 9)
    loaded = igtl.files.load(path)
    assert isinstance(loaded, PolyData)
    same(loaded, mesh)


@pytest.mark.parametrize("suffix", [".vtu"])
def test_files_keep_attributes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box{suffix}"
    igtl.files.save(received(box()), path)
    other = meshio.read(path)
    np.testing.assert_allclose(other.points, CORNERS)
    loaded = igtl.files.load(path)
    assert isinstance(loaded, PolyData)
    assert loaded.device_name == "box"
    same(loaded, sorted_box())


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".obj", ".off"])
def test_surfaces_in_files(tmp_path: Path, suffix: str) -> None:
    mesh = received(PolyData(CORNERS, polygons=QUADS))
    path = tmp_path / f"box{suffix}"
    igtl.files.save(mesh, path)
    pyvista = pytest.importorskip("pyvista", reason="PyVista is not installed")
    if suffix != ".off":  # VTK reads the others
        other = pyvista.read(path)
        assert other.volume == pytest.approx(30)
        assert other.n_cells == 12
    loaded = igtl.files.load(path)
    assert isinstance(loaded, PolyData)
    again = meshes.to_trimesh(loaded)
    again.merge_vertices()
    assert again.volume == pytest.approx(30)


def test_what_files_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(igtl.FileError, match="no attributes"):
        igtl.files.save(box(), tmp_path / "a.stl")
    with pytest.raises(igtl.FileError, match="without vertices and lines"):
        igtl.files.save(everything(), tmp_path / "a.ply")
    with pytest.raises(igtl.FileError, match="no mesh"):
        igtl.files.save(igtl.Status.ok(), tmp_path / "a.vtu")
    mesh = box()
    mesh.attributes[0].values = mesh.attributes[0].values[:5]
    with pytest.raises(igtl.FileError, match="'Pressure' has 5 rows, the mesh 8"):
        igtl.files.save(mesh, tmp_path / "a.vtu")
    solid = meshio.Mesh(CORNERS, [("tetra", np.array([[0, 1, 2, 4]]))])
    with pytest.raises(igtl.EncodeError, match="'tetra' cells are no surface"):
        meshes.from_meshio(solid)
    curved = meshio.Mesh(CORNERS, [("triangle6", np.array([[0, 1, 2, 4, 5, 6]]))])
    with pytest.raises(igtl.EncodeError, match="'triangle6' cells"):
        meshes.from_meshio(curved)
    with pytest.raises(igtl.EncodeError, match="not numbers"):
        meshes.from_meshio(meshio.Mesh(CORNERS, [], point_data={"x": np.array(["a"] * 8)}))


@pytest.mark.parametrize("suffix", [".vtk", ".vtp", ".vtu", ".stl", ".ply", ".obj", ".off"])
def test_truncated_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    if suffix in meshes.VTK_SUFFIXES:
        pytest.importorskip("vtkmodules", reason="VTK is not installed")
    path = tmp_path / f"box{suffix}"
    igtl.files.save(PolyData(CORNERS, polygons=QUADS), path)
    whole = path.read_bytes()
    for n in (0, 5, len(whole) // 3, len(whole) // 2, 2 * len(whole) // 3):
        path.write_bytes(whole[:n])
        try:
            loaded = igtl.files.load(path)
        except igtl.FileError:
            pass
        else:  # a format of lines, cut between two: what is there is right
            assert isinstance(loaded, PolyData)
            assert suffix in (".obj", ".stl")
    for content in (b"\x89PNG\r\n" + bytes(300), b"<html></html>" * 30):
        path.write_bytes(content)
        if suffix != ".obj":  # every line it does not know is a remark
            with pytest.raises(igtl.FileError):
                igtl.files.load(path)


# ---- trimesh ----------------------------------------------------------------------------------


def test_trimesh_and_back() -> None:
    there = meshes.to_trimesh(received(box()))
    assert there.is_watertight
    assert there.volume == pytest.approx(30)
    # two triangles of each quadrangle have its attribute
    assert sorted(there.face_attributes["Side"].tolist()) == [
        100, 100, 101, 101, 102, 102, 103, 103, 104, 105, 106, 107
    ]  # fmt: skip
    np.testing.assert_array_equal(there.vertex_attributes["Pressure"], np.arange(8))
    back = meshes.from_trimesh(there, device_name="Box")
    np.testing.assert_allclose(back.points, CORNERS)
    assert len(back.polygons) == 12
    assert back.attribute("Normals").type == AttributeType.NORMALS
    assert back.attribute("Side").type == AttributeType.CELL_SCALARS
    again = meshes.to_trimesh(received(back))
    assert again.volume == pytest.approx(30)


def test_strips_turn_right() -> None:
    strip = PolyData([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], triangle_strips=[[0, 1, 2, 3]])
    normals = meshes.to_trimesh(strip).face_normals
    np.testing.assert_allclose(normals, [[0, 0, -1], [0, 0, -1]])


# ---- VTK --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [box, everything])
def test_pyvista_and_back(make: Any) -> None:
    pyvista = pytest.importorskip("pyvista", reason="PyVista is not installed")
    mesh = received(make())
    there = pyvista.wrap(meshes.to_vtk(mesh))
    np.testing.assert_allclose(there.points, mesh.points)
    assert there.n_cells == (8 if make is box else 9)
    assert there.n_verts == len(mesh.vertices)
    assert there.n_lines == len(mesh.lines)
    assert there.n_strips == len(mesh.triangle_strips)
    for attribute in mesh.attributes:
        data = there.cell_data if attribute.type & 0x10 else there.point_data
        np.testing.assert_allclose(np.reshape(data[attribute.name], attribute.values.shape),
                                   attribute.values)  # fmt: skip
    same(meshes.from_vtk(there), mesh)
    if make is box:
        assert there.volume == pytest.approx(30)
        np.testing.assert_allclose(
            there.point_data.active_normals, mesh.attribute("Normals").values
        )


def test_pyvista_meshes() -> None:
    pyvista = pytest.importorskip("pyvista", reason="PyVista is not installed")
    sphere = pyvista.Sphere(radius=20)
    sphere["Height"] = sphere.points[:, 2]
    mesh = received(meshes.from_vtk(sphere, device_name="Sphere"))
    assert mesh.attribute("Normals").type == AttributeType.NORMALS
    np.testing.assert_allclose(mesh.attribute("Height").values.ravel(), mesh.points[:, 2])
    assert meshes.to_trimesh(mesh).volume == pytest.approx(sphere.volume, rel=1e-4)
    assert len(meshes.from_vtk(pyvista.PolyData()).points) == 0


@pytest.mark.processes
def test_missing_extras_are_named(tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("meshio", "trimesh", "vtkmodules", "vtkmodules.vtkIOXML", "vtkmodules.vtkIOLegacy"):
    sys.modules[name] = None
import igtl, numpy as np
mesh = igtl.PolyData(np.eye(3), polygons=[[0, 1, 2]])
for suffix, extra in ((".vtu", "mesh"), (".stl", "mesh"), (".vtp", "vtk"), (".vtk", "vtk")):
    try:
        igtl.files.save(mesh, r"{tmp_path}/a" + suffix)
    except ModuleNotFoundError as error:
        assert f'pip install "igtl[{{extra}}]"' in str(error), error
    else:
        raise AssertionError(suffix)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
