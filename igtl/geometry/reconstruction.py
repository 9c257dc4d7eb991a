"""A volume from pictures that were taken freehand: each is pasted where its pose says it was.

volume = Reconstruction(spacing=0.5)
for image in link: volume.add(image.array, image.ijk_to_world)
igtl.files.save(volume.result(fill=2).image("Volume"), "volume.nrrd")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.errors import IgtlError
from igtl.geometry.pictures import grey
from igtl.geometry.pose import Floats
from igtl.geometry.regions import Mask, fill_holes
from igtl.messages.imaging import Image

Paste = Literal["nearest", "linear"]
Compounding = Literal["mean", "max", "latest"]
Whole = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]

MAX_VOXELS: Final = 100_000_000
_SPARE: Final = 16  # voxels, the least by which a volume grows
_ROOMY: Final = 8  # a frame whose box has more voxels than this for each pixel is sorted instead


class ReconstructionError(IgtlError, ValueError):
    """A volume cannot be made: it would be too large, or holds nothing."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A reconstructed volume.

    Attributes:
        array: (k, j, i), of the number type of the pictures; 0 where there is nothing.
        ijk_to_world: 4x4, indices (i, j, k) to mm, of the first voxel.
        filled: (k, j, i), where a picture was pasted.
        holes: voxels that were filled from their neighbours.
    """

    array: npt.NDArray[Any] = field(repr=False)
    ijk_to_world: Floats
    filled: Mask = field(repr=False)
    holes: int

    def image(self, device_name: str = "Volume") -> Image:
        """As a message, for `igtl.files.save` or to be sent."""
        return Image.from_volume(
            self.array, ijk_to_world=self.ijk_to_world, device_name=device_name
        )


class _Box(NamedTuple):
    """Voxels of the grid, from `low` to `high`, both included; each (3,) in the order i, j, k."""

    low: Whole
    high: Whole

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i)."""
        i, j, k = (int(n) for n in self.high - self.low + 1)
        return k, j, i

    @property
    def voxels(self) -> int:
        k, j, i = self.shape
        return k * j * i

    def holds(self, other: _Box) -> bool:
        return bool((self.low <= other.low).all() and (other.high <= self.high).all())

    def slices(self, inner: _Box) -> tuple[slice, ...]:
        """Return the slices that another box takes in the array of this one."""
        starts = (inner.low - self.low).tolist()
        ends = (inner.high - self.low + 1).tolist()
        return tuple(slice(a, b) for a, b in zip(starts[::-1], ends[::-1], strict=True))

    def flat(self, points: Whole) -> Whole:
        """Return indices into the flat array; points (3, n)."""
        i, j, k = points - self.low[:, np.newaxis]
        _, rows, columns = self.shape
        found: Whole = (k * rows + j) * columns + i
        return found


