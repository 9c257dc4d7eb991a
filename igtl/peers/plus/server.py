"""A server for the devices of PLUS that are clients, OpenIGTLinkTracker and OpenIGTLinkVideo."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any, Self, Unpack

import numpy.typing as npt

from igtl.blocking.server import Peer, Server
from igtl.blocking.server import serve as serve_clients
from igtl.codec.message import Message
from igtl.errors import ConnectionClosed
from igtl.log import log
from igtl.messages.imaging import Image
from igtl.messages.plus import ClientInfo, Placed
from igtl.messages.queries import ReadyTrackingData, StartTrackingData, StopTrackingData
from igtl.options import PORT, ServerSettings, seconds
from igtl.peers.plus.devices import SETTINGS, Device, Devices, Sending, frame_of


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
        self._devices = Devices()
        self._changed = threading.Condition()
        server.on_connect(self._connected)
        server.on_disconnect(self._gone)
        server.on(ClientInfo)(self._chosen)
        server.on(StartTrackingData)(self._started)
        server.on(StopTrackingData)(self._stopped)
        server.start()

    # -- clients

    def _connected(self, peer: Peer) -> None:
        with self._changed:
            self._devices.connected(peer)

    def _gone(self, peer: Peer) -> None:
        with self._changed:
            self._devices.gone(peer)

    def _chosen(self, info: ClientInfo, peer: Peer) -> None:
        try:
            with self._changed:
                self._devices.chose(info, peer)
                self._changed.notify_all()
        except ValueError as error:
            log(
                logging.WARNING, "%s has sent a CLIENTINFO that cannot be read: %s", peer.peer,
                error, peer=peer.peer, cause=error,
            )  # fmt: skip

    def _started(self, request: StartTrackingData, peer: Peer) -> None:
        peer.send(self._devices.started(request, peer))
        with self._changed:
            self._devices.streams(peer, True)
            self._changed.notify_all()

    def _stopped(self, request: StopTrackingData, peer: Peer) -> None:
        with self._changed:
            self._devices.streams(peer, False)
        peer.send(ReadyTrackingData(0))

    @property
    def clients(self) -> list[Device]:
        """The devices that are connected, and what each has asked for."""
        with self._changed:
            return list(self._devices.by_id.values())

    def wait_for_client(self, timeout: float | None = None) -> Device:
        """The first device that has said what it wants.

        Raises:
            TimeoutError: none came in time.
        """

        def asked() -> Device | None:
            return next((d for d in self._devices.by_id.values() if d.has_asked), None)

        with self._changed:
            found = self._changed.wait_for(asked, seconds("timeout", timeout))
        if found is None:
            raise TimeoutError(f"no device of PLUS within {timeout} s")
        return found

    # -- what is sent

    def _send(self, sending: Sending) -> None:
        for peer, message in sending:
            with contextlib.suppress(ConnectionClosed):  # it has left
                peer.send(message)

    def send(self, message: Message, *, force: bool = False) -> None:
        """Send a message to each device that has asked for it, unless it harms PLUS.

        Raises:
            PlusRefuses: it stops or confuses PLUS, as the text says; `force` sends it to all.
        """
        with self._changed:
            self._send(self._devices.sending(message, force=force))

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
            force: send it although PLUS cannot read the name, or there is no time stamp.

        Raises:
            ValueError: PLUS cannot read the name.
        """
        with self._changed:
            self._send(self._devices.tool(name, pose, status, timestamp, force))

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
        self.send(frame_of(image, transforms, fields, timestamp))

    def close(self) -> None:
        """Stop serving."""
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PlusServer on {self.host}:{self.port}, {len(self.clients)} devices>"


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
    given: Any = {**SETTINGS, **settings}
    return PlusServer(serve_clients(host, port, start=False, **given))
