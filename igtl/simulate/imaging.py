"""An ultrasound scanner and a CT, simulated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from igtl.messages.imaging import Image
from igtl.messages.tracking import Transform

_ENTRY = 0.02, 0.28
"""Where the needle comes into the picture, in shares of its width and height."""
_ANGLE = np.radians(32)  # of the needle, downwards
_DEPTHS = 0.28, 0.62
"""How far it is in, in shares of the width: least and most."""


class Ultrasound:
    """A tracked ultrasound probe over a vessel, and a needle that is pushed in and drawn back.

    The needle lies in the picture where `needle` says that it is: its tip is the pixel `tip`, which
    `image(...).ijk_to_world` maps to the position of `needle(...)`.

    Args:
        width, height: pixels.
        spacing: mm, of the pixels.
        seed: of the speckle.
    """

    def __init__(
        self, width: int = 320, height: int = 240, *, spacing: float = 0.4, seed: int = 7
    ) -> None:
        self.width, self.height, self.spacing = width, height, spacing
        self._speckle = np.random.default_rng(seed).rayleigh(38, (height, width)).astype(np.float32)
        self._row, self._column = np.mgrid[0:height, 0:width].astype(np.float32)
        self._x = (self._column - width / 2) / height
        self._y = self._row / height
        depth = np.hypot(self._x, self._y + 0.12)
        angle = np.arctan2(self._x, self._y + 0.12)
        inside = (np.abs(angle) < 0.72) & (depth > 0.16) & (depth < 1.08)
        self._gain = np.where(inside, 1.25 - 0.6 * depth, 0).astype(np.float32)
        self._inside = inside
        self._wall = (0.5 + 0.5 * np.cos(40 * depth + 6 * angle)).astype(np.float32) * 25

    def tip(self, seconds: float) -> npt.NDArray[np.float64]:
        """(2,) column and row of the pixel in which the needle ends."""
        least, most = _DEPTHS
        share = least + (most - least) * (0.5 - 0.5 * np.cos(0.8 * seconds))
        x, y = _ENTRY
        along = np.array([np.cos(_ANGLE), np.sin(_ANGLE)])
        entry = np.array([x * self.width, y * self.height])
        out: npt.NDArray[np.float64] = entry + share * self.width * along
        return out

    def frame(self, seconds: float) -> npt.NDArray[np.uint8]:
        """Return the picture at this time, (height, width) uint8."""
        x, y = 0.16 * np.sin(0.9 * seconds), 0.55 + 0.06 * np.sin(0.5 * seconds)
        radius = 0.13 + 0.02 * np.sin(7.5 * seconds)
        away = np.hypot(self._x - x, self._y - y) / radius
        vessel = np.clip(4 * (away - 0.85), 0.06, 1) + 1.2 * np.exp(-40 * (away - 1.05) ** 2)
        speckle = np.roll(self._speckle, int(4 * seconds), axis=1) + self._wall
        picture = speckle * vessel * self._gain + self._echo(seconds)
        out: npt.NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
        return out

    def _echo(self, seconds: float) -> npt.NDArray[np.float32]:
        """Return the echo of the needle: a bright line, brightest at its tip."""
        column, row = self.tip(seconds)
        # from the tip: along the needle (below 0: in it), and across
        c, s = np.float32(np.cos(_ANGLE)), np.float32(np.sin(_ANGLE))
        dx, dy = self._column - np.float32(column), self._row - np.float32(row)
        along, across = dx * c + dy * s, dy * c - dx * s
        beyond = np.maximum(along, 0)
        bright = 150 + 105 * np.exp(-(along**2) / 18)
        out: npt.NDArray[np.float32] = (
            self._inside * bright * np.exp(-(across**2) / 2.4 - beyond**2)
        )
        return out

    def ijk_to_reference(self, seconds: float) -> npt.NDArray[np.float64]:
        """4x4, pixels (i, j, 0) to mm in the frame Reference: the probe sways a little."""
        turn = 0.35 + 0.05 * np.sin(0.4 * seconds)
        c, s = np.cos(turn), np.sin(turn)
        probe = np.array([[c, 0, s, 10], [0, 1, 0, -30], [-s, 0, c, 50], [0, 0, 0, 1.0]])
        scale: npt.NDArray[np.float64] = np.diag([self.spacing, self.spacing, 1, 1])
        placed: npt.NDArray[np.float64] = probe @ scale
        return placed

    def image(self, seconds: float) -> Image:
        """Return the frame as a message."""
        return Image.from_frame(
            self.frame(seconds), ijk_to_world=self.ijk_to_reference(seconds),
            device_name="Image_Reference",
        )  # fmt: skip

    def needle(self, seconds: float) -> Transform:
        """Pose of the needle: its tip, and its z axis from there on forwards."""
        placed = self.ijk_to_reference(seconds)
        out = np.eye(4)
        out[:3, 3] = (placed @ [*self.tip(seconds), 0, 1])[:3]
        right, down, normal = (placed[:3, :3] / [self.spacing, self.spacing, 1]).T
        forwards = np.cos(_ANGLE) * right + np.sin(_ANGLE) * down
        out[:3, 0], out[:3, 1], out[:3, 2] = normal, np.cross(forwards, normal), forwards
        return Transform(out, device_name="NeedleToReference")


def head_phantom(slices: int = 100, size: int = 512, *, noise: float = 0.0, seed: int = 7) -> Image:
    """Return a CT of a head of ellipsoids: skin, bone, brain, ventricles, sinuses.

    The volume is (slices, size, size) int16, Hounsfield units; air outside is exactly -1000. The
    head is 240 mm wide whatever its size in voxels.

    Args:
        slices: of the volume.
        size: rows and columns of a slice.
        noise: standard deviation in HU, within the head.
        seed: of the noise.
    """
    k, j, i = np.ogrid[:slices, :size, :size]
    x, y = (i - size / 2) * 512 / size, (j - size / 2) * 512 / size
    z = (k - slices / 2) / (slices / 1.6)
    out = np.full((slices, size, size), -1000, np.float32)

    def fill(
        value: float, a: float, b: float, cx: float = 0, cy: float = 0, squash: float = 1
    ) -> None:
        out[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + (z / squash) ** 2 < 1] = value

    fill(40, 180, 220)
    fill(900, 168, 208)
    fill(35, 155, 195)
    for side in (-1, 1):
        fill(8, 22, 60, 30 * side, -20, 0.5)
        fill(-950, 25, 14, 60 * side, 150, 0.4)
    if noise:
        body = out > -999
        grain = np.random.default_rng(seed).normal(0, noise, int(body.sum()))
        out[body] += grain.astype(np.float32)
    pixel = 240 / 360 * 512 / size
    return Image.from_volume(
        np.rint(out).astype(np.int16), spacing=(pixel, pixel, 200 / slices), device_name="CT"
    )
