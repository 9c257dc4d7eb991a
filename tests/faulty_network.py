"""A network with faults, for tests: two network namespaces of this process, a tun device in each, and a
thread that carries packets between the two and loses, delays, reorders, doubles or corrupts some.

    with Network(Faults(loss=0.02)) as net:
        with net.server():
            server = igtl.serve(net.server_address, 0)
        with net.client():
            link = igtl.connect(net.server_address, server.port)

What is opened inside such a block, and by the threads that begin in it, belongs to that namespace for
good. The namespaces have no name and no other device, so nothing gets in or out, and nothing remains
once the process has closed them or is dead. Linux only; needs root and /dev/net/tun.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = (
    0x8914, 0x8916, 0x891C, 0x8922, 0x8943,
)  # fmt: skip
_UP_AND_RUNNING = 0x41
_TCP, _UDP = 6, 17
_BACKLOG = 0.25  # seconds of data that wait in front of the slow line; more is dropped


@dataclass(frozen=True)
class Faults:
    """What happens to packets, in both directions.

    Attributes:
        loss, duplicate, corrupt, reorder: share of the packets, 0 to 1. A reordered one is held back
            for 20 ms more than the others; of a corrupted one a bit of the payload is flipped, and
            its checksum made to fit TCP or taken away (UDP), so that the program gets it.
        delay: seconds that each packet takes.
        rate: bits per second of each direction; None: as fast as this process carries them.
        target: only payload that equals these bytes is corrupted; empty: any.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    rate: float | None = None
    target: bytes = b""


