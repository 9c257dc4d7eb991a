"""IMAGE and the images of nibabel, in RAS; NIfTI files.

A NIfTI file can say twice where it is, by its sform and by its qform. Where these differ, or
neither is set, programs disagree: a file is put here where 3D Slicer and ITK put it, and a
FileWarning says where nibabel has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import EncodeError, FileError
from igtl.extras import need
from igtl.files.notes import note
from igtl.files.series import Matrix, Series, Voxels, is_square, lose_fields, times_of
from igtl.messages.imaging import Image

__all__ = ["from_nibabel", "to_nibabel"]

_RGB: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_RGBA: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
_MM: Final = {"meter": 1000.0, "micron": 0.001}
_SECONDS: Final = {"msec": 1e-3, "usec": 1e-6}
_SAME: Final = 0.01  # mm
_DENSEST: Final = 1032  # most bytes that one byte of a compressed file decodes to


def to_nibabel(image: Image) -> Any:
    """As a nibabel.Nifti1Image, in RAS.

    8-bit colours become RGB(A), other components a vector of the fifth dimension, as in NIfTI.
    """
    return _made(Series.of(image))


def from_nibabel(image: Any, *, device_name: str = "") -> Image:
    """From an image of nibabel, scaled as it says, at the place of its `affine`.

    Raises:
        EncodeError: OpenIGTLink has no such voxels, or the image is a series in time.
    """
    frames = _frames(image)
    if len(frames) != 1:
        raise EncodeError("Image", "array", f"{image.shape} is a series in time: send its volumes "
                          "one by one, from_nibabel(image.slicer[..., t])")  # fmt: skip
    matrix = _in_mm(image, np.array(image.affine, np.float64))
    return Image.from_volume(frames[0], ijk_to_world=matrix, device_name=device_name)


def _made(series: Series) -> Any:
    nib = need("nibabel", "imaging")
    frames = series.frames
    kind = {3: _RGB, 4: _RGBA}.get(series.components)
    several = len(frames) > 1
    if kind is not None and frames.dtype == np.uint8:
        data = np.ascontiguousarray(frames).view(kind)[..., 0].transpose(3, 2, 1, 0)
    elif series.components > 1:
        data = frames.transpose(3, 2, 1, 0, 4)
    else:
        data = frames.transpose(3, 2, 1, 0)
    if data.ndim == 4 and not several:
        data = data[..., 0]
    out = nib.Nifti1Image(data, None, dtype=data.dtype)
    out.header.set_xyzt_units("mm", "sec" if several else None)
    matrix = series.ijk_to_world
    times = times_of(series)
    if several and times is not None:
        out.header["pixdim"][4] = np.diff(times).mean()
        out.header["toffset"] = times[0]
    if data.ndim == 5:
        out.header.set_intent("vector")
    out.set_sform(matrix, 1)
    out.set_qform(matrix, int(is_square(matrix)))
    return out


def _in_mm(image: Any, affine: Matrix) -> Matrix:
    affine[:3] *= _MM.get(_units(image)[0], 1.0)
    return affine


def _units(image: Any) -> tuple[str, str]:
    found = getattr(image.header, "get_xyzt_units", lambda: ("mm", "sec"))()
    return str(found[0]), str(found[1])


def _frames(image: Any) -> Voxels:
    """(n, k, j, i[, components])."""
    data = _scaled(image)
    if data.dtype.names is not None:  # colours
        data = np.stack([data[name] for name in data.dtype.names], -1)
        data = data.reshape(*data.shape[:-1], *[1] * (5 - data.ndim), data.shape[-1])
    elif data.ndim < 5:
        data = data.reshape(*data.shape, *[1] * (4 - data.ndim))
    if data.ndim not in (4, 5):
        raise EncodeError("Image", "array", f"{data.shape} has more axes than can be sent")
    return data.transpose(3, 2, 1, 0, *range(4, data.ndim))


def _scaled(image: Any) -> Voxels:
    """Return the values; integers stay integers where slope and intercept are."""
    proxy = image.dataobj
    slope, offset = getattr(proxy, "slope", 1), getattr(proxy, "inter", 0)
    whole = float(slope).is_integer() and float(offset).is_integer() and (slope, offset) != (1, 0)
    if whole and hasattr(proxy, "get_unscaled"):
        raw = np.asanyarray(proxy.get_unscaled())
        if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2 and raw.size:
            ends = [int(end) * int(slope) + int(offset) for end in (raw.min(), raw.max())]
            if min(ends) >= -(1 << 15) and max(ends) < 1 << 15:
                values: Voxels = raw.astype(np.int32) * int(slope) + int(offset)
                return values.astype(np.int16)
    return np.asanyarray(proxy)


def read(path: Path) -> Series:
    """Read a file with nibabel, at the place where 3D Slicer and ITK put it."""
    nib = need("nibabel", "imaging")
    image = nib.load(path, mmap=False)  # or the file could not be written again
    wanted = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    if wanted > _DENSEST * path.stat().st_size:
        raise FileError(path, f"is cut: {image.shape} voxels announced")
    frames = _frames(image)
    times = None
    if len(frames) > 1:
        unit = _SECONDS.get(_units(image)[1], 1.0)
        step, first = float(image.header["pixdim"][4]), float(image.header["toffset"])
        times = [unit * (first + n * step) for n in range(len(frames))]
    return Series(frames, _in_mm(image, _place(image)), times)


def _place(image: Any) -> Matrix:
    """Return the affine of a file by the rule of ITK.

    That is the sform if it is of the scanner or alone, unless it is sheared and there is a qform;
    else the qform; else the spacing alone.
    """
    header = image.header
    taken: Matrix
    theirs: Matrix = np.array(image.affine, np.float64)
    if not hasattr(header, "get_qform"):
        return theirs
    by_q, by_s = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if by_s is not None and (by_q is None or (int(header["sform_code"]) == 1 and is_square(by_s))):
        taken, name = by_s, "sform"
    elif by_q is not None:
        taken, name = by_q, "qform"
    else:
        taken = np.diag([-1, -1, 1, 1.0])
        taken[:3, :3] *= np.array([*header.get_zooms(), 1, 1])[:3]
        at = np.round(theirs[:3, 3], 3).tolist()
        note("neither its sform nor its qform is set: the first voxel is put at the origin, as in "
             f"3D Slicer and ITK; nibabel has it at {at}")  # fmt: skip
        return taken
    if by_q is not None and by_s is not None:
        last = np.array([*image.shape, 1, 1])[:3] - 1
        corners = np.array([[*(last * at), 1] for at in np.ndindex(2, 2, 2)])
        apart = float(np.linalg.norm(corners @ (by_s - by_q).T, axis=1).max())
        if not apart <= _SAME:
            note(f"its sform and its qform place it differently, by up to {apart:.3g} mm: the "
                 f"{name} is taken, as in 3D Slicer and ITK; nibabel takes the sform")  # fmt: skip
    return np.array(taken, np.float64)


def write(series: Series, path: Path) -> None:
    """Write a file with nibabel; sform and qform are the same."""
    nib = need("nibabel", "imaging")
    lose_fields(series)
    if not is_square(series.ijk_to_world):
        note("its axes are not at right angles: 3D Slicer and ITK refuse the file")
    times = times_of(series)
    if times is not None and len(times) > 1:
        steps = np.diff(times)
        if np.abs(steps - steps.mean()).max() > 1e-3 * abs(steps.mean()):
            note("this format has one distance in time only: the mean is written")
    nib.save(_made(series), path)
