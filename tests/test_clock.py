"""The clock of a peer: the estimate over simulated exchanges, and links that measure one."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
import igtl.aio
from igtl.cli import clock as cli_clock
from igtl.cli import main
from igtl.session.clock import Measuring

BEGIN = 1.79e9
ERROR = 2e-6  # of times since 1970 as numbers


class World:
    """Two clocks and a network between them, in simulated time."""

    def __init__(self, offset: float = 0.25, ppm: float = 0.0, seed: int = 1) -> None:
        self.now = BEGIN  # the clock here
        self.offset = offset
        self.ppm = ppm
        self.tick = 0.0
        self.random = random.Random(seed)

    def peer(self, at: float | None = None) -> float:
        """What the peer's clock shows."""
        at = self.now if at is None else at
        shown = at + self.true_offset(at)
        return shown // self.tick * self.tick if self.tick else shown

    def true_offset(self, at: float) -> float:
        return self.offset + self.ppm * 1e-6 * (at - BEGIN)

    def delay(self) -> float:
        """Of one way: mostly short, at times long, and never the same as back."""
        return 1e-4 + self.random.expovariate(1 / 5e-5) + (self.random.random() < 0.2) * 0.05

    def ask(self, clock: igtl.Clock, count: int = 8, every: float = 0.02) -> None:
        for _ in range(count):
            sent = self.now
            self.now += self.delay()
            stamp = self.peer()
            self.now += self.delay()
            clock.add(sent, stamp, self.now)
            self.now = max(self.now, sent + every)


def agrees(clock: igtl.Clock, world: World, at: float) -> bool:
    error = abs(clock.to_peer(at) - at - world.true_offset(at))
    return error <= clock.uncertainty_at(at) + ERROR


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [0.0, 0.25, -3.0, 7200.0])
def test_a_shifted_clock(offset: float, seed: int) -> None:
    world, clock = World(offset, seed=seed), igtl.Clock(resolution=0)
    world.ask(clock)
    assert clock.known
    assert clock.reason == ""
    assert clock.samples == 8
    assert abs(clock.offset - offset) <= clock.uncertainty + ERROR
    # half the least round trip, whatever the slow ones took
    assert clock.uncertainty == pytest.approx(clock.round_trip / 2, abs=2e-4)
    assert clock.uncertainty < 1e-3
    assert clock.drift == pytest.approx(0, abs=clock.drift_uncertainty)
    at = world.now
    assert clock.to_local(clock.to_peer(at)) == pytest.approx(at, abs=ERROR)


@pytest.mark.parametrize("ppm", [0.0, 200.0, -50.0])
def test_a_drifting_clock(ppm: float) -> None:
    world, clock = World(ppm=ppm), igtl.Clock(resolution=0)
    widths = []
    for _ in range(60):
        world.ask(clock)
        assert abs(clock.drift - ppm) <= clock.drift_uncertainty + 0.1
        assert agrees(clock, world, world.now)
        widths.append(clock.drift_uncertainty)
        world.now += 10
    assert widths[0] > 500  # nothing is known of it after one burst
    assert widths[-1] < 1
    assert clock.samples == 64
    # ten minutes on, without another exchange
    assert agrees(clock, world, world.now + 600)
    assert clock.uncertainty_at(world.now + 600) < 2e-3
    assert clock.to_local(world.peer(world.now + 60)) == pytest.approx(world.now + 60, abs=1e-3)


def test_a_drift_that_changes() -> None:
    """As it does with the temperature: what contradicts the newest exchanges is forgotten."""
    world, clock = World(ppm=40), igtl.Clock(resolution=0)
    for _ in range(100):
        world.ask(clock, 1)
        world.now += 10
    before = world.now
    world.offset = world.true_offset(before) - (before - BEGIN) * -10e-6
    world.ppm = -10  # from where it was
    for _ in range(100):
        world.ask(clock, 1)
        world.now += 10
    assert clock.drift == pytest.approx(-10, abs=clock.drift_uncertainty + 0.1)
    assert clock.drift_uncertainty < 5
    assert agrees(clock, world, world.now)


