"""An optical tracker, simulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from igtl.geometry import Pose
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform


def pose(seconds: float, tool: int = 0) -> npt.NDArray[np.float64]:
    """4x4, mm: tool number `tool` on its closed path of about 10 s, within 120 mm of the origin."""
    phase = 0.63 * seconds + 2.1 * tool
    turn, tilt = 0.8 * phase, 0.4 * np.sin(phase)
    c, s, ct, st = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    out = np.eye(4)
    out[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [
        [1, 0, 0],
        [0, ct, -st],
        [0, st, ct],
    ]
    out[:3, 3] = [
        100 * np.sin(phase), 60 * np.sin(2 * phase + tool), 40 * np.cos(phase) + 15 * tool
    ]  # fmt: skip
    return out


def noise_at(seed: int, seconds: float, *which: int) -> np.random.Generator:
    """Return a random generator for one instant: it gives the same numbers each time."""
    return np.random.default_rng((seed, round(seconds * 1e6), *which))


class Tracker:
    """Tools on smooth paths, as TRANSFORM (one tool) or TDATA (those that are seen).

    Args:
        names: of the tools.
        noise: of each coordinate, mm, standard deviation. Default: none.
        noise_degrees: of the orientation about each axis, standard deviation. Default: none.
        dropout: share of the time, 0 … 1, in which a tool is out of sight, half a second each.
        statuses: tell in the metadata, as PLUS does: `<name>Status`, "OK" or "MISSING". Needs
            header version 2.
        seed: of all that is random.
    """

    def __init__(
        self,
        names: Sequence[str] = ("ProbeToTracker", "StylusToTracker", "ReferenceToTracker"),
        *,
        noise: float = 0.0,
        noise_degrees: float = 0.0,
        dropout: float = 0.0,
        statuses: bool = False,
        seed: int = 0,
    ) -> None:
        self.names = tuple(names)
        self._noise = noise
        self._turn = np.radians(noise_degrees)
        self._dropout = dropout
        self._statuses = statuses
        self._seed = seed

    def pose(self, seconds: float, tool: int = 0) -> npt.NDArray[np.float64]:
        """4x4, mm: the function `pose` with this tracker's noise."""
        out = pose(seconds, tool)
        if self._noise or self._turn:
            rng = noise_at(self._seed, seconds, tool)
            out[:3, 3] += rng.normal(0, self._noise, 3)
            turn = rng.normal(0, self._turn, 3) / 2  # small: half the angles are the quaternion
            out[:3, :3] = Pose.of((*turn, 1.0)).rotation @ out[:3, :3]
        return out

    def sees(self, seconds: float, tool: int = 0) -> bool:
        """Return whether a tool is in sight."""
        if not self._dropout:
            return True
        return bool(noise_at(self._seed, np.floor(2 * seconds), tool, 1).random() >= self._dropout)

    def transform(self, seconds: float, tool: int = 0) -> Transform:
        """Pose of one tool; out of sight it is MISSING, if this tracker tells statuses."""
        seen = self.sees(seconds, tool)
        message = Transform(self.pose(seconds, tool), device_name=self.names[tool])
        if self._statuses:
            message.metadata["TransformStatus"] = "OK" if seen else "MISSING"
        return message

    def tracking_data(self, seconds: float) -> TrackingData:
        """Poses of all tools in sight."""
        kind = ToolType.INSTRUMENT_6D
        seen = [self.sees(seconds, k) for k in range(len(self.names))]
        tools = [
            Tool(name, kind, self.pose(seconds, k))
            for k, name in enumerate(self.names) if seen[k]
        ]  # fmt: skip
        message = TrackingData(tools, device_name="Tracker")
        if self._statuses:
            for name, there in zip(self.names, seen, strict=True):
                message.metadata[f"{name}Status"] = "OK" if there else "MISSING"
        return message
