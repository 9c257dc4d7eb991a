"""What a bad network and a system without descriptors do to links, servers and datagrams."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.codec import rtp
from tests.links import Aio, Loop
from tests.test_links import until
from tests.test_server import serving
from tests.wire import transform

if sys.platform != "linux":
    pytest.skip("namespaces, tun devices and /proc are Linux's", allow_module_level=True)

from tests.faulty_network import Faults, Network

pytestmark = [pytest.mark.long, pytest.mark.processes]

GREY = 0x55
SO_RCVBUFFORCE = 33  # of Linux; the socket module has no name for it
FAULTS = {
    "loss": Faults(loss=0.03, delay=0.005),
    "delay": Faults(delay=0.1),
    "reorder": Faults(reorder=0.1, delay=0.005),
    "duplicate": Faults(duplicate=0.2, delay=0.005),
    "corrupt": Faults(corrupt=0.1, target=bytes([GREY]) * 100),
    "slow": Faults(rate=1e6, delay=0.01),
}


@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def network(faults: Faults | None = None, **settings: Any) -> Iterator[Network]:
    try:
        net = Network(faults, **settings)
    except OSError as error:
        pytest.skip(f"needs root, namespaces and /dev/net/tun: {error}")
    with net:
        yield net


def picture(number: int, size: int) -> igtl.Image:
    """An image of `size` bytes whose first pixels are its number."""
    pixels = np.full((1, size // 100, 100), GREY, np.uint8)
    pixels[0, 0, :2] = divmod(number, 256)
    return igtl.Image(pixels, device_name="US")


def number(message: Any) -> int:
    high, low = message.array[0, 0, :2].tolist()
    return int(256 * high + low)


def paced(rate: float, n: int, work: Callable[[int], Any]) -> threading.Thread:
    """Call something n times; ticks that were missed are made up for."""

    def run() -> None:
        start = time.monotonic()
        for k in range(n):
            time.sleep(max(0.0, start + k / rate - time.monotonic()))
            work(k)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def reading(link: Any, got: list[int]) -> threading.Thread:
    """Collect the numbers of what a link gets, until it is closed."""

    def run() -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            for message in link:
                got.append(number(message))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# ---- TCP --------------------------------------------------------------------------------------


async def opened(opening: Any) -> Any:
    return await opening


@contextlib.contextmanager
def connected(kind: str, host: str, port: int) -> Iterator[Any]:
    """A link that heals itself, and in asyncio a plain one, with the face of a blocking one."""
    if kind == "sync":
        with igtl.connect(host, port, reconnect=igtl.Backoff(), on_error="skip") as healing:
            assert healing.wait_connected(10)
            yield healing
        return
    loop = Loop()
    try:
        with Aio(loop, loop(opened(igtl.aio.connect(host, port, on_error="skip")))) as link:
            yield link
        assert loop.tasks() == 0
    finally:
        loop.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_tcp_delivers_or_counts(kind: str, fault: str) -> None:
    """In both directions: order is kept, sent = received + counted, and the connection lives."""
    n, frames = 100, 20
    at_server: list[int] = []
    at_client: list[int] = []
    with network(FAULTS[fault]) as net, contextlib.ExitStack() as stack:
        with net.server():
            server = stack.enter_context(serving(kind, host=net.server_address, max_queued=5))
        server.on(igtl.Image)(lambda message, peer: at_server.append(number(message)))
        with net.client():
            link = stack.enter_context(connected(kind, net.server_address, server.port))
        reading(link, at_client)
        until(lambda: len(server.clients) == 1)
        peer = server.clients[0]
        threads = [
            paced(100, n, lambda k: link.send(picture(k, 1000))),
            paced(20, frames, lambda k: server.broadcast(picture(k, 30_000))),
        ]
        for thread in threads:
            thread.join(30)
        until(lambda: len(at_server) + peer.stats.errors["CRCError"] == n)
        dropped = peer.stats.dropped
        until(lambda: len(at_client) + link.stats.errors["CRCError"] + dropped.total() == frames)
        assert at_server == sorted(set(at_server))
        assert at_client == sorted(set(at_client))
        assert link.stats.sent == n
        assert peer.stats.sent + dropped.total() == frames
        assert server.gone == {}
        wrong = peer.stats.errors.total(), link.stats.errors.total()
        assert (min(wrong) > 0) == (max(wrong) > 0) == (fault == "corrupt")
        assert set(dropped) <= {"drop_oldest"}
        assert fault != "slow" or dropped
        assert happened(net, fault) > 0


def happened(net: Network, fault: str) -> int:
    """Packets that had this fault."""
    names = {"loss": "lost", "delay": "passed", "reorder": "reordered", "duplicate": "doubled",
             "corrupt": "corrupted", "slow": "passed"}  # fmt: skip
    return net.counts[names[fault]]


class Following:
    """`igtl.aio.reconnect` in a loop of its own."""

    def __init__(self, host: str, port: int, got: list[int], events: list[str]) -> None:
        self.loop = Loop()
        self.task = self.loop.start(self._follow(host, port, got, events))

    async def _follow(self, host: str, port: int, got: list[int], events: list[str]) -> None:
        links = igtl.aio.reconnect(
            host, port, backoff=igtl.Backoff(0.05, 0.2), on_event=lambda e: events.append(e.kind),
            keepalive=2, open_timeout=1,
        )  # fmt: skip
        async with contextlib.aclosing(links):
            async for link in links:
                async for message in link:
                    got.append(number(message))

    def close(self) -> None:
        self.task.cancel()
        until(lambda: self.loop.tasks() == 0)
        self.loop.close()
        with contextlib.suppress(CancelledError):
            self.task.result()


@contextlib.contextmanager
def repeating(rate: float, work: Callable[[int], Any]) -> Iterator[None]:
    """Call something in a thread meanwhile."""
    finished = threading.Event()

    def run() -> None:
        for k in igtl.Rate(rate):
            if finished.is_set():
                return
            work(k)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("fault", ["pulled", "rebound", "replaced"])
def test_links_come_back(kind: str, fault: str) -> None:
    """After a pulled cable, a router that forgets, and an address that changes. A link that heals
    itself queues meanwhile: `send` never waits for the cable."""
    took: list[float] = []  # seconds of each send
    at_server: list[int] = []
    at_client: list[int] = []
    events: list[str] = []

    def send(_: int) -> None:
        start = time.monotonic()
        link.send(picture(len(took), 100_000))
        took.append(time.monotonic() - start)

    with network(mtu=9000) as net, contextlib.ExitStack() as stack:
        with net.server():
            server = stack.enter_context(serving(kind, host=net.server_address, keepalive=2))
        server.on(igtl.Image)(lambda message, peer: at_server.append(number(message)))
        with net.client():
            if kind == "sync":
                link = igtl.connect(
                    net.server_address, server.port, reconnect=igtl.Backoff(0.05, 0.2),
                    on_event=lambda e: events.append(e.kind), keepalive=2, open_timeout=1,
                )  # fmt: skip
                stack.enter_context(link)
                reading(link, at_client)
            else:
                following = Following(net.server_address, server.port, at_client, events)
                stack.callback(following.close)
        with contextlib.ExitStack() as talk:
            talk.enter_context(repeating(50, lambda k: server.broadcast(picture(k, 1000))))
            if kind == "sync":
                talk.enter_context(repeating(30, send))
            until(lambda: len(at_client) >= 50)
            if fault == "pulled":
                net.pulled = True
                time.sleep(4)
                net.pulled = False
            elif fault == "rebound":
                net.rebind_client("10.77.0.3")
            else:
                net.replace_client_address("10.77.0.3")
            until(lambda: events.count("connected") == 2)
            before = len(at_client)
            until(lambda: len(at_client) >= before + 50)
            until(lambda: len(server.clients) == 1)
        assert at_client == sorted(set(at_client))
        assert server.clients[0].peer[0] == ("10.77.0.2" if fault == "pulled" else "10.77.0.3")
        if kind == "sync":
            until(lambda: at_server[-1] == len(took) - 1)
            assert at_server == sorted(set(at_server))
            dropped = link.stats.dropped.total()
            assert link.stats.sent + dropped == len(took)
            # what is missing was in the system's hands when the connection broke
            holes = sum(b - a > 1 for a, b in itertools.pairwise(at_server))
            assert holes <= events.count("disconnected")
            assert dropped <= len(took) - len(at_server)
            assert max(took) < 1.5  # a second, and what a busy machine adds


# ---- descriptors ------------------------------------------------------------------------------


def answered(port: int) -> bool:
    with contextlib.suppress(OSError):  # ConnectionClosed and TimeoutError are
        with igtl.connect("127.0.0.1", port, open_timeout=2) as link:
            link.send(transform("Tool"))
            return link.recv(timeout=2).device_name == "Tool"
    return False


@pytest.mark.parametrize("kind", ["sync", "aio", "listen"])
def test_out_of_descriptors(kind: str) -> None:
    """A server rests instead of spinning, keeps its clients, and accepts again as soon as it can."""
    limit, seconds = 64, 3
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.few_descriptors", kind, str(limit)],
        cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None

    def told() -> dict[str, Any]:
        server.stdin.write("\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    with server:
        try:
            port = int(server.stdout.readline())
            with igtl.connect("127.0.0.1", port) as early, contextlib.ExitStack() as crowd:
                early.send(transform("early"))
                assert early.recv(timeout=10).device_name == "early"
                for _ in range(200):
                    sock = crowd.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                until(lambda: descriptors() > limit - 4)
                before = told()
                time.sleep(seconds)
                after = told()
                early.send(transform("early"))
                assert early.recv(timeout=10).device_name == "early"
            assert after["cpu"] - before["cpu"] < 0.1 * seconds
            assert 1 <= after["logged"] <= 5 * after["seconds"]
            until(lambda: answered(port))
            assert told()["crashed"] == []
            server.stdin.close()
            assert server.wait(20) == 0
        finally:
            server.kill()


# ---- UDP --------------------------------------------------------------------------------------


class Datagrams:
    """A sender and a receiver at the two ends of a network, the receiver read by a thread.

    Attributes:
        got: messages that came, in the order of their arrival.
    """

    def __init__(self, kind: str, net: Network) -> None:
        api: Any = igtl.udp if kind == "sync" else igtl.aio.udp
        with net.server():
            self.receiver = api.Receiver(0, net.server_address)
        # the test is about the network, not about a thread that this machine wakes late
        self.receiver._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        with net.client():
            self.sender = api.Sender(net.server_address, self.receiver.port, payload_length=1400)
        self.loop = Loop() if kind == "aio" else None
        self.got: list[igtl.Message] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _result(self, outcome: Any) -> Any:
        return outcome if self.loop is None else self.loop(outcome)

    def _read(self) -> None:
        with contextlib.suppress(igtl.ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    self.got.append(self._result(self.receiver.recv(timeout=1))[0])

    def send(self, message: igtl.Message) -> None:
        self._result(self.sender.send(message))

    def close(self) -> None:
        self.sender.close()
        if self.loop is None:
            self.receiver.close()
        else:
            self.loop.loop.call_soon_threadsafe(self.receiver.close)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self.loop is not None:
            self.loop.close()


@contextlib.contextmanager
def datagrams(kind: str, net: Network) -> Iterator[Datagrams]:
    ends = Datagrams(kind, net)
    try:
        yield ends
    finally:
        ends.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_udp_delivers_or_counts(kind: str, fault: str) -> None:
    """One datagram a message. None has a number, so that the receiver cannot know of those that the
    network has lost; all others are delivered, or counted as errors."""
    n = 500
    with network(replace(FAULTS[fault], target=b"")) as net, datagrams(kind, net) as ends:
        receiver = ends.receiver
        errors = receiver.stats.errors
        came = lambda: n - len(net.missing) + net.counts["doubled"]  # noqa: E731
        paced(500, n, lambda k: ends.send(picture(k, 1000))).join(30)
        until(lambda: len(ends.got) + errors.total() == came())
        assert happened(net, fault) > 0
        assert (errors.total() > 0) == (fault == "corrupt")
        assert bool(net.missing) == (fault in ("loss", "slow"))
        assert receiver.stats.received == came()
        if fault != "corrupt":  # the header, which no checksum protects, may have been hit
            assert receiver.duplicates == net.counts["doubled"]
            assert (receiver.reordered > 0) == (fault == "reorder")
            assert set(map(number, ends.got)) <= set(range(n))


@pytest.mark.parametrize("fault", FAULTS)
def test_udp_counts_what_volumes_lose(kind: str, fault: str) -> None:
    """Many datagrams a message, with numbers: packets and messages are both accounted for."""
    n, size, packets = 15, 70_000, 53
    with network() as net:
        with datagrams(kind, net) as ends:
            ends.send(picture(0, size))
            until(lambda: len(ends.got) == 1)
            net.faults = FAULTS[fault]
            paced(15, n, lambda k: ends.send(picture(1 + k, size))).join(30)
            time.sleep(0.5)  # what is on the line arrives
            net.faults = Faults()
            ends.send(picture(n + 1, size))  # now the receiver knows of every gap
            until(lambda: number(ends.got[-1]) == n + 1)
        receiver = ends.receiver  # closed: what is incomplete stays so
        dropped, errors = receiver.stats.dropped, receiver.stats.errors
        assert happened(net, fault) > 0
        assert receiver.gaps == len(net.missing)
        assert receiver.duplicates == net.counts["doubled"]
        assert receiver.reordered <= net.counts["reordered"]
        assert (receiver.reordered > 0) == (fault == "reorder")
        assert len(set(map(number, ends.got))) == len(ends.got)
        missing = Counter(rtp.parse(packet[28:]).key for packet in net.missing)
        unseen = list(missing.values()).count(packets)  # nothing at all came of them
        assert len(ends.got) + dropped.total() + errors.total() + unseen == n + 2
        assert set(dropped) == ({"incomplete"} if net.missing else set())
        assert set(errors) == ({"CRCError"} if fault == "corrupt" else set())


def test_udp_goes_on_after_a_pulled_cable_and_a_new_address(kind: str) -> None:
    n, size = 40, 70_000
    with network() as net, datagrams(kind, net) as ends:

        def send(k: int) -> None:
            if k in (10, 20):
                time.sleep(0.2)  # what is on the line arrives
                net.pulled = k == 10
            if k == 25:
                net.rebind_client("10.77.0.3")
            if k == 30:
                net.replace_client_address("10.77.0.4")
            ends.send(picture(k, size))
            ends.send(picture(k, 1000))

        paced(20, n, send).join(30)
        left = [k for k in range(n) if not 10 <= k < 20]
        until(lambda: len(ends.got) == 2 * len(left))
        assert [number(m) for m in ends.got] == sorted(2 * left)
        assert ends.receiver.gaps == net.counts["pulled"] - 10  # the small ones have no number
        assert {m.peer[0] for m in ends.got} == {"10.77.0.2", "10.77.0.3", "10.77.0.4"}
        assert ends.receiver.stats.lost == 0
