"""What 3D Slicer needs of every link and server; each was a fault once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import igtl
import igtl.aio
from igtl.session.requests import Exchange
from igtl.tools.relay import Relay

STATUS = {"TransformStatus": "MISSING"}


def pose(**header: Any) -> igtl.Transform:
    return igtl.Transform(np.eye(4), device_name="T", metadata=STATUS, **header)


def pixels(name: str = "") -> igtl.Image:
    return igtl.Image(np.zeros((1, 2, 3), np.uint8), device_name=name)


# -- 1: what is latched or queued keeps its metadata


def test_latched_metadata_reach_a_client_that_says_hello() -> None:
    with igtl.serve(port=0) as server:
        server.broadcast(pose(), latch=True)
        with igtl.connect(port=server.port, hello=True) as link:
            assert link.recv(igtl.Transform, timeout=5).metadata == STATUS
        with igtl.connect(port=server.port) as old:  # and the others get it without, a little later
            assert old.recv(igtl.Transform, timeout=5).metadata == {}


def test_latched_metadata_in_asyncio() -> None:
    async def run() -> None:
        async with igtl.aio.serve(port=0) as server:
            await server.broadcast(pose(), latch=True)
            async with igtl.aio.connect(port=server.port, hello=True) as link:
                assert (await link.recv(igtl.Transform, timeout=5)).metadata == STATUS

    asyncio.run(run())


def test_metadata_queued_while_the_peer_was_away() -> None:
    with igtl.serve(port=0, start=False) as server:
        got = threading.Event()
        found: list[igtl.Message] = []
        server.on_connect(lambda peer: peer.send(igtl.Status.ok(device_name="S")))
        backoff = igtl.Backoff(0.05, 0.1)
        with igtl.connect(port=server.port, reconnect=backoff, hello=True) as link:
            link.send(pose())
            link.send(pose(message_id=7), latch=True)

            @server.on(igtl.Transform)
            def _(message: igtl.Transform, peer: Any) -> None:
                found.append(message)
                if len(found) == 2:
                    got.set()

            @server.on(igtl.Status)
            def _(message: igtl.Status, peer: Any) -> None:
                peer.send(igtl.Status.ok(device_name="S"))

            server.start()
            assert got.wait(10)
            assert all(m.metadata == STATUS for m in found)
            assert link.stripped == 0


# -- 2: a peer that sends blockingly never waits for a handler


def longest_send(port: int, image: bytes, times: int = 3) -> float:
    """Seconds that the slowest of some blocking sends took."""
    worst = 0.0
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(30)
        for _ in range(times):
            start = time.monotonic()
            sock.sendall(image)
            worst = max(worst, time.monotonic() - start)
    return worst


@pytest.fixture(scope="module")
def volume() -> bytes:
    return igtl.Image(np.zeros((60, 512, 512), np.int16), device_name="US").pack()


SLOW = 20.0  # seconds for which handlers do nothing, or until the test has ended


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
def test_a_slow_handler_of_a_server_stops_no_sender(policy: Any, volume: bytes) -> None:
    over = threading.Event()
    with igtl.serve(port=0, policy=policy) as server:
        server.on(igtl.Image)(lambda m, p: over.wait(SLOW))
        worst = longest_send(server.port, volume)
        over.set()
    assert worst < 5


def test_a_slow_handler_of_a_subscriber_stops_no_sender(volume: bytes) -> None:
    over = threading.Event()
    with igtl.listen(port=0) as listener:
        times: list[float] = []
        sender = threading.Thread(
            target=lambda: times.append(longest_send(listener.port, volume)), daemon=True
        )
        sender.start()
        with igtl.subscribe(listener.accept(timeout=5), start=False) as incoming:
            incoming.on(igtl.Image)(lambda m: over.wait(SLOW))
            incoming.start()
            sender.join(15)
            over.set()
        assert times
        assert times[0] < 5


# -- 3: a relay in both directions answers nothing itself


@pytest.fixture
def relayed() -> Iterator[tuple[igtl.Server, igtl.Server]]:
    """A server, and another one that relays it."""
    with (
        igtl.serve(port=0, version=2) as source,
        igtl.serve(port=0, version=2) as server,
        igtl.connect(port=source.port, version=2) as link,
        Relay(server) as relay,
    ):
        relay.both_ways(link.send)

        def forward() -> None:
            for frame in link.frames():
                relay.forward(frame)

        thread = threading.Thread(target=forward, daemon=True)
        thread.start()
        yield source, server
        source.close()
        thread.join(5)


def test_commands_pass_a_relay_with_their_ids(relayed: Any) -> None:
    source, server = relayed
    ids: list[int] = []

    @source.command("Get")
    def _(command: igtl.Command, peer: Any) -> str:
        ids.append(command.command_id)
        return "<ok/>"

    with (
        igtl.connect(port=server.port, version=2) as asking,
        igtl.connect(port=server.port, version=2) as other,
    ):
        reply = asking.ask(igtl.Command(77, "Get"), timeout=5)
        assert (reply.command_id, reply.text, ids) == (77, "<ok/>", [77])
        with pytest.raises(igtl.CommandFailed, match="there is no command 'Lost' here"):
            asking.command("Lost")
        source.broadcast(igtl.Status.ok(device_name="end"))
        assert other.recv(timeout=5).device_name == "end"  # and nothing before it


def test_requests_and_streams_pass_a_relay(relayed: Any) -> None:
    source, server = relayed
    source.provides(igtl.GetImage, "CT")(lambda r, p: pixels())
    source.provides(igtl.StartTrackingData)(
        lambda r, p: (igtl.TrackingData([], device_name="Trk") for _ in range(3))
    )
    with igtl.connect(port=server.port, version=2) as link:
        assert isinstance(link.query(igtl.GetImage(device_name="CT")), igtl.Image)
        assert isinstance(link.query(igtl.GetImage(device_name="MRI")), igtl.NoData)
        with link.stream(igtl.StartTrackingData(device_name="Trk")) as frames:
            assert [frames.recv(timeout=5).device_name for _ in range(3)] == ["Trk"] * 3


# -- 4: an answer has the name that was asked for


def test_answers_take_the_name_that_was_asked_for() -> None:
    kept = pixels()
    with igtl.serve(port=0) as server:
        server.provides(igtl.GetImage)(lambda r, p: kept)
        server.provides(igtl.StartTrackingData)(lambda r, p: [igtl.TrackingData([])])
        with igtl.connect(port=server.port) as link:
            link.send(igtl.GetImage(device_name="CT"))
            assert link.recv(timeout=5).device_name == "CT"
            assert kept.device_name == ""
            link.send(igtl.StartTrackingData(device_name="Trk"))
            assert link.recv(igtl.TrackingData, timeout=5).device_name == "Trk"


def test_answers_of_asyncio_take_the_name() -> None:
    async def run() -> None:
        async with igtl.aio.serve(port=0) as server:
            server.provides(igtl.GetImage)(lambda r, p: pixels())
            async with igtl.aio.connect(port=server.port) as link:
                await link.send(igtl.GetImage(device_name="CT"))
                assert (await link.recv(timeout=5)).device_name == "CT"

    asyncio.run(run())


# -- 5: replies say whether they are one of success


def test_an_error_message_is_a_failure_whatever_the_status_says() -> None:
    reply = igtl.CommandReply(
        1, "Hello", "<Reply/>", metadata={"ErrorMessage": "no such thing", "Status": "SUCCESS"}
    )
    with pytest.raises(igtl.CommandFailed, match="no such thing"):
        Exchange(igtl.Command(1, "Hello")).result(reply)


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_handler_may_return(version: Any) -> None:
    returns: dict[str, Any] = {
        "Own": lambda c: igtl.CommandReply(c.command_id, c.name, "<x/>"),
        "Dict": lambda c: {"DepthMm": 50},
        "Both": lambda c: ("<x/>", {"DepthMm": "50"}),
        "Text": lambda c: "<x/>",
    }
    with igtl.serve(port=0, version=version) as server:
        for name, make in returns.items():
            server.command(name)(lambda c, p, make=make: make(c))
        with igtl.connect(port=server.port, version=version) as link:
            said = {}
            for name in returns:
                if version == 1 and name == "Both":
                    with pytest.raises(igtl.CommandFailed, match="header version 1"):
                        link.command(name)
                    continue
                said[name] = link.command(name)
    assert said["Own"].text == said["Text"].text == "<x/>"
    assert '<Parameter Name="DepthMm" Value="50"/>' in said["Dict"].text
    if version == 2:
        assert {name: dict(reply.metadata) for name, reply in said.items()} == {
            "Own": {"Status": "SUCCESS"},
            "Dict": {"DepthMm": "50", "Status": "SUCCESS"},
            "Both": {"DepthMm": "50", "Status": "SUCCESS"},
            "Text": {"Status": "SUCCESS"},
        }


# -- 6: what is no class of messages is refused where it is registered


def test_handlers_are_for_classes_of_messages() -> None:
    async def in_asyncio() -> None:
        async with igtl.aio.serve(port=0) as server:
            with pytest.raises(TypeError, match="class of messages"):
                server.on(Any)  # type: ignore[arg-type]

    asyncio.run(in_asyncio())
    a, b = igtl.pipe()
    with igtl.serve(port=0) as server, a, b, igtl.subscribe(b) as incoming:
        for on in (server.on, incoming.on):
            for kind in (Any, int, "IMAGE"):
                with pytest.raises(TypeError, match="class of messages"):
                    on(kind)  # type: ignore[arg-type]


# -- 7: metadata that the official library does not read


def test_metadata_of_64_kib_are_refused() -> None:
    most = igtl.Transform(np.eye(4), metadata={"k": "x" * 65_534})
    assert igtl.unpack(most.pack()) == most
    with pytest.raises(igtl.EncodeError, match=r"65536 bytes .* drop a message with 65536"):
        igtl.Transform(np.eye(4), metadata={"k": "x" * 65_535}).pack()


def test_the_error_of_version_1_names_the_peers() -> None:
    a, b = igtl.pipe(version="auto")
    with a, b, pytest.raises(igtl.EncodeError, match=r"version=2 \(3D Slicer.*hello=True.*PLUS"):
        a.send(pose())


# -- points from arrays


def test_points_from_arrays() -> None:
    points = igtl.Points.from_arrays(
        [[1, 2, 3], [4, 5, 6]],
        names=["A", "Öhr"],
        selected=[True, False],
        visible=[False, True],
        color=(1, 2, 3),
        device_name="F",
    )
    assert points == igtl.unpack(points.pack())
    assert [
        (p.name, p.group, p.color.tolist(), p.position.tolist()) for p in points.points
    ] == [
        ("A", "Fiducial", [1, 2, 3, 0], [1, 2, 3]),
        ("Öhr", "Unselected", [1, 2, 3, 255], [4, 5, 6]),
    ]  # fmt: skip
    assert len(igtl.Points.from_arrays([]).points) == 0
    with pytest.raises(ValueError, match="one of them"):
        igtl.Points.from_arrays([[0, 0, 0]], selected=True, groups=["x"])
    with pytest.raises(igtl.EncodeError, match="64 fit"):
        igtl.Points.from_arrays([[0, 0, 0]], names=["x" * 65])
    with pytest.raises(ValueError, match="1 values for 2 rows"):
        igtl.Points.from_arrays(np.zeros((2, 3)), names=["x"])


def test_ten_thousand_points_take_no_loop_of_python() -> None:
    names = [f"F-{k}" for k in range(10_000)]
    place = np.arange(30_000, dtype=np.float64).reshape(-1, 3)
    best = min(_timed(names, place) for _ in range(5))
    assert best < 0.05  # 3 ms on one machine


def _timed(names: list[str], place: Any) -> float:
    start = time.process_time()
    igtl.Points.from_arrays(place, names=names, selected=True, color=(255, 0, 0))
    return time.process_time() - start
