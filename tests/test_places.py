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


# ---- volumes, written without igtl ------------------------------------------------------------------

VOXELS = RNG.integers(-1000, 1000, (4, 5, 6), np.int16)  # (k, j, i)


def oblique(shear: float = 0.0) -> Any:
    """4x4 in RAS, turned about all axes."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    turned = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
    matrix[:3, :3] = turned @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]]) * (0.7, 1.3, 2.5)
    matrix[:3, 3] = (31.5, -120.25, 77)
    return matrix


MATRIX = oblique()
AWAY = MATRIX + np.diag([0, 0, 0, 0.0])
AWAY[:3, 3] += (5, 6, 7)


def nifti_file(path: Path, qform: Any, sform: Any) -> Any:
    """Codes and matrices; returns what nibabel takes."""
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    image = nib.Nifti1Image(VOXELS.transpose(2, 1, 0), None)
    image.header.set_zooms((0.7, 1.3, 2.5))
    image.set_sform(*sform)
    image.set_qform(*qform)
    nib.save(image, path)
    return nib.load(path).affine


def nrrd_file(path: Path, space: str, kinds: str = "domain domain domain") -> None:
    signs = {"right-anterior-superior": (1, 1, 1), "left-posterior-superior": (-1, -1, 1),
             "left-anterior-superior": (-1, 1, 1), "RAS": (1, 1, 1)}[space]  # fmt: skip
    matrix = np.diag([*signs, 1]) @ MATRIX
    vectors = [f"({','.join(map(repr, column))})" for column in matrix[:3].T.tolist()]
    head = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 6 5 4\n"
        f"space directions: {' '.join(vectors[:3])}\nkinds: {kinds}\nendian: little\n"
        f"encoding: raw\nspace origin: {vectors[3]}\n\n"
    )
    path.write_bytes(head.encode() + VOXELS.tobytes())


def axis_nrrd(path: Path, centers: str) -> None:
    """Without a space: by spacings and axis mins."""
    head = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nspacings: 0.7 1.3 2.5\n"
        f"axis mins: 10 20 30\n{centers}endian: little\nencoding: raw\n\n"
    )
    path.write_bytes(head.encode() + VOXELS.tobytes())


def itk_file(path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    matrix = np.diag([*LPS, 1]) @ MATRIX
    image = sitk.GetImageFromArray(VOXELS)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


SETS = (MATRIX, 1), (None, 0), (AWAY, 2), (AWAY, 1)
# kind: suffix, how it is written, where it lies if that is not MATRIX, what igtl warns of
VOLUMES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "NIfTI, both": (".nii.gz", lambda p: nifti_file(p, SETS[0], SETS[0]), ""),
    "NIfTI, qform": (".nii", lambda p: nifti_file(p, SETS[0], SETS[1]), ""),
    "NIfTI, sform": (".nii", lambda p: nifti_file(p, SETS[1], (MATRIX, 2)), ""),
    "NIfTI, two places": (".nii", lambda p: nifti_file(p, SETS[0], SETS[2]), "the qform is taken"),
    "NIfTI, scanner": (".nii", lambda p: nifti_file(p, (AWAY, 1), (MATRIX, 1)), "the sform is taken"),
    "NIfTI, no place": (".nii", lambda p: nifti_file(p, SETS[1], SETS[1]), "at the origin"),
    "NRRD, RAS": (".nrrd", lambda p: nrrd_file(p, "right-anterior-superior"), ""),
    "NRRD, LPS": (".nrrd", lambda p: nrrd_file(p, "left-posterior-superior"), ""),
    "NRRD, LAS": (".nrrd", lambda p: nrrd_file(p, "left-anterior-superior"), ""),
    "NRRD, short name": (".nrrd", lambda p: nrrd_file(p, "RAS", "space space space"), ""),
    "NRRD, node": (".nrrd", lambda p: axis_nrrd(p, "centers: node node node\n"), "names no space"),
    "NRRD, cell": (".nrrd", lambda p: axis_nrrd(p, "centers: cell cell cell\n"), "names no space"),
    "NRRD, centers unknown": (".nrrd", lambda p: axis_nrrd(p, ""), "names no space"),
    "MetaImage": (".mha", itk_file, ""),
    "MetaImage, two files": (".mhd", itk_file, ""),
}  # fmt: skip


def ten_places(place: Callable[[list[int]], Any]) -> Any:
    """Where a reader has ten voxels, in RAS."""
    k, j, i = VOXELS.shape
    return np.array([place([n % i, 3 * n % j, 7 * n % k]) for n in range(10)])


def of_matrix(matrix: Any) -> Any:
    return ten_places(lambda index: (np.asarray(matrix) @ [*index, 1])[:3])


def loaded_volume(path: Path, warned: str) -> igtl.Image:
    if warned:
        with pytest.warns(igtl.FileWarning, match=warned):
            image = igtl.files.load(path)
    else:
        image = igtl.files.load(path)
    assert isinstance(image, igtl.Image)
    return image


def written(kind: str, folder: Path) -> Path:
    suffix, write, _ = VOLUMES[kind]
    path = folder / f"{kind}{suffix}"
    write(path)
    return path


@pytest.mark.parametrize("kind", VOLUMES)
def test_volumes(tmp_path: Path, kind: str) -> None:
    """Ten voxels lie where SimpleITK has them, and where the format's own library has them."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    path = written(kind, tmp_path)
    image = loaded_volume(path, VOLUMES[kind][2])
    np.testing.assert_array_equal(image.array, VOXELS)
    ours = of_matrix(image.ijk_to_world)
    other = sitk.ReadImage(str(path))
    theirs = ten_places(lambda index: other.TransformIndexToPhysicalPoint(index) * LPS)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    if VOLUMES[kind][2] not in ("at the origin", "names no space"):
        np.testing.assert_allclose(ours, of_matrix(MATRIX), atol=2e-3)
    if path.suffix == ".nrrd" and "space" in (header := _nrrd().read(str(path))[1]):
        signs = {"r": 1, "l": -1, "a": 1, "p": -1}
        letters = header["space"].lower()
        axes = letters if len(letters) == 3 else [word[0] for word in letters.split("-")]
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = header["space directions"].T, header["space origin"]
        matrix = np.diag([signs[axes[0]], signs[axes[1]], 1, 1]) @ matrix
        np.testing.assert_allclose(ours, of_matrix(matrix), atol=2e-3)


