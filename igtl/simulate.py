"""Devices without hardware: a tracker, an ultrasound-like imager, a CT of a phantom, a force
sensor, an inertial sensor, a robot arm. What they show depends on the time and the seed alone, so
that a receiver can be checked against it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from igtl.errors import ConnectionClosed
from igtl.geometry import Pose
from igtl.message import Message
from igtl.messages.general import NDArray, Sensor
from igtl.messages.imaging import Image
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform
from igtl.rate import Rate


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


def _noise(seed: int, seconds: float, *which: int) -> np.random.Generator:
    """Randomness of one instant: the same whenever it is asked for."""
    return np.random.default_rng((seed, round(seconds * 1e6), *which))


class Tracker:
    """Tools on smooth paths, as TRANSFORM (one tool) or TDATA (those that are seen).

    Args:
        names: of the tools.
        noise: of each coordinate, mm, standard deviation. Default: none.
        noise_degrees: of the orientation about each axis, likewise.
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
        """4x4, mm: `pose` with this tracker's noise."""
        out = pose(seconds, tool)
        if self._noise or self._turn:
            rng = _noise(self._seed, seconds, tool)
            out[:3, 3] += rng.normal(0, self._noise, 3)
            turn = rng.normal(0, self._turn, 3) / 2  # small: half the angles are the quaternion
            out[:3, :3] = Pose.of((*turn, 1.0)).rotation @ out[:3, :3]
        return out

    def sees(self, seconds: float, tool: int = 0) -> bool:
        """Whether a tool is in sight."""
        if not self._dropout:
            return True
        return bool(_noise(self._seed, np.floor(2 * seconds), tool, 1).random() >= self._dropout)

    def transform(self, seconds: float, tool: int = 0) -> Transform:
        """Pose of one tool. Out of sight it is told as MISSING, if this tracker tells statuses."""
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


class Imager:
    """A grey sector image with speckle, and a vessel that pulsates and drifts.

    Args:
        width, height: pixels.
    """

    def __init__(self, width: int = 320, height: int = 240) -> None:
        self._speckle = np.random.default_rng(7).rayleigh(38, (height, width)).astype(np.float32)
        self._y, self._x = np.mgrid[0:height, 0:width].astype(np.float32)
        self._x = (self._x - width / 2) / height
        self._y = self._y / height
        depth = np.hypot(self._x, self._y + 0.12)
        angle = np.arctan2(self._x, self._y + 0.12)
        inside = (np.abs(angle) < 0.72) & (depth > 0.16) & (depth < 1.08)
        self._gain = np.where(inside, 1.25 - 0.6 * depth, 0).astype(np.float32)
        self._wall = (0.5 + 0.5 * np.cos(40 * depth + 6 * angle)).astype(np.float32) * 25

    def frame(self, seconds: float) -> npt.NDArray[np.uint8]:
        """(height, width) uint8."""
        x, y = 0.16 * np.sin(0.9 * seconds), 0.55 + 0.06 * np.sin(0.5 * seconds)
        radius = 0.13 + 0.02 * np.sin(7.5 * seconds)
        away = np.hypot(self._x - x, self._y - y) / radius
        vessel = np.clip(4 * (away - 0.85), 0.06, 1) + 1.2 * np.exp(-40 * (away - 1.05) ** 2)
        speckle = np.roll(self._speckle, int(4 * seconds), axis=1) + self._wall
        out: npt.NDArray[np.uint8] = np.clip(speckle * vessel * self._gain, 0, 255).astype(np.uint8)
        return out

    def image(self, seconds: float) -> Image:
        """The frame as a message, 0.4 mm pixels."""
        return Image.from_frame(
            self.frame(seconds), spacing=(0.4, 0.4), device_name="Image_Reference"
        )


