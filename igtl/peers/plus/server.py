"""A server for the devices of PLUS that are clients, OpenIGTLinkTracker and OpenIGTLinkVideo."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Self, Unpack

import numpy as np
import numpy.typing as npt

from igtl.blocking.server import Peer, Server
from igtl.blocking.server import serve as serve_clients
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import log
from igtl.messages.imaging import Image
from igtl.messages.plus import ClientInfo, Placed, TrackedFrame
from igtl.messages.queries import ReadyTrackingData, StartTrackingData, StopTrackingData
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform
from igtl.options import PORT, ServerSettings
from igtl.peers.plus.rules import check_for_device
from igtl.peers.plus.selection import Client, check_transform


class Device:
    """A device of PLUS that is a client.

    Attributes:
        peer: the client.
        wants: what it has asked for by CLIENTINFO; None until then.
        tracking_data: whether it has asked for TDATA. coordinates: in which frame.
        interval: least seconds between two TDATA.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.wants: Client | None = None
        self.tracking_data = False
        self.coordinates = ""
        self.interval = 0.0
        self._sent = 0.0

    def takes(self, message: Message) -> bool:
        """Whether it has asked for this message. One without a CLIENTINFO gets all but TDATA."""
        if isinstance(message, TrackingData):
            return self.tracking_data
        if self.wants is None or not self.wants.types:
            return True
        # a device for images understands TRACKEDFRAME, which says more
        asked = self.wants.types
        if isinstance(message, TrackedFrame):
            return bool({"IMAGE", "TRACKEDFRAME"} & set(asked))
        return self.wants.wants(message)

    def is_due(self, now: float) -> bool:
        """Whether its interval has passed; then it begins anew."""
        if now - self._sent < self.interval:
            return False
        self._sent = now
        return True

    def __repr__(self) -> str:
        return f"<Device {self.peer.peer} {self.wants}>"


