"""A simulated Motive: it answers requests, and sends frames of data to the one that asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

from igtl.devices import natnet_packets as packets
from igtl.devices.natnet_packets import Body, Version

FREQUENCY = 1_000_000
LATENCY = 5_000  # ticks: 5 ms


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def count(number: int) -> bytes:
    return struct.pack("<i", number)


def body_of(body: Body) -> bytes:
    return (
        count(body.number)
        + struct.pack("<7f", *body.position, *body.quaternion)
        + struct.pack("<fh", body.error, int(body.tracked))
    )


def server_info(version: Version) -> bytes:
    name = b"Motive".ljust(256, b"\0")
    return (
        name + bytes((3, 1, 0, 0)) + bytes((*version, 0, 0)) + struct.pack("<Q", FREQUENCY)
        + struct.pack("<H?", 1511, False) + bytes((239, 255, 42, 99))
    )  # fmt: skip


def described(number: int, name: str, version: Version) -> bytes:
    markers = 3
    out = text(name) + count(number) + count(-1) + struct.pack("<3f", 0, 0, 0) + count(markers)
    out += bytes(12 * markers) + b"".join(count(n) for n in range(markers))
    if version >= (4, 0):
        out += b"".join(text(f"Marker {n}") for n in range(markers))
    return out


def models(names: dict[int, str], version: Version, *, camera_first: bool = False) -> bytes:
    """Descriptions: a camera if asked for, a marker set, a skeleton, and the rigid bodies."""
    found = [(5, text("Camera 1") + bytes(28))] if camera_first else []
    found += [(0, text("all") + count(2) + text("Marker 1") + text("Marker 2"))]
    found += [(2, text("Fred") + count(1) + count(1) + described(1, "Hip", version))]
    found += [(1, described(number, name, version)) for number, name in names.items()]
    out = count(len(found))
    for kind, content in found:
        size = count(len(content)) if version >= (4, 1) else b""
        out += count(kind) + size + content
    return out


def frame(number: int, bodies: Sequence[Body], version: Version, *, full: bool = True) -> bytes:
    """A frame with something in every section, if `full`."""

    def section(*elements: bytes) -> bytes:
        content = b"".join(elements) if full or elements == rigid else b""
        present = len(elements) if full or elements == rigid else 0
        size = count(len(content)) if version >= (4, 1) else b""
        return count(present) + size + content

    rigid = tuple(body_of(body) for body in bodies)
    some = Body(99, (9, 9, 9), (0, 0, 0, 1), 0.5, True)
    marker = count(1) + bytes(12) + struct.pack("<fhf", 0.01, 2, 0.001)
    channels = count(7) + count(2) + (count(3) + bytes(12)) * 2
    out = count(number)
    out += section(text("all") + count(2) + bytes(24), text("none") + count(0))
    out += section(bytes(12), bytes(12), bytes(12))
    out += section(*rigid)
    out += section(count(1) + count(2) + body_of(some) * 2)
    if version >= (4, 1):
        out += section(count(5) + count(1) + body_of(some) + count(2) + marker * 2)
    out += section(marker, marker)
    out += section(channels)
    out += section(channels, channels)
    exposed = 123_456_789_000
    out += struct.pack("<IId3Q", 0, 0, number / 100, exposed, exposed + 1000, exposed + LATENCY)
    if version >= (4, 1):
        out += struct.pack("<II", 1, 2)
    return out + struct.pack("<hi", 0, 0)


class Motive:
    """Sends frames at 100 Hz to each address that has asked to connect.

    Attributes:
        port: for requests.
        bodies, names: what it sends; they may be changed.
        group: address and port of a multicast group that gets the frames instead.
        asked: ids of the packets that came.
        raw: a datagram to send instead of the next frame.
    """

    def __init__(
        self, bodies: list[Body], names: dict[int, str], version: Version, port: int = 0
    ) -> None:
        self.bodies, self.names, self.version = bodies, names, version
        self.asked: list[int] = []
        self.raw: bytes | None = None
        self.group: tuple[str, int] | None = None
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", port))
        here = socket.inet_aton("127.0.0.1")
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        self.port: int = self._sock.getsockname()[1]
        self._clients: set[tuple[str, int]] = set()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._answer, self._send)
        ]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        self._sock.settimeout(0.05)
        while not self._over.is_set():
            try:
                data, client = self._sock.recvfrom(65536)
            except OSError:  # nothing came, or the client has gone
                continue
            number, _ = packets.split(data)
            self.asked.append(number)
            if number == packets.CONNECT:
                self._clients.add(client)
                answer = packets.packet(packets.SERVER_INFO, server_info(self.version))
                self._sock.sendto(answer, client)
            elif number == packets.REQUEST_MODELS:
                answer = packets.packet(packets.MODELS, models(self.names, self.version))
                self._sock.sendto(answer, client)

    def _send(self) -> None:
        number = 0
        while not self._over.wait(0.01):
            number += 1
            data = packets.packet(packets.FRAME, frame(number, self.bodies, self.version))
            raw, self.raw = self.raw, None
            for client in [*self._clients] if self.group is None else [self.group]:
                self._sock.sendto(data if raw is None else raw, client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._sock.close()
