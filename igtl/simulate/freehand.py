"""A tracked probe and a stylus in the hand of a person who calibrates them and scans with them.

The messages of each step, and the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.geometry.pose import Pose
from igtl.messages.imaging import Image
from igtl.messages.tracking import Transform

Floats = npt.NDArray[np.float64]
WIDTH, HEIGHT = 200, 160
_RATE: Final = 20.0  # pictures and poses a second
_FAST: Final = 100.0  # poses a second of the water tank
_SPOT: Final = 2.0  # pixels, of what is bright


def _turned(*degrees: float) -> Floats:
    """3x3 of turns about x, y and z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn, (one, other) = np.eye(3), ((1, 2), (2, 0), (0, 1))[axis]
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[other, one] = np.sin(angle)
        turn[one, other] = -np.sin(angle)
        out = turn @ out
    return out


class Freehand:
    """A person with a probe and a stylus; each method yields the messages of one step.

    They come in the order of time, with time stamps.

    Args:
        noise: mm, standard deviation of each coordinate of a pose; turns have a two-hundredth of
            it in radians.
        seed: of the noise.
        start: time stamp of the first message, seconds since 1970.

    Attributes:
        tip: (3,), mm, of the stylus.
        axis: (3,), of its shaft, from the marker to the tip.
        image_to_probe: 4x4, pixels to mm.
        wires: (9, 2, 3), mm, the ends of the wires of the phantom: three N.
        centre, radius: mm, of the ball that `sweep` scans, in the frame Reference.
    """

    def __init__(self, *, noise: float = 0.1, seed: int = 7, start: float = 1.7e9) -> None:
        self.tip: Floats = np.array([3.0, -2.0, 150.0])
        self.axis: Floats = self.tip / np.linalg.norm(self.tip)
        self.image_to_probe: Floats = Pose.of(_turned(4, -7, 88), (12, -25, 60)).matrix @ np.diag(
            [0.32, 0.3, 0.31, 1.0]
        )
        self.wires = np.array([
            [[x, 0, z], [y, 40, z]]
            for z, first, last in ((20, 55, 35), (10, 35, 55), (0, 50, 38))
            for x, y in ((30, 30), (first, last), (60, 60))
        ], np.float64)  # fmt: skip
        self.centre: Floats = np.array([15.0, -10.0, 40.0])
        self.radius = 12.0
        self._noise = noise
        self._start = start
        self._random = np.random.default_rng(seed)
        self._speckle = self._random.rayleigh(10, (HEIGHT, WIDTH))
        self._row, self._column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
        self._place = Pose.of(_turned(20, 30, -40), (30, -200, 850))

    # -- messages

    def _pose(self, name: str, pose: npt.ArrayLike, at: float) -> Transform:
        off = self._random.normal(0, self._noise, 3)
        turn = np.degrees(self._random.normal(0, self._noise / 200, 3))
        out = np.array(pose, np.float64)
        out[:3, :3] = _turned(*turn) @ out[:3, :3]
        out[:3, 3] += off
        return Transform(out, device_name=name, timestamp=self._start + at)

    def _image(self, bright: Any, at: float) -> Image:
        picture = np.roll(self._speckle, int(self._random.integers(WIDTH)), axis=1) + bright
        pixels = np.clip(picture, 0, 255).astype(np.uint8)
        return Image.from_frame(pixels, device_name="Image", timestamp=self._start + at)

    def _spots(self, pixels: Floats) -> Floats:
        out = np.zeros((HEIGHT, WIDTH))
        for u, v in pixels:
            across = np.exp(-((np.arange(WIDTH) - u) ** 2) / (2 * _SPOT**2))
            down = np.exp(-((np.arange(HEIGHT) - v) ** 2) / (2 * _SPOT**2))
            out += 200 * np.outer(down, across)
        return out

    # -- steps

    def pivot(self, seconds: float = 10.0, *, degrees: float = 35.0) -> Iterator[Transform]:
        """StylusToTracker: the stylus stands on its tip and swings in two directions."""
        for n in range(int(seconds * _RATE)):
            t = n / _RATE
            turn = _turned(
                *degrees * np.array([np.sin(1.3 * t), np.sin(0.9 * t + 1), np.sin(t) / 2])
            )
            pose = Pose.of(turn, -turn @ self.tip)
            yield self._pose("StylusToTracker", (self._place @ pose).matrix, t)

    def spin(self, seconds: float = 10.0) -> Iterator[Transform]:
        """StylusToTracker: the stylus is rolled about its shaft, to and fro."""
        for n in range(int(seconds * _RATE)):
            t = n / _RATE
            half = 0.5 * 1.8 * np.sin(0.8 * t)
            turn = Pose.of(np.append(np.sin(half) * self.axis, np.cos(half))).rotation
            pose = Pose.of(turn, -turn @ self.tip)
            yield self._pose("StylusToTracker", (self._place @ pose).matrix, t)

    def tank(self, seconds: float = 12.0, *, lag: float = 0.073) -> Iterator[Message]:
        """Image and ProbeToTracker: the probe moves up and down over the bottom of a water tank.

        It moves faster and slower.

        Args:
            seconds: how long.
            lag: seconds by which the time stamps of the poses are late.
        """

        def depth(t: float) -> float:
            return float(24 + 8 * np.sin(3 * t + 0.8 * np.sin(0.7 * t)) + 2 * np.sin(8 * t))

        height = float(np.linalg.norm(self.image_to_probe[:3, 1]))
        shown = 0
        for n in range(int(seconds * _FAST)):
            t = n / _FAST
            pose = self._place @ Pose.of(None, (0, 0, depth(t)))
            yield self._pose("ProbeToTracker", pose.matrix, t + lag)
            if t * _RATE >= shown:
                shown += 1
                away = np.arange(HEIGHT)[:, np.newaxis] - depth(t) / height
                yield self._image(180 * np.exp(-(away**2) / 8), t)

    def touches(self, seconds: float = 10.0) -> Iterator[Message]:
        """Image, ProbeToTracker and StylusToTracker: the stylus touches all of a probe's picture.

        The probe is held still; the tip of the stylus is the brightest spot of its picture.
        """
        for n in range(int(seconds * _RATE)):
            t = n / _RATE
            probe = self._place @ Pose.of(_turned(2 * np.sin(t), 0, 0), (0, np.sin(2 * t), 0))
            u, v = WIDTH * (0.5 + 0.4 * np.sin(0.9 * t)), HEIGHT * (0.5 + 0.4 * np.sin(1.4 * t + 1))
            there = probe @ (self.image_to_probe @ [u, v, 0, 1])[:3]
            turn = _turned(15 * np.sin(t), 15 * np.cos(1.1 * t), 10)
            yield self._pose("ProbeToTracker", probe.matrix, t)
            stylus = Pose.of(turn, there - turn @ self.tip)
            yield self._pose("StylusToTracker", stylus.matrix, t)
            yield self._image(self._spots(np.array([[u, v]])), t)

    def cut(self, image_to_phantom: Floats) -> Floats:
        """(9, 2) columns and rows at which a picture cuts the wires."""
        back = np.linalg.inv(image_to_phantom)
        ends = self.wires @ back[:3, :3].T + back[:3, 3]
        share = -ends[:, 0, 2] / (ends[:, 1, 2] - ends[:, 0, 2])
        found: Floats = (ends[:, 0] + share[:, None] * (ends[:, 1] - ends[:, 0]))[:, :2]
        return found

    def phantom(self, seconds: float = 6.0) -> Iterator[Message]:
        """Image, ProbeToReference and PhantomToReference: the probe goes to and fro over wires."""
        phantom = Pose.of(_turned(5, -3, 60), (40, 10, -30))
        spacing = np.linalg.norm(self.image_to_probe[:3, :3], axis=0)
        down = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # rows go down, to lower z
        middle = np.array([WIDTH / 2, HEIGHT / 2, 0]) * spacing
        for n in range(int(seconds * _RATE)):
            t = n / _RATE
            turn = _turned(6 * np.sin(1.7 * t), 5 * np.sin(1.2 * t), 9 * np.sin(0.8 * t)) @ down
            over = np.array([45 + 3 * np.sin(2 * t), 20 + 12 * np.sin(1.1 * t), 10 + np.sin(t)])
            image_to_phantom = Pose.of(turn, over - turn @ middle).matrix @ np.diag([*spacing, 1])
            probe = phantom.matrix @ image_to_phantom @ np.linalg.inv(self.image_to_probe)
            yield self._pose("ProbeToReference", probe, t)
            yield self._pose("PhantomToReference", phantom.matrix, t)
            yield self._image(self._spots(self.cut(image_to_phantom)), t)

    def sweep(self, seconds: float = 8.0) -> Iterator[Message]:
        """Image and ProbeToReference: a scan over a bright ball, by a hand that shakes a little."""
        spacing = np.linalg.norm(self.image_to_probe[:3, :3], axis=0)
        middle = np.array([WIDTH / 2, HEIGHT / 2, 0]) * spacing
        count = int(seconds * _RATE)
        for n in range(count):
            t = n / _RATE
            turn = _turned(4 * np.sin(2.1 * t), 6 * np.sin(1.6 * t), 5 * np.sin(0.9 * t))
            along = (n / (count - 1) - 0.5) * 2.6 * self.radius
            over = self.centre + np.array([np.sin(3 * t), np.sin(2 * t), along])
            placed = Pose.of(turn, over - turn @ middle).matrix @ np.diag([*spacing, 1])
            probe = placed @ np.linalg.inv(self.image_to_probe)
            points = np.stack([self._column, self._row], axis=-1) @ placed[:3, :2].T + placed[:3, 3]
            away = np.linalg.norm(points - self.centre, axis=-1)
            yield self._pose("ProbeToReference", probe, t)
            yield self._image(150 * np.clip((self.radius - away) / spacing[0] + 0.5, 0, 1), t)
