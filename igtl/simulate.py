"""Devices without hardware: a tracker whose tools move on smooth paths, and an ultrasound-like
imager. What they show depends on the time alone, so that a receiver can be checked against it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from igtl.errors import ConnectionClosed
from igtl.message import Message
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


class Tracker:
    """Three tools, as TRANSFORM (one tool) or TDATA (all of them)."""

    names = ("ProbeToTracker", "StylusToTracker", "ReferenceToTracker")

    def transform(self, seconds: float, tool: int = 0) -> Transform:
        """Pose of one tool."""
        return Transform(pose(seconds, tool), device_name=self.names[tool])

    def tracking_data(self, seconds: float) -> TrackingData:
        """Poses of all tools."""
        kind = ToolType.INSTRUMENT_6D
        tools = [Tool(name, kind, pose(seconds, k)) for k, name in enumerate(self.names)]
        return TrackingData(tools, device_name="Tracker")


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
