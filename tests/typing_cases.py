"""What a user's editor sees; checked by mypy --strict, never run."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import igtl
from igtl.fields import Array, array, count_of, f32, text, u16


class Force(igtl.Message, type_name="FORCE"):
    """Force at a tool tip, in newtons."""

    tool: str = text(20)
    _count: int = count_of("samples", u16)
    samples: Array = array(f32, "_count", per=3)


def constructors() -> None:
    igtl.Transform(np.eye(4), device_name="Probe", timestamp=None, message_id=1, metadata={"a": 1})
    igtl.Transform([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0]])
    igtl.Transform()  # type: ignore[call-arg]
    igtl.Transform(np.eye(4), "Probe")  # type: ignore[call-arg]
    igtl.Transform(np.eye(4), device="Probe")  # type: ignore[call-arg]
    igtl.Status("OK")  # type: ignore[arg-type]
    igtl.Command(1, "Go", "<x/>", encoding=3)
    igtl.TrackingData([igtl.Tool("Probe", matrix=np.eye(4))])
    igtl.TrackingData([np.eye(4)])  # type: ignore[list-item]
    igtl.PolyData(np.zeros((3, 3)), polygons=[[0, 1, 2]])
    igtl.StartTrackingData(resolution_ms=20)
    Force("Drill", [[1, 2, 3]], device_name="Robot")
    Force("Drill", samples=np.zeros((2, 3)), device_name="Robot")
    Force("Drill", 3, [[1, 2, 3]])  # type: ignore[call-arg, arg-type]


def attributes(t: igtl.Transform, force: Force, im: igtl.Image) -> None:
    assert_type(t.matrix, npt.NDArray[Any])
    assert_type(t.device_name, str)
    assert_type(t.timestamp, float | None)
    assert_type(t.time_ns, int | None)
    assert_type(force.samples, npt.NDArray[Any])
    assert_type(force.tool, str)
    assert_type(t.metadata, igtl.Metadata)
    t.metadata["a"] = 5
    t.metadata = {"a": 5}
    t.metadata = None
    assert_type(im.to("LPS"), igtl.Image)
    assert_type(im.array, npt.NDArray[Any])
    t.matrix = [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0]]


def links(link: igtl.Link) -> None:
    assert_type(link.recv(), igtl.Message)
    assert_type(link.recv(igtl.Transform, "Probe*", timeout=1), igtl.Transform)
    assert_type(link.query(igtl.GetImage(device_name="CT")), igtl.Image | igtl.NoData)
    assert_type(link.query(igtl.GetTransform(), timeout=1), igtl.Transform | igtl.NoData)
    link.query(igtl.StartVideo())  # type: ignore[arg-type]
    for message in link:
        match message:
            case igtl.Transform(matrix=m, device_name=name):
                assert_type(m, npt.NDArray[Any])
                assert_type(name, str)
            case igtl.TrackingData(tools=tools):
                assert_type(tools[0], igtl.Tool)


def streams_and_requests(link: igtl.Link) -> None:
    with link.stream(igtl.StartTrackingData(resolution_ms=20)) as frames:
        assert_type(frames.recv(), igtl.TrackingData)
        for frame in frames:
            assert_type(frame, igtl.TrackingData)
    assert_type(link.command("Go", "<x/>"), igtl.CommandReply)
    assert_type(link.recv_frame(), igtl.Frame)
    with link.stream(igtl.GetImage()):  # type: ignore[arg-type]
        pass


def reconnecting() -> None:
    assert_type(igtl.connect("a", 1, hello=True), igtl.Link)
    healing = igtl.connect("a", reconnect=igtl.Backoff(0.1, 30), policy="latest")
    assert_type(healing, igtl.ReconnectingLink)
    healing.send(igtl.String("typed without its encoding"), latch=True)
    for link in igtl.reconnect("a", backoff=igtl.Backoff()):
        assert_type(link, igtl.Link)
    igtl.connect("a", reconnekt=1)  # type: ignore[call-overload]
    igtl.connect("a", crc="perhaps")  # type: ignore[call-overload]


async def awaited() -> None:
    async with igtl.aio.connect("a") as link:
        assert_type(link, igtl.aio.Link)
        assert_type(await link.recv(igtl.Transform), igtl.Transform)
        assert_type(await link.query(igtl.GetImage()), igtl.Image | igtl.NoData)
        async with link.stream(igtl.StartTrackingData()) as frames:
            assert_type(await frames.recv(), igtl.TrackingData)
        async for message in link:
            assert_type(message, igtl.Message)
    assert_type(await igtl.aio.connect("a"), igtl.aio.Link)


def served() -> None:
    with igtl.serve(port=0, policy="latest") as server:

        @server.on(igtl.Transform, "Probe*")
        def handle(message: igtl.Transform, peer: igtl.Peer) -> None:
            peer.send(igtl.Status.ok())

        assert_type(server.clients, list[igtl.Peer])
        server.broadcast(igtl.Status.ok(), latch=True)
    igtl.serve(policy="newest")  # type: ignore[arg-type]
