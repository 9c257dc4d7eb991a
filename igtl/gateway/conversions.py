"""What routes do to messages that are decoded: other types, poses in another frame."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from igtl.codec.message import Message
from igtl.errors import IgtlError
from igtl.geometry.graph import TransformGraph, frames_of
from igtl.messages.geometry import Points
from igtl.messages.imaging import Image
from igtl.messages.tracking import Tool, TrackingData, Transform

_MOST: Final = 1000  # links of a graph, tools of a TDATA: of which a peer could make any number
POSES: Final = frozenset({"TRANSFORM", "TDATA"})
"""What tells where frames are to each other."""
_IMAGE: Final = re.compile(r"^(\w+)_([A-Z0-9][^_\W]*)$")  # as PLUS names them: Image_Reference
"""What an image of PLUS says of itself: name, and frame of its pose."""


class CannotExpress(IgtlError):
    """A message whose poses cannot be expressed in the other frame."""


class Expressing:
    """Poses, images and points in another frame.

    Args:
        to_frame: that frame.
        from_frame: of messages whose name tells none; None: they are refused.
        fixed: poses that do not change, by name (XToY).
        max_age: seconds after which a pose that came is too old to be used.
    """

    TYPES: Final = frozenset({"TRANSFORM", "TDATA", "IMAGE", "POINT"})

    def __init__(
        self,
        to_frame: str,
        from_frame: str | None,
        fixed: Mapping[str, Any],
        max_age: float,
    ) -> None:
        self._to = to_frame
        self._from = from_frame
        self._graph = TransformGraph(max_age=max_age)
        self._fixed = {frozenset(frames_of(name)) for name in fixed}
        for name, pose in fixed.items():
            self._graph.set(name, pose, arrived=math.inf)
        self._known: set[str] = set()

    def learn(self, message: Message) -> None:
        """Use the poses of a message for those that come, but for what the configuration fixes."""
        match message:
            case Transform():
                names = [message.device_name]
            case TrackingData():
                names = [tool.name for tool in message.tools]
            case _:
                return
        named = {
            name for name in names if (ends := _ends(name)) and frozenset(ends) not in self._fixed
        }
        self._known |= named if len(self._known) < _MOST else set()
        if len(named) == len(names) and named <= self._known:
            with contextlib.suppress(ValueError):  # one that scales, as that of an image
                self._graph.add(message)

    def __call__(self, message: Message) -> Message:
        """Return the message with its poses in the other frame, and named so.

        Raises:
            NoTransform: there is no way to that frame, or only over a pose that is too old.
            CannotExpress: the message does not tell in which frame it is.
        """
        match message:
            case Transform():
                name, matrix = self._pose(message.device_name, message.matrix)
                message.device_name, message.matrix = name, matrix
            case TrackingData():
                for tool in message.tools:
                    tool.name, tool.matrix = self._pose(tool.name, tool.matrix)
            case Image():
                found = _IMAGE.match(message.device_name)
                frame = found[2] if found else self._from
                message.matrix = self._way(message.device_name, frame) @ message.matrix
                if found:
                    message.device_name = f"{found[1]}_{self._to}"
            case Points():
                way = self._way(message.device_name, self._from)
                points: Any = message.points
                points.positions = points.positions @ way[:3, :3].T + way[:3, 3]
        return message

    def _pose(self, name: str, matrix: Any) -> tuple[str, Any]:
        ends = _ends(name)
        frame = ends[1] if ends else self._from
        new = f"{ends[0]}To{self._to}" if ends else name
        # what the message says is no way to the frame in which it is to be said
        way = self._way(name, frame, without=name if ends else None)
        return new, way @ np.asarray(matrix, np.float64)

    def _way(self, name: str, frame: str | None, *, without: str | None = None) -> Any:
        if frame is None:
            raise CannotExpress(f"{name!r} does not tell its frame, and there is no from_frame")
        if frame == self._to:
            return np.eye(4)
        return self._graph.pose(f"{frame}To{self._to}", without=without).matrix


def _ends(name: str) -> tuple[str, str] | None:
    """Return X and Y of XToY; None of another name."""
    try:
        return frames_of(name)
    except ValueError:
        return None


class Apart:
    """TDATA to a TRANSFORM for each tool."""

    TYPES: Final = frozenset({"TDATA"})

    def __call__(self, message: Message, source: str) -> Iterable[Message]:
        """Return the TRANSFORMs of one TDATA.

        Args:
            message: of one of TYPES.
            source: where it comes from; streams of two sources are not mixed.
        """
        assert isinstance(message, TrackingData)
        for tool in message.tools:
            made = Transform(tool.matrix, device_name=tool.name, message_id=message.message_id)
            made.timestamp_raw = message.timestamp_raw
            if (status := message.metadata.get(f"{tool.name}Status")) is not None:
                made.metadata["TransformStatus"] = status
            yield made


class Together:
    """TRANSFORM of one source to TDATA.

    A TDATA is whole when all those tools have come that came last time, or one of them comes again.
    """

    TYPES: Final = frozenset({"TRANSFORM"})

    def __init__(self) -> None:
        self._tools: dict[str, dict[str, Transform]] = {}
        self._expected: dict[str, set[str]] = {}

    def __call__(self, message: Message, source: str) -> Iterable[Message]:
        """Return the TDATA that a TRANSFORM completes; none while it waits for others.

        Args:
            message: of one of TYPES.
            source: where it comes from; streams of two sources are not mixed.
        """
        assert isinstance(message, Transform)
        tools = self._tools.setdefault(source, {})
        name = message.device_name
        if name in tools or len(tools) >= _MOST:
            yield self._whole(source)
        tools[name] = message
        expected = self._expected.get(source)
        if expected and expected <= tools.keys():
            yield self._whole(source)

    def _whole(self, source: str) -> TrackingData:
        tools = self._tools[source]
        self._expected[source] = set(tools)
        last = [*tools.values()][-1]
        made = TrackingData(device_name=source[:20], message_id=last.message_id)
        made.timestamp_raw = last.timestamp_raw
        made.tools = [Tool(name, matrix=tool.matrix) for name, tool in tools.items()]
        for name, tool in tools.items():
            if (status := tool.metadata.get("TransformStatus")) is not None:
                made.metadata[f"{name}Status"] = status
        tools.clear()
        return made


class Film:
    """IMAGE of one slice to VIDEO; each stream has an encoder of its own."""

    TYPES: Final = frozenset({"IMAGE"})
    _ENCODERS: Final = 16

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._encoders: dict[tuple[str, str], Any] = {}

    def __call__(self, message: Message, source: str) -> Iterable[Message]:
        """Return the VIDEO of one IMAGE.

        Args:
            message: of one of TYPES.
            source: where it comes from; streams of two sources are not mixed.
        """
        from igtl.video import VideoEncoder

        key = source, message.device_name
        if key not in self._encoders:
            if len(self._encoders) >= self._ENCODERS:
                raise CannotExpress(
                    f"{message.device_name!r} is one stream more than {self._ENCODERS}"
                )
            self._encoders[key] = VideoEncoder(self._codec)  # type: ignore[arg-type]
        yield self._encoders[key].encode(message)

    def close(self) -> None:
        """End the encoders."""
        for encoder in self._encoders.values():
            encoder.close()
