"""IMAGE and the images of SimpleITK: the same voxels at the same place.

A 4x4 here maps voxel indices (i, j, k) to mm and puts the centre of the first voxel into its last
column, as all libraries of images have it. igtl and nibabel count in RAS, the others in LPS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import EncodeError, FileError
from igtl.extras import need
from igtl.files.apart import apart
from igtl.files.notes import note
from igtl.files.series import Matrix, Series, Voxels, flipped, joined, one, placed, squared
from igtl.messages.imaging import Image

__all__ = ["from_sitk", "to_sitk"]

ITK_SUFFIXES: Final = (".gipl", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_DENSEST: Final = 2048  # most pixels that one byte of a compressed file decodes to
_BYTES: Final = {2: 2, 3: 2, 4: 4, 5: 4, 8: 4, 9: 8}  # of a pixel, by its number in SimpleITK
_FRAGILE: Final = (".tif", ".tiff")
_FLAT: Final = (".png", ".jpg", ".jpeg", ".bmp")


def to_sitk(image: Image) -> Any:
    """As a SimpleITK.Image, three-dimensional, in LPS; components become a vector pixel.

    Raises:
        EncodeError: the axes are not at right angles.
        ModuleNotFoundError: see `igtl.files`.
    """
    sitk = need("SimpleITK", "imaging")
    directions, spacing, origin = squared(placed(image, "LPS"))
    out = sitk.GetImageFromArray(image.array, isVector=image.components > 1)
    out.SetDirection(directions.ravel().tolist())
    out.SetSpacing(spacing.tolist())
    out.SetOrigin(origin.tolist())
    return out


def from_sitk(image: Any, *, device_name: str = "") -> Image:
    """From a SimpleITK.Image of two or three dimensions.

    Raises:
        EncodeError: OpenIGTLink has no such pixels (64-bit integers, complex numbers), or no such
            dimensions.
    """
    array, matrix = _taken(image)
    return Image.from_volume(array, ijk_to_world=matrix, device_name=device_name)


def _taken(image: Any) -> tuple[Voxels, Matrix]:
    sitk = need("SimpleITK", "imaging")
    size = image.GetDimension()
    if size not in (2, 3):
        raise EncodeError("Image", "array", f"{size} dimensions, 2 or 3 can be sent")
    array = sitk.GetArrayFromImage(image)
    directions, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    directions[:size, :size] = np.reshape(image.GetDirection(), (size, size))
    spacing[:size], origin[:size] = image.GetSpacing(), image.GetOrigin()
    return array[np.newaxis] if size == 2 else array, flipped(joined(directions, spacing, origin))


def read(path: Path) -> Series:
    """Read a file with SimpleITK."""
    return apart(_read, path) if path.suffix.lower() in _FRAGILE else _read(path)


def _read(path: Path) -> Series:
    sitk = need("SimpleITK", "imaging")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_whole(path, reader)
    count = int(np.prod([*reader.GetSize(), reader.GetNumberOfComponents()], dtype=object))
    if count > _DENSEST * path.stat().st_size:  # before memory is taken for it
        raise FileError(path, f"is cut: {reader.GetSize()} pixels announced")
    array, matrix = _taken(reader.Execute())
    return Series(array[np.newaxis], matrix)


def _note_place(path: Path, image: Any) -> None:
    """Say what these formats do not keep of the place; one that was never set is not missed."""
    turned = not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-4)
    if path.suffix.lower() == ".gipl":
        if turned:
            note("this format has no place for directions: the axes are written as those of LPS")
        return
    size, step, origin = (
        np.array(x) for x in (image.GetSize(), image.GetSpacing(), image.GetOrigin())
    )
    centred = np.allclose(np.abs(origin), (size - 1) / 2, atol=1e-3)
    if not np.allclose(step, 1) or not (centred or np.allclose(origin, 0)):
        note("this format has no place for position, directions and, but for TIFF, spacing")


def _check_whole(path: Path, reader: Any) -> None:
    """Refuse a file that is cut: ITK silently makes up the pixels that are missing."""
    suffix, size = path.suffix.lower(), path.stat().st_size
    with path.open("rb") as file:
        head = file.read(6)
        wanted = 0
        if suffix == ".bmp":
            wanted = int.from_bytes(head[2:6], "little")
        elif suffix == ".gipl":
            pixel = _BYTES.get(reader.GetPixelIDValue(), 1)
            wanted = 256 + pixel * int(np.prod(reader.GetSize(), dtype=object))
        elif suffix in (".jpg", ".jpeg") and b"\xff\xd9" not in file.read():
            wanted = size + 1
    if wanted > size:
        raise FileError(path, f"is cut after {size} bytes")


def write(series: Series, path: Path) -> None:
    """Write a file with SimpleITK."""
    image = one(series, path)
    sitk = need("SimpleITK", "imaging")
    flat = path.suffix.lower() in _FLAT
    if flat and image.array.shape[0] != 1:
        raise FileError(path, f"holds one slice, not {image.array.shape[0]}")
    out = to_sitk(image)
    if path.suffix.lower() in ITK_SUFFIXES:
        _note_place(path, out)
    sitk.WriteImage(out[:, :, 0] if flat else out, str(path))