class PlusServer:
    """Sends tools and frames to devices of PLUS; see `serve`. Its methods may be called in any
    thread.

    Attributes:
        server: the `igtl.Server`; handlers may be added to it.
        host, port: where it listens.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host, self.port = server.host, server.port
        self._devices: dict[int, Device] = {}
        self._tools: dict[str, tuple[npt.NDArray[np.float64], str, float]] = {}
        self._lock = threading.RLock()
        server.on_connect(self._connected)
        server.on_disconnect(self._gone)
        server.on(ClientInfo)(self._chosen)
        server.on(StartTrackingData)(self._started)
        server.on(StopTrackingData)(self._stopped)
        server.start()

    # -- clients

    def _connected(self, peer: Peer) -> None:
        with self._lock:
            self._devices[peer.id] = Device(peer)

    def _gone(self, peer: Peer) -> None:
        with self._lock:
            self._devices.pop(peer.id, None)

    def _chosen(self, info: ClientInfo, peer: Peer) -> None:
        device = self._devices[peer.id]
        try:
            device.wants = Client.read(info)
        except ValueError as error:
            log(
                logging.WARNING, "%s has sent a CLIENTINFO that cannot be read: %s", peer.peer,
                error, peer=peer.peer, cause=error,
            )  # fmt: skip

    def _started(self, request: StartTrackingData, peer: Peer) -> None:
        device = self._devices[peer.id]
        device.interval = max(0, request.resolution_ms) / 1000
        device.coordinates = request.coordinate_name
        peer.send(ReadyTrackingData(0))
        with self._lock:
            device.tracking_data = True

    def _stopped(self, request: StopTrackingData, peer: Peer) -> None:
        with self._lock:
            self._devices[peer.id].tracking_data = False
        peer.send(ReadyTrackingData(0))

    @property
    def clients(self) -> list[Device]:
        """The devices that are connected."""
        with self._lock:
            return list(self._devices.values())

    def wait_for_client(self, timeout: float | None = None) -> Device:
        """The first device that has said what it wants.

        Raises:
            TimeoutError: none came in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            for device in self.clients:
                if device.wants is not None or device.tracking_data:
                    return device
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"no device of PLUS within {timeout} s")
            time.sleep(0.005)

    # -- what is sent

    def send(self, message: Message, *, force: bool = False) -> None:
        """Send a message to each device that has asked for it, unless it harms PLUS.

        Raises:
            EncodeError: it ends or confuses PLUS, as the text says; `force` sends it to all.
        """
        if not force:
            check_for_device(message)
        for device in self.clients:
            if force or device.takes(message):
                _send(device.peer, message)

    def tool(
        self,
        name: str,
        pose: npt.ArrayLike,
        *,
        status: str = "OK",
        timestamp: float | None = None,
        force: bool = False,
    ) -> None:
        """Send the pose of a tool: as TRANSFORM with its status, and to the devices that asked for
        it, in TDATA together with the other tools that are "OK".

        PLUS takes each tool of a TDATA as valid, so one that is not "OK" is left out of it.

        Args:
            name: XToY, as the configuration of PLUS names it.
            pose: 4x4, mm.
            status: "OK", "MISSING", "OUT_OF_VIEW", ….
            timestamp: seconds since 1970; default now. PLUS ignores a TRANSFORM without one.
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
        self.send(message, force=force)
        with self._lock:
            self._tools[name] = np.array(message.matrix, np.float64), status, now
            self._send_tracking_data(now)

    def _send_tracking_data(self, now: float) -> None:
        devices = [d for d in self._devices.values() if d.tracking_data]
        if not devices:
            return
        seen = {name: m for name, (m, status, _) in self._tools.items() if status == "OK"}
        for device in devices:
            wanted = device.wants.transforms if device.wants is not None else ()
            names = [name for name in seen if not wanted or name in wanted]
            if not device.is_due(time.monotonic()):
                continue
            message = TrackingData(
                [Tool(name[:20], ToolType.INSTRUMENT_6D, seen[name]) for name in names],
                device_name=f"TDATA_{len(names)}Elem", timestamp=now,
            )  # fmt: skip
            for k, name in enumerate(names):
                message.metadata[f"{name}Status"] = "OK"
                message.metadata[f"{name}Index"] = str(k)
            _send(device.peer, message)

    def frame(
        self,
        image: Image | npt.ArrayLike,
        transforms: Mapping[str, Placed] = {},
        *,
        fields: Mapping[str, object] = {},
        timestamp: float | None = None,
    ) -> None:
        """Send an image with the transforms of its instant, as TRACKEDFRAME: PLUS ignores the
        metadata of an IMAGE, so the place of one stays unknown to it.

        Args:
            image: an Image, or pixels: (height, width), (k, j, i) or (k, j, i, components).
            transforms: by name: a 4x4 matrix, mm, or a tuple of one and its status.
            fields: what else belongs to the frame.
            timestamp: seconds since 1970; default: that of the Image, else now.
        """
        pixels = image.array if isinstance(image, Image) else image
        place = image.ijk_to_world if isinstance(image, Image) else None
        message = TrackedFrame(
            pixels, ijk_to_world=place, transforms=transforms, fields=fields,
            timestamp=time.time() if timestamp is None else timestamp,
        )  # fmt: skip
        if isinstance(image, Image) and timestamp is None:
            message.timestamp_raw = image.timestamp_raw
        self.send(message)

    def close(self) -> None:
        """Stop serving."""
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PlusServer on {self.host}:{self.port}, {len(self._devices)} devices>"


def _send(peer: Peer, message: Message) -> None:
    with contextlib.suppress(ConnectionClosed):  # it has left
        peer.send(message)


def serve(
    host: str = "127.0.0.1", port: int = PORT, **settings: Unpack[ServerSettings]
) -> PlusServer:
    """Serve devices of PLUS that are clients:

        with igtl.plus.serve(port=18944) as server:
            server.tool("StylusToTracker", pose, status="OK")
            server.frame(image, {"ProbeToTracker": pose})

    What a device asks for by CLIENTINFO and STT_TDATA is obeyed. Messages have header version 2,
    which holds the statuses.

    Args:
        host: address to listen on; default loopback only, "0.0.0.0" for all.
        port: 0 takes a free one.
        settings: see `igtl.options.ServerOptions`.

    Raises:
        TypeError, ValueError: an option does not exist, or its value is not allowed.
        OSError: the address cannot be used.
    """
    given: Any = {"version": 2, **settings}
    return PlusServer(serve_clients(host, port, start=False, **given))