@contextlib.contextmanager
def _own_namespace_kept() -> Iterator[None]:
    """Whatever namespace the calling thread goes to inside, it comes back."""
    with open("/proc/thread-self/ns/net") as own:
        try:
            yield
        finally:
            _checked(_LIBC.setns(own.fileno(), _CLONE_NEWNET))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Side:
    """A namespace with one tun device."""

    def __init__(self, address: str, mtu: int) -> None:
        self.address = address
        with contextlib.ExitStack() as undo, _own_namespace_kept():
            _checked(_LIBC.unshare(_CLONE_NEWNET))
            self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self.namespace)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self.tun)
            fcntl.ioctl(self.tun, _TUNSETIFF, _request(struct.pack("=h", _IFF_TUN | _IFF_NO_PI)))
            self._set(_SIOCSIFMTU, struct.pack("=i", mtu))
            self._set(_SIOCSIFTXQLEN, struct.pack("=i", 20_000))  # nothing is dropped uncounted
            self._set_address(address)
            undo.pop_all()

    def close(self) -> None:
        os.close(self.tun)
        os.close(self.namespace)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this namespace."""
        with _own_namespace_kept():
            _checked(_LIBC.setns(self.namespace, _CLONE_NEWNET))
            yield

    def replace_address(self, address: str) -> None:
        """As when the interface gets another lease: the old address is gone."""
        with self.inside():
            self._set_address(address)
        self.address = address

    def _set_address(self, address: str) -> None:
        self._set(_SIOCSIFADDR, _sockaddr(address))
        self._set(_SIOCSIFNETMASK, _sockaddr("255.255.255.0"))
        self._set(_SIOCSIFFLAGS, struct.pack("=h", _UP_AND_RUNNING))

    def _set(self, what: int, value: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, what, _request(value))


def _request(value: bytes) -> bytes:
    """struct ifreq"""
    return struct.pack("16s24s", b"tun0", value)


def _sockaddr(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


class Network:
    """The two sides and what is between them.

    Args:
        faults: of the line; see also the attribute.
        mtu: bytes of a packet at most.
        seed: of what happens to which packet.

    Attributes:
        faults: may be replaced at any time.
        pulled: while True nothing passes.
        counts: packets by what happened to them: "passed", "lost", "doubled", "corrupted", "reordered",
            "overflow" (of the slow line), "pulled".
        missing: the packets that were not handed on, whole.
    """

    server_address = "10.77.0.1"
    client_address = "10.77.0.2"

    def __init__(self, faults: Faults | None = None, *, mtu: int = 1500, seed: int = 1) -> None:
        self.faults = faults or Faults()
        self.pulled = False
        self.counts: Counter[str] = Counter()
        self.missing: list[bytes] = []
        self._random = random.Random(seed)
        self._hidden: tuple[bytes, bytes] | None = (
            None  # the client's address, and what stands for it
        )
        self._due: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._free: dict[int, float] = {}  # when the slow line is free again, by its far end
        with contextlib.ExitStack() as undo:
            self._server = Side(self.server_address, mtu)
            undo.callback(self._server.close)
            self._client = Side(self.client_address, mtu)
            undo.callback(self._client.close)
            self._stop, self._stopped = os.pipe()
            undo.callback(os.close, self._stop)
            undo.callback(os.close, self._stopped)
            self._thread = threading.Thread(target=self._carry, name="faulty network", daemon=True)
            self._thread.start()
            undo.callback(self._thread.join)
            undo.callback(os.write, self._stopped, b".")
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def server(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is at the server's end."""
        return self._server.inside()

    def client(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is at the client's end."""
        return self._client.inside()

    def replace_client_address(self, address: str) -> None:
        """The client's interface gets another address."""
        self._client.replace_address(address)

    def rebind_client(self, address: str) -> None:
        """From now on the server sees the client under another address, as behind a router that has
        forgotten its connections."""
        self._hidden = socket.inet_aton(self._client.address), socket.inet_aton(address)

    # -- the thread

    def _carry(self) -> None:
        poll = select.poll()
        other = {self._server.tun: self._client.tun, self._client.tun: self._server.tun}
        for descriptor in (*other, self._stop):
            poll.register(descriptor, select.POLLIN)
        while True:
            wait = self._due[0][0] - time.monotonic() if self._due else None
            ready = poll.poll(None if wait is None else max(0.0, 1000 * wait))
            for descriptor, _ in ready:
                if descriptor == self._stop:
                    return
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        self._take(os.read(descriptor, 65536), other[descriptor])
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(self._due)
                self._hand_on(packet, to)

    def _take(self, packet: bytes, to: int) -> None:
        if packet[0] >> 4 != 4 or packet[9] not in (_TCP, _UDP):  # what an interface says by itself
            return
        faults, chance = self.faults, self._random.random
        due = time.monotonic() + faults.delay
        if chance() < faults.loss:
            self._lose(packet, "lost")
            return
        if faults.corrupt:
            packet = self._corrupted(packet, chance() < faults.corrupt, faults.target)
        if self._hidden is not None:
            packet = _translated(packet, *self._hidden, outward=to == self._server.tun)
        if faults.rate is not None:
            due = max(due, self._free.get(to, 0.0)) + 8 * len(packet) / faults.rate
            if due - time.monotonic() > _BACKLOG + faults.delay:
                self._lose(packet, "overflow")
                return
            self._free[to] = due
        if chance() < faults.reorder:
            self.counts["reordered"] += 1
            due += 0.02
        self._later(due, to, packet)
        if chance() < faults.duplicate:
            self.counts["doubled"] += 1
            self._later(due, to, packet)

    def _later(self, due: float, to: int, packet: bytes) -> None:
        self._number += 1  # of two that are due at the same time the first goes first
        heapq.heappush(self._due, (due, self._number, to, packet))

    def _hand_on(self, packet: bytes, to: int) -> None:
        if self.pulled:
            self._lose(packet, "pulled")
            return
        os.write(to, packet)
        self.counts["passed"] += 1

    def _lose(self, packet: bytes, cause: str) -> None:
        self.missing.append(packet)
        self.counts[cause] += 1

    def _corrupted(self, packet: bytes, really: bool, target: bytes) -> bytes:
        start = _payload_at(packet)
        changed = bytearray(packet)
        if really and start < len(packet):
            places = range(start, len(packet))
            if target:
                at = packet.find(target, start)
                places = range(at, at + len(target)) if at >= 0 else range(0)
            if places:
                changed[self._random.choice(places)] ^= 1 << self._random.randrange(8)
                self.counts["corrupted"] += 1
        return _checksummed(changed)


# ---- packets: IPv4 with TCP or UDP -------------------------------------------------------------


def _is_first(packet: bytes | bytearray) -> bool:
    """Whether this is a packet, or fragment of one, with the header of TCP or UDP."""
    return not (packet[6] & 0x1F or packet[7])


def _payload_at(packet: bytes | bytearray) -> int:
    """Where the bytes of the program begin."""
    start = 4 * (packet[0] & 15)
    if not _is_first(packet):
        return start
    return start + (8 if packet[9] == _UDP else 4 * (packet[start + 12] >> 4))


def _translated(packet: bytes, inner: bytes, outer: bytes, *, outward: bool) -> bytes:
    """With the client's address as a router would show it: outward as the source, else back."""
    at, old, new = (12, inner, outer) if outward else (16, outer, inner)
    if packet[at : at + 4] != old:
        return packet
    changed = bytearray(packet)
    changed[at : at + 4] = new
    return _checksummed(changed)


def _checksummed(packet: bytearray) -> bytes:
    """With checksums that fit; UDP without one, which stands in the first fragment only."""
    start = 4 * (packet[0] & 15)
    packet[10:12] = b"\0\0"
    packet[10:12] = _checksum(packet[:start])
    if packet[9] == _UDP and _is_first(packet):
        packet[start + 6 : start + 8] = b"\0\0"
    elif packet[9] == _TCP:
        packet[start + 16 : start + 18] = b"\0\0"
        pseudo = packet[12:20] + struct.pack(">HH", _TCP, len(packet) - start)
        packet[start + 16 : start + 18] = _checksum(pseudo + packet[start:])
    return bytes(packet)


def _checksum(data: bytearray) -> bytes:
    """Ones' complement of the ones' complement sum of all 16-bit words, which is the remainder of the
    number that they make up together."""
    whole = int.from_bytes(data, "big") << 8 * (len(data) & 1)
    return (0xFFFF - whole % 0xFFFF).to_bytes(2, "big")
