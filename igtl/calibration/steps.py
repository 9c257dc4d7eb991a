"""Calibrations as they are carried out.

A step collects what arrives, says which motion is still missing, and computes the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

import numpy as np

from igtl.calibration.plusconfig import NamedTransform
from igtl.calibration.tracks import By, Pictures, Tracks, frame_of
from igtl.codec.message import Message
from igtl.geometry.calibration import Calibration, CalibrationError
from igtl.geometry.pivot import calibrate_pivot, calibrate_spin, swings
from igtl.geometry.pose import Floats


class Goal(NamedTuple):
    """A quantity that a calibration needs, and how much of it there is.

    Attributes:
        name: what it is.
        have, want: how much there is, and how much is needed.
        unit: of both.
        hint: what the user does to get more.
    """

    name: str
    have: float
    want: float
    unit: str
    hint: str

    @property
    def reached(self) -> bool:
        """Whether there is enough."""
        return self.have >= self.want


class Panel(NamedTuple):
    """What a picture of the residuals shows next to them.

    Attributes:
        title, x_label, y_label: texts.
        lines: (label, x, y) each: a line, and samples of it.
        points: x, y and residual of each sample; or None.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[tuple[str, Floats, Floats], ...] = ()
    points: tuple[Floats, Floats, Floats] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a calibration has found.

    Attributes:
        kind: "pivot", "spin", "time" or "probe".
        result: all of it.
        transforms: what is written and sent.
        facts: further results, by name, with the unit in the name.
        unit: of the residuals.
        panel: for a picture.
        date: when it was made.
    """

    kind: str
    result: Calibration
    transforms: tuple[NamedTransform, ...]
    facts: Mapping[str, float]
    unit: str
    panel: Panel
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"))

    def dated(self) -> tuple[NamedTransform, ...]:
        """Return the transforms with error and date."""
        return tuple(
            NamedTransform(t.source, t.target, t.matrix, self.result.error, self.date)
            for t in self.transforms
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON-able values."""
        result = self.result
        return {
            "kind": self.kind,
            "date": self.date,
            "samples": result.samples,
            "rejected": result.rejected,
            "error": result.error,
            "worst": result.worst,
            "unit": self.unit,
            "conditioning": result.conditioning,
            "facts": dict(self.facts),
            "transforms": [
                {"from": t.source, "to": t.target, "matrix": t.matrix.tolist()}
                for t in self.transforms
            ],
        }


class Step(ABC):
    """One calibration.

    Feed it all messages of a source by `add`; names that are not given are found if there is no
    choice.

    Args:
        by: which time of the messages counts.
    """

    kind: ClassVar[str]

    def __init__(self, by: By = "timestamp") -> None:
        self.tracks = Tracks(by)
        self.by: By = by

    def add(self, message: Message) -> None:
        """Take a message; messages that are not needed are ignored."""
        self.tracks.add(message)

    @property
    def damaged(self) -> int:
        """Messages that could not be used."""
        return self.tracks.damaged

    def goals(self) -> list[Goal]:
        """Return the goals, and how much of each there is so far.

        If poses have not arrived, or one of several must be chosen, that is the only goal.
        """
        try:
            return self.needs()
        except CalibrationError as error:
            return [Goal("poses", 0, 1, "", str(error))]

    @abstractmethod
    def needs(self) -> list[Goal]:
        """Return the same as `goals`, with an error where a tool is missing.

        Raises:
            CalibrationError: it is not clear which tool is meant, or its poses have not arrived.
        """

    @abstractmethod
    def solve(self) -> Outcome:
        """Return the answer from what has arrived.

        Raises:
            CalibrationError: the samples do not determine an answer.
        """


def missing(goals: list[Goal]) -> list[str]:
    """Return the hints of the goals that are not reached."""
    return list(dict.fromkeys(goal.hint for goal in goals if not goal.reached))


class _Turned(Step):
    """A calibration from the poses of one tool.

    Args:
        tool: its name.
        reference: of what it is seen from, if that is not the tracker.
    """

    def __init__(
        self, tool: str | None = None, reference: str | None = None, *, by: By = "timestamp"
    ) -> None:
        super().__init__(by)
        self._tool = tool
        self._reference = reference

    def _poses(self) -> tuple[str, Floats]:
        name = self.tracks.chosen(self._tool, "--tool", "Stylus")
        if self._reference is not None:
            self.tracks.chosen(self._reference, "--reference")
        poses = self.tracks.relative(name, self._reference)[1]
        if not len(poses):
            raise CalibrationError(f"no valid pose of {name} has arrived")
        return frame_of(name), poses


