"""What servers for the devices of PLUS do, in steps (see `igtl.session.steps`).

`server` and `aio` make methods of it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import log
from igtl.messages.imaging import Image
from igtl.messages.plus import ClientInfo, Placed
from igtl.messages.queries import ReadyTrackingData, StartTrackingData, StopTrackingData
from igtl.peers.plus.devices import Device, Devices, Sending, frame_of
from igtl.session.steps import Steps
from igtl.session.subscribing import Changing


class Serving:
    """What servers for devices share.

    Args:
        server: of the driver, which has not used it yet.
        method: makes a handler of an operation.

    Attributes:
        devices, changed: what the devices have asked for, and what guards it.
        others: see `igtl.plus.PlusServer`.
    """

    def __init__(
        self, server: Any, changed: Changing, method: Callable[..., Callable[..., Any]]
    ) -> None:
        self.server = server
        self.host, self.port = server.host, server.port
        self.devices = Devices()
        self.changed = changed
        server.on_connect(self._connected)
        server.on_disconnect(self._gone)
        server.on(ClientInfo)(self._chosen)
        server.on(StartTrackingData)(method(self._started))
        server.on(StopTrackingData)(method(self._stopped))

    def _connected(self, peer: Any) -> None:
        with self.changed:
            self.devices.connected(peer)

    def _gone(self, peer: Any) -> None:
        with self.changed:
            self.devices.gone(peer)

    def _chosen(self, info: ClientInfo, peer: Any) -> None:
        try:
            with self.changed:
                self.devices.chose(info, peer)
            self.changed.tell()
        except ValueError as error:
            log(
                logging.WARNING, "%s has sent a CLIENTINFO that cannot be read: %s", peer.peer,
                error, peer=peer.peer, cause=error,
            )  # fmt: skip

    def _started(self, request: StartTrackingData, peer: Any) -> Steps[None]:
        yield peer.send(self.devices.started(request, peer))
        with self.changed:
            self.devices.streams(peer, True)
        self.changed.tell()

    def _stopped(self, request: StopTrackingData, peer: Any) -> Steps[None]:
        with self.changed:
            self.devices.streams(peer, False)
        yield peer.send(ReadyTrackingData(0))

    @property
    def clients(self) -> list[Device]:
        """The devices that are connected, and what each has asked for."""
        with self.changed:
            return list(self.devices.by_id.values())


def _send_all(sending: Sending) -> Steps[None]:
    for peer, message in sending:
        with contextlib.suppress(ConnectionClosed):  # it has left
            yield peer.send(message)


def send(server: Serving, message: Message, *, force: bool = False) -> Steps[None]:
    """Send a message to each device that has asked for it, unless it harms PLUS.

    Raises:
        PlusRefuses: the message stops or confuses PLUS; `force` sends it to all.
    """
    with server.changed:
        yield from _send_all(server.devices.sending(message, force=force))


def tool(
    server: Serving,
    name: str,
    pose: npt.ArrayLike,
    *,
    status: str = "OK",
    timestamp: float | None = None,
    force: bool = False,
) -> Steps[None]:
    """Send the pose of a tool: as TRANSFORM with its status, and in TDATA.

    TDATA goes to the devices that asked for it, with all tools that are "OK": PLUS takes each tool
    of a TDATA as valid, so others are left out.

    Args:
        name: XToY, as the configuration of PLUS names it.
        pose: 4x4, mm.
        status: "OK", "MISSING", "OUT_OF_VIEW", ….
        timestamp: seconds since 1970; default now. PLUS ignores a TRANSFORM without one.
        force: send it although PLUS cannot read the name, or there is no time stamp.

    Raises:
        ValueError: PLUS cannot read the name.
    """
    with server.changed:
        yield from _send_all(server.devices.tool(name, pose, status, timestamp, force))


def frame(
    server: Serving,
    image: Image | npt.ArrayLike,
    transforms: Mapping[str, Placed] = {},
    *,
    fields: Mapping[str, object] = {},
    timestamp: float | None = None,
) -> Steps[None]:
    """Send an image with the transforms of its instant, as TRACKEDFRAME.

    PLUS ignores the metadata of an IMAGE, so it would not know where that lies.

    Args:
        image: an Image, or pixels: (height, width), (k, j, i) or (k, j, i, components).
        transforms: by name: a 4x4 matrix, mm, or a tuple of one and its status.
        fields: what else belongs to the frame.
        timestamp: seconds since 1970; default: that of the Image, else now.
    """
    yield from send(server, frame_of(image, transforms, fields, timestamp))
