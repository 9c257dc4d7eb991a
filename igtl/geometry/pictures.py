"""What calibrations look for in a picture: a line across it, and bright spots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import CalibrationError
from igtl.geometry.pose import Floats

_CLEAR = 4.0  # standard deviations above the median


def grey(picture: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """(height, width) float32 of a picture: (height, width), with colours (height, width, c), or
    of one slice (1, height, width[, c]).

    Raises:
        CalibrationError: it is none of these.
    """
    array = np.asarray(picture)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[:, :, :3].mean(axis=2)
    if array.ndim != 2:
        raise CalibrationError(f"shape {array.shape} is no picture of (height, width)")
    return array.astype(np.float32)


def bright_line(picture: npt.ArrayLike) -> float:
    """The row of the brightest line across a picture, such as the bottom of a water tank, to a
    fraction of a pixel; NaN if there is none."""
    profile = grey(picture).mean(axis=1)
    profile -= np.median(profile)
    top = int(profile.argmax())
    noise = 1.4826 * float(np.median(np.abs(profile))) + 1e-6
    if profile[top] < _CLEAR * noise or profile[top] < 1.5 * profile.std():
        return float("nan")
    low = high = top
    while low > 0 and profile[low - 1] > profile[top] / 4:
        low -= 1
    while high + 1 < len(profile) and profile[high + 1] > profile[top] / 4:
        high += 1
    weights = profile[low : high + 1]
    return float((np.arange(low, high + 1) * weights).sum() / weights.sum())


def bright_spots(picture: npt.ArrayLike, count: int, *, radius: float = 4.0) -> Floats:
    """The brightest spots of a picture, such as the tip of a stylus in water, or wires.

    Args:
        count: of spots that are looked for.
        radius: pixels, how large a spot is; two are at least twice as far apart.

    Returns:
        (m, 2), columns and rows to a fraction of a pixel, brightest first; m ≤ count: less where
        fewer spots are brighter than all of the rest.
    """
    smooth = grey(picture)
    for axis in (0, 1, 0, 1):
        smooth = _averaged(smooth, max(1, round(radius / 3)), axis)
    sample = smooth[::3, ::3]
    middle = float(np.median(sample))
    smooth -= middle
    limit = _CLEAR * 1.4826 * float(np.median(np.abs(sample - middle))) + 1e-6
    limit = max(limit, 0.25 * float(smooth.max()))
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
    """Each pixel the mean of those up to `reach` before and after it along an axis."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (reach + 1, reach)
    total = np.cumsum(np.pad(array, pad, mode="edge"), axis=axis, dtype=np.float64)
    n = array.shape[axis]
    after, before = np.arange(2 * reach + 1, 2 * reach + 1 + n), np.arange(n)
    mean = (np.take(total, after, axis) - np.take(total, before, axis)) / (2 * reach + 1)
    return mean.astype(np.float32)
