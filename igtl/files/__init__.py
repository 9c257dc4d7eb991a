"""Files and the objects of other libraries, to messages and back.

    image = igtl.files.load("ct.nii.gz")            # an Image, with its place in the patient
    igtl.files.save(image, "ct.nrrd")
    itk = igtl.files.images.to_sitk(image)          # as an object of SimpleITK
    for message in igtl.files.load_sequence("scan.igs.mha"): ...

Each library is loaded when it is first needed; `pip install "igtl[imaging]"` brings those for
images, `pip install "igtl[mesh]"` and `pip install "igtl[vtk]"` those for meshes.

| suffix | message | by |
|---|---|---|
| .nii .nii.gz | IMAGE | nibabel |
| .nrrd .nhdr | IMAGE | pynrrd |
| .mha .mhd .gipl .png .jpg .jpeg .tif .tiff .bmp | IMAGE | SimpleITK |
| .igs.mha .igs.nrrd .seq.nrrd .seq.mha | IMAGE and TRANSFORM in time | igtl, pynrrd |
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from igtl import _core
from igtl.codec.message import Message
from igtl.errors import FileError
from igtl.files import (
    colors,
    dicom,
    images,
    marks,
    meshes,
    metaimage,
    nifti,
    nrrd,
    obj,
    off,
    ply,
    points,
    sequences,
    stl,
    vtkfiles,
)
from igtl.files.blame import blamed
from igtl.files.notes import one_warning
from igtl.files.series import Series, chosen
from igtl.messages.imaging import Image, Space
from igtl.recording.reader import Recording


class ImageFormat(NamedTuple):
    """How images are read and written: see `igtl.files.series`."""

    read: Callable[[Path], Series]
    write: Callable[[Series, Path], None]


class PointFormat(NamedTuple):
    """How lists of points are read and written."""

    load: Callable[[Path], Message]
    save: Callable[[Message, Path], None]


DICOM = ImageFormat(dicom.read, dicom.write)
FORMATS: dict[str, ImageFormat | marks.MeshFormat | PointFormat] = {
    **dict.fromkeys((".nii", ".nii.gz"), ImageFormat(nifti.read, nifti.write)),
    **dict.fromkeys((".nrrd", ".nhdr"), ImageFormat(nrrd.read, nrrd.write)),
    **dict.fromkeys((".mha", ".mhd"), ImageFormat(metaimage.read, metaimage.write)),
    **dict.fromkeys(images.ITK_SUFFIXES, ImageFormat(images.read, images.write)),
    ".dcm": DICOM,
    ".stl": marks.MeshFormat(stl.read, stl.write),
    ".ply": marks.MeshFormat(ply.read, ply.write),
    ".obj": marks.MeshFormat(obj.read, obj.write),
    ".off": marks.MeshFormat(off.read, off.write),
    ".vtk": marks.MeshFormat(vtkfiles.read_vtk, vtkfiles.write_vtk),
    ".vtp": marks.MeshFormat(vtkfiles.read_vtp, vtkfiles.write_vtp),
    ".vtu": marks.MeshFormat(vtkfiles.read_vtu, vtkfiles.write_vtu),
    ".mrk.json": PointFormat(points.load_markups, points.save_markups),
    ".fcsv": PointFormat(points.load_fcsv, points.save_fcsv),
}
"""What reads and writes a file, by its suffix."""
_SUFFIXES = sorted(FORMATS, key=len, reverse=True)


__all__ = [
    "FORMATS", "colors", "dicom", "images", "load", "load_sequence", "meshes", "nifti", "nrrd",
    "points", "save", "save_sequence",
]  # fmt: skip


def _format_of(path: Path, *, folder: bool) -> Any:
    """Return the format of a file by its suffix; of a folder DICOM.

    Args:
        path: the file or folder.
        folder: whether the path names a folder.
    """
    if folder:
        return DICOM
    name = path.name.lower()
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return FORMATS[suffix]
    raise FileError(path, f"no known suffix; known are {', '.join(sorted(FORMATS))}")


def _name(path: Path, device_name: str | None) -> str:
    name = path.name.partition(".")[0] or path.name
    return _core.fit(name, 20) if device_name is None else device_name


def load(
    path: str | os.PathLike[str],
    *,
    device_name: str | None = None,
    space: Space | None = None,
    frame: int | None = None,
) -> Message:
    """Read the message that a file holds, in RAS.

    Integers are at most 16 bits wide where they fit.

    Args:
        path: a file, or the folder of a DICOM series.
        device_name: of the message; default the name of the file without its suffix, cut to fit.
        space: the coordinates of a mesh whose file does not name them; default "LPS", as in
            3D Slicer. Other files always name them, and so does a mesh with the mark SPACE=RAS or
            SPACE=LPS.
        frame: which image of a file of several, such as a CT in time; the first is 0.

    Raises:
        FileError: the file is damaged, or of another kind than its suffix says, or holds several
            images and `frame` was not given, or something that OpenIGTLink has no place for.
        OSError: the file cannot be read.
        ModuleNotFoundError: the library for it is missing; the text says which package has it.

    Warns:
        FileWarning: something of the file is left out, or its place is in doubt.
    """
    path = Path(path)
    with one_warning(path):
        form = _found(path)
        if isinstance(form, marks.MeshFormat):
            message: Message = marks.load(path, form, space)
        elif isinstance(form, PointFormat):
            with blamed(path):
                message = form.load(path)
        else:
            with blamed(path):
                message = chosen(form.read(path).fitted(), path, frame)
    message.device_name = _name(path, device_name)
    return message


def _found(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(2, os.strerror(2), str(path))
    return _format_of(path, folder=path.is_dir())


def save(message: Message, path: str | os.PathLike[str], *, space: Space | None = None) -> None:
    """Write a message to a file whose suffix chooses the format.

    Args:
        message: the image, mesh or list of points.
        path: of the file; without a suffix, of the folder of a DICOM series.
        space: the coordinates of a mesh in its file, which names them; default "LPS".

    Raises:
        FileError: the format cannot hold the message; the text says why.
        OSError: the file cannot be written.
        ModuleNotFoundError: the library for it is missing; the text says which package has it.

    Warns:
        FileWarning: the format has no place for a part of it, as attributes in STL.
    """
    path = Path(path)
    with one_warning(path):
        form = _format_of(path, folder=not path.suffix)
        if isinstance(form, marks.MeshFormat):
            marks.save(message, path, form, space)
        elif isinstance(form, PointFormat):
            with blamed(path):
                form.save(message, path)
        elif isinstance(message, Image):
            with blamed(path):
                form.write(Series.of(message), path)
        else:
            raise FileError(path, f"a {message.type_name} is not an image")


def load_sequence(path: str | os.PathLike[str], *, device_name: str | None = None) -> list[Message]:
    """Read all images of a file, each followed by the transforms of its instant.

    They are in the order of time.

    Sequences of PLUS (.igs.mha, .igs.nrrd) and 3D Slicer (.seq.nrrd, .seq.mha, of images and of
    transforms), and all other files of several images, such as a NIfTI in time. Time stamps are as
    in the file, mostly seconds from its beginning; metadata hold the status of each transform
    ("TransformStatus") and what else the file says of an image.

    Args:
        path: of the file.
        device_name: of the images; the same default as in `load`.

    Raises:
        FileError, OSError, ModuleNotFoundError: as `load` does.
    """
    path = Path(path)
    with one_warning(path):
        form = _found(path)
        if not isinstance(form, ImageFormat):
            raise FileError(path, "this format holds no images")
        with blamed(path):
            return sequences.messages_of(form.read(path).fitted(), path, _name(path, device_name))


def save_sequence(
    messages: Iterable[Message] | Recording,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 0.1,
) -> None:
    """Write the images of one device, each with the transforms nearest to it in time.

    Args:
        messages: Images, Transforms and TrackingData, or a recording. Without images the transforms
            alone are written (.igs.mha, .seq.mha), at the times of the device with most of them.
        path: of the file: .igs.mha or .igs.nrrd for PLUS, .seq.nrrd or .seq.mha for 3D Slicer, or
            the suffix of another format of several images.
        tolerance: in seconds; where no transform of a device is as near as that, its status is
            MISSING. Messages without time stamps are put together by their order.

    Raises:
        FileError: there are images of several devices or sizes, or the format cannot hold them.
        OSError: the file cannot be written.
        ModuleNotFoundError: the library for it is missing; the text says which package has it.

    Warns:
        FileWarning: messages of other types, or fields, are left out.
    """
    path = Path(path)
    with one_warning(path):
        form = _format_of(path, folder=not path.suffix)
        if not isinstance(form, ImageFormat):
            raise FileError(path, "this format holds no images")
        with blamed(path), sequences.Stack(path) as stack:
            form.write(sequences.series_of(messages, path, tolerance, stack), path)
