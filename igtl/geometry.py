"""Rigid poses: as objects, between frames by name, from points and from a pivoting stylus.

    probe = Pose(transform.matrix); probe @ [[0, 0, 10]]    # points of the probe, in the tracker
    graph = TransformGraph(); graph.add(message); graph["ImageToReference"]
    registration = register(fiducials_ct, fiducials_tracker); registration.fre
    tip = calibrate_pivot(poses).tip

Lengths are mm, quaternions (x, y, z, w). A pose named XToY maps points of X to points of Y.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from igtl._core import matrix_of_quaternion, quaternion_of_matrix
from igtl.errors import IgtlError
from igtl.message import Message
from igtl.messages.tracking import Position, QuaternionTransform, TrackingData, Transform

Floats = npt.NDArray[np.float64]

_RIGID: Final = 1e-4  # of a unit vector: what float32 on the wire and a tracker leave
_FLAT: Final = 1e-3  # of its length: what is thinner is a line to a registration
_TURNED: Final = 0.02  # least singular value of a pivot's poses; about 3 degrees each way
_NAME: Final = re.compile(r"^([A-Z0-9]\w*?)To([A-Z0-9]\w*)$")


class CalibrationError(IgtlError, ValueError):
    """What was measured does not determine the answer: too few points, on a line, not finite."""


class NoTransform(IgtlError, LookupError):
    """There is no way from one frame to the other, or none that is fresh.

    Attributes:
        name: what was asked for.
        reason: why not.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[NoTransform], tuple[str, str]]:
        return type(self), (self.name, self.reason)


def is_rigid(matrix: npt.ArrayLike) -> bool:
    """Whether a 4x4 (or 3x4) is a rotation and a translation, and nothing else."""
    m = np.asarray(matrix, np.float64)
    r = m[:3, :3]
    with np.errstate(all="ignore"):
        straight = np.isfinite(m).all() and np.abs(r.T @ r - np.eye(3)).max() < _RIGID
    return bool(straight and np.linalg.det(r) > 0)


def slerp(p: npt.ArrayLike, q: npt.ArrayLike, share: float | npt.ArrayLike) -> Floats:
    """Unit quaternions at `share` (0…1) of the shorter way from p to q: (4,), or (n, 4) each with
    shares (n,)."""
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
    """A rotation and a translation. Never changed: what computes with it makes a new one.

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
                raise ValueError("the matrix is no rigid pose: it scales, shears, mirrors or is "
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
        """Of a TRANSFORM, POSITION or QTRANS, or of a tool of TDATA or QTDATA.

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
        """The way back."""
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
        """The pose at `share` (0…1) of the way to another: slerp, and a straight line."""
        way = (1 - share) * self.translation + share * other.translation
        return Pose.of(slerp(self.quaternion, other.quaternion, share), way)

    def distance(self, other: Pose) -> tuple[float, float]:
        """How far apart two are: mm, and degrees."""
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
        max_gap: between two neighbours, in the unit of times: beyond, nothing is known.

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
    quaternions = np.stack([Pose(one).quaternion for one in m])
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


# ---- frames by name -----------------------------------------------------------------------------


class _Edge(NamedTuple):
    pose: Pose
    arrived: float  # monotonic


class Problem(NamedTuple):
    """What is wrong with a graph: kind is "stale" or "cycle"."""

    kind: str
    names: tuple[str, ...]
    text: str


