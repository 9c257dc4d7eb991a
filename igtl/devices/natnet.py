"""OptiTrack Motive by NatNet 3 and 4: rigid bodies as TRANSFORM or TDATA.

Written from the published layout of the packets, and tested with a simulated sender only, not with
Motive itself.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from igtl._core import fit
from igtl.devices import natnet_packets as packets
from igtl.devices.device import ALIVE, UNREADABLE, Device, Item, option
from igtl.geometry import Pose
from igtl.log import log
from igtl.messages.tracking import Tool, ToolType, TrackingData, Transform

_LARGEST: Final = 65_536  # bytes of a datagram
_NAP: Final = 0.25  # seconds that a read waits
_AGAIN: Final = 1.0  # seconds between two requests, or keep-alives
_SILENCE: Final = 2.0  # seconds without a frame after which Motive may have been restarted
_NAME: Final = 20  # bytes of a device name, and of a tool's


@dataclass(frozen=True, kw_only=True)
class NatNet(Device):
    """Rigid bodies of OptiTrack Motive (NatNet 3 and 4)."""

    name: str = option("OptiTrack", "device name of TDATA and STATUS")
    send: Literal["transform", "tdata"] = option("transform", "TRANSFORM each, or TDATA")
    group: str = option("239.255.42.99", "multicast group of the frames; empty: unicast")
    local: str = option("0.0.0.0", "address of this machine's interface to Motive")
    command_port: int = option(1510, "port of Motive for requests")
    data_port: int = option(1511, "port on which the frames arrive; 0: any, for unicast")
    version: str = option("", "of NatNet, as 3.1, if Motive does not answer requests")

    takes: ClassVar = "address of the computer with Motive"
    sends: ClassVar = "TRANSFORM of the name of each body, or TDATA; mm"
    stamp: ClassVar = "arrival, less the time within Motive since the exposure"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version:
            _version_of(self.version)
        for port in (self.command_port, self.data_port):
            if not 0 <= port < 1 << 16:
                raise ValueError(f"a port is from 0 to 65535, not {port}")

    def messages(self) -> Iterator[Item]:
        """Yield a TRANSFORM for each rigid body, or a TDATA for each frame."""
        with _Client(self) as client:
            while True:
                yield from client.step()


class _Client:
    """One session with Motive."""

    def __init__(self, device: NatNet) -> None:
        self._device = device
        self._open = ExitStack()
        self._server = device.argument or "127.0.0.1", device.command_port
        self._version = _version_of(device.version) if device.version else None
        self._frequency = 0
        self._names: dict[int, str] = {}
        self._named = False  # whether they are those of the bodies that come
        self._asked = self._last = 0.0
        self._command = self._open.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._data = self._open.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            self._bind()
        except BaseException:
            self._open.close()
            raise

    def _bind(self) -> None:
        device = self._device
        self._command.bind((device.local, 0))
        self._data.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._data.bind(("" if device.group else device.local, device.data_port))
        if device.group:
            member = socket.inet_aton(device.group) + socket.inet_aton(device.local)
            self._data.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def step(self) -> Iterator[Item]:
        """Ask for what is missing, wait a little, and yield what has come."""
        self._ask()
        ready, _, _ = select.select([self._command, self._data], [], [], _NAP)
        if not ready:
            yield None
        for sock in ready:
            try:
                data = sock.recv(_LARGEST)
            except ConnectionResetError:  # Windows tells so of a request to a closed port
                continue
            arrived = time.time()
            try:
                yield from self._take(*packets.split(data), arrived)
            except ValueError as error:
                name = self._device.name
                log(logging.WARNING, "device %s: %s", name, error, device=name, cause=error)
                yield UNREADABLE

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked < _AGAIN:
            return
        self._asked = now
        if self._version is None or now - self._last > _SILENCE:
            self._send(packets.CONNECT, b"Ping\0")
        else:
            self._send(packets.KEEP_ALIVE)  # without it Motive ends a unicast stream
        if not self._named:
            self._send(packets.REQUEST_MODELS)

    def _send(self, number: int, payload: bytes = b"") -> None:
        self._command.sendto(packets.packet(number, payload), self._server)

    def _take(self, number: int, payload: bytes, arrived: float) -> Iterator[Item]:
        if number == packets.SERVER_INFO:
            info = packets.read_server_info(payload)
            if info.version < packets.FIRST:
                raise OSError("{} sends NatNet {}.{}, 3.0 at least is read".format(
                    info.name, *info.version))  # fmt: skip
            self._version = self._version or info.version
            self._frequency = info.frequency
            yield None
        elif self._version is None:
            yield None  # no frame can be read before the version is known
        elif number == packets.MODELS:
            self._names = packets.read_names(payload, self._version)
            self._named = True
            yield ALIVE
        elif number == packets.FRAME:
            yield from self._told(packets.read_frame(payload, self._version), arrived)

    def _told(self, frame: packets.Frame, arrived: float) -> Iterator[Item]:
        self._last = time.monotonic()
        seen = [body for body in frame.bodies if body.tracked]
        if any(body.number not in self._names for body in seen):
            self._named = False
        stamp = arrived - (frame.latency / self._frequency if self._frequency else 0.0)
        tools = []
        for body in seen:
            name = fit(self._names.get(body.number, f"Body{body.number}"), _NAME)
            pose = Pose.of(body.quaternion, [1000 * x for x in body.position]).matrix
            if self._device.send == "tdata":
                tools.append(Tool(name, ToolType.INSTRUMENT_6D, pose))
            else:
                yield Transform(pose, device_name=name, timestamp=stamp)
        if self._device.send == "tdata":
            yield TrackingData(tools, device_name=self._device.name, timestamp=stamp)
        elif not tools:
            yield ALIVE


def _version_of(text: str) -> packets.Version:
    try:
        major, minor = (int(part) for part in text.split("."))
    except ValueError:
        raise ValueError(f"a version of NatNet is written as 3.1, not {text!r}") from None
    if (major, minor) < packets.FIRST:
        raise ValueError(f"NatNet {text} is too old: 3.0 at least")
    return major, minor
