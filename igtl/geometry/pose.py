"""Poses, and poses between others."""

from __future__ import annotations

from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt

from igtl._core import matrix_of_quaternion, quaternion_of_matrix
from igtl.messages.tracking import Position

Floats = npt.NDArray[np.float64]
_RIGID: Final = (
    1e-3  # of squared lengths: trackers and files of few decimals leave 2e-4, scales more
)


def is_rigid(matrix: npt.ArrayLike) -> bool:
    """Return whether a 4x4 (or 3x4) is a rotation and a translation, and nothing else.

    Lengths may be off by 0.05 %: a tracker's rotations, and those of a text file, are not exact.
    """
    m = np.asarray(matrix, np.float64)
    r = m[:3, :3]
    with np.errstate(all="ignore"):
        straight = np.isfinite(m).all() and np.abs(r.T @ r - np.eye(3)).max() < _RIGID
    return bool(straight and np.linalg.det(r) > 0)


def slerp(p: npt.ArrayLike, q: npt.ArrayLike, share: float | npt.ArrayLike) -> Floats:
    """Return unit quaternions at `share` (0…1) of the shorter way from p to q.

    The result is (4,), or (n, 4) for shares (n,).
    """
    a, b = np.asarray(p, np.float64), np.asarray(q, np.float64)
    cosine = np.sum(a * b, -1, keepdims=True)
    b = np.where(cosine < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    at = np.asarray(share, np.float64)[..., np.newaxis]
    sine = np.sin(angle)
    near = sine < 1e-3  # so close that a straight line is right
    safe = np.where(near, 1, sine)
    mixed = (
        np.where(near, 1 - at, np.sin((1 - at) * angle) / safe) * a
        + np.where(near, at, np.sin(at * angle) / safe) * b
    )
    result: Floats = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)
    return result


class Pose:
    """A rotation and a translation. It never changes: every operation makes a new Pose.

    Args:
        matrix: 4x4 or 3x4. Rounding errors are taken out of its rotation.

    Raises:
        ValueError: it scales, shears or mirrors, or is not finite.
    """

    __slots__ = ("_matrix",)

    def __init__(self, matrix: npt.ArrayLike | None = None) -> None:
        m = np.eye(4)
        if matrix is not None:
            given = np.asarray(matrix, np.float64)
            if given.shape not in ((4, 4), (3, 4)):
                raise ValueError(f"shape {given.shape}, must be (4, 4) or (3, 4)")
            m[: len(given)] = given
            if not is_rigid(m) or not np.allclose(m[3], (0, 0, 0, 1)):
                raise ValueError("the matrix is not a rigid pose: it scales, shears, mirrors or is "
                                 "not finite")  # fmt: skip
            u, _, v = np.linalg.svd(m[:3, :3])
            m[:3, :3] = u @ v
        m.flags.writeable = False
        self._matrix = m

    @classmethod
    def of(cls, rotation: Any = None, translation: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Pose:
        """From a rotation and a translation.

        Args:
            rotation: a quaternion (x, y, z, w) of any length but 0, a 3x3, or a Rotation of
                scipy. Default: none.
            translation: mm.
        """
        m = np.eye(4)
        if hasattr(rotation, "as_matrix"):
            rotation = rotation.as_matrix()
        if rotation is not None:
            given = np.asarray(rotation, np.float64)
            m[:3, :3] = matrix_of_quaternion(given) if given.shape == (4,) else given
        m[:3, 3] = translation
        return cls(m)

    @classmethod
    def from_message(cls, message: Any) -> Pose:
        """Return the pose of a TRANSFORM, POSITION or QTRANS, or of a tool of TDATA or QTDATA.

        Raises:
            ValueError: its matrix is not rigid.
        """
        if isinstance(message, Position):
            return cls.of(message.orientation, message.position)
        if hasattr(message, "matrix"):
            return cls(message.matrix)
        return cls.of(message.quaternion, message.position)

    @property
    def matrix(self) -> Floats:
        """4x4, read-only."""
        return self._matrix

    @property
    def rotation(self) -> Floats:
        """3x3, read-only."""
        return self._matrix[:3, :3]

    @property
    def translation(self) -> Floats:
        """(3,), mm, read-only."""
        return self._matrix[:3, 3]

    @property
    def quaternion(self) -> Floats:
        """(x, y, z, w), w ≥ 0."""
        return quaternion_of_matrix(self._matrix)

    @property
    def inverse(self) -> Pose:
        """The inverse pose."""
        m = np.eye(4)
        m[:3, :3] = self.rotation.T
        m[:3, 3] = -self.rotation.T @ self.translation
        return Pose(m)

    @overload
    def __matmul__(self, other: Pose) -> Pose: ...
    @overload
    def __matmul__(self, other: npt.ArrayLike) -> Floats: ...
    def __matmul__(self, other: Any) -> Any:
        """After another pose, or points (3,) or (n, 3) moved by it."""
        if isinstance(other, Pose):
            return Pose(self._matrix @ other._matrix)
        points = np.asarray(other, np.float64)
        if points.shape[-1:] != (3,):
            return NotImplemented
        return points @ self.rotation.T + self.translation

    def to(self, other: Pose, share: float) -> Pose:
        """Return the pose at `share` (0…1) of the way to another: slerp, and a straight line."""
        way = (1 - share) * self.translation + share * other.translation
        return Pose.of(slerp(self.quaternion, other.quaternion, share), way)

    def distance(self, other: Pose) -> tuple[float, float]:
        """Return the distance of two poses: mm, and degrees."""
        turn = self.rotation.T @ other.rotation
        sine = np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0],
                               turn[1, 0] - turn[0, 1]]) / 2  # fmt: skip
        degrees = np.degrees(np.arctan2(sine, (np.trace(turn) - 1) / 2))
        return float(np.linalg.norm(self.translation - other.translation)), float(degrees)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pose) and np.array_equal(self._matrix, other._matrix)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        x, y, z = self.translation
        q = ", ".join(f"{n:.4g}" for n in self.quaternion)
        return f"Pose(translation=({x:.4g}, {y:.4g}, {z:.4g}) mm, quaternion=({q}))"

    def _repr_html_(self) -> str:
        from igtl import notebook  # with its table of entities, for notebooks only

        return notebook.facts("Pose in mm", [("matrix", notebook.matrix(self.matrix))])