def head_phantom(slices: int = 100, size: int = 512, *, noise: float = 0.0, seed: int = 7) -> Image:
    """A CT of a head of ellipsoids: skin, bone, brain, ventricles, sinuses.

    Args:
        slices, size: of the volume, (slices, size, size) int16, Hounsfield units; air outside is
            exactly -1000. The head is 240 mm wide whatever its size in voxels.
        noise: standard deviation in HU, within the head.
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
    return Image(
        np.rint(out).astype(np.int16), spacing=(pixel, pixel, 200 / slices), device_name="CT"
    )


class ForceSensor:
    """Forces at a tool tip that presses on something soft, twice in three seconds: (3,), N.

    Args:
        noise: of each, N, standard deviation; default 0.02.
    """

    def __init__(self, *, noise: float = 0.02, seed: int = 0) -> None:
        self._noise = noise
        self._seed = seed

    def sensor(self, seconds: float) -> Sensor:
        """As SENSOR."""
        pressed = np.maximum(0, np.sin(4.2 * seconds)) ** 1.5
        force = np.array([0.4 * np.sin(9 * seconds), 0.3 * np.cos(7 * seconds), -1]) * 5 * pressed
        force += _noise(self._seed, seconds).normal(0, self._noise, 3)
        return Sensor(force, "N", device_name="Force")


class InertialSensor:
    """What an inertial sensor on a tool of the tracker feels: acceleration, with gravity, in m/s^2,
    and angular rate in rad/s, both in the frame of the tool; gravity points to -z of the tracker.
    """

    _step = 1e-3  # s, to differentiate the path

    def __init__(
        self, tool: int = 0, *, noise: float = 0.02, noise_rate: float = 0.002, seed: int = 0
    ) -> None:
        self._tool = tool
        self._noise = noise
        self._noise_rate = noise_rate
        self._seed = seed

    def acceleration(self, seconds: float) -> Sensor:
        """As SENSOR of three values."""
        h = self._step
        before, now, after = (pose(seconds + n * h, self._tool) for n in (-1, 0, 1))
        moving = (before[:3, 3] - 2 * now[:3, 3] + after[:3, 3]) / h**2 * 1e-3  # mm to m
        felt = now[:3, :3].T @ (moving + np.array([0, 0, 9.81]))
        felt = felt + _noise(self._seed, seconds, 0).normal(0, self._noise, 3)
        return Sensor(felt, "m/s^2", device_name="Acceleration")

    def rate(self, seconds: float) -> Sensor:
        """As SENSOR of three values."""
        h = self._step
        before, after = (pose(seconds + n * h, self._tool)[:3, :3] for n in (-0.5, 0.5))
        turn = before.T @ after
        spin = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        spin = spin / (2 * h) + _noise(self._seed, seconds, 1).normal(0, self._noise_rate, 3)
        return Sensor(spin, "rad/s", device_name="Rate")


class RobotArm:
    """An arm of six joints that follows sines; may be asked at 1 kHz."""

    # Denavit and Hartenberg: a, alpha, d of each joint, mm
    _links = (
        (0, np.pi / 2, 400), (350, 0, 0), (50, np.pi / 2, 0),
        (0, -np.pi / 2, 350), (0, np.pi / 2, 0), (0, 0, 80),
    )  # fmt: skip

    def joints(self, seconds: float) -> npt.NDArray[np.float64]:
        """(6,), rad."""
        k = np.arange(6)
        angles: npt.NDArray[np.float64] = 0.6 * np.sin((0.4 + 0.13 * k) * seconds + k)
        return angles

    def forward(self, joints: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """4x4 of the flange in the base, mm, for joint angles (6,)."""
        out = np.eye(4)
        for angle, (a, alpha, d) in zip(np.asarray(joints, float), self._links, strict=True):
            c, s, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha), np.sin(alpha)
            out = out @ [
                [c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d],
                [0, 0, 0, 1],
            ]  # fmt: skip
        return out

    def joint_state(self, seconds: float) -> NDArray:
        """The joints as NDARRAY."""
        return NDArray(self.joints(seconds), device_name="arm/measured_js")

    def measured(self, seconds: float) -> Transform:
        """The flange as TRANSFORM."""
        return Transform(self.forward(self.joints(seconds)), device_name="arm/measured_cp")


class Stream:
    """Sends what a device shows at a fixed rate, in a thread of its own; the message id counts.

    Args:
        produce: the message for a time in seconds since the start.
        send: takes each message.
        hz: messages per second.
    """

    def __init__(self, produce: Any, send: Any, hz: float) -> None:
        self._produce = produce
        self._send = send
        self._rate = Rate(hz)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self._thread.start()

    def _run(self) -> None:
        for tick in self._rate:
            if self._stop.is_set():
                return
            message: Message = self._produce(tick * self._rate.period)
            message.message_id = self.sent + 1
            try:
                self._send(message)
            except (ConnectionClosed, OSError):
                return
            self.sent += 1

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stop.set()
        self._thread.join()
