"""Poses from points."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import CalibrationError
from igtl.geometry.pose import Floats, Pose

_FLAT: Final = 1e-3  # of its length: what is thinner is a line to a registration


class Registration(NamedTuple):
    """What `register` found.

    Attributes:
        pose: maps source to target.
        fre: fiducial registration error, mm: root mean square of `errors`.
        errors: (n,), mm, what is left at each point.
        source: (n, 3), the points.
    """

    pose: Pose
    fre: float
    errors: Floats
    source: Floats

    def tre(self, points: npt.ArrayLike) -> Floats:
        """Return the expected target registration error, mm.

        The points are (3,) or (n, 3), of the source.

        It follows from the FRE and how the fiducials lie (Fitzpatrick, West and Maurer, 1998). With
        three points the FRE says little.
        """
        targets = np.atleast_2d(np.asarray(points, np.float64))
        n = len(self.source)
        fle2 = self.fre**2 / (1 - 2 / n)
        centre = self.source.mean(axis=0)
        _, _, axes = np.linalg.svd(self.source - centre)
        along = (self.source - centre) @ axes.T
        there = (targets - centre) @ axes.T
        share = np.zeros(len(targets))
        for k in range(3):
            others = [axis for axis in range(3) if axis != k]
            f2 = np.mean(np.sum(along[:, others] ** 2, axis=1))
            share += np.sum(there[:, others] ** 2, axis=1) / f2 / 3
        found: Floats = np.sqrt(fle2 / n * (1 + share))
        return found


def register(source: npt.ArrayLike, target: npt.ArrayLike) -> Registration:
    """Find the rigid pose that brings points closest to their partners.

    By least squares (Kabsch 1976).

    Args:
        source: (n, 3), mm, n ≥ 3, not on a line.
        target: (n, 3), mm, the partners in the same order.

    Raises:
        CalibrationError: the points are too few, on a line or not finite, or not as many in both.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1:] != (3,):
        raise CalibrationError(f"points {a.shape} and {b.shape}: must both be (n, 3)")
    if len(a) < 3:
        raise CalibrationError(f"{len(a)} points: three are needed")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CalibrationError("a coordinate is not finite")
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    for points, centre, which in ((a, centre_a, "source"), (b, centre_b, "target")):
        widths = np.linalg.svd(points - centre, compute_uv=False)
        if widths[1] <= _FLAT * widths[0]:
            raise CalibrationError(f"the {which} points lie on a line: the turn about it is free")
    u, _, v = np.linalg.svd((a - centre_a).T @ (b - centre_b))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(v.T @ u.T))])
    rotation = v.T @ mirror @ u.T
    pose = Pose.of(rotation, centre_b - rotation @ centre_a)
    errors = np.linalg.norm(pose @ a - b, axis=1)
    return Registration(pose, float(np.sqrt(np.mean(errors**2))), errors, a)
