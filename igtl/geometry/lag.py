"""The lag between a stream of pictures and a tracker, from a motion that both show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import Calibration, CalibrationError, finite
from igtl.geometry.pose import Floats

_STEP: Final = 0.004  # seconds between the samples that are compared
_GRID: Final = 0.005  # seconds between the lags that are tried first
_FOLLOWS: Final = 0.9  # least correlation
_APART: Final = 0.1  # seconds: a lag that far from the best is another one,
_DISTINCT: Final = 0.02  # and must leave so much more of the motion unexplained, as a share
_LONG: Final = 2.0  # seconds that must be in common, beyond the lags that are tried


@dataclass(frozen=True, eq=False, kw_only=True)
class TimeCalibration(Calibration):
    """What `calibrate_time` found; `residuals` are in units of the first signal, at even times.

    Attributes:
        lag: seconds by which the time stamps of the second signal are later than those of the
            first for the same instant.
        uncertainty: seconds, the standard error of the lag, estimated from the residuals.
        correlation: 0 to 1, of both signals at this lag.
        distinct: 0 to 1, how much more of the motion is left unexplained by the best of the lags
            that are farther than 0.1 s away.
    """

    lag: float
    uncertainty: float
    correlation: float
    distinct: float


def principal(values: npt.ArrayLike) -> Floats:
    """(n,) of (n, k): the motion along the direction in which there is most of it."""
    array = np.asarray(values, np.float64)
    if array.ndim == 1:
        return array
    centred = array - array.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found: Floats = centred @ axes[0]
    return found


def calibrate_time(
    times: npt.ArrayLike,
    values: npt.ArrayLike,
    other_times: npt.ArrayLike,
    other_values: npt.ArrayLike,
    *,
    most: float = 0.5,
    smoothing: float = 0.03,
) -> TimeCalibration:
    """Return the lag of a tracker against pictures, to a fraction of the time between two of them.

    Args:
        times: (n,) seconds, of the pictures.
        values: (n,) or (n, k), for example the depth of a line in each picture, from
            `igtl.geometry.bright_line`; NaN where there is none.
        other_times: (m,) seconds, of the tracker.
        other_values: (m,) or (m, k), for example the positions of the probe.
        most: seconds, the greatest lag that is looked for.
        smoothing: seconds, standard deviation of the filter that both pass first. Without it noise
            between the samples pulls the lag towards half of their distance.

    Raises:
        CalibrationError: the signals have too little time in common, show no motion or do not
            follow each other, or several lags fit, as for a motion that repeats itself.
    """
    t, x = _signal("the pictures", times, values)
    u, y = _signal("the tracker", other_times, other_values)
    first, last = max(t[0], u[0] - most), min(t[-1], u[-1] + most)
    if last - first < 2 * most + _LONG:
        raise CalibrationError(
            f"{max(0.0, last - first):.1f} s in common: at least {2 * most + _LONG:g} s of motion "
            "are needed"
        )
    g, a = _smooth(t, x, smoothing)
    h, b = _smooth(u, y, smoothing)
    inside = (g > max(g[0], h[0]) + most) & (g < min(g[-1], h[-1]) - most)
    if inside.sum() * _STEP < _LONG / 2:
        raise CalibrationError("too little motion in common: move the probe for a longer time")
    g, a = g[inside], a[inside]
    a = a - a.mean()
    size = float(a @ a)
    if not size > 0 or not np.ptp(b) > 0:
        raise CalibrationError("nothing moves: move the probe up and down")

    def cost(lag: float) -> float:
        """Return what a line through both leaves, as a share."""
        c = np.interp(g + lag, h, b)
        c -= c.mean()
        power = float(c @ c)
        return 1 - float(a @ c) ** 2 / (power * size) if power > 0 else 1.0

    lags = np.arange(-most, most + _GRID / 2, _GRID)
    costs = np.array([cost(lag) for lag in lags])
    best = int(costs.argmin())
    correlation = float(np.sqrt(max(0.0, 1 - costs[best])))
    if correlation < _FOLLOWS:
        raise CalibrationError(
            f"the picture does not follow the probe (correlation {correlation:.2f}): move it up "
            "and down in front of something that shows as a line, and in no other way"
        )
    if best in (0, len(lags) - 1):
        raise CalibrationError(f"no lag within ±{most:g} s fits best: try a greater limit")
    others = costs[np.abs(lags - lags[best]) > _APART]
    distinct = float(others.min() - costs[best]) if len(others) else 1.0
    if distinct < _DISTINCT:
        raise CalibrationError(
            "several lags fit as well: the motion repeats itself or is too slow; move the probe "
            "quickly, and vary the pace"
        )
    lag, step = float(lags[best]), _GRID
    while step > 1e-6:
        near = lag + step * np.linspace(-1, 1, 9)
        lag, step = float(near[int(np.argmin([cost(each) for each in near]))]), step / 4
    c = np.interp(g + lag, h, b)
    c -= c.mean()
    left = a - c * float(a @ c) / float(c @ c)
    wide = 2 * _GRID
    bend = (cost(lag + wide) - 2 * cost(lag) + cost(lag - wide)) / wide**2
    # neighbours are alike: as many samples count as the filter leaves, or as were measured
    span = float(g[-1] - g[0])
    count = max(4.0, min(len(t), span / max(2 * np.sqrt(np.pi) * smoothing, _STEP)))
    return TimeCalibration(
        lag=lag, uncertainty=float(np.sqrt(2 * cost(lag) / count / max(bend, 1e-12))),
        correlation=float(np.sqrt(max(0.0, 1 - cost(lag)))), distinct=distinct,
        residuals=np.abs(left), used=np.ones(len(left), bool),
        conditioning=float(min(1.0, bend * _APART**2 / 2)),
    )  # fmt: skip


def _signal(name: str, times: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Rising times, and the motion."""
    t = np.asarray(times, np.float64)
    x = np.asarray(values, np.float64)
    if t.ndim != 1 or x.ndim not in (1, 2) or len(x) != len(t):
        raise CalibrationError(f"{name}: times {t.shape} and values {x.shape} do not agree")
    there = np.isfinite(t) & np.isfinite(x if x.ndim == 1 else x.sum(axis=1))
    t, x = t[there], x[there]
    t, chosen = np.unique(t, return_index=True)
    if len(t) < 10:
        raise CalibrationError(f"{name}: {len(t)} samples: at least 10 are needed")
    return t, finite(name, principal(x[chosen]), (None,))


def _smooth(t: Floats, x: Floats, seconds: float) -> tuple[Floats, Floats]:
    """At even times, by a Gaussian. The same times and the same filter for both signals."""
    grid = np.arange(np.ceil(t[0] / _STEP), np.floor(t[-1] / _STEP) + 1) * _STEP
    even = np.interp(grid, t, x)
    if seconds <= 0:
        return grid, even
    reach = int(np.ceil(4 * seconds / _STEP))
    kernel = np.exp(-((np.arange(-reach, reach + 1) * _STEP / seconds) ** 2) / 2)
    padded = np.pad(even, reach, mode="edge")
    return grid, np.convolve(padded, kernel / kernel.sum(), "valid")
