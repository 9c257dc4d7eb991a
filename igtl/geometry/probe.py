"""Where the pixels of a tracked probe are: from touches of a stylus, or from a phantom of wires."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from igtl.geometry.calibration import Calibration, CalibrationError, finite, fitted, least_squares
from igtl.geometry.pose import Floats, Pose

_FLAT: Final = 0.05  # of its length: thinner, pixels lie on a line
_TOUCHES: Final = 4
_IMAGES: Final = 5
_ORDER: Final = "are the wires in the order of the picture?"
_ROUGH: Final = 0.6  # of the N may be outliers at the start: each has three points
_LOOSE: Final = 0.2  # of the width of the points: the greatest error of a fit
_WEAK: Final = 5e-3  # conditioning: less does not determine the answer


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeCalibration(Calibration):
    """What `calibrate_probe` and `calibrate_wires` found.

    `residuals` are (n,) or (images, wires), mm.

    Attributes:
        matrix: 4x4, from pixels (column, row, 0) to mm in the frame of the probe. The third axis
            has the mean length of the others.
        spacing: (2,), mm, the width and the height of a pixel.
    """

    matrix: Floats
    spacing: Floats


def _matrix(rotation: Floats, spacing: Floats, translation: Floats) -> Floats:
    out = np.eye(4)
    out[:3, :3] = rotation * [*spacing, spacing.mean()]
    out[:3, 3] = translation
    return out


def _spread(pixels: Floats) -> None:
    """Refuse pixels on a line."""
    widths = np.linalg.svd(pixels - pixels.mean(axis=0), compute_uv=False)
    if widths[1] <= _FLAT * widths[0] or not widths[0] > 0:
        raise CalibrationError(
            "the points lie on a line of the picture: take some in its other parts too"
        )


def _placed(
    pixels: Floats, points: Floats, weights: Floats, spacing: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """Rotation, spacing and translation that bring pixels to points.

    They are found in turns: a rotation for the spacing, then the spacing for this rotation.
    """
    w = weights[:, np.newaxis] / weights.sum()
    u, x = pixels - (w * pixels).sum(axis=0), points - (w * points).sum(axis=0)
    if spacing is None:
        affine = np.linalg.lstsq(np.sqrt(w) * u, np.sqrt(w) * x, rcond=None)[0]
        scale = np.linalg.norm(affine, axis=1)
    else:
        scale = spacing
    for _ in range(100):
        left, _, right = np.linalg.svd((w * np.c_[u * scale, np.zeros(len(u))]).T @ x)
        mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(right.T @ left.T))])
        rotation = right.T @ mirror @ left.T
        if spacing is not None:
            break
        along = x @ rotation[:, :2]
        better = (w * u * along).sum(axis=0) / (w * u * u).sum(axis=0)
        done = np.abs(better - scale).max() < 1e-9 * scale.max()
        scale = better
        if done:
            break
    centre = (w * pixels).sum(axis=0) * scale
    translation = (w * points).sum(axis=0) - rotation[:, :2] @ centre
    return rotation, scale, translation


def calibrate_probe(
    pixels: npt.ArrayLike, points: npt.ArrayLike, *, spacing: npt.ArrayLike | None = None
) -> ProbeCalibration:
    """Image to probe, from a stylus whose tip is seen in pictures.

    Rotation, position and the sizes of a pixel are fitted by least squares, without touches that do
    not fit.

    Args:
        pixels: (n, 2), columns and rows of the tip; n ≥ 4, all over the picture.
        points: (n, 3), mm, the tip in the frame of the probe.
        spacing: (2,), mm, the width and height of a pixel, if they are known.

    Raises:
        CalibrationError: the touches are too few, on a line or not finite, a size is negative, or
            more than a third of the touches do not fit.
    """
    u, x = finite("pixels", pixels, (None, 2)), finite("points", points, (None, 3))
    if len(u) != len(x):
        raise CalibrationError(f"{len(u)} pixels and {len(x)} points: must be as many")
    if len(u) < _TOUCHES:
        raise CalibrationError(f"{len(u)} touches: at least {_TOUCHES} are needed")
    given = None if spacing is None else finite("spacing", spacing, (2,))
    if given is not None and not (given > 0).all():
        raise CalibrationError(f"spacing {given}: must be above 0")
    found = _touched(u, x, given, 1 / 3)
    return _close(found, u[found.used], "are the poses of another tool, or is the tip another one?")


def _touched(u: Floats, x: Floats, given: Floats | None, outliers: float) -> ProbeCalibration:
    _spread(u)

    def solve(weights: Floats) -> tuple[Floats, Floats, Floats]:
        return _placed(u, x, weights, given)

    def errors(found: tuple[Floats, Floats, Floats]) -> Floats:
        rotation, scale, translation = found
        there = (u * scale) @ rotation[:, :2].T + translation
        left: Floats = np.linalg.norm(there - x, axis=1)
        return left

    found, residuals, used = fitted(solve, errors, len(u), least=_TOUCHES, outliers=outliers)
    _spread(u[used])
    rotation, scale, translation = found
    if not (scale > 0).all():
        raise CalibrationError("the points do not follow the pixels: are they of another tool?")
    flat = (u[used] - u[used].mean(axis=0)) * scale
    widths = np.linalg.svd(flat, compute_uv=False)
    return ProbeCalibration(
        matrix=_matrix(rotation, scale, translation), spacing=scale, residuals=residuals,
        used=used, conditioning=float(widths[1] / widths[0]),
    )  # fmt: skip


def _close(found: ProbeCalibration, pixels: Floats, cause: str) -> ProbeCalibration:
    """Refuse a wrong fit, in which all points are so far off that none is an outlier.

    Args:
        found: the fit.
        pixels: (p, 2) that were used.
        cause: what may be wrong, for the error.
    """
    width = float(np.linalg.norm(pixels.std(axis=0) * found.spacing))
    if found.error > _LOOSE * width:
        raise CalibrationError(f"the points do not fit, {found.error:.1f} mm are left: {cause}")
    return found


# ---- wires ----------------------------------------------------------------------------------


def _middles(pixels: Floats, wires: Floats) -> Floats:
    """Return where pictures cut the middle wires, in the phantom, by the ratio of what they show.

    Args:
        pixels: (n, m, 2).
        wires: (m, 2, 3).

    Returns:
        (n, m / 3, 3), mm.
    """
    one, two, three = pixels[:, 0::3], pixels[:, 1::3], pixels[:, 2::3]
    whole = three - one
    ratio = ((two - one) * whole).sum(axis=2) / (whole * whole).sum(axis=2)
    start, end = wires[:, 0], wires[:, 1]
    along = (end - start)[0::3]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = start[2::3] - start[0::3]
    across -= along * (across * along).sum(axis=1, keepdims=True)
    width = (across * across).sum(axis=1)
    front = ((start[1::3] - start[0::3]) * across).sum(axis=1) / width
    back = ((end[1::3] - start[0::3]) * across).sum(axis=1) / width
    share = (ratio - front) / (back - front)
    found: Floats = start[1::3] + share[:, :, np.newaxis] * (end - start)[1::3]
    return found


def _checked(wires: npt.ArrayLike) -> Floats:
    w = finite("wires", wires, (None, 2, 3))
    if not len(w) or len(w) % 3:
        raise CalibrationError(f"{len(w)} wires: each N has three, in the order of the picture")
    along = w[:, 1] - w[:, 0]
    lengths = np.linalg.norm(along, axis=1)
    if not (lengths > 0).all():
        raise CalibrationError("a wire has no length")
    along = along / lengths[:, np.newaxis]
    outer = np.abs((along[0::3] * along[2::3]).sum(axis=1))
    middle = np.abs((along[0::3] * along[1::3]).sum(axis=1))
    if (outer < 0.999).any() or (middle > 0.999).any():
        raise CalibrationError(
            "the wires make no N: the first and third of three are parallel, the second is not"
        )
    return w


def calibrate_wires(
    pixels: npt.ArrayLike, poses: npt.ArrayLike, wires: npt.ArrayLike, *, refine: bool = True
) -> ProbeCalibration:
    """Image to probe, from pictures of a phantom of wires in the shape of N, as PLUS has it.

    The ratio in which the middle point divides the line between the outer ones tells where the
    picture cuts the middle wire: that gives a start. From there the distances of all points from
    their wires are minimised over turn, place and sizes of a pixel, without points that do not fit.

    Args:
        pixels: (n, m, 2), columns and rows of the points in each picture, in the order of the
            wires; NaN where a point was not found. n ≥ 5. Points in another order do not fit.
        poses: (n, 4, 4), phantom to probe, mm.
        wires: (m, 2, 3), mm, the ends of each wire in the phantom; three after the other are one N.
        refine: default; False: the start is the answer, as it is for PLUS, and `residuals` are
            (n, m / 3), of the middle wires in space.

    Raises:
        CalibrationError: too few pictures, all of the same place, wires that make no N, or more
            than a third of the points do not fit.
        ValueError: a pose is not rigid.
    """
    w = _checked(wires)
    u = np.asarray(pixels, np.float64)
    if u.ndim != 3 or u.shape[1:] != (len(w), 2):
        raise CalibrationError(f"pixels {u.shape}: must be (n, {len(w)}, 2), a point for each wire")
    matrices = np.array([Pose(each).matrix for each in np.asarray(poses, np.float64)])
    if len(matrices) != len(u):
        raise CalibrationError(f"{len(u)} pictures and {len(matrices)} poses: must be as many")
    if len(u) < _IMAGES:
        raise CalibrationError(f"{len(u)} pictures: at least {_IMAGES} are needed")
    cuts = _middles(u, w)
    whole = np.isfinite(cuts).all(axis=2)
    of = np.nonzero(whole)[0]
    if len(of) < _TOUCHES:
        raise CalibrationError(f"{len(of)} whole N in all pictures: at least {_TOUCHES} are needed")
    middle = np.einsum("nij,nj->ni", matrices[of, :3, :3], cuts[whole]) + matrices[of, :3, 3]
    start = _touched(u[:, 1::3][whole], middle, None, _ROUGH)
    if not refine:
        at_middle, fitting = np.full(whole.shape, np.nan), np.zeros(whole.shape, bool)
        at_middle[whole], fitting[whole] = start.residuals, start.used
        start = replace(start, residuals=at_middle, used=fitting)
        return _close(start, u[:, 1::3][fitting], _ORDER)
    seen = np.isfinite(u).all(axis=2)
    lines = _Lines(u[seen], matrices[np.nonzero(seen)[0]], w[np.nonzero(seen)[1]], start)
    found, left, fits = fitted(lines.solve, lines.errors, int(seen.sum()), least=12)
    system = lines.system(found)[np.repeat(fits, 3)]
    widths = np.linalg.svd(system / np.linalg.norm(system, axis=0), compute_uv=False)
    conditioning = float(widths[-1] / widths[0])
    if conditioning < _WEAK:
        raise CalibrationError(
            "the pictures are all of the same place: move and turn the probe over the wires"
        )
    residuals, used = np.full(seen.shape, np.nan), np.zeros(seen.shape, bool)
    residuals[seen], used[seen] = left, fits
    result = ProbeCalibration(
        matrix=_matrix(*found), spacing=found[1], residuals=residuals, used=used,
        conditioning=conditioning,
    )  # fmt: skip
    return _close(result, u[used], _ORDER)


class _Lines:
    """Points of pictures and the wires on which they lie, in the frame of the probe.

    Args:
        pixels: (p, 2). poses: (p, 4, 4) phantom to probe. wires: (p, 2, 3).
        start: from where the solution is sought.
    """

    def __init__(
        self, pixels: Floats, poses: Floats, wires: Floats, start: ProbeCalibration
    ) -> None:
        self.pixels = pixels
        self._spacing = start.spacing
        rotation = start.matrix[:3, :3] / [*start.spacing, start.spacing.mean()]
        self._found = rotation, start.spacing, start.matrix[:3, 3]
        ends = np.einsum("pij,pkj->pki", poses[:, :3, :3], wires) + poses[:, None, :3, 3]
        along = ends[:, 1] - ends[:, 0]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        self._start = ends[:, 0]
        self._across = np.eye(3) - along[:, :, None] * along[:, None, :]  # takes out what is along

    def _off(self, found: tuple[Floats, Floats, Floats]) -> Floats:
        rotation, spacing, translation = found
        there = (self.pixels * spacing) @ rotation[:, :2].T + translation
        off: Floats = np.einsum("pij,pj->pi", self._across, there - self._start)
        return off

    def errors(self, found: tuple[Floats, Floats, Floats]) -> Floats:
        """(p,) mm."""
        distances: Floats = np.linalg.norm(self._off(found), axis=1)
        return distances

    def system(self, found: tuple[Floats, Floats, Floats]) -> Floats:
        """(3 p, 8) how the distances change with the parameters.

        These are rotation (3), position (3) and logarithms of the sizes of a pixel (2).
        """
        rotation, spacing, _ = found
        arm = (self.pixels * spacing) @ rotation[:, :2].T
        change = np.zeros((len(arm), 3, 8))
        for k, axis in enumerate(np.eye(3)):
            change[:, :, k] = np.cross(axis, arm)
        change[:, :, 3:6] = np.eye(3)
        for k in (0, 1):
            change[:, :, 6 + k] = np.outer(self.pixels[:, k] * spacing[k], rotation[:, k])
        changed: Floats = self._across @ change
        return changed.reshape(-1, 8)

    def solve(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Minimise the weighted sum of squares, by steps of Gauss and Newton."""
        by = np.sqrt(np.repeat(weights, 3))
        for _ in range(20):
            rotation, spacing, translation = self._found
            system = self.system(self._found) * by[:, None]
            step = least_squares(system, -self._off(self._found).reshape(-1) * by)
            turned = _turn(step[:3]) @ rotation
            spacing = spacing * np.exp(np.clip(step[6:], -0.3, 0.3))
            if np.abs(np.log(spacing / self._spacing)).max() > 1:
                raise CalibrationError(
                    "the points do not fit the wires: are they in the order of the picture?"
                )
            self._found = turned, spacing, translation + step[3:6]
            if np.abs(step[3:6]).max() < 1e-7 and np.abs(step[[0, 1, 2, 6, 7]]).max() < 1e-9:
                break
        return self._found


def _turn(vector: Floats) -> Floats:
    """3x3 of a rotation vector, radians."""
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0 else vector
    quaternion = np.append(axis * np.sin(angle / 2), np.cos(angle / 2))
    return Pose.of(quaternion).rotation