def _nrrd() -> Any:
    return pytest.importorskip("nrrd", reason="pynrrd is not installed")


def test_nibabel_has_it_there(tmp_path: Path) -> None:
    """Where a file does not say two things; elsewhere the warning says that nibabel differs."""
    for kind in ("NIfTI, both", "NIfTI, qform", "NIfTI, sform"):
        affine = VOLUMES[kind][1](tmp_path / f"a{VOLUMES[kind][0]}")
        image = loaded_volume(tmp_path / f"a{VOLUMES[kind][0]}", "")
        np.testing.assert_allclose(image.ijk_to_world, affine, atol=1e-4)
    igtl.files.save(image, tmp_path / "b.nii")
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    header = nib.load(tmp_path / "b.nii").header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert int(header["qform_code"]) == int(header["sform_code"]) == 1
    sheared = igtl.Image(VOXELS, ijk_to_world=oblique(0.3))
    with pytest.warns(igtl.FileWarning, match="not at right angles: 3D Slicer and ITK refuse"):
        igtl.files.save(sheared, tmp_path / "s.nii")
    np.testing.assert_allclose(nib.load(tmp_path / "s.nii").affine, oblique(0.3), atol=1e-4)
    np.testing.assert_allclose(
        loaded_volume(tmp_path / "s.nii", "").ijk_to_world, oblique(0.3), atol=1e-4
    )


