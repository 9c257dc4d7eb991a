"""Meshes in the files of VTK: .vtk and .vtp by VTK itself, .vtu by meshio."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from igtl.errors import FileError
from igtl.extras import need
from igtl.files.apart import apart
from igtl.files.marks import UNMARKED
from igtl.files.meshes import from_meshio, from_vtk, to_meshio, to_vtk
from igtl.messages.geometry import PolyData

_SPACE: Final = "SPACE"
_FIELD: Final = re.compile(rb"<FieldData>.*?</FieldData>", re.DOTALL)
_ARRAY: Final = re.compile(rb'<(?:Data)?Array[^>]*Name="SPACE"[^>]*?(?:/>|>(.*?)</)', re.DOTALL)


def read_vtk(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its title and field data."""
    return apart(_read_vtk, path)


def read_vtp(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its field data."""
    return apart(_read_vtp, path)


def _read_vtk(path: Path) -> tuple[PolyData, str]:
    reader = need("vtkmodules.vtkIOLegacy", "vtk").vtkPolyDataReader()
    reader.ReadAllScalarsOn()
    reader.ReadAllVectorsOn()
    reader.ReadAllNormalsOn()
    reader.ReadAllTensorsOn()
    reader.ReadAllColorScalarsOn()
    reader.ReadAllTCoordsOn()
    reader.ReadAllFieldsOn()
    mesh, data = _read(reader, path)
    return mesh, f"{reader.GetHeader()} {_field(data)}"


def _read_vtp(path: Path) -> tuple[PolyData, str]:
    mesh, data = _read(need("vtkmodules.vtkIOXML", "vtk").vtkXMLPolyDataReader(), path)
    return mesh, _field(data)


def _read(reader: Any, path: Path) -> tuple[PolyData, Any]:
    reader.SetFileName(str(path))
    with _heard() as lines:
        reader.Update()
    if lines or reader.GetErrorCode():
        raise FileError(path, lines[-1] if lines else f"VTK error {reader.GetErrorCode()}")
    return from_vtk(reader.GetOutput()), reader.GetOutput()


def _field(data: Any) -> str:
    """Return the mark in the field data of an object of VTK."""
    array = data.GetFieldData().GetAbstractArray(_SPACE)
    if array is None or not array.GetNumberOfValues():
        return ""
    return f"{_SPACE}={array.GetVariantValue(0).ToString()}"


def write_vtk(mesh: PolyData, path: Path, mark: str) -> None:
    """Write .vtk of version 4.2, which 3D Slicer and most programs read; the mark is its title."""
    writer = need("vtkmodules.vtkIOLegacy", "vtk").vtkPolyDataWriter()
    writer.SetFileVersion(42)
    writer.SetFileTypeToBinary()
    writer.SetHeader(mark)
    _write(writer, to_vtk(mesh), path)


def write_vtp(mesh: PolyData, path: Path, mark: str) -> None:
    """Write .vtp; the mark is in its field data."""
    writer = need("vtkmodules.vtkIOXML", "vtk").vtkXMLPolyDataWriter()
    data = to_vtk(mesh)
    array = need("vtkmodules.vtkCommonCore", "vtk").vtkStringArray()
    array.SetName(_SPACE)
    array.InsertNextValue(mark.rpartition("=")[2])
    data.GetFieldData().AddArray(array)
    _write(writer, data, path)


def _write(writer: Any, data: Any, path: Path) -> None:
    writer.SetInputData(data)
    writer.SetFileName(str(path))
    with _heard() as lines:
        written = writer.Write()
    if lines or not written:
        raise FileError(path, lines[-1] if lines else "VTK could not write it")


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect the warnings of VTK, instead of printing them to standard error.

    For a file that was cut VTK has a warning only.
    """
    core = need("vtkmodules.vtkCommonCore", "vtk")
    before, window = core.vtkOutputWindow.GetInstance(), core.vtkStringOutputWindow()
    lines: list[str] = []
    core.vtkOutputWindow.SetInstance(window)
    try:
        yield lines
    finally:
        core.vtkOutputWindow.SetInstance(before)
        lines += [line.strip() for line in window.GetOutput().splitlines() if line.strip()]


def read_vtu(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its field data."""
    meshio = need("meshio", "mesh")
    data = path.read_bytes()
    found = _ARRAY.search(data)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plain = path  # meshio prints its errors
        if found is not None:  # and cannot read the text
            plain = Path(folder, "plain.vtu")
            plain.write_bytes(_FIELD.sub(b"", data, count=1))
        mesh = from_meshio(meshio.read(plain, "vtu"))
    if found is None:
        return mesh, ""
    if found[1] is None or b'format="ascii"' not in found[0]:  # where only VTK finds it
        return mesh, apart(_field_of_vtu, path)
    return mesh, f"{_SPACE}={bytes(int(n) for n in found[1].split()).decode('ascii', 'replace')}"


def _field_of_vtu(path: Path) -> str:
    reader = need("vtkmodules.vtkIOXML", "vtk").vtkXMLUnstructuredGridReader()
    reader.SetFileName(str(path))
    with _heard():
        reader.Update()
    return _field(reader.GetOutput())


def write_vtu(mesh: PolyData, path: Path, mark: str) -> None:
    """Write .vtu.

    The mark is in its field data, which meshio cannot read: it is written only where it differs
    from the default of a file without a mark.
    """
    meshio = need("meshio", "mesh")
    meshio.write(path, to_meshio(mesh))
    if mark.endswith(UNMARKED):
        return
    numbers = " ".join(str(n) for n in (*mark.rpartition("=")[2].encode(), 0))
    field = (
        f'<FieldData><Array type="String" Name="{_SPACE}" NumberOfTuples="1" format="ascii">'
        f"{numbers}</Array></FieldData>"
    )
    head, grid, rest = path.read_bytes().partition(b"<UnstructuredGrid>")
    path.write_bytes(head + grid + field.encode() + rest)
