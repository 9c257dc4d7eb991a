"""What UDP senders and receivers share, blocking or not: sockets, and datagrams to messages.

A message is one datagram of up to 65,507 bytes; a larger one goes through the RTP wrapper of the
official library (docs/protocol.md 10.3), and is put together again here, bounded in memory and
time. Nothing recovers what the network loses, doubles or reorders; it is counted: a message of
which a packet came is either returned once, or counted once as an error or as dropped.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import struct
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

from igtl._core import Frame
from igtl._stream import MAX_DATAGRAM, Inlet, Outlet
from igtl.codec import rtp
from igtl.errors import BodyError, ConnectionClosed, MessageTooLarge, ProtocolError
from igtl.log import log
from igtl.net.sockets import Quiet, Waiter
from igtl.options import PORT, CRCPolicy, OnError, seconds

MAX_SIZE = 64 << 20
_SO_TIMESTAMPNS = 35  # Linux; the socket module has no name for it
_SOURCES = 256  # RTP sources that are kept apart
_WINDOW = 1024  # numbers and messages within which a late packet differs from a duplicate
_LEAST = 512  # bytes that a kept packet counts at least, for what Python adds to each
_RECEIVE_BUFFER = 4 << 20
_SLICE = 0.2  # seconds after which a receiver looks whether it was closed, where nothing wakes it


def _interface_v6(name: str | None) -> int:
    return 0 if name is None else int(name) if name.isdecimal() else socket.if_nametoindex(name)


def _is_multicast(family: int, host: str) -> bool:
    if family == socket.AF_INET6:
        return host.lower().startswith("ff")
    return 224 <= int(host.partition(".")[0]) <= 239


class Outgoing(Outlet):
    """The sending side.

    Args:
        host, port: of the receiver: a host, a multicast group, or with `broadcast` a broadcast
            address.
        interface: for multicast: the local address (IPv4), or the name or number of the
            interface (IPv6). Default: the system's choice.
        ttl: for multicast: how many routers it may pass; default 1, this network only.
        broadcast: the host is a broadcast address.
        payload_length: bytes of a datagram behind its RTP header, for messages over 65,507 bytes.

    Attributes:
        address: of the receiver.
        stats: messages and bytes; see `igtl.Stats`.
    """

    _direct = True  # past the methods of the socket, where that is possible
    _waits = True  # for room in the system

    def __init__(
        self,
        host: str,
        port: int = PORT,
        *,
        interface: str | None = None,
        ttl: int = 1,
        broadcast: bool = False,
        payload_length: int = rtp.PAYLOAD_LENGTH,
    ) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        number, *where = address
        packed = socket.inet_pton(family, str(number).partition("%")[0])
        self._aim(address, packed, *map(int, where))
        self._payload_length = payload_length
        self._ssrc = int.from_bytes(os.urandom(4), "big")
        self._sequence = 0
        self._numbering = threading.Lock()  # several threads may send
        self._open(socket.socket(family, socket.SOCK_DGRAM), self._direct)
        try:
            self._sock.setblocking(self._waits)
            if broadcast:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if _is_multicast(family, str(address[0])):
                self._choose_interface(family, interface, ttl)
        except BaseException:
            self._sock.close()
            raise

    def _choose_interface(self, family: int, interface: str | None, ttl: int) -> None:
        if family == socket.AF_INET6:
            number = _interface_v6(interface)
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, number)
            return
        self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        if interface is not None:
            number4 = socket.inet_aton(interface)
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, number4)

    def _split(self, wire: bytes) -> list[bytes]:
        """Return the datagrams of a message that is too large for one."""
        with self._numbering:
            packets = rtp.split(
                wire, sequence=self._sequence, time=int(time.time() * 100), ssrc=self._ssrc,
                payload_length=self._payload_length,
            )  # fmt: skip
            self._sequence = (self._sequence + len(packets)) & 0xFFFF
        return packets

    def _sendto(self, packet: bytes) -> None:
        """Send a datagram where the compiled form does not, or the system would not take it."""
        try:  # without `suppress`, which costs as much as packing
            self._sock.sendto(packet, self.address)
        except ConnectionRefusedError:
            return  # an earlier one met a closed port, and UDP does not promise anything


class _Partial:
    """A message of which some packets have come."""

    def __init__(self) -> None:
        self.packets: dict[int, rtp.Packet] = {}
        self.bytes = 0  # of its packets
        self.cost = 0  # of keeping them
        self.total: int | None = None  # packets, known from the last one
        self.progress = 0.0  # when (monotonic) a packet of it came last


class _Source:
    """One RTP source: the numbers that came, and the messages that are being put together.

    Attributes:
        first, next: lowest number that came; the one after the highest.
        came: bit k is set where the number next - 1 - k came, of the last _WINDOW.
        partial: incomplete messages by key, the one that has waited longest first.
        cost: bytes that they count, all in all.
        finished: hashes of the keys of messages that are complete or given up. A packet of theirs
            that comes later is not the beginning of another.
    """

    def __init__(self, sequence: int) -> None:
        self.first = self.next = sequence
        self.came = 0
        self.partial: OrderedDict[Any, _Partial] = OrderedDict()
        self.cost = 0
        self.finished: OrderedDict[int, None] = OrderedDict()

    @property
    def since(self) -> float:
        """When (monotonic) the message that has waited longest got its last packet."""
        return next(iter(self.partial.values())).progress if self.partial else math.inf

    def keep(self, key: Any, packet: rtp.Packet, now: float) -> _Partial:
        """Add a packet to its message."""
        partial = self.partial.setdefault(key, _Partial())
        if packet.fragment not in partial.packets:
            cost = max(_LEAST, len(packet.data))
            partial.packets[packet.fragment] = packet
            partial.bytes += len(packet.data)
            partial.cost += cost
            self.cost += cost
            partial.progress = now
            self.partial.move_to_end(key)
        return partial

    def finish(self, key: Any) -> None:
        """Note that the message is complete, or given up."""
        if (partial := self.partial.pop(key, None)) is not None:
            self.cost -= partial.cost
        self.finished[hash(key)] = None
        if len(self.finished) > _WINDOW:
            self.finished.popitem(last=False)


class Incoming(Inlet):
    """The receiving side.

    Args:
        port: default 18944; 0 takes a free one, see `port`.
        host: address to listen on, default loopback only; "0.0.0.0" for other machines too.
        group: multicast group to join, instead of `host`.
        interface: for `group`: the local address (IPv4), or the name or number of the interface
            (IPv6), to join on. Default: the system's choice.
        crc: see `igtl.unpack`.
        on_error: "skip" (default) counts datagrams that are not messages, "raise" raises.
        max_size: bytes of messages that are being put together of RTP packets, all in all; a
            packet counts 512 bytes at least. Default 64 MiB. Where it is exceeded, the source that
            holds most gives up the message that has waited longest.
        reassembly_timeout: seconds without a new packet after which a message with missing packets
            is given up; default 1. None: only for lack of memory, or by `close`.

    Messages that are given up, at the latest by `close`, are counted in `stats.dropped` as
    "incomplete".

    Attributes:
        host, port: where it listens.
        gaps: RTP packets that never came, between the first and the last that did.
        reordered: datagrams that came behind a later one, by their RTP number, or by the time
            stamp of their message within its stream.
        duplicates: datagrams that came again. Those by RTP are left out.
        stats: messages, bytes, errors; see `igtl.Stats`.
    """

    _direct = True  # as in Outgoing
    _waits = True  # for datagrams, in the system

    def __init__(
        self,
        port: int = PORT,
        host: str = "127.0.0.1",
        *,
        group: str | None = None,
        interface: str | None = None,
        crc: CRCPolicy = "verify",
        on_error: OnError = "skip",
        max_size: int = MAX_SIZE,
        reassembly_timeout: float | None = 1.0,
    ) -> None:
        if isinstance(port, str):
            raise TypeError(f"the port comes first, then the host: {port!r} is not a port")
        # the sources: the one that was not heard longest stands first
        self._begin(crc, OrderedDict[Any, _Source]())
        self._on_error = on_error
        self._max_size = max_size
        self._reassembly_timeout = seconds("reassembly_timeout", reassembly_timeout)
        self._lock = threading.RLock()  # of the sources: one thread receives, another may close
        address = group or host
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._open(socket.socket(family, socket.SOCK_DGRAM), self._direct)
        try:
            self._sock.setblocking(self._waits)
            if group is not None:
                self._join(family, group, interface, port)
            else:
                self._sock.bind((host, port))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._stamped = sys.platform == "linux" and struct.calcsize("P") == 8
            if self._stamped:
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except BaseException:
            self._sock.close()
            raise
        self._readable = Waiter(self._sock)
        self.host, self.port = self._sock.getsockname()[:2]

    def _join(self, family: int, group: str, interface: str | None, port: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several may listen
        # bound to the group, so that nothing else on this port comes in; Windows cannot do that
        here = "" if sys.platform == "win32" else group
        if family == socket.AF_INET6:
            number = _interface_v6(interface)
            self._sock.bind((here, port, 0, number))
            wanted = socket.inet_pton(family, group) + struct.pack("@I", number)
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, wanted)
        else:
            self._sock.bind((here, port))
            wanted = socket.inet_aton(group) + socket.inet_aton(interface or "0.0.0.0")
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)

    def _read(self, wait: float) -> tuple[bytes, Any, float | None] | None:
        """Receive one datagram where the compiled form does not; None: nothing came."""
        try:
            if self._waits:
                self._readable(min(wait, _SLICE))
            data, address = self._sock.recvfrom(MAX_DATAGRAM + 1)
        except (Quiet, BlockingIOError):
            return None
        except (OSError, ValueError):
            if self._closed:
                return None
            raise
        return (data, address, None) if address else None  # without one, it was shut down

    def _whole(self, packet: bytes, address: Any) -> bytes | None:
        """Return the message that a packet of RTP completes."""
        try:
            with self._lock:
                if self._closed:
                    raise ConnectionClosed("this receiver was closed")
                return self._put_together(rtp.parse(packet), address, time.monotonic())
        finally:
            self._give_up(drained=False)

    def _bad(self, error: ProtocolError, data: bytes, address: Any, frame: Frame | None) -> None:
        self.stats.count_error(type(error).__name__, frame)
        log(logging.DEBUG, "bad datagram of %s: %s", address, error,
            peer=address, size=len(data), cause=error)  # fmt: skip
        if self._on_error == "raise":
            raise error

    # -- order

    def _watch_number(self, source: _Source, sequence: int) -> None:
        ahead = (sequence - source.next) & 0xFFFF
        if ahead < 0x8000:
            self.gaps += ahead
            source.next += ahead + 1
            source.came = (source.came << (ahead + 1) | 1) & ((1 << _WINDOW) - 1)
            return
        behind = 0xFFFF - ahead  # 0 is the highest that came
        number = source.next - 1 - behind
        if behind >= _WINDOW:
            self.reordered += 1
        elif source.came >> behind & 1:
            self.duplicates += 1
        else:
            source.came |= 1 << behind
            self.reordered += 1
            if number < source.first:
                self.gaps += source.first - number - 1
                source.first = number
            else:
                self.gaps -= 1

    # -- messages of several datagrams

    def _source(self, key: Any, sequence: int) -> _Source:
        source = self._sources.pop(key, None) or _Source(sequence)
        self._sources[key] = source
        if len(self._sources) > _SOURCES:
            _, silent = self._sources.popitem(last=False)
            self._drop_all(silent)
        return source

    def _put_together(self, packet: rtp.Packet, address: Any, now: float) -> bytes | None:
        source = self._source((address, packet.ssrc), packet.sequence)
        self._watch_number(source, packet.sequence)
        key = packet.key
        if hash(key) in source.finished:
            return None
        try:
            wire = self._joined(source, packet, now)
        except ProtocolError:
            source.finish(key)
            raise
        if wire is not None:
            source.finish(key)
            return wire
        while self._partial_bytes > self._max_size:
            self._drop_oldest(max(self._sources.values(), key=lambda source: source.cost))
        return None

    def _joined(self, source: _Source, packet: rtp.Packet, now: float) -> bytes | None:
        """Return the message, if this is the last packet that it needs."""
        if packet.size > self._max_size:
            raise MessageTooLarge(packet.size, self._max_size)
        partial = source.keep(packet.key, packet, now)
        if packet.last:
            partial.total = packet.fragment + 1
        if partial.bytes > packet.size:
            raise BodyError(
                "rtp", "fragment", f"{partial.bytes} bytes of a message of {packet.size}"
            )
        if len(partial.packets) != partial.total:
            return None
        return rtp.join(partial.packets.values())

    @property
    def _partial_bytes(self) -> int:
        return sum(source.cost for source in self._sources.values())

    def _expiry(self) -> float:
        """Return the time (monotonic) when the next message is given up."""
        if not self._sources or self._reassembly_timeout is None:
            return math.inf
        with self._lock:
            since = min((source.since for source in self._sources.values()), default=math.inf)
        return since + self._reassembly_timeout

    def _is_drained(self) -> bool:
        """Return whether no datagram waits in the socket.

        Packets may have come while the caller did something else.
        """
        try:
            self._readable(0)
        except TimeoutError:
            return True
        return False

    def _give_up(self, *, drained: bool) -> None:
        """Drop the messages that are overdue, unless datagrams wait in the socket.

        Args:
            drained: it is known that none does.
        """
        now = time.monotonic()
        if self._expiry() > now or not (drained or self._is_drained()):
            return
        with self._lock:
            while self._expiry() <= now:
                self._drop_oldest(min(self._sources.values(), key=lambda source: source.since))

    def _drop_oldest(self, source: _Source) -> None:
        self._drop(source, next(iter(source.partial)))

    def _drop(self, source: _Source, key: Any) -> None:
        source.finish(key)
        _, _, front = key
        self.stats.count_dropped(front, "incomplete")

    def _drop_all(self, source: _Source) -> None:
        for key in list(source.partial):
            self._drop(source, key)

    def _end(self) -> bool:
        """Drop what is incomplete; returns whether this receiver was open until now."""
        with self._lock:
            was_open, self._closed = not self._closed, True
            for source in self._sources.values():
                self._drop_all(source)
        return was_open

    def close(self) -> None:
        """Stop receiving; a recv that waits in another thread ends."""
        if self._end():
            with contextlib.suppress(OSError):  # wakes a waiting recv on Linux
                self._sock.shutdown(socket.SHUT_RDWR)
            super().close()
