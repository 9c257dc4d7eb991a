"""POLYDATA and the meshes of others: points, cells and attributes come back."""

from __future__ import annotations

import struct
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
LPS = np.array([-1, -1, 1])  # files are in LPS
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
    np.testing.assert_allclose(other.points, mesh.points * LPS, rtol=1e-6)
    assert other.n_cells == (8 if make is box else 9)
    loaded = igtl.files.load(path)
    assert isinstance(loaded, PolyData)
    same(loaded, mesh)


@pytest.mark.parametrize("suffix", [".vtu"])
def test_files_keep_attributes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"box{suffix}"
    igtl.files.save(received(box()), path)
    other = meshio.read(path)
    np.testing.assert_allclose(other.points, CORNERS * LPS)
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
        assert other.n_cells == (12 if suffix == ".stl" else 6)
    loaded = igtl.files.load(path)
    assert isinstance(loaded, PolyData)
    again = meshes.to_trimesh(loaded)
    again.merge_vertices()
    assert again.volume == pytest.approx(30)


def test_what_files_cannot_hold(tmp_path: Path) -> None:
    everything_lost = "no place for 'Pressure', 'Normals', 'Flow', 'Stress', 'Side', 'Push'"
    with pytest.warns(igtl.FileWarning, match=everything_lost) as told:
        igtl.files.save(box(), tmp_path / "a.stl")
    assert len(told) == 1
    with pytest.warns(igtl.FileWarning, match="no place for 'Flow', 'Stress', 'Push'"):
        igtl.files.save(box(), tmp_path / "a.ply")
    with pytest.warns(igtl.FileWarning, match="no place for 'Side', 'Push', 'Flow', 'Stress', 'Pr"):
        igtl.files.save(box(), tmp_path / "a.obj")
    with pytest.raises(igtl.FileError, match="without vertices and lines"):
        igtl.files.save(everything(), tmp_path / "a.stl")
    with pytest.raises(igtl.FileError, match="only as a cloud"):
        igtl.files.save(everything(), tmp_path / "a.ply")
    with pytest.raises(igtl.FileError, match="not a mesh"):
        igtl.files.save(igtl.Status.ok(), tmp_path / "a.vtu")
    mesh = box()
    mesh.attributes[0].values = mesh.attributes[0].values[:5]
    with pytest.raises(igtl.FileError, match="'Pressure' has 5 rows, the mesh 8"):
        igtl.files.save(mesh, tmp_path / "a.vtu")
    solid = meshio.Mesh(CORNERS, [("tetra", np.array([[0, 1, 2, 4]]))])
    with pytest.raises(igtl.EncodeError, match="'tetra' cells are not a surface"):
        meshes.from_meshio(solid)
    curved = meshio.Mesh(CORNERS, [("triangle6", np.array([[0, 1, 2, 4, 5, 6]]))])
    with pytest.raises(igtl.EncodeError, match="'triangle6' cells"):
        meshes.from_meshio(curved)
    with pytest.raises(igtl.EncodeError, match="not numbers"):
        meshes.from_meshio(meshio.Mesh(CORNERS, [], point_data={"x": np.array(["a"] * 8)}))


