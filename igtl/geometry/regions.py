"""Parts of a picture, and the holes of a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def rectangle(shape: tuple[int, int], column: int, row: int, width: int, height: int) -> Mask:
    """(height, width) bool: a rectangle of a picture.

    PLUS has it as ClipRectangleOrigin and ClipRectangleSize.

    Args:
        shape: (height, width) of the picture.
        column: of the first pixel.
        row: of the first pixel.
        width: columns of the rectangle.
        height: rows of the rectangle.
    """
    mask = np.zeros(shape, bool)
    mask[max(0, row) : max(0, row + height), max(0, column) : max(0, column + width)] = True
    return mask


def fan(
    shape: tuple[int, int],
    origin: tuple[float, float],
    angles: tuple[float, float],
    radii: tuple[float, float],
) -> Mask:
    """(height, width) bool: the fan of a curved probe, as PLUS has it.

    Args:
        shape: (height, width) of the picture.
        origin: column and row in which the rays meet (FanOriginPixel).
        angles: degrees, of the first and last ray; 0 is downwards, above 0 to the right
            (FanAnglesDeg).
        radii: pixels, from the origin to the first and last sample (FanRadiusStartPixel,
            FanRadiusStopPixel).
    """
    row, column = np.mgrid[: shape[0], : shape[1]]
    x, y = column - origin[0], row - origin[1]
    angle, radius = np.degrees(np.arctan2(x, y)), np.hypot(x, y)
    inside: Mask = (
        (angle >= angles[0]) & (angle <= angles[1]) & (radius >= radii[0]) & (radius <= radii[1])
    )
    return inside


def fill_holes(values: npt.NDArray[Any], filled: Mask, steps: tuple[int, int, int]) -> int:
    """Fill holes in place, between the nearest values before and after along each axis.

    The nearest value has the greatest weight. `filled` is left as it is.

    Args:
        values: (k, j, i), the volume.
        filled: (k, j, i), which voxels have a value.
        steps: the greatest hole along each axis, in voxels.

    Returns:
        How many voxels were filled.
    """
    total = np.zeros(values.shape, np.float32)
    weight = np.zeros(values.shape, np.float32)
    for axis, most in enumerate(steps):
        n = values.shape[axis]
        if most < 1 or n < 3:
            continue
        place = np.arange(n, dtype=np.int32).reshape([-1 if k == axis else 1 for k in range(3)])
        most = min(most, n)
        none = np.int32(4 * n)  # so far away that no hole reaches it
        before = np.maximum.accumulate(np.where(filled, place, -none), axis=axis)
        backwards = np.flip(np.where(filled, place, none), axis)
        after = np.flip(np.minimum.accumulate(backwards, axis=axis), axis)
        there = np.nonzero(~filled & (after - before <= most + 1))
        a, b = before[there], after[there]
        ends = [list(there), list(there)]
        ends[0][axis], ends[1][axis] = a, b
        gap = (b - a).astype(np.float32)
        share = (there[axis] - a) / gap
        between = values[tuple(ends[0])] * (1 - share) + values[tuple(ends[1])] * share
        total[there] += between / gap
        weight[there] += 1 / gap
    holes = weight > 0
    values[holes] = total[holes] / weight[holes]
    return int(holes.sum())
