"""Poses and pictures out of the messages of a source, by name and time."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.errors import BodyError
from igtl.geometry.calibration import CalibrationError
from igtl.geometry.pose import Floats, interpolate
from igtl.messages.imaging import Image, Video
from igtl.messages.plus import TrackedFrame, tool_states

By = Literal["timestamp", "arrival"]
_NAME: Final = re.compile(r"([A-Z]\w*?)To([A-Z]\w*)")
_GAP: Final = 0.25  # seconds between two poses: beyond, nothing is known
_SCALED: Final = 0.01  # of a pose: more is no rounding
_NAMES: Final = 200  # names that are kept apart
_POSES: Final = 500_000  # that are kept, of all names


def frame_of(name: str) -> str:
    """Return the frame X of a pose XToY; a name of another form stands for itself."""
    match = _NAME.fullmatch(name)
    return match[1] if match else name


def _base_of(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    return match[2] if match else None


def time_of(message: Message, by: By) -> float:
    """Seconds since 1970: the time stamp, or the arrival where there is none or it is wanted."""
    if by == "timestamp" and message.timestamp:
        return message.timestamp
    return message.received or message.timestamp or 0.0


class Tracks:
    """The valid poses of each name, over time.

    Args:
        by: which time counts.

    Attributes:
        invalid: poses that are left out, by name: their tracker calls them invalid, they are not
            rigid, or there are too many.
        damaged: messages whose poses could not be read.
    """

    def __init__(self, by: By = "timestamp") -> None:
        self.invalid: dict[str, int] = {}
        self.damaged = 0
        self._count = 0
        self._by: By = by
        self._poses: dict[str, tuple[list[float], list[Floats]]] = {}
        self._arrays: dict[str, tuple[Floats, Floats]] = {}

    def add(self, message: Message) -> None:
        """Take the poses of a message, if it holds some."""
        at = time_of(message, self._by)
        try:
            states = list(tool_states(message))
        except BodyError:  # of the fields of a TRACKEDFRAME
            self.damaged += 1
            return
        for name, matrix, status in states:
            if name not in self._poses and len(self._poses) >= _NAMES:
                continue
            times, matrices = self._poses.setdefault(name, ([], []))
            pose = _rigid(matrix) if status == "OK" else None
            if pose is None or self._count >= _POSES:
                self.invalid[name] = self.invalid.get(name, 0) + 1
                continue
            self._count += 1
            times.append(at)
            matrices.append(pose)
            self._arrays.pop(name, None)

    @property
    def names(self) -> list[str]:
        """The names of the poses that have arrived."""
        return sorted(self._poses)

    def chosen(self, name: str | None, option: str, *starts: str) -> str:
        """Return the name that is meant.

        It is the name that was given, or the only one that starts with one of `starts`, or the only
        one at all.

        Raises:
            CalibrationError: the name has not arrived, or several fit; the text lists them.
        """
        if not self.names:
            raise CalibrationError("no pose has arrived")
        there = ", ".join(self.names)
        if name is not None:
            if name not in self._poses:
                raise CalibrationError(f"no pose {name!r} has arrived; there are {there}")
            return name
        fitting = [each for each in self._poses if starts and each.startswith(starts)]
        found = fitting or ([*self._poses] if len(self._poses) == 1 or not starts else [])
        if len(found) != 1:
            raise CalibrationError(f"choose a pose by {option}: there are {there}")
        return found[0]

    def count(self, name: str) -> int:
        """Return how many valid poses of this name have arrived."""
        return len(self._poses[name][0])

    def of(self, name: str) -> tuple[Floats, Floats]:
        """Rising times (n,), and poses (n, 4, 4)."""
        if name not in self._arrays:
            times, first = np.unique(np.array(self._poses[name][0]), return_index=True)
            matrices = np.array(self._poses[name][1]).reshape(-1, 4, 4)[first]
            self._arrays[name] = times, matrices
        return self._arrays[name]

    def newest(self, name: str) -> float:
        """Time of the newest valid pose; -inf before there is one."""
        times, _ = self._poses.get(name, ((), ()))
        return max(times, default=-np.inf)

    def forget(self, before: float) -> None:
        """Drop poses that are older than a time, except those next to it."""
        for name in self._poses:
            times, matrices = self.of(name)
            first = max(0, int(np.searchsorted(times, before)) - 2)
            self._count -= len(self._poses[name][0]) - len(times) + first
            self._poses[name] = times[first:].tolist(), list(matrices[first:])
            self._arrays[name] = times[first:], matrices[first:]

    def at(self, name: str, times: npt.ArrayLike) -> Floats:
        """(m, 4, 4) the poses at other times, between those that came; NaN where none is near."""
        there, matrices = self.of(name)
        if not len(there):
            return np.full((np.size(times), 4, 4), np.nan)
        return interpolate(there, matrices, times, max_gap=_GAP)

    def relative(self, name: str, reference: str | None) -> tuple[Floats, Floats]:
        """Return times (n,) and poses (n, 4, 4) of a tool, seen from a reference if given."""
        times, matrices = self.of(name)
        if reference is None:
            return times, matrices
        self.same_base(name, reference)
        other = self.at(reference, times)
        known = np.isfinite(other).all(axis=(1, 2))
        return times[known], inverses(other[known]) @ matrices[known]

    def same_base(self, *names: str) -> None:
        """Refuse poses in different frames."""
        bases = {base for name in names if (base := _base_of(name)) is not None}
        if len(bases) > 1:
            raise CalibrationError(f"{' and '.join(names)} are poses in different frames")


def _rigid(matrix: npt.ArrayLike) -> Floats | None:
    """Return the nearest rigid pose of a matrix.

    None if the matrix scales by more than a hundredth.

    Electromagnetic trackers count their quaternions in few bits.
    """
    out = np.array(matrix, np.float64)
    if not np.isfinite(out).all():
        return None
    u, sizes, v = np.linalg.svd(out[:3, :3])
    turn = u @ v
    if np.abs(sizes - 1).max() > _SCALED or np.linalg.det(turn) < 0:
        return None
    out[:3, :3] = turn
    out[3] = 0, 0, 0, 1
    return out


def inverses(matrices: Floats) -> Floats:
    """(n, 4, 4) of rigid poses (n, 4, 4)."""
    out = np.zeros_like(matrices)
    turned = matrices[:, :3, :3].transpose(0, 2, 1)
    out[:, :3, :3] = turned
    out[:, :3, 3] = -np.einsum("nij,nj->ni", turned, matrices[:, :3, 3])
    out[:, 3, 3] = 1
    return out


class Pictures:
    """The pictures of one device among messages; VIDEO is decoded.

    Args:
        name: of the device; default: the only one that sends pictures.

    Attributes:
        frame: the coordinate frame of the pixels, once there is a picture: "Image" of
            "Image_Reference".
        damaged: pictures that could not be decoded.
    """

    def __init__(self, name: str | None = None) -> None:
        self.frame = "Image"
        self.damaged = 0
        self._name = name
        self._seen: set[str] = set()
        self._decoder: Any = None

    def take(self, message: Message) -> npt.NDArray[Any] | None:
        """Return the pixels of a message, or None.

        They are (slices, height, width[, colours]), of VIDEO (height, width[, colours]). None if
        the message is not a picture of this device, or cannot be decoded yet.

        Raises:
            CalibrationError: several devices send pictures, and none was chosen.
            ModuleNotFoundError: of VIDEO: the extra is missing.
        """
        if not isinstance(message, Image | TrackedFrame | Video):
            return None
        name = message.device_name
        if self._name is not None and name != self._name:
            return None
        self._seen.add(name)
        if len(self._seen) > 1:
            raise CalibrationError(f"choose pictures by --image: {', '.join(sorted(self._seen))}")
        if not isinstance(message, TrackedFrame) and name[:1].isupper():
            self.frame = name.partition("_")[0].partition("To")[0]
        if not isinstance(message, Video):
            return message.array if message.array.size else None
        if self._decoder is None:
            from igtl.video.decoder import VideoDecoder  # FFmpeg is an extra

            self._decoder = VideoDecoder()
        try:
            found: npt.NDArray[Any] | None = self._decoder.decode(message)
        except BodyError:
            self.damaged += 1
            return None
        return found
