"""Sensors and a robot arm, simulated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from igtl.messages.general import NDArray, Sensor
from igtl.messages.tracking import Transform
from igtl.simulate.tracking import noise_at, pose


class ForceSensor:
    """Forces at a tool tip that presses on something soft, twice in three seconds: (3,), N.

    Args:
        noise: of each, N, standard deviation; default 0.02.
        seed: of the noise.
    """

    def __init__(self, *, noise: float = 0.02, seed: int = 0) -> None:
        self._noise = noise
        self._seed = seed

    def sensor(self, seconds: float) -> Sensor:
        """Return the force at this time, as SENSOR."""
        pressed = np.maximum(0, np.sin(4.2 * seconds)) ** 1.5
        force = np.array([0.4 * np.sin(9 * seconds), 0.3 * np.cos(7 * seconds), -1]) * 5 * pressed
        force += noise_at(self._seed, seconds).normal(0, self._noise, 3)
        return Sensor(force, "N", device_name="Force")


class InertialSensor:
    """What an inertial sensor on a tool of the tracker measures.

    That is acceleration, with gravity, in m/s^2, and angular rate in rad/s, both in the frame of
    the tool; gravity points to -z of the tracker.
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
        """Return the acceleration at this time, as SENSOR of three values, m/s^2."""
        h = self._step
        before, now, after = (pose(seconds + n * h, self._tool) for n in (-1, 0, 1))
        moving = (before[:3, 3] - 2 * now[:3, 3] + after[:3, 3]) / h**2 * 1e-3  # mm to m
        felt = now[:3, :3].T @ (moving + np.array([0, 0, 9.81]))
        felt = felt + noise_at(self._seed, seconds, 0).normal(0, self._noise, 3)
        return Sensor(felt, "m/s^2", device_name="Acceleration")

    def rate(self, seconds: float) -> Sensor:
        """Return the angular rate at this time, as SENSOR of three values, rad/s."""
        h = self._step
        before, after = (pose(seconds + n * h, self._tool)[:3, :3] for n in (-0.5, 0.5))
        turn = before.T @ after
        spin = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        spin = spin / (2 * h) + noise_at(self._seed, seconds, 1).normal(0, self._noise_rate, 3)
        return Sensor(spin, "rad/s", device_name="Rate")


class RobotArm:
    """An arm of six joints that follows sines; may be asked at 1 kHz."""

    # Denavit and Hartenberg: a, alpha, d of each joint, mm
    _links = (
        (0, np.pi / 2, 400), (350, 0, 0), (50, np.pi / 2, 0),
        (0, -np.pi / 2, 350), (0, np.pi / 2, 0), (0, 0, 80),
    )  # fmt: skip

    def joints(self, seconds: float) -> npt.NDArray[np.float64]:
        """Return the angles of the joints at this time, (6,), rad."""
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
        """Return the angles of the joints, as NDARRAY."""
        return NDArray(self.joints(seconds), device_name="arm/measured_js")

    def measured(self, seconds: float) -> Transform:
        """Return the pose of the flange, as TRANSFORM."""
        return Transform(self.forward(self.joints(seconds)), device_name="arm/measured_cp")