class Reconstruction:
    """Collects pictures into a volume, one after the other.

    The axes of the volume are those of the world. A voxel gets from each picture the mean of the
    pixels that lie in it (nearest), or that lie around it, by distance (linear); of several
    pictures it keeps their mean, the greatest or the latest.

    Args:
        spacing: mm, of the voxels; one number, or one for each axis of the world.
        paste: "nearest" (default) or "linear", which leaves fewer holes and takes longer; with
            "latest" it moves edges by up to a voxel towards the end of the scan.
        compounding: "mean" (default), "max" or "latest".
        extent: ((x, x), (y, y), (z, z)), mm; what lies outside is counted in `outside`. Default:
            the volume grows as pictures come.
        mask: (height, width), the pixels that are pasted, or a function that makes it of the shape
            (height, width) of a picture; see `rectangle` and `fan`. Default: all.
        max_voxels: the size that the volume may reach; 8 bytes are needed for each, twice while it
            grows.

    Attributes:
        frames: how many pictures were pasted.
        outside: pixels that lay outside of the extent.

    Raises:
        ValueError: an argument is not allowed.
        ReconstructionError: the extent has more than `max_voxels`.
    """

    def __init__(
        self,
        spacing: float | npt.ArrayLike = 1.0,
        *,
        paste: Paste = "nearest",
        compounding: Compounding = "mean",
        extent: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | Callable[[tuple[int, int]], Mask] | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        self.spacing: Floats = np.broadcast_to(np.asarray(spacing, np.float64), (3,)).copy()
        if not (np.isfinite(self.spacing).all() and (self.spacing > 0).all()):
            raise ValueError(f"spacing {self.spacing}: must be above 0 mm")
        if paste not in ("nearest", "linear"):
            raise ValueError(f"paste must be 'nearest' or 'linear', not {paste!r}")
        if compounding not in ("mean", "max", "latest"):
            raise ValueError(f"compounding must be 'mean', 'max' or 'latest', not {compounding!r}")
        self._linear = paste == "linear"
        self._compounding = compounding
        self._max_voxels = max_voxels
        self._mask = mask
        self.frames = 0
        self.outside = 0
        self._dtype: np.dtype[Any] | None = None
        self._origin = np.zeros(3)
        self._fixed = extent is not None
        self._box: _Box | None = None
        self._values: Values = np.zeros((0, 0, 0), np.float32)
        self._weights: Values = np.zeros((0, 0, 0), np.float32)
        self._pixels: tuple[tuple[int, ...], Floats] | None = None
        if extent is not None:
            limits = np.asarray(extent, np.float64)
            if limits.shape != (3, 2) or not (limits[:, 0] < limits[:, 1]).all():
                raise ValueError(f"extent {limits}: must be ((x, x), (y, y), (z, z)), rising")
            self._origin = limits[:, 0]
            high = np.floor((limits[:, 1] - limits[:, 0]) / self.spacing + 1e-6).astype(np.int64)
            self._reserve(_Box(np.zeros(3, np.int64), high))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i), voxels that are reserved so far."""
        k, j, i = self._values.shape
        return k, j, i

    # -- memory

    def _reserve(self, box: _Box) -> None:
        """Make the arrays, with what there is in them."""
        if box.voxels > self._max_voxels:
            size = "x".join(str(n) for n in box.shape[::-1])
            fits = self.spacing.max() * (box.voxels / self._max_voxels) ** (1 / 3)
            raise ReconstructionError(
                f"the volume would be {size} voxels, the limit is {self._max_voxels}: choose a "
                f"spacing of about {1.02 * fits:.3g} mm or more, an extent, or a smaller part of "
                "the picture"
            )
        values, weights = np.zeros(box.shape, np.float32), np.zeros(box.shape, np.float32)
        if self._box is not None:
            inner = box.slices(self._box)
            values[inner], weights[inner] = self._values, self._weights
        self._box, self._values, self._weights = box, values, weights

    def _grow(self, wanted: _Box) -> None:
        """Reserve room for a box and, if there may be, for those that follow it."""
        if self._box is None:
            self._reserve(wanted)
            return
        if self._box.holds(wanted):
            return
        low, high = np.minimum(self._box.low, wanted.low), np.maximum(self._box.high, wanted.high)
        spare = np.maximum(_SPARE, (high - low) // 4)
        roomy = _Box(
            np.where(low < self._box.low, low - spare, low),
            np.where(high > self._box.high, high + spare, high),
        )
        self._reserve(roomy if roomy.voxels <= self._max_voxels else _Box(low, high))

    # -- pictures

    def _indices(self, shape: tuple[int, ...]) -> Floats:
        """(3, n): columns, rows and slices of the pixels that are pasted."""
        if self._pixels is None or self._pixels[0] != shape:
            mask = np.ones(shape, bool)
            if self._mask is not None:
                _, height, width = shape
                made = self._mask((height, width)) if callable(self._mask) else self._mask
                part = np.asarray(made, bool)
                if part.shape != (height, width):
                    raise ValueError(f"the mask is {part.shape}, a picture {(height, width)}")
                mask &= part
            self._pixels = shape, np.array(np.nonzero(mask)[::-1], np.float64)
        return self._pixels[1]

    def add(self, picture: npt.ArrayLike, ijk_to_world: npt.ArrayLike) -> int:
        """Paste a picture.

        Args:
            picture: (height, width) or (slices, height, width); colours (…, 3) become their mean.
            ijk_to_world: 4x4, from pixels (column, row, slice) to mm.

        Returns:
            How many pixels were pasted.

        Raises:
            ValueError: the picture, its pose, or its size beside that of the mask is wrong.
            ReconstructionError: the volume would become too large; it stays as it is.
        """
        array = np.asarray(picture)
        if array.ndim == 4 or (array.ndim == 3 and array.shape[-1] in (3, 4)):
            volume = array if array.ndim == 4 else array[np.newaxis]
            kept, array = array.dtype, np.stack([grey(each) for each in volume])
        else:
            kept, array = array.dtype, array if array.ndim == 3 else array[np.newaxis]
        if array.ndim != 3:
            raise ValueError(f"shape {np.shape(picture)} is not a picture of (height, width)")
        matrix = np.asarray(ijk_to_world, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError("ijk_to_world must be 4x4 and finite")
        index = self._indices(array.shape)
        i, j, k = index.astype(np.int64)
        values = array[k, j, i].astype(np.float64)
        place = (matrix[:3, :3] @ index + matrix[:3, 3:] - self._origin[:, None]) / (
            self.spacing[:, None]
        )
        if not len(values):
            return 0
        if np.abs(place).max() > 2**31:
            raise ValueError("the picture is farther away than any volume reaches")
        pasted = self._paste(place, values)
        self.frames += 1
        self._dtype = kept if self._dtype is None else np.promote_types(self._dtype, kept)
        return pasted

    def _paste(self, place: Floats, values: Floats) -> int:
        corner = np.floor(place) if self._linear else np.rint(place)
        cell = corner.astype(np.int64)
        reach = 1 if self._linear else 0
        if self._fixed:
            assert self._box is not None
            high = self._box.high[:, None] - reach
            inside = np.all((cell >= self._box.low[:, None]) & (cell <= high), axis=0)
            self.outside += int(len(values) - inside.sum())
            cell, place, corner, values = (
                cell[:, inside], place[:, inside], corner[:, inside], values[inside]
            )  # fmt: skip
            if not len(values):
                return 0
        box = _Box(cell.min(axis=1), cell.max(axis=1) + reach)
        self._grow(box)
        flat = box.flat(cell)
        if not self._linear:
            self._compound(box, flat, values, np.ones(len(values)))
            return len(values)
        far = place - corner
        near = 1 - far
        _, rows, columns = box.shape
        flats, shares = [], []
        for k in (0, 1):
            for j in (0, 1):
                for i in (0, 1):
                    flats.append(flat + (k * rows + j) * columns + i)
                    x, y, z = (
                        (far if one else near)[n] for n, one in enumerate((i, j, k))
                    )  # fmt: skip
                    shares.append(x * y * z)
        self._compound(box, np.concatenate(flats), np.tile(values, 8), np.concatenate(shares))
        return len(values)

    def _compound(self, box: _Box, flat: Whole, values: Floats, shares: Floats) -> None:
        """Put the mean of a picture in each voxel to what is there."""
        assert self._box is not None
        if box.voxels <= _ROOMY * len(flat):
            weights = np.bincount(flat, shares, box.voxels)
            cells = np.flatnonzero(weights > 1e-3)
            sums, weights = np.bincount(flat, shares * values, box.voxels)[cells], weights[cells]
        else:
            cells, which = np.unique(flat, return_inverse=True)
            weights = np.bincount(which, shares)
            sums = np.bincount(which, shares * values)
            there = weights > 1e-3
            cells, sums, weights = cells[there], sums[there], weights[there]
        _, rows, columns = box.shape
        k, rest = np.divmod(cells, rows * columns)
        j, i = np.divmod(rest, columns)
        at = self._box.flat(np.stack([i, j, k]) + box.low[:, None])
        all_values, all_weights = self._values.reshape(-1), self._weights.reshape(-1)
        if self._compounding == "mean":
            all_values[at] += sums
            all_weights[at] += weights
            return
        means = sums / weights
        if self._compounding == "max":
            known = all_weights[at] > 0
            means = np.where(known, np.maximum(means, all_values[at]), means)
        all_values[at] = means
        all_weights[at] = 1

    # -- the volume

    def result(self, *, fill: float = 0.0) -> Volume:
        """Return the volume so far; pictures can be added after that too.

        Args:
            fill: mm: a hole that is no wider along an axis gets a value between those at its ends.
                Nothing grows outwards. Default: holes stay.

        Raises:
            ReconstructionError: there is nothing in it.
        """
        if self._box is None or self._dtype is None or not (self._weights > 0).any():
            raise ReconstructionError("no picture was pasted: there is nothing in the volume")
        box = self._box if self._fixed else self._used(self._box)
        inner = self._box.slices(box)
        weights = self._weights[inner]
        filled = weights > 0
        values = self._values[inner] / (
            np.where(filled, weights, 1) if self._compounding == "mean" else np.float32(1)
        )
        holes = 0
        if fill > 0:
            steps = np.floor(fill / self.spacing + 1e-6).astype(int)[::-1]
            holes = fill_holes(values, filled, (int(steps[0]), int(steps[1]), int(steps[2])))
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
        matrix = np.diag([*self.spacing, 1.0])
        matrix[:3, 3] = self._origin + box.low * self.spacing
        return Volume(values.astype(self._dtype), matrix, filled, holes)

    def _used(self, box: _Box) -> _Box:
        """Return the part of the box in which there is something."""
        filled = self._weights > 0
        low, high = [], []
        for axis in (2, 1, 0):
            (there,) = np.nonzero(filled.any(axis=tuple(n for n in range(3) if n != axis)))
            low.append(int(there[0]))
            high.append(int(there[-1]))
        return _Box(box.low + low, box.low + high)