def interpolate(
    times: npt.ArrayLike,
    matrices: npt.ArrayLike,
    at: npt.ArrayLike,
    *,
    max_gap: float | None = None,
) -> Floats:
    """Poses between those of a tracker: rotations by slerp, translations on straight lines.

    Args:
        times: (n,), rising, of any unit.
        matrices: (n, 4, 4), rigid; for example of `igtl.batch`.
        at: (m,), times wanted.
        max_gap: longest gap between two neighbours, in the unit of times, over which poses are
            interpolated. Default: any.

    Returns:
        (m, 4, 4); NaN before the first, after the last, and in a gap.

    Raises:
        ValueError: the shapes do not agree, the times do not rise, or a matrix is not rigid.
    """
    t = np.asarray(times)
    m = np.asarray(matrices, np.float64)
    wanted = np.atleast_1d(np.asarray(at))
    if t.ndim != 1 or m.shape != (len(t), 4, 4) or len(t) < 1:
        raise ValueError(f"times {t.shape} and matrices {m.shape}: must be (n,) and (n, 4, 4)")
    if (t[1:] <= t[:-1]).any():
        raise ValueError("the times do not rise")
    r = m[:, :3, :3]
    with np.errstate(all="ignore"):
        off = np.abs(r.transpose(0, 2, 1) @ r - np.eye(3)).max(axis=(1, 2))
        if not (np.isfinite(m).all() and (off < _RIGID).all() and (np.linalg.det(r) > 0).all()):
            raise ValueError("a matrix is not a rigid pose")
    quaternions = np.array([quaternion_of_matrix(one) for one in m])
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    right = np.clip(np.searchsorted(t, wanted), 1 if len(t) > 1 else 0, len(t) - 1)
    left = np.maximum(right - 1, 0)
    # differences first: nanoseconds since 1970 have no room for fractions in a float
    gap = (t[right] - t[left]).astype(np.float64)
    share = (wanted - t[left]).astype(np.float64) / np.where(gap > 0, gap, 1)
    turned = slerp(quaternions[left], quaternions[right], share)
    out = np.zeros((len(wanted), 4, 4))
    out[:, :3, :3] = [matrix_of_quaternion(q) for q in turned]
    out[:, :3, 3] = (
        m[left, :3, 3] * (1 - share)[:, np.newaxis] + m[right, :3, 3] * share[:, np.newaxis]
    )
    out[:, 3, 3] = 1
    unknown = (wanted < t[0]) | (wanted > t[-1])
    if max_gap is not None:
        unknown |= (gap > max_gap) & (share > 0) & (share < 1)
    out[unknown] = np.nan
    return out
