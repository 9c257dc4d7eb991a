"""Files and the objects of other libraries, to messages and back.

    image = igtl.files.load("ct.nii.gz")            # an Image, with its place in the patient
    igtl.files.save(image, "ct.nrrd")
    itk = igtl.files.images.to_sitk(image)          # as an object of SimpleITK

Each library is loaded when it is first needed; `pip install "igtl[imaging]"` brings those for
images, `pip install "igtl[mesh]"` those for meshes.

| suffix | message | by |
|---|---|---|
| .nii .nii.gz | IMAGE | nibabel |
| .nrrd .nhdr | IMAGE | pynrrd |
| .mha .mhd .gipl .png .jpg .jpeg .tif .tiff .bmp | IMAGE | SimpleITK |
| .dcm, or a folder of them | IMAGE | pydicom |
| .vtu | POLYDATA with its attributes | meshio |
| .vtk .vtp | POLYDATA as it is | VTK (`pip install "igtl[vtk]"`) |
| .mrk.json .fcsv | POINT, the fiducials of 3D Slicer | igtl |
| .stl .ply .obj .off | POLYDATA, a surface in triangles | trimesh |

Whatever a format calls its axes, the same voxel lies at the same place of the patient in all of
them: NIfTI and 3D Slicer count in RAS, DICOM, ITK and NRRD (mostly) in LPS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from igtl import _core
from igtl.errors import FileError
from igtl.files import colors, images, meshes, points
from igtl.message import Message


class Format(NamedTuple):
    """How files with a suffix are read and written."""

    load: Callable[[Path], Message]
    save: Callable[[Any, Path], None]


FORMATS: dict[str, Format] = {
    **dict.fromkeys((".nii", ".nii.gz"), Format(images.load_nifti, images.save_nifti)),
    **dict.fromkeys((".nrrd", ".nhdr"), Format(images.load_nrrd, images.save_nrrd)),
    **dict.fromkeys(images.ITK_SUFFIXES, Format(images.load_itk, images.save_itk)),
    ".mrk.json": Format(points.load_markups, points.save_markups),
    ".fcsv": Format(points.load_fcsv, points.save_fcsv),
    ".vtu": Format(meshes.load_meshio, meshes.save_meshio),
    **dict.fromkeys(meshes.VTK_SUFFIXES, Format(meshes.load_vtk, meshes.save_vtk)),
    **dict.fromkeys(meshes.TRIMESH_SUFFIXES, Format(meshes.load_trimesh, meshes.save_trimesh)),
    ".dcm": Format(images.load_dicom, images.save_dicom),
}


__all__ = ["FORMATS", "Format", "colors", "images", "load", "meshes", "points", "save"]


def _format_of(path: Path) -> Format:
    name = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.endswith(suffix):
            return FORMATS[suffix]
    raise FileError(path, f"no known suffix; known are {', '.join(sorted(FORMATS))}")


def load(path: str | os.PathLike[str], *, device_name: str | None = None) -> Message:
    """The message that a file holds.

    Args:
        path: a file, or the folder of a DICOM series.
        device_name: of the message; default the name of the file without its suffix, cut to fit.

    Raises:
        FileError: the file is damaged, or of another kind than its suffix says, or holds what
            OpenIGTLink cannot say; the text tells.
        OSError: it cannot be read.
        ModuleNotFoundError: the library for it is missing; the text says what brings it.
    """
    path = Path(path)
    if path.is_dir():
        message: Message = images.load_dicom(path)
    elif not path.exists():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    else:
        message = _format_of(path).load(path)
    name = path.name.partition(".")[0] or path.name
    message.device_name = _core.fit(name, 20) if device_name is None else device_name
    return message


def save(message: Message, path: str | os.PathLike[str]) -> None:
    """Write a message to a file whose suffix chooses the format; one without a suffix becomes the
    folder of a DICOM series.

    Raises:
        FileError: the format cannot hold it; the text says why.
        OSError: it cannot be written.
        ModuleNotFoundError: the library for it is missing; the text says what brings it.
    """
    path = Path(path)
    if not path.suffix:
        images.save_dicom(message, path)
    else:
        _format_of(path).save(message, path)