@pytest.mark.parametrize("suffix", [".vtk", ".vtp", ".vtu", ".stl", ".ply", ".obj", ".off"])
def test_truncated_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    if suffix in (".vtk", ".vtp"):
        pytest.importorskip("vtkmodules", reason="VTK is not installed")
    path = tmp_path / f"box{suffix}"
    igtl.files.save(PolyData(CORNERS, polygons=QUADS), path)
    whole = path.read_bytes()
    for n in (0, len(whole) // 3, 2 * len(whole) // 3):
        path.write_bytes(whole[:n])
        try:
            loaded = igtl.files.load(path)
        except igtl.FileError:
            pass
        else:  # a format of lines, cut between two: what is there is right
            assert isinstance(loaded, PolyData)
            assert suffix == ".obj"
    for content in (b"\x89PNG\r\n" + bytes(300), b"<html></html>" * 30):
        path.write_bytes(content)
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
for name in ("meshio", "vtkmodules", "vtkmodules.vtkIOXML", "vtkmodules.vtkIOLegacy"):
    sys.modules[name] = None
import igtl, numpy as np
mesh = igtl.PolyData(np.eye(3), polygons=[[0, 1, 2]])
for suffix, extra in ((".vtu", "mesh"), (".vtp", "vtk"), (".vtk", "vtk")):
    try:
        igtl.files.save(mesh, r"{tmp_path}/a" + suffix)
    except ModuleNotFoundError as error:
        assert f'pip install "igtl[{{extra}}]"' in str(error), error
    else:
        raise AssertionError(suffix)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- formats read here ------------------------------------------------------------------------


def ply(head: str, body: bytes, form: str = "ascii") -> bytes:
    return f"ply\nformat {form} 1.0\n{head}end_header\n".encode() + body


VERTEX = "element vertex 3\n" + "".join(f"property float {axis}\n" for axis in "xyz")
FACE = "property list uchar int vertex_indices\n"


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_columns_of_ply(tmp_path: Path, form: str) -> None:
    head = (
        VERTEX + "property float nx\nproperty float ny\nproperty float nz\nproperty uchar red\n"
        "property uchar green\nproperty uchar blue\nproperty ushort quality\n"
        f"element face 2\n{FACE}property float side\n"
    )
    rows = [(0, 0, 0, 1, 0, 0, 255, 0, 0, 7), (1, 0, 0, 1, 0, 0, 0, 51, 0, 8),
            (0, 1, 0, 0, 1, 0, 0, 0, 255, 9)]  # fmt: skip
    faces: list[Any] = [(3, 0, 1, 2, 0.5), (4, 0, 1, 2, 0, 1.5)]
    if form == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in [*rows, *faces]).encode()
    else:
        order = "<" if "little" in form else ">"
        body = b"".join(struct.pack(f"{order}6f3BH", *row) for row in rows) + b"".join(
            struct.pack(f"{order}B{len(face) - 2}if", *face) for face in faces
        )
    path = tmp_path / "a.ply"
    path.write_bytes(ply(head, body, form))
    mesh = igtl.files.load(path, space="RAS")
    assert isinstance(mesh, PolyData)
    assert mesh.points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert cell_set(mesh.polygons) == [(0, 1, 2), (0, 1, 2, 0)]
    normals, shades = mesh.attribute("Normals"), mesh.attribute("Colors")
    assert (normals.type, shades.type) == (AttributeType.NORMALS, AttributeType.RGBA)
    assert normals.values.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(shades.values, [[1, 0, 0, 1], [0, 0.2, 0, 1], [0, 0, 1, 1]])
    assert mesh.attribute("quality").values.ravel().tolist() == [7, 8, 9]
    assert mesh.attribute("side").type == AttributeType.CELL_SCALARS
    assert igtl.unpack(mesh.pack()) == mesh
    igtl.files.save(mesh, tmp_path / "b.ply")
    again = igtl.files.load(tmp_path / "b.ply", device_name="a")
    assert isinstance(again, PolyData)
    same(again, mesh)


