"""What calibrations look for in a picture: a line across it, and bright spots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import CalibrationError, fitted, least_squares
from igtl.geometry.pose import Floats

_CLEAR = 4.0  # standard deviations above the median
_FAINT = 0.08  # of the brightest spot: anything fainter is not a spot
_BLOCKS = 32  # of columns, in each of which a line is looked for
_STRAIGHT = 0.03  # of the height: points farther from a line do not belong to it


def grey(picture: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """(height, width) float32 of a picture.

    Args:
        picture: (height, width), with colours (height, width, c), or of one slice
            (1, height, width[, c]).

    Raises:
        CalibrationError: the shape is none of these.
    """
    array = np.asarray(picture)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[:, :, :3].mean(axis=2)
    if array.ndim != 2:
        raise CalibrationError(f"shape {array.shape} is not a picture of (height, width)")
    return array.astype(np.float32)


def bright_line(picture: npt.ArrayLike) -> float:
    """Return the row of the brightest line across a picture, such as the bottom of a water tank.

    The row is that in the middle column, to a fraction of a pixel; NaN if there is no line. The
    line may be oblique.
    """
    array = grey(picture)
    height, width = array.shape
    blocks = np.array_split(array, min(_BLOCKS, width), axis=1)
    profiles = np.stack([block.mean(axis=1) for block in blocks])
    columns = (np.arange(len(blocks)) + 0.5) * width / len(blocks) - width / 2
    profiles -= np.median(profiles, axis=1, keepdims=True)
    tops = profiles.argmax(axis=1)
    peaks = profiles.max(axis=1)
    noise = 1.4826 * np.median(np.abs(profiles), axis=1) + 1e-6
    clear = (peaks > _CLEAR * noise) & (peaks > peaks.max() / 5)
    if clear.sum() < max(4, len(blocks) / 5):
        return float("nan")
    tops, peaks, columns, profiles = tops[clear], peaks[clear], columns[clear], profiles[clear]
    reach = max(3, height // 50)
    near = (tops[:, np.newaxis] + np.arange(-reach, reach + 1)).clip(0, height - 1)
    weights = np.take_along_axis(profiles, near, axis=1) - peaks[:, np.newaxis] / 4
    weights = np.maximum(weights, 0)
    rows = (near * weights).sum(axis=1) / weights.sum(axis=1)
    system = np.stack([np.ones(len(columns)), columns], axis=1)

    def solve(share: Floats) -> Floats:
        by = np.sqrt(share)
        return least_squares(system * by[:, np.newaxis], rows * by)

    try:
        line, left, used = fitted(
            solve, lambda at: np.abs(system @ at - rows), len(rows), least=4, outliers=0.5
        )
    except CalibrationError:
        return float("nan")
    straight = np.sqrt(np.mean(left[used] ** 2)) < _STRAIGHT * height
    return float(line[0]) if straight else float("nan")


def bright_spots(picture: npt.ArrayLike, count: int, *, radius: float = 4.0) -> Floats:
    """Return the brightest spots of a picture, such as the tip of a stylus in water, or wires.

    Args:
        picture: see `grey`.
        count: of spots that are looked for.
        radius: pixels, how large a spot is; two are at least twice as far apart.

    Returns:
        (m, 2), columns and rows to a fraction of a pixel, brightest first; m ≤ count: fewer where
        fewer spots are brighter than all of the rest.
    """
    smooth = grey(picture)
    for axis in (0, 1, 0, 1):
        smooth = _averaged(smooth, max(1, round(radius / 3)), axis)
    sample = smooth[::3, ::3]
    middle = float(np.median(sample))
    smooth -= middle
    limit = _CLEAR * 1.4826 * float(np.median(np.abs(sample - middle))) + 1e-6
    limit = max(limit, _FAINT * float(smooth.max()))
    height, width = smooth.shape
    left = smooth.copy()
    reach = round(2 * radius)
    found: list[tuple[float, float]] = []
    while len(found) < count:
        v, u = np.unravel_index(int(left.argmax()), left.shape)
        if left[v, u] < limit:
            break
        rows = slice(max(0, v - reach), min(height, v + reach + 1))
        columns = slice(max(0, u - reach), min(width, u + reach + 1))
        near = np.maximum(smooth[rows, columns] - smooth[v, u] / 3, 0)
        i, j = np.mgrid[rows, columns]
        near[np.hypot(i - v, j - u) > radius * 1.5] = 0
        found.append((float((j * near).sum() / near.sum()), float((i * near).sum() / near.sum())))
        left[rows, columns] = -np.inf
    return np.array(found).reshape(-1, 2)


def _averaged(array: npt.NDArray[np.float32], reach: int, axis: int) -> npt.NDArray[np.float32]:
    """Return each pixel the mean of those up to `reach` before and after it along an axis."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (reach + 1, reach)
    total = np.cumsum(np.pad(array, pad, mode="edge"), axis=axis, dtype=np.float64)
    n = array.shape[axis]
    after, before = np.arange(2 * reach + 1, 2 * reach + 1 + n), np.arange(n)
    mean = (np.take(total, after, axis) - np.take(total, before, axis)) / (2 * reach + 1)
    return mean.astype(np.float32)