@pytest.mark.processes
def test_volumes_in_slicer(tmp_path: Path, slicer: Slicer) -> None:
    """Each file, and what igtl and 3D Slicer make of it, lies at one place for both."""
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    requests, images = [], []
    for kind in VOLUMES:
        path = written(kind, tmp_path)
        requests.append({"do": "volume", "path": str(path)})
        images.append(loaded_volume(path, VOLUMES[kind][2]))
    several: list[Any] = [VOXELS, VOXELS.astype(np.uint16), VOXELS.astype(np.float32),
                          RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)]  # fmt: skip
    for n, array in enumerate(several):
        image = igtl.Image(array, ijk_to_world=MATRIX)
        for suffix in (".nrrd", ".nii.gz", ".mha"):
            path, back = tmp_path / f"igtl{n}{suffix}", tmp_path / f"slicer{n}{suffix}"
            igtl.files.save(image, path)
            requests.append({"do": "volume", "path": str(path), "to": str(back),
                             "components": image.components})  # fmt: skip
            images.append(image)
    for request, facts, image in zip(requests, slicer(requests), images, strict=True):
        assert "error" not in facts, (request, facts)
        assert facts["size"] == image.size.tolist()
        np.testing.assert_array_equal(facts["values"], image.array.ravel()[:2000])
        if "names no space" in VOLUMES.get(Path(request["path"]).stem, ("", "", ""))[2]:
            continue  # where the two differ, which igtl says
        np.testing.assert_allclose(
            of_matrix(facts["matrix"]),
            of_matrix(image.ijk_to_world),
            atol=2e-3,
            err_msg=str(request),
        )
        if "to" in request:
            again = loaded_volume(Path(request["to"]), "")  # type: ignore[arg-type]
            np.testing.assert_array_equal(again.array, image.array)
            assert again.array.dtype == image.array.dtype
            np.testing.assert_allclose(again.ijk_to_world, image.ijk_to_world, atol=2e-3)


# ---- points ---------------------------------------------------------------------------------------


@pytest.mark.processes
def test_fiducials_in_slicer(tmp_path: Path, slicer: Slicer) -> None:
    names = ["F-1", "Ohr, links", "ü"]
    places = [[10, 20, 30], [-1.5, 2.25, 3], [0, 0, 0.125]]
    points = igtl.Points([
        igtl.Point(name, "Unselected" if n == 1 else "Fiducial", (255, 255, 0, 0 if n == 2 else 255),
                   position=place)
        for n, (name, place) in enumerate(zip(names, places, strict=True))
    ])  # fmt: skip
    rows = "F-1,10,20,30,1,1\n"
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    files = {
        "igtl.mrk.json": None, "igtl.fcsv": None,
        "three.fcsv": f"# Fiducial List file three.fcsv\n{rows}", "bare.fcsv": rows,
        "zero.fcsv": "# Markups fiducial file version = 4.3\n# CoordinateSystem = 0\n" + columns
        + "1,10,20,30,0,0,0,1,1,1,0,F-1,,\n",
        "none.fcsv": "# Markups fiducial file version = 4.11\n" + columns
        + "1,10,20,30,0,0,0,1,1,1,0,F-1,,\n",
    }  # fmt: skip
    requests = []
    for name, text in files.items():
        if text is None:
            igtl.files.save(points, tmp_path / name)
        else:
            (tmp_path / name).write_text(text)
        request = {"do": "markups", "path": str(tmp_path / name)}
        requests.append(request | ({} if text else {"to": str(tmp_path / f"slicer.{name}")}))
    curve = igtl.Points(
        [igtl.Point(f"C{n}", "Curve", position=place) for n, place in enumerate(places)]
    )
    igtl.files.save(curve, tmp_path / "curve.mrk.json")
    requests.append({"do": "markups", "path": str(tmp_path / "curve.mrk.json"), "kind": "Curve"})
    for request, facts in zip(requests, slicer(requests), strict=True):
        assert "error" not in facts, (request, facts)
        if "kind" in request:
            np.testing.assert_allclose([fact["place"] for fact in facts], places)
            continue
        for path in filter(None, (request["path"], request.get("to"))):
            loaded = igtl.files.load(path)
            assert isinstance(loaded, igtl.Points)
            assert [
                {"name": p.name, "place": p.position.tolist(), "visible": bool(p.color[3]),
                 "selected": p.group != "Unselected"}
                for p in loaded.points
            ] == facts  # fmt: skip
