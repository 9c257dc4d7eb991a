"""The calibrations that need pictures: time, and probe by stylus or by wires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.calibration.plusconfig import NamedTransform
from igtl.calibration.steps import Goal, Outcome, Panel, Seen
from igtl.calibration.tracks import By, frame_of, inverses, time_of
from igtl.codec.message import Message
from igtl.geometry.calibration import CalibrationError
from igtl.geometry.lag import TimeCalibration, calibrate_time, principal
from igtl.geometry.pictures import bright_line, bright_spots, grey
from igtl.geometry.pivot import swings
from igtl.geometry.pose import Floats
from igtl.geometry.probe import ProbeCalibration, calibrate_probe, calibrate_wires

_PARTS: Final = 12  # a picture is divided into so many rows and columns, to see that it moves
_SPOT: Final = 60  # a spot has a radius of this part of the width of a picture
_PICTURES: Final = 20_000  # that are kept in mind


class Time(Seen):
    """The lag of a tracker against pictures; see `igtl.geometry.calibrate_time`.

    The motion of a picture is that of the brightest line across it, where most pictures have one
    and it follows the probe, or else the change that most pictures share (their first principal
    component).

    Args:
        tool: name of the pose of the probe.
        image: device name of the pictures.
        by: which time of the messages counts, "timestamp" (default) or "arrival".
    """

    kind = "time"

    def __init__(
        self, tool: str | None = None, image: str | None = None, *, by: By = "timestamp"
    ) -> None:
        super().__init__(image, by=by)
        self._tool = tool
        self._times: list[float] = []
        self._lines: list[float] = []
        self._parts: list[Floats] = []

    def see(self, array: Any, message: Message) -> None:
        """Keep the time, the brightest line and the parts of a picture."""
        if len(self._times) < _PICTURES:
            picture = grey(array)
            self._times.append(time_of(message, self.by))
            self._lines.append(bright_line(picture))
            self._parts.append(_divided(picture))

    def needs(self) -> list[Goal]:
        """Enough time, pictures with a line, and motion up and down."""
        times = self._times
        seconds = times[-1] - times[0] if times else 0.0
        line = float(np.mean(np.isfinite(self._lines))) if times else 0.0
        name = self.tracks.chosen(self._tool, "--tool", "Probe")
        poses = self.tracks.of(name)[1]
        turns = _turns(principal(poses[:, :3, 3])) if len(poses) > 10 else 0
        move = "move the probe up and down, quickly, at a changing pace"
        return [
            Goal("seconds", seconds, 10, "s", move),
            Goal("movements", turns, 10, "", move),
            Goal("pictures with a line", 100 * line, 80, "%",
                 "show something that is a line: the bottom of a water tank, across the probe"),
        ]  # fmt: skip

    def solve(self) -> Outcome:
        """Return the lag; see `Step.solve`."""
        name = self.tracks.chosen(self._tool, "--tool", "Probe")
        stamps, poses = self.tracks.of(name)
        times, lines = np.array(self._times), np.array(self._lines)
        found, motion = self._found(times, lines, stamps, poses[:, :3, 3])
        probe = principal(poses[:, :3, 3])
        gain = np.corrcoef(np.interp(times + found.lag, stamps, probe), np.nan_to_num(motion))[0, 1]
        return Outcome(
            self.kind, found, (),
            {
                "lag ms": 1e3 * found.lag, "uncertainty ms": 1e3 * found.uncertainty,
                "correlation": found.correlation, "LocalTimeOffsetSec": -found.lag,
            },
            "pixels",
            Panel("the motion, without the lag", "s", "share of its deviation", (
                ("probe", stamps - found.lag - times[0], _scaled(probe) * np.sign(gain)),
                ("picture", times - times[0], _scaled(motion)),
            )),
        )  # fmt: skip

    def _found(
        self, times: Floats, lines: Floats, stamps: Floats, places: Floats
    ) -> tuple[TimeCalibration, Floats]:
        """Return the lag, and the motion of the pictures."""
        error: CalibrationError | None = None
        if len(lines) and np.isfinite(lines).mean() >= 0.8:
            try:
                return calibrate_time(times, lines, stamps, places), lines
            except CalibrationError as reason:
                error = reason
        changes = principal(np.array(self._parts).reshape(len(times), -1))
        try:
            return calibrate_time(times, changes, stamps, places), changes
        except CalibrationError as reason:
            raise error or reason from None


def _divided(picture: npt.NDArray[np.float32]) -> Floats:
    """(_PARTS²,) means of the parts of a picture."""
    rows = np.array_split(picture, min(_PARTS, len(picture)), axis=0)
    strips = np.stack([strip.mean(axis=0) for strip in rows])
    columns = np.array_split(strips, min(_PARTS, strips.shape[1]), axis=1)
    return np.stack([part.mean(axis=1) for part in columns]).astype(np.float64).ravel()


def _turns(motion: Floats) -> int:
    """Return how many times a motion goes through its middle by more than a fifth of its width."""
    low, high = np.quantile(motion, (0.02, 0.98))
    if not high - low > 1:  # mm
        return 0
    share = (motion - low) / (high - low)
    sides = np.sign(share[np.abs(share - 0.5) > 0.2] - 0.5)
    return int((np.diff(sides) != 0).sum())


def _scaled(values: Floats) -> Floats:
    found: Floats = (values - np.nanmean(values)) / max(float(np.nanstd(values)), 1e-12)
    return found


class _Spots(Seen):
    """A calibration from bright spots in pictures."""

    count: int

    def __init__(self, image: str | None, by: By) -> None:
        super().__init__(image, by=by)
        self._times: list[float] = []
        self._spots: list[Floats] = []
        self._without = 0

    def see(self, array: Any, message: Message) -> None:
        if len(self._times) >= _PICTURES:
            return
        picture = grey(array)
        self.shape = picture.shape[0], picture.shape[1]
        spots = bright_spots(picture, self.count, radius=max(4.0, self.shape[1] / _SPOT))
        if len(spots) == self.count:
            self._times.append(time_of(message, self.by))
            self._spots.append(spots)
        else:
            self._without += 1

    def _cells(self, pixels: Floats) -> int:
        """Return how many of nine parts of the picture have a point."""
        if not len(pixels):
            return 0
        height, width = self.shape
        parts = np.floor(pixels / [max(1, width), max(1, height)] * 3).clip(0, 2)
        return len(np.unique(parts, axis=0))

    def _outcome(
        self, found: ProbeCalibration, tool: str, pixels: Floats, residuals: Floats
    ) -> Outcome:
        return Outcome(
            "probe", found, (NamedTransform(self.pictures.frame, frame_of(tool), found.matrix),),
            dict(zip(("pixel width mm", "pixel height mm"), found.spacing.tolist(), strict=True)),
            "mm",
            Panel("where in the picture", "column", "row",
                  points=(pixels[:, 0], pixels[:, 1], residuals)),
        )  # fmt: skip


class Touches(_Spots):
    """Image to probe, by a stylus whose tip is the brightest spot of the pictures.

    See `igtl.geometry.calibrate_probe`.

    Args:
        tool, stylus: names of the poses of the probe and the stylus, in the same frame.
        image: device name of the pictures.
        transforms: what is known, 4x4 by name: StylusTipToStylus, unless the pose of the stylus is
            that of its tip already (StylusTipToTracker).
        by: which time of the messages counts, "timestamp" (default) or "arrival".
    """

    kind = "probe"
    count = 1

    def __init__(
        self,
        tool: str | None = None,
        stylus: str | None = None,
        image: str | None = None,
        *,
        transforms: Mapping[str, Floats] = {},
        by: By = "timestamp",
    ) -> None:
        super().__init__(image, by)
        self._tool = tool
        self._stylus = stylus
        self._known = transforms

    def needs(self) -> list[Goal]:
        """Enough pictures with the tip, in all parts of the picture."""
        pixels = np.array(self._spots).reshape(-1, 2)
        return [
            Goal("pictures", len(pixels), 30, "",
                 "hold the tip of the stylus in the picture, so that it is its brightest spot"),
            Goal("parts of the picture", self._cells(pixels), 7, "",
                 "touch all parts of the picture: left and right, near and far"),
        ]  # fmt: skip

    def solve(self) -> Outcome:
        """ImageToProbe; see `Step.solve`."""
        tool = self.tracks.chosen(self._tool, "--tool", "Probe")
        stylus = self.tracks.chosen(self._stylus, "--stylus", "Stylus")
        self.tracks.same_base(tool, stylus)
        frame = frame_of(stylus)
        tip = np.zeros(3)
        if not frame.endswith("Tip"):
            known = self._known.get(f"{frame}TipTo{frame}")
            if known is None:
                raise CalibrationError(
                    f"the tip is not known: {frame}TipTo{frame} comes from igtl calibrate pivot, "
                    "and is read by --config"
                )
            tip = known[:3, 3]
        times = np.array(self._times)
        probe, there = self.tracks.at(tool, times), self.tracks.at(stylus, times)
        known_poses = (
            np.isfinite(probe + there).all(axis=(1, 2)) if len(times) else np.zeros(0, bool)
        )
        relative = inverses(probe[known_poses]) @ there[known_poses]
        points = relative[:, :3, :3] @ tip + relative[:, :3, 3]
        pixels = np.array(self._spots).reshape(-1, 2)[known_poses]
        found = calibrate_probe(pixels, points)
        return self._outcome(found, tool, pixels, found.residuals)


class Wires(_Spots):
    """Image to probe, by a phantom of wires in the shape of N; see `igtl.geometry.calibrate_wires`.

    In a picture the N lie one under the other, and their wires side by side, in the order of
    `wires`; the fit tells whether from left to right or the other way.

    Args:
        wires: (m, 2, 3), mm, the ends of the wires in the phantom.
        tool, phantom: names of the poses of the probe, and of the phantom or the marker on it, in
            the same frame.
        image: device name of the pictures.
        transforms: what is known, 4x4 by name: PhantomToReference, if the marker on the phantom is
            Reference; without it the marker is the phantom.
        by: which time of the messages counts, "timestamp" (default) or "arrival".
    """

    kind = "probe"

    def __init__(
        self,
        wires: Floats,
        tool: str | None = None,
        phantom: str | None = None,
        image: str | None = None,
        *,
        transforms: Mapping[str, Floats] = {},
        by: By = "timestamp",
    ) -> None:
        super().__init__(image, by)
        self.count = len(wires)
        if not self.count or self.count % 3:
            raise CalibrationError(f"the phantom has {self.count} wires: each N has three")
        self._wires = wires
        self._tool = tool
        self._phantom = phantom
        self._known = transforms

    def _relative(self) -> tuple[str, Floats, Floats]:
        """Name of the probe, pixels (n, m, 2), and phantom to probe (n, 4, 4)."""
        tool = self.tracks.chosen(self._tool, "--tool", "Probe")
        start = "Reference" if "PhantomToReference" in self._known else "Phantom"
        phantom = self.tracks.chosen(self._phantom, "--reference", start)
        self.tracks.same_base(tool, phantom)
        times = np.array(self._times)
        probe, there = self.tracks.at(tool, times), self.tracks.at(phantom, times)
        known = np.isfinite(probe + there).all(axis=(1, 2)) if len(times) else np.zeros(0, bool)
        spots = np.array(self._spots).reshape(-1, self.count, 2)[known]
        registered = self._known.get(f"PhantomTo{frame_of(phantom)}", np.eye(4))
        return tool, _ordered(spots), inverses(probe[known]) @ there[known] @ registered

    def needs(self) -> list[Goal]:
        """Enough pictures, taken along the wires and with the probe turned."""
        poses = self._relative()[2]
        turned = swings(poses[:, :3, :3])[0] if len(poses) else np.zeros(3)
        width = np.ptp(poses[:, :3, 3], axis=0).max() if len(poses) else 0.0
        return [
            Goal("pictures", len(self._times), 30, "", f"show all {self.count} wires"),
            Goal("way", float(width), 10, "mm", "move the probe to and fro along the wires"),
            Goal("turn", float(turned[1]), 3, "degrees", "tilt and turn the probe over the wires"),
        ]  # fmt: skip

    def solve(self) -> Outcome:
        """ImageToProbe; see `Step.solve`."""
        tool, pixels, poses = self._relative()
        mirrored = pixels.reshape(len(pixels), -1, 3, 2)[:, :, ::-1].reshape(pixels.shape)
        found: ProbeCalibration | None = None
        error: CalibrationError | None = None
        for points in (pixels, mirrored):  # by which side of the probe is marked
            try:
                each = calibrate_wires(points, poses, self._wires)
            except CalibrationError as reason:
                error = error or reason
                continue
            if found is None or each.error < found.error:
                found, pixels = each, points
        if found is None:
            assert error is not None
            raise error
        return self._outcome(found, tool, pixels.reshape(-1, 2), found.residuals.ravel())


def _ordered(spots: Floats) -> Floats:
    """Spots (n, m, 2) from top to bottom by threes, and each three from left to right."""
    n, m, _ = spots.shape
    rows = np.argsort(spots[:, :, 1], axis=1)
    layers = np.take_along_axis(spots, rows[:, :, None], axis=1).reshape(n * m // 3, 3, 2)
    columns = np.argsort(layers[:, :, 0], axis=1)
    return np.take_along_axis(layers, columns[:, :, None], axis=1).reshape(n, m, 2)
