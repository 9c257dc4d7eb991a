"""The tip and the axis of a stylus, from its poses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import Calibration, CalibrationError, fitted, least_squares
from igtl.geometry.pose import Floats, Pose

_SWING: Final = 1.6  # degrees, root mean square: less does not determine a tip
_SPIN: Final = 10.0  # degrees, root mean square, of the turn about an axis
_TILT: Final = 8.0  # degrees, root mean square: more is not a turn about one axis
_ARM: Final = 100.0  # mm, from the marker along an axis, where its tilt counts


@dataclass(frozen=True, eq=False, kw_only=True)
class PivotCalibration(Calibration):
    """What `calibrate_pivot` found.

    `residuals` are (n,), mm, how far the tip is from the pivot in each pose.

    Attributes:
        tip: (3,), mm, the tip in the frame of the stylus.
        pivot: (3,), mm, the place it stood on, in the frame of the tracker.
        swing: degrees, root mean square, of the axis of the stylus that moved least.
    """

    tip: Floats
    pivot: Floats
    swing: float

    @property
    def matrix(self) -> Floats:
        """4x4, from the frame of the tip to that of the stylus, mm; not turned."""
        return Pose.of(None, self.tip).matrix


@dataclass(frozen=True, eq=False, kw_only=True)
class SpinCalibration(Calibration):
    """What `calibrate_spin` found.

    `residuals` are (n,), mm, how far two points of the axis, 100 mm apart, are from the line on
    which it stays: the root mean square of both.

    Attributes:
        axis: (3,), the direction of the axis in the frame of the tool, of length 1.
        point: (3,), mm, the point of the axis in the frame of the tool that is nearest to its
            origin.
        direction: (3,), of length 1, the direction of the axis in the frame of the tracker.
        turned: degrees, root mean square, of the turn about the axis.
    """

    axis: Floats
    point: Floats
    direction: Floats
    turned: float

    def matrix(self, tip: npt.ArrayLike | None = None) -> Floats:
        """4x4, mm, to the frame of the tool, from one whose z axis is the axis, towards the tip.

        Its x axis is the one that is nearest to the x axis of the tool.

        Args:
            tip: (3,), mm, in the frame of the tool, for example of `calibrate_pivot`: the origin.
                Default: `point`, and z is `axis`.
        """
        origin = self.point if tip is None else np.asarray(tip, np.float64)
        z = self.axis * (-1 if (origin - self.point) @ self.axis < 0 else 1)
        x = np.eye(3)[0] if abs(z[0]) < 0.9 else np.eye(3)[1]
        x = x - z * (x @ z)
        x /= np.linalg.norm(x)
        return Pose.of(np.stack([x, np.cross(z, x), z], axis=1), origin).matrix


def _listed(poses: Iterable[Pose | npt.ArrayLike], least: int) -> tuple[Floats, Floats]:
    """Rotations (n, 3, 3) and translations (n, 3)."""
    listed = [pose if isinstance(pose, Pose) else Pose(pose) for pose in poses]
    if len(listed) < least:
        raise CalibrationError(f"{len(listed)} poses: at least {least} are needed")
    matrices = np.array([pose.matrix for pose in listed])
    return matrices[:, :3, :3], matrices[:, :3, 3]


def swings(rotations: Floats) -> tuple[Floats, Floats]:
    """Return how much the axes of a frame move.

    Args:
        rotations: (n, 3, 3).

    Returns:
        (3,) degrees, root mean square, least first; and (3, 3), in its rows the directions in the
        frame that move so much.
    """
    _, shares, axes = np.linalg.svd(rotations.mean(axis=0))
    found: Floats = np.degrees(np.sqrt(2 * np.maximum(0, 1 - shares)))
    return found, axes


def calibrate_pivot(poses: Iterable[Pose | npt.ArrayLike]) -> PivotCalibration:
    """Find the tip of a stylus that was turned about its tip.

    It solves R · tip + t = pivot by least squares.

    Poses in which the tip had left its place are left out.

    Args:
        poses: of the stylus in the tracker, three or more, turned about more than one axis; 4x4
            or Pose.

    Raises:
        CalibrationError: there are too few poses, they turn too little or about one axis only, or
            more than a third of them do not fit.
        ValueError: a pose is not rigid.
    """
    rotations, offsets = _listed(poses, 3)
    n = len(rotations)
    moved, axes = swings(rotations)
    if moved[1] < _SWING:
        raise CalibrationError(
            f"the poses turn too little, {moved[1]:.1f} degrees: swing the stylus about its tip, "
            "30 degrees to each side"
        )
    if moved[0] < _SWING:
        axis = ", ".join(f"{x:.2f}" for x in axes[0])
        raise CalibrationError(
            f"the poses turn about one axis only, ({axis}) of the stylus: swing it in a second "
            "direction, across the first"
        )
    system = np.zeros((n, 3, 6))
    system[:, :, :3] = rotations
    system[:, :, 3:] = -np.eye(3)

    def solve(weights: Floats) -> Floats:
        by = np.sqrt(weights)[:, np.newaxis]
        flat = (system * by[:, :, np.newaxis]).reshape(-1, 6)
        return least_squares(flat, -(offsets * by).reshape(-1))

    def errors(solution: Floats) -> Floats:
        left: Floats = np.linalg.norm(system @ solution + offsets, axis=1)
        return left

    found, residuals, used = fitted(solve, errors, n, least=3)
    moved, _ = swings(rotations[used])
    if moved[0] < _SWING:
        raise CalibrationError(
            "the poses that fit turn too little: keep the tip in its place while the stylus swings"
        )
    widths = np.linalg.svd(system[used].reshape(-1, 6), compute_uv=False)
    return PivotCalibration(
        tip=found[:3], pivot=found[3:], swing=float(moved[0]), residuals=residuals, used=used,
        conditioning=float(widths[-1] / widths[0]),
    )  # fmt: skip


def calibrate_spin(poses: Iterable[Pose | npt.ArrayLike]) -> SpinCalibration:
    """Find the axis about which a tool was turned.

    It may be the shaft of a rolled stylus, or a drill.

    The tool may slide along the axis.

    Args:
        poses: of the tool in the tracker, five or more; 4x4 or Pose.

    Raises:
        CalibrationError: there are too few poses, they turn too little, the axis tilts, or more
            than a third of them do not fit.
        ValueError: a pose is not rigid.
    """
    rotations, offsets = _listed(poses, 5)
    turned = float(swings(rotations)[0][1])
    if turned < _SPIN:
        raise CalibrationError(
            f"the poses turn by {turned:.1f} degrees about their axis: turn it by 90 or more"
        )

    def solve(weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        mean = (rotations * weights[:, None, None]).sum(axis=0) / weights.sum()
        u, _, v = np.linalg.svd(mean)
        axis, direction = v[0], u[:, 0]  # what the mean of all rotations turns one into the other
        across, planes = v[1:], u[:, 1:].T  # the line is looked at along itself
        by = np.sqrt(weights)[:, None, None]
        system = np.zeros((len(rotations), 2, 4))
        system[:, :, :2] = planes @ rotations @ across.T
        system[:, :, 2:] = -np.eye(2)
        target = -(offsets @ planes.T)
        found = least_squares((system * by).reshape(-1, 4), (target * by[:, :, 0]).reshape(-1))
        return axis, found[:2] @ across, direction, found[2:] @ planes

    def errors(solution: tuple[Floats, Floats, Floats, Floats]) -> Floats:
        axis, point, direction, place = solution
        square = np.zeros(len(rotations))
        for along in (0.0, _ARM):
            there = rotations @ (point + along * axis) + offsets - place
            there -= np.outer(there @ direction, direction)
            square += np.sum(there**2, axis=1) / 2
        left: Floats = np.sqrt(square)
        return left

    solution, residuals, used = fitted(solve, errors, len(rotations), least=5)
    moved, _ = swings(rotations[used])
    if moved[0] > _TILT:
        raise CalibrationError(
            f"the axis tilts by {moved[0]:.1f} degrees: hold it still and turn the tool about it"
        )
    if moved[1] < _SPIN:
        raise CalibrationError(f"the poses that fit turn by {moved[1]:.1f} degrees: turn it more")
    axis, point, direction, _ = solution
    return SpinCalibration(
        axis=axis, point=point, direction=direction, turned=float(moved[1]), residuals=residuals,
        used=used, conditioning=float(min(1.0, np.radians(moved[1]) / np.sqrt(2))),
    )  # fmt: skip