def test_clouds_edges_and_strips_of_ply(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    points = b"0 0 0\n1 0 0\n0 1 0\n"
    path.write_bytes(ply(VERTEX, points))
    cloud = igtl.files.load(path, space="RAS")
    assert isinstance(cloud, PolyData)
    assert cell_set(cloud.vertices) == [(0,), (1,), (2,)]
    igtl.files.save(cloud, tmp_path / "b.ply")
    assert igtl.files.load(tmp_path / "b.ply", device_name="a").vertices == cloud.vertices  # type: ignore[attr-defined]
    edges = "element edge 2\nproperty int vertex1\nproperty int vertex2\n"
    strips = f"element tristrips 1\n{FACE}"
    path.write_bytes(ply(VERTEX + edges + strips, points + b"0 1\n1 2\n7 0 1 2 -1 2 1 0\n"))
    mesh = igtl.files.load(path, space="RAS")
    assert isinstance(mesh, PolyData)
    assert cell_set(mesh.lines) == [(0, 1), (1, 2)]
    assert cell_set(mesh.triangle_strips) == [(0, 1, 2), (2, 1, 0)]
    igtl.files.save(mesh, tmp_path / "b.ply")
    again = igtl.files.load(tmp_path / "b.ply")
    assert isinstance(again, PolyData)
    assert cell_set(again.lines) == [(0, 1), (1, 2)]
    assert cell_set(again.polygons) == [(0, 1, 2), (2, 1, 0)]
    path.write_bytes(ply(VERTEX + "element material 1\nproperty int red\n", points + b"1\n"))
    with pytest.warns(igtl.FileWarning, match="'material' of this file are left out"):
        igtl.files.load(path)


@pytest.mark.parametrize(("head", "body", "wrong"), [
    (VERTEX.replace("3", "4000000000"), b"0 0 0\n", "is cut: it does not hold the 4000000000"),
    (VERTEX.replace("3", "-3"), b"0 0 0\n", "negative count"),
    (VERTEX + "element face 1\n" + FACE, b"0 0 0 0 0 0 0 0 0 3 0 1", "is cut"),
    (VERTEX + "element face 1\n" + FACE, b"0 0 0 0 0 0 0 0 0 3 0 1 3", "uses point 3"),
    ("element face 1\n" + FACE, b"3 0 1 2", "has no points"),
    (VERTEX + "property string name\n", b"", "string"),
])  # fmt: skip
def test_wrong_ply(tmp_path: Path, head: str, body: bytes, wrong: str) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(ply(head, body))
    with pytest.raises(igtl.FileError, match=wrong):
        igtl.files.load(path)


def test_stl_keeps_what_it_has(tmp_path: Path) -> None:
    """A binary STL has no attributes, its corners at one place are one point, wrong counts are
    told, and the bytes behind a triangle are not taken for data of the mesh."""
    path = tmp_path / "box.stl"
    igtl.files.save(PolyData(CORNERS, polygons=QUADS), path)
    mesh = igtl.files.load(path)
    assert isinstance(mesh, PolyData)
    assert (len(mesh.points), len(mesh.polygons), mesh.attributes) == (8, 12, [])
    for suffix in (".stl", ".ply", ".obj", ".off", ".vtu"):
        igtl.files.save(mesh, tmp_path / f"again{suffix}")
    whole = bytearray(path.read_bytes())
    assert whole[:80].rstrip(b"\0") == b"igtl SPACE=LPS"
    path.write_bytes(whole[:-1])
    with pytest.raises(igtl.FileError, match="12 triangles announced, 11 are there"):
        igtl.files.load(path)
    path.write_bytes(whole + b"more")
    with pytest.warns(igtl.FileWarning, match="12 triangles announced, 4 more bytes"):
        igtl.files.load(path)
    whole[84 + 48] = 1
    path.write_bytes(whole)
    with pytest.warns(igtl.FileWarning, match="two bytes after each triangle"):
        assert igtl.files.load(path).attributes == []  # type: ignore[attr-defined]
    path.write_text("solid x\nfacet normal 0 0 0\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n")
    with pytest.raises(igtl.FileError, match="is cut: 1 triangles begin"):
        igtl.files.load(path)


def test_obj(tmp_path: Path) -> None:
    path = tmp_path / "a.obj"
    path.write_text(
        "# SPACE=RAS\nv 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nv 9 9 9 1 1 1\nvn 0 0 1\nvn 1 0 0\n"
        "f 1//1 2//1 \\\n3//1\nf -4//-2 -3//-2 -2//-2\nl 1 2 3\np 4\nf 4//2 1//1 2//1\n"
    )
    mesh = igtl.files.load(path)
    assert isinstance(mesh, PolyData)
    assert cell_set(mesh.polygons) == [(0, 1, 2), (0, 1, 2), (3, 0, 1)]
    assert (cell_set(mesh.lines), cell_set(mesh.vertices)) == ([(0, 1, 2)], [(3,)])
    assert mesh.attribute("Colors").values[2].tolist() == [0, 0, 1, 1]
    assert mesh.attribute("Normals").values.tolist() == [[0, 0, 1]] * 3 + [[1, 0, 0]]
    igtl.files.save(mesh, tmp_path / "b.obj")
    again = igtl.files.load(tmp_path / "b.obj")
    assert isinstance(again, PolyData)
    same(again, mesh)
    path.write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl x\nf 1/1 2/1 3/1\n")
    with pytest.warns(igtl.FileWarning, match="materials are left out; texture coordinates are"):
        igtl.files.load(path)
    for wrong, why in (("f 1 2 4", "uses number 4 of 3"), ("f 0 1 2", "number 0"),
                       ("<html>", "line 4: '<html>' is no"), ("f 1 2 x", "invalid literal")):  # fmt: skip
        path.write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\n{wrong}\n")
        with pytest.raises(igtl.FileError, match=why):
            igtl.files.load(path)


def test_off(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text(
        "COFF # SPACE=RAS\n3 1 0\n0 0 0 255 0 0\n1 0 0 0 255 0\n0 1 0 0 0 255\n3 0 1 2\n"
    )
    mesh = igtl.files.load(path)
    assert isinstance(mesh, PolyData)
    assert mesh.points.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.attribute("Colors").values[1].tolist() == [0, 1, 0, 1]
    with pytest.warns(igtl.FileWarning, match="no place for 'Colors'"):
        igtl.files.save(mesh, path)
    assert "SPACE=LPS" in path.read_text()
    path.write_text("OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n")
    with pytest.raises(igtl.FileError, match="uses point 3, there are 3"):
        igtl.files.load(path)
