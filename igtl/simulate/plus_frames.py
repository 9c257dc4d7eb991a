"""What a simulated PlusServer acquires, and the messages that it makes from this."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.messages.general import String
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame
from igtl.messages.tracking import Position, Tool, ToolType, TrackingData, Transform
from igtl.peers.plus.selection import Client
from igtl.simulate.imaging import Ultrasound
from igtl.simulate.tracking import pose

Matrix = npt.NDArray[np.float64]
TOOLS: Final = ("ProbeToTracker", "StylusToTracker", "ReferenceToTracker")
_NUMBERS: Final = ("DepthMm", "GainPercent", "FrequencyMhz", "DynRangeDb", "PowerDb", "ZoomFactor")


class Acquisition:
    """Three tools, and a probe with an ultrasound image.

    Args:
        size: (width, height) of the image, pixels.
        valid_only: transforms that are not valid are not sent.

    Attributes:
        acquired: frames so far; their number is the field FrameNumber.
        transforms: what UpdateTransform changes, by name, 4x4.
        parameters: of the scanner.
        picture: the newest image.
        recording, volume: the frames of each, while there is one.
    """

    def __init__(self, size: tuple[int, int], *, valid_only: bool) -> None:
        self.acquired = 0
        self.transforms: dict[str, Matrix] = {
            "ImageToProbe": np.array(
                [[0.2, 0, 0, -1], [0, 0.25, 0, -2], [0, 0, 0.5, 3], [0, 0, 0, 1]]
            ),
            "StylusTipToStylus": np.array(
                [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 150], [0, 0, 0, 1.0]]
            ),
        }
        self.parameters = dict.fromkeys(_NUMBERS, 0.0) | {"DepthMm": 45.0, "GainPercent": 50.0}
        self._statuses = dict.fromkeys(TOOLS, "OK")
        self._valid_only = valid_only
        self._scanner = Ultrasound(*size)
        self.picture = self._scanner.frame(0.0)
        self.recording: list[int] | None = None
        self.volume: list[npt.NDArray[np.uint8]] | None = None

    def set_status(self, tool: str, status: str) -> None:
        """Let a tool be "OK", "MISSING", "OUT_OF_VIEW", … from now on.

        Raises:
            KeyError: there is no such tool.
        """
        if tool not in self._statuses:
            raise KeyError(f"there is no tool {tool!r}; there are {', '.join(TOOLS)}")
        self._statuses[tool] = status

    def note(self, seconds: float) -> None:
        """Acquire a frame: it is recorded, and becomes part of the volume."""
        self.acquired += 1
        self.picture = self._scanner.frame(seconds)
        if self.recording is not None:
            self.recording.append(1)
        if self.volume is not None:
            self.volume.append(self.picture)

    def messages(self, info: Client, seconds: float, *, streams: bool) -> Iterator[Message]:
        """Yield what a client gets of the frame of an instant.

        If one thing that the client asks for is missing, it gets nothing of the frame.

        Args:
            info: what the client has asked for.
            seconds: of the frame, since the start.
            streams: whether it gets TDATA.
        """
        now = time.time()
        try:
            poses = {name: self.placed(name, seconds) for name in info.transforms}
            images = [
                (name, frame, self.placed(f"{name}To{frame}", seconds)[0])
                for name, frame in info.images
            ]
        except KeyError:
            return
        for kind in info.types:
            match kind:
                case "TRANSFORM":
                    for name, (m, status) in poses.items():
                        if status == "OK" or not self._valid_only:
                            yield _transform(name, m, status, now)
                case "POSITION":
                    for name, (m, status) in poses.items():
                        if status == "OK" or not self._valid_only:
                            yield _position(name, m, status, now)
                case "TDATA" if streams:
                    yield self._tracking_data(poses, now)
                case "IMAGE":
                    for name, frame, place in images:
                        yield self._image(name, frame, place, seconds, now)
                case "TRACKEDFRAME":
                    for _, _, place in images:
                        yield TrackedFrame(
                            self.picture, ijk_to_world=place, transforms=poses,
                            fields=self._fields(now), timestamp=now,
                        )  # fmt: skip
                case "STRING":
                    fields = self._fields(now)
                    for name in info.strings:
                        if name in fields:
                            yield String(fields[name], device_name=name, timestamp=now)

    def _fields(self, now: float) -> dict[str, str]:
        return {
            "DepthMm": f"{self.parameters['DepthMm']:g}", "FrameNumber": str(self.acquired),
            "Timestamp": f"{now:.6f}",
        }  # fmt: skip

    def _image(self, name: str, frame: str, place: Matrix, seconds: float, now: float) -> Image:
        image = Image.from_frame(
            self.picture, ijk_to_world=place, device_name=f"{name}_{frame}",
            timestamp=now,
        )  # fmt: skip
        image.metadata = self._fields(now)
        for tool in TOOLS:
            m, status = self.placed(tool, seconds)
            image.metadata[f"{tool}Transform"] = text_of(m)
            image.metadata[f"{tool}TransformStatus"] = status
        return image

    def _tracking_data(self, poses: Mapping[str, tuple[Matrix, str]], now: float) -> TrackingData:
        shown = [
            (name, m, status) for name, (m, status) in poses.items()
            if status == "OK" or not self._valid_only
        ]  # fmt: skip
        message = TrackingData(
            [Tool(name[:20], ToolType.INSTRUMENT_6D, m) for name, m, _ in shown],
            device_name=f"TDATA_{len(shown)}Elem", timestamp=now,
        )  # fmt: skip
        for k, (name, _, status) in enumerate(shown):
            message.metadata[f"{name}Status"] = status
            message.metadata[f"{name}Index"] = str(k)
        return message

    # -- geometry

    def _edge(self, name: str, seconds: float) -> tuple[Matrix, str] | None:
        if name in self._statuses:
            return pose(seconds, TOOLS.index(name)), self._statuses[name]
        found = self.transforms.get(name)
        return None if found is None else (found, "OK")

    def placed(self, name: str, seconds: float) -> tuple[Matrix, str]:
        """4x4 and status of XToY, over as many links as needed.

        Raises:
            KeyError: there is no path.
        """
        edges: dict[str, dict[str, tuple[Matrix, str]]] = {}
        for each in (*self._statuses, *self.transforms):
            a, _, b = each.partition("To")
            found = self._edge(each, seconds)
            assert found is not None
            edges.setdefault(a, {})[b] = found
            back: Matrix = np.linalg.inv(found[0]).astype(np.float64)
            edges.setdefault(b, {})[a] = back, found[1]
        a, _, b = name.partition("To")
        reached: dict[str, tuple[Matrix, str]] = {a: (np.eye(4), "OK")} if a in edges else {}
        waiting = deque(reached)
        while waiting and b not in reached:
            here = waiting.popleft()
            m, status = reached[here]
            for there, (step, its) in edges[here].items():
                if there not in reached:
                    reached[there] = step @ m, status if its == "OK" else its
                    waiting.append(there)
        if b not in reached or a == b:
            raise KeyError(name)
        return reached[b]


def text_of(m: Matrix) -> str:
    """Return a matrix as PLUS writes it."""
    return " ".join(f"{x:.6g}" for x in m.ravel())


def _transform(name: str, m: Matrix, status: str, now: float) -> Transform:
    valid = status == "OK"
    message = Transform(m if valid else np.eye(4), device_name=name, timestamp=now)
    message.metadata = {"TransformStatus": status, "TransformValid": "1" if valid else "0"}
    return message


def _position(name: str, m: Matrix, status: str, now: float) -> Position:
    placed = Transform(m)
    return Position(
        placed.position, placed.quaternion, device_name=name, timestamp=now,
        metadata={"TransformStatus": status},
    )  # fmt: skip
