"""Files and the objects of other libraries, to messages and back.

    image = igtl.files.load("ct.nii.gz")            # an Image, with its place in the patient
    igtl.files.save(image, "ct.nrrd")
    itk = igtl.files.images.to_sitk(image)          # as an object of SimpleITK

Each library is loaded when it is first needed; `pip install "igtl[imaging]"` brings those for
images, `pip install "igtl[mesh]"` and `pip install "igtl[vtk]"` those for meshes.

| suffix | message | by |
|---|---|---|
| .nii .nii.gz | IMAGE | nibabel |
| .nrrd .nhdr | IMAGE | pynrrd |
| .mha .mhd .gipl .png .jpg .jpeg .tif .tiff .bmp | IMAGE | SimpleITK |
| .dcm, or a folder of them | IMAGE | pydicom |
| .stl .off | POLYDATA, a surface | igtl |
| .ply .obj | POLYDATA with colours and normals | igtl |
| .vtk .vtp | POLYDATA as it is | VTK (`pip install "igtl[vtk]"`) |
| .vtu | POLYDATA with its attributes | meshio |
| .mrk.json .fcsv | POINT, the fiducials of 3D Slicer | igtl |

Whatever a format calls its axes, the same voxel lies at the same place of the patient in all of
them: NIfTI and 3D Slicer count in RAS, DICOM, ITK, NRRD (mostly) and the files of meshes in LPS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from igtl import _core
from igtl.errors import FileError
from igtl.files import colors, images, marks, meshes, obj, off, ply, points, stl, vtkfiles
from igtl.files.marks import MeshFormat
from igtl.files.notes import one_warning
from igtl.message import Message
from igtl.messages.imaging import Space


class Format(NamedTuple):
    """How files with a suffix are read and written."""

    load: Callable[..., Message]
    save: Callable[..., None]
    of_meshes: bool = False
    """Whether both take `space`."""


def _meshes(read: Any, write: Any) -> Format:
    of = MeshFormat(read, write)
    return Format(partial(marks.load, of=of), partial(marks.save, of=of), True)


FORMATS: dict[str, Format] = {
    **dict.fromkeys((".nii", ".nii.gz"), Format(images.load_nifti, images.save_nifti)),
    **dict.fromkeys((".nrrd", ".nhdr"), Format(images.load_nrrd, images.save_nrrd)),
    **dict.fromkeys(images.ITK_SUFFIXES, Format(images.load_itk, images.save_itk)),
    ".mrk.json": Format(points.load_markups, points.save_markups),
    ".fcsv": Format(points.load_fcsv, points.save_fcsv),
    ".stl": _meshes(stl.read, stl.write),
    ".ply": _meshes(ply.read, ply.write),
    ".obj": _meshes(obj.read, obj.write),
    ".off": _meshes(off.read, off.write),
    ".vtk": _meshes(vtkfiles.read_vtk, vtkfiles.write_vtk),
    ".vtp": _meshes(vtkfiles.read_vtp, vtkfiles.write_vtp),
    ".vtu": _meshes(vtkfiles.read_vtu, vtkfiles.write_vtu),
    ".dcm": Format(images.load_dicom, images.save_dicom),
}


__all__ = ["FORMATS", "Format", "colors", "images", "load", "meshes", "points", "save"]


def _format_of(path: Path) -> Format:
    name = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return FORMATS[suffix]
    raise FileError(path, f"no known suffix; known are {', '.join(sorted(FORMATS))}")


def load(
    path: str | os.PathLike[str], *, device_name: str | None = None, space: Space | None = None
) -> Message:
    """The message that a file holds, in RAS.

    Args:
        path: a file, or the folder of a DICOM series.
        device_name: of the message; default the name of the file without its suffix, cut to fit.
        space: the coordinates of a mesh whose file does not name them; default "LPS", as in
            3D Slicer. Other files always say, and so does a mesh with the mark SPACE=RAS or
            SPACE=LPS.

    Raises:
        FileError: the file is damaged, or of another kind than its suffix says, or holds what
            OpenIGTLink cannot say; the text tells.
        OSError: it cannot be read.
        ModuleNotFoundError: the library for it is missing; the text says what brings it.

    Warns:
        FileWarning: something of the file is left out, or its place is in doubt.
    """
    path = Path(path)
    with one_warning(path):
        if path.is_dir():
            message: Message = images.load_dicom(path)
        elif not path.exists():
            raise FileNotFoundError(2, os.strerror(2), str(path))
        else:
            chosen = _format_of(path)
            message = chosen.load(path, space=space) if chosen.of_meshes else chosen.load(path)
    name = path.name.partition(".")[0] or path.name
    message.device_name = _core.fit(name, 20) if device_name is None else device_name
    return message


def save(message: Message, path: str | os.PathLike[str], *, space: Space | None = None) -> None:
    """Write a message to a file whose suffix chooses the format; one without a suffix becomes the
    folder of a DICOM series.

    Args:
        space: the coordinates of a mesh in its file, which names them; default "LPS".

    Raises:
        FileError: the format cannot hold it; the text says why.
        OSError: it cannot be written.
        ModuleNotFoundError: the library for it is missing; the text says what brings it.

    Warns:
        FileWarning: the format has no place for a part of it, as attributes in STL.
    """
    path = Path(path)
    with one_warning(path):
        if not path.suffix:
            images.save_dicom(message, path)
            return
        chosen = _format_of(path)
        if chosen.of_meshes:
            chosen.save(message, path, space=space)
        else:
            chosen.save(message, path)
