"""The devices of PLUS that are clients, without I/O: what each has asked for, and what it gets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.messages.imaging import Image
from igtl.messages.plus import ClientInfo, Placed, TrackedFrame
from igtl.messages.queries import ReadyTrackingData, StartTrackingData
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform
from igtl.peers.plus.rules import check_for_device
from igtl.peers.plus.selection import Client, check_transform

SETTINGS: Final[dict[str, Any]] = {"version": 2}
"""Of the server: statuses travel in the metadata."""

Sending = list[tuple[Any, Message]]
"""To which peer which message goes."""


class Device:
    """A device of PLUS that is a client.

    Attributes:
        peer: the client.
        wants: what it has asked for by CLIENTINFO; None until then.
        tracking_data: whether it has asked for TDATA.
        coordinates: in which frame.
        interval: least seconds between two TDATA.
    """

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.wants: Client | None = None
        self.tracking_data = False
        self.coordinates = ""
        self.interval = 0.0
        self._sent = 0.0

    @property
    def has_asked(self) -> bool:
        """Whether the device has said what it wants."""
        return self.wants is not None or self.tracking_data

    def takes(self, message: Message) -> bool:
        """Return whether the device has asked for this message.

        One without a CLIENTINFO gets all but TDATA.
        """
        if isinstance(message, TrackingData):
            return self.tracking_data
        if self.wants is None or not self.wants.types:
            return True
        # a device for images understands TRACKEDFRAME, which says more
        if isinstance(message, TrackedFrame):
            return bool({"IMAGE", "TRACKEDFRAME"} & set(self.wants.types))
        return self.wants.wants(message)

    def is_due(self, now: float) -> bool:
        """Return whether the device's interval has passed; if so, a new one begins."""
        if now - self._sent < self.interval:
            return False
        self._sent = now
        return True

    def __repr__(self) -> str:
        return f"<Device {self.peer.peer} {self.wants}>"


class Devices:
    """All devices of PLUS that are clients. Not thread-safe: its owner locks.

    Attributes:
        by_id: the devices that are connected, by the id of the client.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, Device] = {}
        self._tools: dict[str, tuple[npt.NDArray[np.float64], str]] = {}

    def connected(self, peer: Any) -> None:
        """Note that a client has connected."""
        self.by_id[peer.id] = Device(peer)

    def gone(self, peer: Any) -> None:
        """Note that a client has left."""
        self.by_id.pop(peer.id, None)

    def chose(self, info: ClientInfo, peer: Any) -> None:
        """Note what a client has asked for.

        Raises:
            ValueError: the message cannot be read; the choice before stays.
        """
        self.by_id[peer.id].wants = Client.read(info)

    def started(self, request: StartTrackingData, peer: Any) -> Message:
        """Note that a client asks for TDATA; returns the answer.

        The driver sends the answer, and then calls `streams`.
        """
        device = self.by_id[peer.id]
        device.interval = max(0, request.resolution_ms) / 1000
        device.coordinates = request.coordinate_name
        return ReadyTrackingData(0)

    def streams(self, peer: Any, on: bool) -> None:
        """Send TDATA to a client from now on, or no more."""
        self.by_id[peer.id].tracking_data = on

    def sending(self, message: Message, *, force: bool) -> Sending:
        """Return which devices get a message.

        Raises:
            PlusRefuses: it harms PLUS; `force` sends it to all.
        """
        if not force:
            check_for_device(message)
        return [(d.peer, message) for d in self.by_id.values() if force or d.takes(message)]

    def tool(
        self, name: str, pose: npt.ArrayLike, status: str, timestamp: float | None, force: bool
    ) -> Sending:
        """Return the messages of a tool that each device gets.

        TRANSFORM, and TDATA with the other tools that are OK.

        Raises:
            ValueError: PLUS cannot read the name; `force` sends it.
        """
        if not force:
            try:
                check_transform(name)
            except ValueError as error:
                raise ValueError(f"{error}; force=True sends it") from None
        now = time.time() if timestamp is None else timestamp
        message = Transform(pose, device_name=name, timestamp=now)
        message.metadata = {
            "TransformStatus": status, "TransformValid": "1" if status == "OK" else "0",
        }  # fmt: skip
        self._tools[name] = np.array(message.matrix, np.float64), status
        return self.sending(message, force=force) + self._tracking_data(now)

    def _tracking_data(self, now: float) -> Sending:
        seen = {name: m for name, (m, status) in self._tools.items() if status == "OK"}
        found: Sending = []
        for device in self.by_id.values():
            if not device.tracking_data or not device.is_due(time.monotonic()):
                continue
            wanted = device.wants.transforms if device.wants is not None else ()
            names = [name for name in seen if not wanted or name in wanted]
            message = TrackingData(
                [Tool(name[:20], ToolType.INSTRUMENT_6D, seen[name]) for name in names],
                device_name=f"TDATA_{len(names)}Elem", timestamp=now,
            )  # fmt: skip
            for k, name in enumerate(names):
                message.metadata[f"{name}Status"] = "OK"
                message.metadata[f"{name}Index"] = str(k)
            found.append((device.peer, message))
        return found


def frame_of(
    image: Image | npt.ArrayLike,
    transforms: Mapping[str, Placed],
    fields: Mapping[str, object],
    timestamp: float | None,
) -> TrackedFrame:
    """Return an image with the transforms of its instant."""
    pixels = image.array if isinstance(image, Image) else image
    place = image.ijk_to_world if isinstance(image, Image) else None
    message = TrackedFrame(
        pixels, ijk_to_world=place, transforms=transforms, fields=fields,
        timestamp=time.time() if timestamp is None else timestamp,
    )  # fmt: skip
    if isinstance(image, Image) and timestamp is None:
        message.timestamp_raw = image.timestamp_raw
    return message