class Pivot(_Turned):
    """The tip of a stylus: it stands on its tip and swings; see `igtl.geometry.calibrate_pivot`."""

    kind = "pivot"

    def needs(self) -> list[Goal]:
        """Swing to all sides, and samples."""
        _, poses = self._poses()
        moved, _ = swings(poses[:, :3, :3])
        swing = "swing the stylus about its tip, 30 degrees to each side"
        return [
            Goal("swing", float(moved[1]), 10, "degrees", swing),
            Goal("swing across", float(moved[0]), 10, "degrees",
                 swing if moved[1] < 10 else "swing it in the other direction too, across"),
            Goal("sides", _sides(poses), 6, "",
                 "lean the stylus to all sides, as on a cone"),
            Goal("samples", len(poses), 100, "", "take more samples"),
        ]  # fmt: skip

    def solve(self) -> Outcome:
        """StylusTipToStylus; see `Step.solve`."""
        frame, poses = self._poses()
        found = calibrate_pivot(poses)
        tips = poses[:, :3, :3] @ found.tip + poses[:, :3, 3] - found.pivot
        return Outcome(
            self.kind, found, (NamedTransform(f"{frame}Tip", frame, found.matrix),),
            dict(zip(("tip x mm", "tip y mm", "tip z mm"), found.tip.tolist(), strict=True))
            | {"swing degrees": found.swing},
            "mm",
            Panel("the tip about the pivot", "x, mm", "y, mm",
                  points=(tips[:, 0], tips[:, 1], found.residuals)),
        )  # fmt: skip


def _sides(poses: Floats) -> int:
    """To how many of eight sides the stylus has leaned, by at least 8 degrees."""
    try:
        found = calibrate_pivot(poses)
    except CalibrationError:
        return 0
    arms = poses[:, :3, 3] - found.pivot
    length = float(np.median(np.linalg.norm(arms, axis=1)))
    if not length > 1:  # the marker is at the tip: its place shows no side
        return 8
    arms = arms / length
    middle = arms.mean(axis=0)
    middle /= np.linalg.norm(middle)
    off = arms - np.outer(arms @ middle, middle)
    first, second = np.linalg.svd(middle[np.newaxis])[2][1:]
    far = np.linalg.norm(off, axis=1) > np.sin(np.radians(8))
    angles = np.arctan2(off[far] @ second, off[far] @ first)
    return len(set(np.floor((angles + np.pi) / (np.pi / 4)).clip(0, 7).astype(int).tolist()))


class Spin(_Turned):
    """The axis of a stylus: it is rolled about its shaft; see `igtl.geometry.calibrate_spin`.

    Args:
        tool: name of the pose of the stylus.
        reference: of what it is seen from, if that is not the tracker.
        transforms: what is known, 4x4 by name: with StylusTipToStylus the axis begins at the tip.
        by: which time of the messages counts, "timestamp" (default) or "arrival".
    """

    kind = "spin"

    def __init__(
        self,
        tool: str | None = None,
        reference: str | None = None,
        *,
        transforms: Mapping[str, Floats] = {},
        by: By = "timestamp",
    ) -> None:
        super().__init__(tool, reference, by=by)
        self._known = transforms

    def needs(self) -> list[Goal]:
        """Return a turn about the shaft, and samples."""
        _, poses = self._poses()
        moved, _ = swings(poses[:, :3, :3])
        return [
            Goal("turn", float(moved[1]), 30, "degrees",
                 "roll the stylus about its shaft, 90 degrees to each side"),
            Goal("samples", len(poses), 50, "", "take more samples"),
        ]  # fmt: skip

    def solve(self) -> Outcome:
        """Return the axis, as a transform to the stylus; see `Step.solve`."""
        frame, poses = self._poses()
        found = calibrate_spin(poses)
        known = self._known.get(f"{frame}TipTo{frame}")
        matrix = found.matrix(None if known is None else known[:3, 3])
        source = f"{frame}Axis" if known is None else f"{frame}Tip"
        axis = matrix[:3, 2]
        ends = poses[:, :3, :3] @ found.axis
        u, v = np.linalg.svd(found.direction[np.newaxis])[2][1:]
        return Outcome(
            self.kind, found, (NamedTransform(source, frame, matrix),),
            dict(zip(("axis x", "axis y", "axis z"), axis.tolist(), strict=True))
            | {"turn degrees": found.turned},
            "mm",
            Panel("how the axis tilts", "degrees", "degrees",
                  points=(np.degrees(ends @ u), np.degrees(ends @ v), found.residuals)),
        )  # fmt: skip


class Seen(Step):
    """A calibration from pictures and poses.

    Args:
        image: device name of the pictures; default: the only one that sends pictures.
        by: which time of the messages counts.
    """

    def __init__(self, image: str | None = None, *, by: By = "timestamp") -> None:
        super().__init__(by)
        self.pictures = Pictures(image)
        self.shape = 0, 0

    def add(self, message: Message) -> None:
        """Take a message: its poses, and its picture if it is one of the chosen device."""
        super().add(message)
        if (array := self.pictures.take(message)) is not None:
            self.see(array, message)

    @property
    def damaged(self) -> int:
        """Messages that could not be used, poses and pictures."""
        return self.tracks.damaged + self.pictures.damaged

    @abstractmethod
    def see(self, array: Any, message: Message) -> None:
        """Take what is needed from a picture."""