def test_a_clock_that_is_set() -> None:
    world, clock = World(), igtl.Clock(resolution=0)
    world.ask(clock, 30)
    world.offset = -1.5
    world.ask(clock)
    assert clock.samples <= 9
    assert clock.offset == pytest.approx(-1.5, abs=1e-3)
    assert clock.uncertainty < 1e-3


@pytest.mark.parametrize("tick", [0.001, 0.01, 1 / 64])
def test_a_clock_that_ticks_slowly(tick: float) -> None:
    world, clock = World(), igtl.Clock(resolution=0)
    world.tick = tick
    world.ask(clock, 32)
    assert tick / 3 < clock.uncertainty < 2.5 * tick
    assert abs(clock.offset - world.offset) <= clock.uncertainty + ERROR


def test_the_tick_of_the_clock_here_counts() -> None:
    world, fine, coarse = World(), igtl.Clock(resolution=0), igtl.Clock(resolution=0.015)
    world.ask(fine)
    world.ask(coarse)
    assert coarse.uncertainty == pytest.approx(fine.uncertainty + 0.015, abs=5e-4)


def stamps(make: Callable[[World, int], float], count: int = 8) -> igtl.Clock:
    """A clock by replies with these stamps."""
    world, clock = World(), igtl.Clock(resolution=0)
    for i in range(count):
        clock.add(world.now, make(world, i), world.now + 1e-3)
        world.now += 0.37
    return clock


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda world, i: 0.0, "it sets no time stamp in its replies"),
        (lambda world, i: BEGIN + 0.3, "stand still"),
        (lambda world, i: world.now // 1, "are whole seconds"),
        (lambda world, i: world.now - BEGIN + 5, "20718 days from the clock here"),
        (lambda world, i: world.now + 40 * 86400, "40 days from the clock here"),
        (lambda world, i: world.now + world.random.uniform(-5, 5), "jump by"),
        (lambda world, i: world.now * 1.01 - BEGIN * 0.01 + i**3, "jump by"),
    ],
)
def test_a_clock_that_cannot_be_known(make: Any, reason: str) -> None:
    clock = stamps(make)
    assert not clock.known
    assert reason in clock.reason
    assert reason in repr(clock)
    message = igtl.Transform(np.eye(4), timestamp=BEGIN)
    uses: list[Callable[[], Any]] = [
        lambda: clock.offset, lambda: clock.uncertainty, lambda: clock.drift,
        lambda: clock.drift_uncertainty, lambda: clock.to_local(BEGIN), lambda: clock.to_peer(BEGIN),
        lambda: clock.age(message), lambda: clock.uncertainty_at(BEGIN),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(igtl.ClockUnknown, match=reason) as error:
            use()
        assert error.value.reason == clock.reason


def test_too_few_exchanges() -> None:
    clock = igtl.Clock()
    assert "has not been asked" in clock.reason
    for count in (1, 2):
        clock.add(BEGIN + count, BEGIN + count + 0.01, BEGIN + count + 0.1)
        assert f"{count} exchanges do not show" in clock.reason
    with pytest.raises(ValueError, match=r"received 1 s before it was sent"):
        clock.add(BEGIN, BEGIN, BEGIN - 1)
    with pytest.raises(ValueError, match="at least 3 samples, not 2"):
        Measuring(2, None, None, None)
    with pytest.raises(ValueError, match="at least 3 samples, not 0"):
        Measuring(0, None, clock, None)


def test_a_peer_that_begins_to_stamp() -> None:
    clock = igtl.Clock(resolution=0)
    for _ in range(5):
        clock.add(BEGIN, 0, BEGIN + 1)
    world = World()
    world.ask(clock, 3)
    assert clock.offset == pytest.approx(0.25, abs=1e-3)


def test_ages() -> None:
    world, clock = World(-2.0), igtl.Clock(resolution=0)
    world.now = time.time()
    world.ask(clock)
    message = igtl.Transform(np.eye(4), timestamp=world.peer(world.now - 0.1))
    message.received = world.now
    assert clock.delay(message) == pytest.approx(0.1, abs=1e-3)
    assert clock.age(message, world.now + 1) == pytest.approx(1.1, abs=1e-3)
    assert clock.age(message) == pytest.approx(time.time() - world.now + 0.1, abs=10)
    with pytest.raises(
        igtl.ClockUnknown, match=r"the age of TRANSFORM 'a' cannot be known: it has no time stamp"
    ):
        clock.age(igtl.Transform(np.eye(4), device_name="a", timestamp=0))
    with pytest.raises(igtl.ClockUnknown, match=r"another time base than the replies"):
        clock.age(igtl.Transform(np.eye(4), device_name="a", timestamp=12.5), world.now)


# ---- links --------------------------------------------------------------------------------------


@contextmanager
def shifted(offset: float) -> Iterator[igtl.Server]:
    """A server whose clock is wrong."""
    with igtl.serve(port=0, host="127.0.0.1") as server:

        @server.provides(igtl.GetStatus)
        def _(request: igtl.GetStatus, peer: igtl.Peer) -> igtl.Status:
            return igtl.Status.ok(timestamp=time.time() + offset)

        yield server


@pytest.mark.parametrize("settings", [{}, {"reconnect": igtl.Backoff()}, {"drain": True}])
def test_a_link_measures(settings: Any) -> None:
    with (
        shifted(-2.5) as server,
        igtl.connect("127.0.0.1", server.port, **settings) as link,
    ):
        clock = link.clock()
        assert abs(clock.offset + 2.5) <= clock.uncertainty
        assert clock.samples == 8
        assert link.clock(3, update=clock) is clock
        assert clock.samples == 11
        server.broadcast(igtl.Transform(np.eye(4), timestamp=time.time() - 2.5 - 1.0))
        pose = link.recv(igtl.Transform, timeout=10)
        assert 1.0 - clock.uncertainty <= clock.delay(pose) <= 11


def test_an_asyncio_link_measures() -> None:
    async def main(port: int) -> igtl.Clock:
        async with await igtl.aio.connect("127.0.0.1", port) as link:
            return await link.clock()

    with shifted(3.0) as server:
        clock = asyncio.run(main(server.port))
    assert abs(clock.offset - 3.0) <= clock.uncertainty


def test_servers_stamp_at_the_moment_of_the_reply() -> None:
    """The same clock at both ends: what is found is that they are the same."""
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        for _ in range(3):
            clock = link.clock()
            assert abs(clock.offset) <= clock.uncertainty
    with igtl.simulate.serve(port=0) as devices, igtl.connect(port=devices.port) as link:
        clock = link.clock()
        assert abs(clock.offset) <= clock.uncertainty


def test_news_of_a_device_is_no_reply() -> None:
    """A STATUS that waits unread was stamped long ago."""
    with shifted(0.0) as server, igtl.connect("127.0.0.1", server.port) as link:
        while not server.clients:
            time.sleep(0.001)
        for _ in range(20):
            server.broadcast(igtl.Status.ok(device_name="Tracker", timestamp=time.time() - 60))
        clock = link.clock()
        assert abs(clock.offset) <= clock.uncertainty < 1.0


def answering(reply: Callable[[str], bytes | None]) -> Iterator[int]:
    """A peer that answers each GET_STATUS with these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        sock, _ = listener.accept()
        with sock:
            protocol = igtl.Protocol()
            while data := sock.recv(65536):
                protocol.receive_data(data)
                for message in protocol.messages():
                    if (wire := reply(message.device_name)) is not None:
                        sock.sendall(wire)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(10)


peer_that = contextmanager(answering)


def test_a_peer_that_writes_0() -> None:
    asked: list[str] = []

    def reply(name: str) -> bytes:
        asked.append(name)
        return igtl.Status(1, 0, "\n", timestamp=0).pack()

    with peer_that(reply) as port, igtl.connect("127.0.0.1", port) as link:
        with pytest.raises(igtl.ClockUnknown, match="it sets no time stamp in its replies"):
            link.clock()
    assert len(asked) == 1  # which is enough


def test_plus() -> None:
    with igtl.simulate.plus(port=0) as server, igtl.connect(port=server.port) as link:
        with pytest.raises(igtl.ClockUnknown, match="it sets no time stamp in its replies"):
            link.clock()


def test_a_peer_that_answers_for_its_own_device() -> None:
    def reply(name: str) -> bytes:
        return igtl.Status.ok(device_name="Tracker").pack()

    with peer_that(reply) as port, igtl.connect("127.0.0.1", port) as link:
        with pytest.raises(TimeoutError, match=r"GET_STATUS 'igtl clock \d+'"):
            link.clock(timeout=0.1)
        for name in ("Tracker", ""):
            clock = link.clock(device_name=name)
            assert abs(clock.offset) <= clock.uncertainty


# ---- --clock ------------------------------------------------------------------------------------


class Link:
    """What `--clock` asks, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.fails: Exception | None = None
        self.news: queue.SimpleQueue[str] = queue.SimpleQueue()
        monkeypatch.setattr(cli_clock, "_EVERY", 0.001)

    def clock(self, samples: int, update: igtl.Clock) -> igtl.Clock:
        self.asked.put(samples)
        if self.fails is not None:
            raise self.fails
        World().ask(update, samples)
        return update


STAMPED = igtl.Transform(np.eye(4), timestamp=BEGIN)
UNSTAMPED = igtl.Transform(np.eye(4), timestamp=0)


def test_a_peer_is_asked_once_it_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(monkeypatch)
    asking = cli_clock.PeerClock(link.clock, link.news.put)
    try:
        assert asking.text.endswith("cannot be known yet: no time stamp has come")
        for _ in range(100):
            asking.saw(UNSTAMPED)
        told = link.news.get(timeout=10)
        assert told.endswith("cannot be known: it sets no time stamps, so it is not asked")
        assert link.asked.empty()
        asking.saw(STAMPED)
        assert link.news.get(timeout=10).startswith("the clock of the peer is 250.0")
        assert [link.asked.get(timeout=10) for _ in range(3)] == [8, 3, 3]  # again and again
        link.fails = ConnectionResetError()
        while not link.asked.empty() or asking._stamped.is_set():
            with contextlib.suppress(queue.Empty):
                link.asked.get(timeout=0.01)
        link.fails = None
        asking.changed()  # another program may be there, perhaps one that must not be asked
        asking.saw(UNSTAMPED)
        assert not asking.clock.known
        assert link.asked.empty()
        asking.saw(STAMPED)
        assert link.asked.get(timeout=10) == 8
    finally:
        asking.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (igtl.ClockUnknown("it sets no time stamp in its replies"), "sets no time stamp in its"),
        (TimeoutError("no answer"), "it does not answer GET_STATUS"),
    ],
)
def test_a_peer_that_has_not_told_its_clock_is_not_asked_again(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(monkeypatch)
    link.fails = error
    asking = cli_clock.PeerClock(link.clock, link.news.put)
    try:
        asking.saw(STAMPED)
        assert text in link.news.get(timeout=10)
        asking.saw(STAMPED)
        assert text in asking.text
        assert link.asked.get() == 8
        with pytest.raises(queue.Empty):
            link.asked.get(timeout=0.05)
    finally:
        asking.close()


def test_what_cannot_be_asked() -> None:
    for args in (["--listen"], ["--udp"]):
        for name in ("monitor", "view"):
            done = CliRunner().invoke(main, [name, *args, "--clock"])
            assert done.exit_code == 2
            assert "--clock is for a server" in done.output
    done = CliRunner().invoke(main, ["doctor", "--listen", "--clock"])
    assert done.exit_code == 2
    assert "--clock is for a server" in done.output
