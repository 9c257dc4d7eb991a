"""What a file of images holds: one or more images of one size at one place.

A file of images is read to a Series and written from one, whatever its format; `igtl.files.load`
takes one image of it and `igtl.files.load_sequence` all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from igtl.errors import EncodeError, FileError
from igtl.files.notes import note
from igtl.messages.imaging import Image, Space

_USUAL: Final = {"FrameNumber", "Timestamp", "UnfilteredTimestamp", "ImageStatus"}
Matrix = npt.NDArray[np.float64]
Voxels = npt.NDArray[Any]
_SQUARE: Final = 1e-4  # of a right angle: more is a shear, not rounding


@dataclass
class Series:
    """Images one after the other.

    Attributes:
        frames: (n, k, j, i) or (n, k, j, i, components). No image has a size of 0 if the file
            has transforms only.
        ijk_to_world: 4x4 of the first voxel, mm, RAS.
        times: in seconds, one for each image; None if the file has none.
        fields: what the file says of each image, as text; empty if it says nothing.
    """

    frames: Voxels
    ijk_to_world: Matrix
    times: Sequence[float] | None = None
    fields: Sequence[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, image: Image) -> Self:
        """Return the series of one image, or of the part that the message holds."""
        return cls(image.array[np.newaxis], placed(image, "RAS"))

    @property
    def components(self) -> int:
        """Numbers of each voxel."""
        return int(self.frames.shape[4]) if self.frames.ndim == 5 else 1

    def image(self, number: int) -> Image:
        """One of the images."""
        return Image.from_volume(self.frames[number], ijk_to_world=self.ijk_to_world)

    def fitted(self) -> Self:
        """Return the series with integers of the smallest type that holds them all."""
        self.frames = fitted(self.frames)
        return self


def fitted(values: Voxels) -> Voxels:
    """Integers of more than 16 bits in the smallest type that holds them all; others as they are.

    int16 is tried first; int32 and uint32 give a warning, since 3D Slicer shows these wrong.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize <= 2 or not values.size:
        return values
    low, high = int(values.min()), int(values.max())
    for name in ("int16", "uint16", "int32", "uint32"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            if info.bits == 32:
                note(f"its values, {low} to {high}, need {name}, which 3D Slicer shows wrong")
            return values.astype(name, copy=False)
    return values


def chosen(series: Series, path: Path, frame: int | None) -> Image:
    """Return the image of a file; raise FileError if it has several and none is chosen."""
    count = len(series.frames)
    if not series.frames.size:
        raise FileError(path, "holds no image; load_sequence and igtl replay take transforms")
    if frame is None and count != 1:
        raise FileError(
            path, f"holds {count} images: choose one (frame=0 to {count - 1}, on the command line "
            f"{path.name}[0]), or take all (load_sequence, igtl replay)",
        )  # fmt: skip
    if frame is not None and not -count <= frame < count:
        raise FileError(path, f"has no image {frame}, there are {count}")
    return series.image(frame or 0)


def one(series: Series, path: Path) -> Image:
    """Return the image, for formats of one image; raise FileError if there are more."""
    if len(series.frames) != 1:
        raise FileError(path, f"this format holds one image, not {len(series.frames)}")
    lose_fields(series)
    return series.image(0)


def lose_fields(series: Series) -> None:
    """Note what the images have besides voxels, for formats that hold only these."""
    names = {name for each in series.fields for name in each} - _USUAL
    if names:
        note(f"this format has no place for {', '.join(sorted(names))}")


# ---- places -------------------------------------------------------------------------------------


def placed(image: Image, space: Space) -> Matrix:
    """4x4 of the first voxel of the array: of the part, if the image is one."""
    matrix: Matrix = image.to(space).array_to_world
    return matrix


def is_square(matrix: Matrix) -> bool:
    """Return whether the axes are at right angles, but for rounding."""
    with np.errstate(all="ignore"):
        axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= _SQUARE)


def squared(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Directions (3x3, columns), spacing and origin, for formats without shear.

    Raises:
        EncodeError: the axes are not at right angles.
    """
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (np.isfinite(matrix).all() and spacing.all()):
        raise EncodeError("Image", "matrix", "has an axis without length, or no numbers")
    directions = matrix[:3, :3] / spacing
    if not is_square(matrix):
        raise EncodeError("Image", "matrix", "the axes are not at right angles, which only NRRD "
                          "and NIfTI can say")  # fmt: skip
    u, _, v = np.linalg.svd(directions)  # float32 on the wire leaves a rounding error
    return u @ v, spacing, matrix[:3, 3]


def joined(directions: Any, spacing: Any, origin: Any) -> Matrix:
    """Return the inverse of `squared`."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions, np.float64) * np.asarray(spacing, np.float64)
    matrix[:3, 3] = origin
    return matrix


def flipped(matrix: Matrix) -> Matrix:
    """From LPS to RAS, and back."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


# ---- fields of frames, as PLUS has them ---------------------------------------------------------

PLUS: Final = "UltrasoundImageOrientation"
"""A key that PLUS always writes. Its images are in a frame of their own, neither RAS nor LPS."""


def plus_keys(series: Series) -> dict[str, str]:
    """Return what PLUS needs to know of all images."""
    kind = "BRIGHTNESS" if series.components == 1 else "RGB_COLOR"
    return {PLUS: "MF", "UltrasoundImageType": kind}


def frame_fields(header: dict[str, Any], count: int) -> list[dict[str, str]]:
    """Return what keys like "Seq_Frame0000_Timestamp" say of each image; [] if there are none."""
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for key, value in header.items():
        if key.startswith("Seq_Frame"):
            number, _, name = key[len("Seq_Frame") :].partition("_")
            if not number.isdecimal() or int(number) >= count or not name:
                raise ValueError(f"{key!r} belongs to none of {count} images")
            found[int(number)][name] = str(value).strip()
    return found if any(found) else []


def keys_of(fields: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the keys that `frame_fields` reads."""
    return {
        f"Seq_Frame{n:04}_{name}": value
        for n, each in enumerate(fields) for name, value in each.items()
    }  # fmt: skip


def times_of(series: Series) -> Sequence[float] | None:
    """Return the times of the images: in their fields, or in the file."""
    if series.fields and all("Timestamp" in each for each in series.fields):
        return [float(each["Timestamp"]) for each in series.fields]
    return series.times


def text_of(times: Sequence[float]) -> str:
    """Return times as text of the formats."""
    return " ".join(f"{time:.15g}" for time in times)