class TransformGraph:
    """Poses between frames, by names of the form XToY, as PLUS and 3D Slicer use them.

        graph.add(transform)                # a message named "ProbeToTracker"
        graph["ImageToReference"]           # 4x4, over as many links as it takes, either way

    Args:
        max_age: seconds after which a link is stale, counted from its arrival; None: never.

    Links are replaced by newer ones of the same name (or of the way back). One that PLUS declares
    invalid (metadata "TransformStatus", of a tool its name + "Status", other than "OK") is taken
    out.
    """

    def __init__(
        self, *, max_age: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age = max_age
        self._clock = clock
        self._edges: dict[tuple[str, str], _Edge] = {}

    def add(self, message: Message) -> None:
        """Take a TRANSFORM, POSITION or QTRANS by its device name, or each tool of a TDATA by its
        name; those whose name is not XToY are no link, and are left out.

        Raises:
            ValueError: a matrix is not rigid.
        """
        if isinstance(message, TrackingData):
            for tool in message.tools:
                if not _NAME.match(tool.name):
                    continue
                if message.metadata.get(f"{tool.name}Status", "OK") != "OK":
                    self.remove(tool.name)
                else:
                    self.set(tool.name, Pose.from_message(tool), arrived=message.received_monotonic)
        elif isinstance(message, Transform | Position | QuaternionTransform):
            name = message.device_name
            if not _NAME.match(name):
                return
            if message.metadata.get("TransformStatus", "OK") != "OK":
                self.remove(name)
            else:
                self.set(name, Pose.from_message(message), arrived=message.received_monotonic)

    def set(self, name: str, pose: Pose | npt.ArrayLike, *, arrived: float | None = None) -> None:
        """Set a link.

        Args:
            name: XToY.
            arrived: when, by the clock; default now.

        Raises:
            ValueError: the name is not of that form, or the matrix is not rigid.
        """
        a, b = _frames(name)
        self._edges.pop((b, a), None)
        now = self._clock() if arrived is None else arrived
        self._edges[a, b] = _Edge(pose if isinstance(pose, Pose) else Pose(pose), now)

    def remove(self, name: str) -> None:
        """Take a link out, if it is there."""
        a, b = _frames(name)
        self._edges.pop((a, b), None)
        self._edges.pop((b, a), None)

    @property
    def names(self) -> list[str]:
        """The links there are."""
        return sorted(f"{a}To{b}" for a, b in self._edges)

    def __getitem__(self, name: str) -> Floats:
        """4x4 that maps points of X to points of Y; the way of fewest links.

        Raises:
            NoTransform: there is none, or only over a stale link; the text says what there is.
        """
        return self.pose(name).matrix

    def pose(self, name: str) -> Pose:
        """As a Pose; see `graph[name]`."""
        a, b = _frames(name)
        path = self._path(a, b, fresh=True)
        if path is None:
            raise NoTransform(name, self._why(a, b))
        found = Pose()
        for one, two in path:
            found = self._step(one, two) @ found
        return found

    def _step(self, a: str, b: str) -> Pose:
        edge = self._edges.get((a, b))
        return edge.pose if edge is not None else self._edges[b, a].pose.inverse

    def _stale(self, edge: _Edge) -> bool:
        return self._max_age is not None and self._clock() - edge.arrived > self._max_age

    def _path(
        self, a: str, b: str, *, fresh: bool, without: tuple[str, str] | None = None
    ) -> list[tuple[str, str]] | None:
        next_to: dict[str, list[str]] = {}
        for (one, two), edge in self._edges.items():
            if (one, two) != without and not (fresh and self._stale(edge)):
                next_to.setdefault(one, []).append(two)
                next_to.setdefault(two, []).append(one)
        if a == b and a in next_to:
            return []
        came: dict[str, str] = {a: a}
        waiting = deque([a])
        while waiting:
            here = waiting.popleft()
            for there in next_to.get(here, ()):
                if there not in came:
                    came[there] = here
                    waiting.append(there)
        if b not in came or a == b:
            return None
        path = []
        while b != a:
            path.append((came[b], b))
            b = came[b]
        return path[::-1]

    def _why(self, a: str, b: str) -> str:
        frames = {frame for edge in self._edges for frame in edge}
        known = f"there are {', '.join(self.names) or 'none'}"
        for frame in (a, b):
            if frame not in frames:
                return f"no link to {frame!r}; {known}"
        path = self._path(a, b, fresh=False)
        if path is None:
            return f"{a!r} and {b!r} are not joined; {known}"
        for one, two in path:
            edge = self._edges.get((one, two)) or self._edges[two, one]
            if self._stale(edge):
                age = self._clock() - edge.arrived
                name = f"{one}To{two}" if (one, two) in self._edges else f"{two}To{one}"
                return f"{name} is {age:.3g} s old, the limit is {self._max_age:g} s"
        return known

    def problems(self) -> list[Problem]:
        """Links that are stale; and links that close a cycle, which makes one of them needless,
        with how much the ways around it disagree."""
        found = []
        for (a, b), edge in self._edges.items():
            name = f"{a}To{b}"
            if self._stale(edge):
                age = self._clock() - edge.arrived
                found.append(Problem("stale", (name,), f"{name} is {age:.3g} s old"))
        seen: set[frozenset[str]] = set()
        for (a, b), edge in self._edges.items():
            path = self._path(a, b, fresh=False, without=(a, b))
            if path is None:
                continue
            names = [f"{a}To{b}"]
            other = Pose()
            for one, two in path:
                names.append(f"{one}To{two}" if (one, two) in self._edges else f"{two}To{one}")
                other = self._step(one, two) @ other
            if frozenset(names) not in seen:
                seen.add(frozenset(names))
                mm, degrees = edge.pose.distance(other)
                off = f"{mm:.3g} mm, {degrees:.3g} degrees"
                text = f"{', '.join(names)} close a cycle; it fails to close by {off}"
                found.append(Problem("cycle", tuple(names), text))
        return found


def _frames(name: str) -> tuple[str, str]:
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is not of the form XToY, each with a capital first letter")
    return match[1], match[2]


# ---- registration and calibration ---------------------------------------------------------------


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
        """Expected target registration error at points (3,) or (n, 3) of the source, mm, from the
        FRE and how the fiducials lie (Fitzpatrick, West and Maurer, 1998). With three points
        the FRE says little."""
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
    """The rigid pose that brings points closest to their partners (least squares, Kabsch 1976).

    Args:
        source, target: (n, 3), mm, n ≥ 3, in the same order, not on a line.

    Raises:
        CalibrationError: too few points, on a line, not finite, or not as many in both.
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


class PivotCalibration(NamedTuple):
    """What `calibrate_pivot` found.

    Attributes:
        tip: (3,), mm, the tip in the frame of the stylus.
        pivot: (3,), mm, the place it stood on, in the frame of the tracker.
        error: root mean square of `residuals`, mm.
        residuals: (n,), mm, how far the tip is from the pivot in each pose.
    """

    tip: Floats
    pivot: Floats
    error: float
    residuals: Floats


def calibrate_pivot(poses: Iterable[Pose | npt.ArrayLike]) -> PivotCalibration:
    """The tip of a stylus that was turned about its tip (least squares of R · tip + t = pivot).

    Args:
        poses: of the stylus in the tracker, three or more, turned about more than one axis; 4x4
            or Pose.

    Raises:
        CalibrationError: too few of them, or they turn too little, or about one axis only.
        ValueError: one is not rigid.
    """
    listed = [pose if isinstance(pose, Pose) else Pose(pose) for pose in poses]
    n = len(listed)
    if n < 3:
        raise CalibrationError(f"{n} poses: three are needed")
    system = np.zeros((n, 3, 6))
    system[:, :, :3] = [pose.rotation for pose in listed]
    system[:, :, 3:] = -np.eye(3)
    offsets = np.array([pose.translation for pose in listed])
    flat = system.reshape(-1, 6)
    widths = np.linalg.svd(flat, compute_uv=False)
    if widths[-1] < _TURNED * np.sqrt(n):
        raise CalibrationError(
            "the poses turn too little, or about one axis only: swing the stylus in two directions"
        )
    found, *_ = np.linalg.lstsq(flat, -offsets.reshape(-1), rcond=None)
    residuals = np.linalg.norm((flat @ found).reshape(-1, 3) + offsets, axis=1)
    error = float(np.sqrt(np.mean(residuals**2)))
    return PivotCalibration(found[:3], found[3:], error, residuals)
