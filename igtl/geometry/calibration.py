"""What all calibrations have in common: residuals, outliers, and the error for poor samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from igtl.errors import IgtlError

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_FAR: Final = 4.0  # times the median residual: what is farther away is an outlier
_FLOOR: Final = 1e-6  # residuals below are rounding errors
_ROUNDS: Final = 20


class CalibrationError(IgtlError, ValueError):
    """The samples do not determine the answer: too few points, on a line, not finite."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """How well a calibration fits its samples.

    Attributes:
        residuals: what is left at each sample, mm if the calibration does not say otherwise; NaN
            for a sample that was not measured.
        used: which samples were used, of the shape of residuals; the others are outliers.
        conditioning: 0 to 1, how well the samples determine the answer: the least singular value
            of the equations as a share of the greatest.
    """

    residuals: Floats = field(repr=False)
    used: Flags = field(repr=False)
    conditioning: float

    @property
    def error(self) -> float:
        """Root mean square of the residuals of the samples that were used."""
        return float(np.sqrt(np.mean(self.residuals[self.used] ** 2)))

    @property
    def worst(self) -> float:
        """The greatest residual of the samples that were used."""
        return float(self.residuals[self.used].max())

    @property
    def samples(self) -> int:
        """How many samples were measured."""
        return int(np.isfinite(self.residuals).sum())

    @property
    def rejected(self) -> int:
        """How many samples are outliers."""
        return self.samples - int(self.used.sum())


def fitted(
    solve: Callable[[Floats], T],
    errors: Callable[[T], Floats],
    count: int,
    *,
    least: int,
    outliers: float = 1 / 3,
) -> tuple[T, Floats, Flags]:
    """Return a least-squares fit without outliers.

    The sum of absolute residuals is minimised first, by weights, since outliers hardly move it;
    samples that are then farther away than four times the median are left out.

    Args:
        solve: the solution for weights (count,) of the samples.
        errors: (count,) the residuals of a solution, 0 or more.
        count: of samples.
        least: number of samples that are needed.
        outliers: the share that is allowed.

    Returns:
        The solution, all residuals, and which samples were used.

    Raises:
        CalibrationError: there are too few samples, or more outliers than are allowed.
    """
    if count < least:
        raise CalibrationError(f"{count} samples: at least {least} are needed")
    weights = np.ones(count)
    for _ in range(_ROUNDS // 2):
        left = errors(solve(weights))
        weights = 1 / np.maximum(left, max(_FLOOR, 0.1 * float(np.median(left))))
        weights /= weights.mean()
    used = left <= max(_FLOOR, _FAR * float(np.median(left)))
    for _ in range(_ROUNDS):
        solution = solve(used.astype(np.float64))
        left = errors(solution)
        before = used
        used = left <= max(_FLOOR, _FAR * float(np.median(left[used])))
        if np.array_equal(before, used):
            break
    used = before  # what the solution was made of
    if used.sum() < max(least, (1 - outliers) * count):
        raise CalibrationError(
            f"{count - int(used.sum())} of {count} samples do not fit the others: was it moved, or "
            "is another tool meant?"
        )
    return solution, left, used


def least_squares(system: Floats, target: Floats) -> Floats:
    """(k,) x with the least sum of squares of system · x - target, by the normal equations.

    For a system of many rows (n, k) that is well conditioned.
    """
    normal = system.T @ system
    return np.asarray(np.linalg.lstsq(normal, system.T @ target, rcond=None)[0], np.float64)


def finite(name: str, values: npt.ArrayLike, shape: tuple[int | None, ...]) -> Floats:
    """Return the values as float64.

    Args:
        name: for the error.
        values: numbers of this shape.
        shape: None stands for any length.

    Raises:
        CalibrationError: the shape is another one, or a value is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != len(shape) or any(
        wanted not in (None, there) for wanted, there in zip(shape, array.shape, strict=True)
    ):
        told = ", ".join("n" if n is None else str(n) for n in shape)
        raise CalibrationError(f"{name} {array.shape}: must be ({told})")
    if not np.isfinite(array).all():
        raise CalibrationError(f"{name}: a value is not finite")
    return array
