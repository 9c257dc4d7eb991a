"""The profile of 3D Slicer against a peer that behaves as Slicer, by the scenarios of its users."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl import simulate
from igtl.cli.send import command as send_command
from igtl.peers import slicer as profile
from igtl.peers.slicer import SlicerRefuses
from tests.cpp import free_port

EYE = np.eye(4)
AFFINE = np.array([[0, -0.6, 0, 10], [0.5, 0, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1.0]])


def until(ready: Callable[[], Any], timeout: float = 20.0) -> Any:
    end = time.monotonic() + timeout
    while not (found := ready()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return found


def shifted(x: float) -> Any:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


@pytest.fixture(params=["client", "server"])
def ends(request: Any) -> Iterator[tuple[profile.Slicer, simulate.SlicerNode]]:
    """The profile and a Slicer in this role."""
    if request.param == "client":
        with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
            assert mine.wait_connected(10)
            assert theirs.wait_connected(10)
            yield mine, theirs
    else:
        with simulate.slicer("server", port=0) as theirs:
            with profile.connect(port=theirs.port) as mine:
                assert mine.wait_connected(10)
                assert theirs.wait_connected(10)
                yield mine, theirs
    assert not theirs.crashed


# -- 1, 2: transforms, in both directions and both roles


def test_transforms_both_ways(ends: Any) -> None:
    mine, theirs = ends
    for k in range(50):
        mine.transform("NeedleToReference", shifted(k), status="MISSING" if k == 49 else "OK")
    node = theirs.wait("LinearTransform", "NeedleToReference", lambda n: n.value[0, 3] == 49)
    assert node.attributes == {"TransformStatus": "MISSING"}
    theirs.transform("Probe", shifted(5), status="OUT_OF_VIEW")
    moved = until(lambda: mine.latest(igtl.Transform, "Pro*", max_age=60))
    assert moved.matrix[0, 3] == 5
    nodes = {node.name: node for node in mine.nodes()}
    assert nodes["Probe"].status == "OUT_OF_VIEW"
    assert nodes["Probe"].kind == "LinearTransform"
    assert nodes["NeedleToReference"].sent
    assert mine.latest(igtl.Image) is None


def test_a_busy_slicer_sees_the_newest_and_delays_no_one_else(ends: Any) -> None:
    mine, theirs = ends
    sent, was_busy = threading.Event(), []
    theirs._do(lambda: was_busy.append(sent.wait(60)))
    for k in range(500):
        mine.transform("T", shifted(k))
    sent.set()
    theirs.wait("LinearTransform", "T", lambda n: n.value[0, 3] == 499, timeout=20)
    assert was_busy == [True]  # until all were sent


# -- 3: either side is started again


def show_all(mine: Any) -> None:
    mine.transform("T", shifted(1), status="MISSING")
    mine.volume("CT", np.arange(24, dtype=np.int16).reshape(2, 3, 4), ijk_to_world=AFFINE)
    mine.points("F", [[1, 2, 3]])
    mine.points("F", [])
    mine.text("Note", "Grüße")


def is_all_there(theirs: Any) -> None:
    assert theirs.wait("LinearTransform", "T").attributes == {"TransformStatus": "MISSING"}
    assert theirs.wait("Volume", "CT").value.max() == 23
    assert theirs.wait("Text", "Note").value == "Grüße"
    assert len(theirs.wait("MarkupsFiducial", "F", lambda n: not len(n.value)).value) == 0


def test_a_slicer_that_was_restarted_shows_everything(ends: Any) -> None:
    mine, theirs = ends
    show_all(mine)
    is_all_there(theirs)
    start = time.monotonic()
    theirs.restart()
    is_all_there(theirs)
    assert time.monotonic() - start < 10  # 0.1 to 1 s


def test_a_program_that_was_restarted_shows_everything() -> None:
    port = free_port()
    with simulate.slicer(port=port) as theirs:
        for _ in range(2):
            with profile.serve(port=port) as mine:
                show_all(mine)
                is_all_there(theirs)
            theirs.nodes.clear()


def test_a_quick_reconnect_without_a_hello_loses_no_metadata() -> None:
    port = free_port()
    with simulate.slicer("server", port=port) as theirs:
        for _ in range(2):
            with profile.connect(port=port) as mine:
                mine.transform("T", EYE, status="MISSING")
                node = theirs.wait("LinearTransform", "T")
                assert node.attributes == {"TransformStatus": "MISSING"}
            theirs.nodes.clear()
        assert theirs.hellos <= 2


def test_the_port_of_a_killed_slicer_is_free_at_once() -> None:
    """Without SO_REUSEADDR, as the real one: it is the RST of this end that frees it."""
    with simulate.slicer("server", port=0) as theirs:
        with profile.connect(port=theirs.port) as mine:
            assert mine.wait_connected(10)
            assert theirs.wait_connected(10)
            theirs.restart(timeout=5)
            mine.transform("T", EYE)
            theirs.wait("LinearTransform", "T")


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux holds ports")
def test_without_the_rst_the_port_stays_taken() -> None:
    with simulate.slicer("server", port=0) as theirs:
        with socket.create_connection(("127.0.0.1", theirs.port)) as sock:
            assert theirs.wait_connected(10)

            def leave() -> None:  # as any other client
                while sock.recv(1 << 16):
                    pass
                sock.close()

            leaving = threading.Thread(target=leave, daemon=True)
            leaving.start()
            with pytest.raises(OSError):
                theirs.restart(timeout=0.2)
            leaving.join(10)


def test_another_program_at_the_port_is_not_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with profile.connect(port=port, backoff=igtl.Backoff(0.01, 0.02)) as mine:
            for _ in range(4):  # one more than a link takes
                sock, _ = other.accept()
                with sock, contextlib.suppress(ConnectionResetError):
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 10)
                    while sock.recv(1000):
                        pass
            other.close()
            theirs = until(lambda: _listening(port))
            with theirs:
                mine.transform("T", EYE)
                theirs.wait("LinearTransform", "T")


def _listening(port: int) -> simulate.SlicerNode | None:
    try:
        return simulate.slicer("server", port=port, reuse_address=True)
    except OSError:
        return None


def test_events() -> None:
    events: list[str] = []
    with profile.serve(port=0) as mine:
        mine.on_connect(lambda peer: events.append("connected"))
        mine.on_disconnect(lambda peer: events.append("disconnected"))
        with simulate.slicer(port=mine.port) as theirs:
            until(lambda: events == ["connected"])
            theirs.restart()
            until(lambda: events == ["connected", "disconnected", "connected"])


# -- 4: one of several clients stalls


def test_a_client_that_stalls_delays_no_other() -> None:
    with profile.serve(port=0, max_queued_bytes=4 << 20) as mine:
        with (
            socket.create_connection(("127.0.0.1", mine.port)),
            simulate.slicer(port=mine.port) as theirs,
        ):
            until(lambda: len(mine.server.clients) == 2)
            image = np.zeros((8, 256, 256), np.int16)
            for k in range(30):
                image[:] = k
                mine.volume("US", image)
                mine.transform("T", shifted(k))
            theirs.wait("Volume", "US", lambda n: n.value.max() == 29)
            theirs.wait("LinearTransform", "T", lambda n: n.value[0, 3] == 29)
            stalled = min(mine.server.clients, key=lambda peer: peer.stats.received)
            assert stalled.stats.dropped.total() > 0
            assert stalled.queued < 30


# -- 5, 6, 7: volumes, label maps, frames


def test_a_volume_at_its_place(ends: Any) -> None:
    mine, theirs = ends
    voxels = np.arange(4 * 5 * 6, dtype=np.int64).reshape(4, 5, 6)
    mine.volume("CT", voxels, ijk_to_world=AFFINE)
    node = theirs.wait("Volume", "CT")
    assert node.value.tolist() == voxels.tolist()
    np.testing.assert_allclose(node.message.ijk_to_world, AFFINE, atol=1e-5)
    for bad in (voxels + 70_000, voxels - 40_000):
        with pytest.raises(SlicerRefuses, match="float32"):
            mine.volume("CT", bad)
    mine.volume("CT", voxels.astype(np.float16))
    theirs.wait("Volume", "CT", lambda n: n.value.dtype == np.float32)


def test_images_of_other_libraries() -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    theirs_image = sitk.GetImageFromArray(voxels.astype(np.int32))
    theirs_image.SetOrigin((1, 2, 3))
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.volume("S", theirs_image)
        mine.volume("N", nibabel.Nifti1Image(voxels.T, AFFINE))
        node = theirs.wait("Volume", "S")
        assert node.value.tolist() == voxels.tolist()
        np.testing.assert_allclose(node.message.ijk_to_world[:3, 3], [-1, -2, 3], atol=1e-5)
        node = theirs.wait("Volume", "N")
        assert node.value.tolist() == voxels.tolist()
        np.testing.assert_allclose(node.message.ijk_to_world, AFFINE, atol=1e-5)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int32, np.int64])
def test_labels_at_the_place_of_the_image(kind: Any) -> None:
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.volume("CT", np.zeros((2, 3, 4), np.int16), ijk_to_world=AFFINE)
        mine.labels("Seg", np.ones((2, 3, 4), kind), like="CT")
        node = theirs.wait("Volume", "Seg")
        assert node.value.dtype == np.uint8
        assert node.value.min() == node.value.max() == 1
        np.testing.assert_allclose(node.message.ijk_to_world, AFFINE, atol=1e-5)
        theirs.volume("MR", np.zeros((2, 3, 4), np.int16), ijk_to_world=AFFINE)
        until(lambda: mine.latest(igtl.Image, "MR"))
        mine.labels("Mask", np.ones((2, 3, 4), kind), like="MR")
        node = theirs.wait("Volume", "Mask")
        np.testing.assert_allclose(node.message.ijk_to_world, AFFINE, atol=1e-5)
        with pytest.raises(KeyError, match="'CT'"):
            mine.labels("Seg", np.ones((2, 3, 4), kind), like="MRI")
        with pytest.raises(SlicerRefuses, match="whole numbers"):
            mine.labels("Seg", np.ones((2, 3, 4)))


def test_frames_are_neither_turned_nor_volumes() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    color = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.frame("US", grey)
        mine.frame("Camera", color, order="BGR")
        node = theirs.wait("Volume", "US")
        assert (node.message.size.tolist(), node.message.components) == ([4, 3, 1], 1)
        assert node.value[0].tolist() == grey.tolist()
        node = theirs.wait("Volume", "Camera")
        assert (node.message.size.tolist(), node.message.components) == ([4, 3, 1], 3)
        assert node.value[0].tolist() == color[..., ::-1].tolist()
        with pytest.raises(SlicerRefuses, match="another name"):
            mine.frame("US", color)


# -- 14: the scanner of UltrasoundRemoteControl


def test_be_the_scanner_of_the_remote_control(ends: Any) -> None:
    mine, theirs = ends
    values = {"DepthMm": "50", "GainPercent": "30"}
    mine.ultrasound(get=values.__getitem__, set=values.__setitem__, device="US")
    text = '<Command Name="{}" UsDeviceId="US"><Parameter Name="DepthMm"{}/></Command>'
    reply = theirs.command("GetUsParameter", text.format("GetUsParameter", ""))
    assert (reply.state, reply.parameters["DepthMm"]) == ("Success", "50")
    reply = theirs.command("SetUsParameter", text.format("SetUsParameter", ' Value="60"'))
    assert (reply.state, reply.parameters["DepthMm"], values["DepthMm"]) == ("Success", "60", "60")
    reply = theirs.command("GetUsParameter", text.format("x", "").replace('US"', 'Other"'))
    assert (reply.state, "no scanner 'Other'" in reply.error) == ("Fail", True)


# -- 15, 16: commands, both ways


def test_a_command_of_slicer_is_carried_out_beside_the_stream(ends: Any) -> None:
    mine, theirs = ends
    go_on = threading.Event()

    @mine.answers("Segment")
    def _(command: igtl.Command) -> Any:
        assert go_on.wait(20)
        return "<done/>", {"VolumeMl": 12}

    replies: list[Any] = []
    asking = threading.Thread(
        target=lambda: replies.append(theirs.command("Segment", "<x/>", timeout=20)), daemon=True
    )
    asking.start()
    for k in range(20):  # meanwhile the stream goes on
        mine.transform("T", shifted(k))
    theirs.wait("LinearTransform", "T", lambda n: n.value[0, 3] == 19)
    go_on.set()
    asking.join(20)
    assert replies[0].state == "Success"
    assert (replies[0].text, replies[0].parameters["VolumeMl"]) == ("<done/>", "12")


def test_a_command_that_fails_says_why(ends: Any) -> None:
    mine, theirs = ends

    @mine.answers()
    def _(command: igtl.Command) -> None:
        raise ValueError("no such organ")

    reply = theirs.command("Segment")
    assert (reply.state, reply.error) == ("Fail", "ValueError: no such organ")
    assert mine.latest(igtl.Command).name == "Segment"


def test_a_command_to_slicer_is_judged_by_its_error_message(ends: Any) -> None:
    mine, theirs = ends
    theirs.handlers["Go"] = lambda command: f"<went name={command.text!r}/>"
    theirs.handlers["Fail"] = lambda command: 1 / 0  # type: ignore[assignment,return-value]
    assert mine.command("Go", "there").text == "<went name='there'/>"
    with pytest.raises(igtl.CommandFailed, match="division by zero"):
        mine.command("Fail")
    with pytest.raises(TimeoutError):
        mine.command("Unknown", timeout=0.05)


def test_the_status_of_slicer_says_nothing() -> None:
    def random_status(sock: socket.socket) -> None:
        link = igtl.Protocol(version=2)
        while (command := link.next_message()) is None:
            link.received(sock.recv_into(link.get_buffer()))
        reply = igtl.CommandReply(command.command_id, "Go", "<ok/>", metadata={"Status": "FAIL"})
        sock.sendall(reply.pack(version=2))

    with profile.serve(port=0) as mine:
        with socket.create_connection(("127.0.0.1", mine.port)) as sock:
            threading.Thread(target=random_status, args=(sock,), daemon=True).start()
            assert mine.command("Go").text == "<ok/>"


def test_a_command_without_a_slicer_waits_for_one() -> None:
    with profile.serve(port=0) as mine:
        assert not mine.wait(0)
        with pytest.raises(TimeoutError, match="no 3D Slicer was there"):
            mine.command("Go", timeout=0.01)


# -- 18: queries


def test_queries_of_slicer(ends: Any) -> None:
    mine, theirs = ends

    @mine.provides(igtl.GetImage, "CT*")
    def _(request: igtl.GetImage) -> igtl.Image:
        return igtl.Image(np.zeros((2, 3, 4), np.int16))

    @mine.provides(igtl.StartTrackingData)
    def _(request: igtl.StartTrackingData) -> Iterator[igtl.TrackingData]:
        yield igtl.TrackingData([igtl.Tool("Probe")])

    image = theirs.query(igtl.GetImage(device_name="CT1"))
    assert isinstance(image, igtl.Image)
    assert theirs.query(igtl.StartTrackingData(device_name="Trk")) is not None
    theirs.wait("LinearTransform", "Probe")
    assert theirs.query(igtl.GetImage(device_name="MRI"), timeout=0.1) is None
    node = theirs.wait("STATUS", "MRI")
    assert node.message.code == igtl.StatusCode.NOT_FOUND


def test_a_provider_cannot_send_what_slicer_refuses() -> None:
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.provides(igtl.GetImage)(lambda request: igtl.Image(np.zeros((1, 2, 3), np.int32)))
        assert mine.wait_connected(10)
        assert theirs.wait_connected(10)
        assert theirs.query(igtl.GetImage(device_name="CT"), timeout=0.3) is None
        theirs.wait("STATUS", "CT")


# -- 19, 20: points and models


def test_ten_thousand_points(ends: Any) -> None:
    mine, theirs = ends
    place = np.arange(30_000, dtype=np.float32).reshape(-1, 3)
    chosen = np.arange(10_000) % 2 == 0
    mine.points("F", place, selected=chosen, visible=chosen, color=(255, 0, 0))
    shown = theirs.wait("MarkupsFiducial", "F").value
    np.testing.assert_array_equal(shown.positions, place)
    assert (shown[0].name, shown[1].group, shown[1].color.tolist()) == (
        "F-1", "Unselected", [255, 0, 0, 0]
    )  # fmt: skip
    mine.points("F", [])
    theirs.wait("MarkupsFiducial", "F", lambda n: not len(n.value))


def test_models() -> None:
    triangle = ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.model("Liver", triangle)
        assert theirs.wait("Model", "Liver").value.polygons[0].tolist() == [0, 1, 2]
        cloud = igtl.PolyData(np.zeros((8, 3)), vertices=[[k] for k in range(8)])
        with pytest.raises(SlicerRefuses, match="Points"):
            mine.model("Cloud", cloud)
        trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
        mine.model("Box", trimesh.creation.box())
        assert len(theirs.wait("Model", "Box").value.polygons) == 12


def test_tools_of_one_instant() -> None:
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        mine.tools({"Probe": shifted(1), "Stylus": igtl.Pose(shifted(2))})
        assert theirs.wait("LinearTransform", "Stylus").value[0, 3] == 2
        with pytest.raises(SlicerRefuses, match="19 bytes"):
            mine.tools({"P" * 20: EYE})


# -- 23: video


@pytest.mark.parametrize("grey", [False, True])
def test_video_for_a_slicer_that_comes_late(grey: bool) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    picture = np.full((48, 64) if grey else (48, 64, 3), 100, np.uint8)
    with profile.serve(port=0) as mine:
        camera = mine.video("US", fps=30)
        for _ in range(3):  # without a viewer
            camera.publish(picture)
        with simulate.slicer(port=mine.port) as theirs:
            assert theirs.wait_connected()
            until(lambda: mine.connected)

            def shown() -> bool:
                camera.publish(picture)
                node = theirs.nodes.get(("StreamingVolume", "US"))
                return node is not None and node.value is not None

            until(shown)
            value = theirs.nodes["StreamingVolume", "US"].value
            assert value.shape[:2] == (48, 64)
            assert abs(int(value.mean()) - 100) < 4
            assert theirs.nodes["StreamingVolume", "US"].message.header_version == 1
        camera.close()


# -- the sender is never stopped


def test_a_slow_handler_stops_neither_slicer_nor_another_handler(ends: Any) -> None:
    """31 MB volumes beside a handler that is at work all the time."""
    mine, theirs = ends
    over, started, poses = threading.Event(), threading.Event(), threading.Event()

    @mine.on(igtl.Image)
    def _(image: igtl.Image, peer: Any) -> None:
        started.set()
        over.wait(30)

    @mine.on(igtl.Transform)
    def _(pose: igtl.Transform, peer: Any) -> None:
        poses.set()

    volume = np.zeros((60, 512, 512), np.int16)
    for _ in range(4):
        theirs.volume("US", volume)
    theirs.transform("T", EYE)
    assert poses.wait(20)
    assert started.wait(20)
    over.set()
    assert theirs.longest_send < 3  # 0.05 s on one machine; the handler would have taken 30


def test_handlers_get_the_newest_or_every_message() -> None:
    newest: list[float] = []
    every: list[float] = []
    go_on = threading.Event()
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        assert mine.wait_connected(10)
        assert theirs.wait_connected(10)

        @mine.on(igtl.Transform)
        def _(m: igtl.Transform, peer: Any) -> None:
            newest.append(m.matrix[0, 3])
            go_on.wait(20)

        @mine.on(igtl.Transform, every=True)
        def _(m: igtl.Transform, peer: Any) -> None:
            every.append(m.matrix[0, 3])
            go_on.wait(20)

        until(lambda: theirs.hellos)  # which brings what was pushed before once more
        for k in range(10):
            theirs.transform("T", shifted(k))
        until(lambda: (last := mine.latest(igtl.Transform)) and last.matrix[0, 3] == 9)
        go_on.set()
        until(lambda: len(every) == 10 and newest[-1] == 9)
        assert every == list(range(10))
        assert len(newest) < 10
        assert mine.stats.dropped["superseded"] == 10 - len(newest)


def test_what_a_handler_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:

        @mine.on(igtl.Transform, every=True)
        def _(m: igtl.Transform, peer: Any) -> None:
            seen.append(peer)
            peer.send(igtl.String(b"thanks", encoding=3, device_name="Note"))
            raise SystemExit

        theirs.transform("T", EYE)
        theirs.wait("Text", "Note")
        theirs.transform("T", EYE)
        until(lambda: len(seen) > 1)
    assert "a handler failed" in caplog.text
    with pytest.raises(TypeError, match="class of messages"):
        mine.on(int)  # type: ignore[arg-type]

    async def later(message: igtl.Message, peer: Any) -> None: ...

    with pytest.raises(TypeError, match="aio"):
        mine.on(igtl.Transform)(later)


def test_a_command_is_not_sent_again_to_who_comes_later() -> None:
    with profile.serve(port=0) as mine, simulate.slicer(port=mine.port) as theirs:
        got: list[str] = []
        theirs.handlers["*"] = lambda command: got.append(command.name) or ""  # type: ignore[func-returns-value]
        assert mine.wait_connected(10)
        mine.show(igtl.Command(1, "Go", device_name="command"))
        mine.text("Note", "1")
        until(lambda: got == ["Go"])
        theirs.restart()
        theirs.wait("Text", "Note")
        assert got == ["Go"]


def test_options() -> None:
    for open_one in (profile.serve, profile.connect):
        with pytest.raises(ValueError, match="busy 3D Slicer"):
            open_one(port=0, policy="block")
        with pytest.raises(TypeError, match="no option"):
            open_one(port=0, colour=1)  # type: ignore[call-arg]
    import ssl

    with pytest.raises(ValueError, match="ssl"):
        profile.connect(port=0, ssl=ssl.create_default_context())


# -- asyncio


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_twin_in_asyncio(role: Any) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        theirs = simulate.slicer(role, port=0 if role == "server" else free_port())
        opened = (
            profile.aio.serve(port=theirs.port)
            if role == "client"
            else profile.aio.connect(port=theirs.port)
        )
        seen: asyncio.Queue[Any] = asyncio.Queue()

        def away(work: Callable[..., Any], *args: Any) -> Any:
            return loop.run_in_executor(None, work, *args)

        try:
            async with opened as mine:
                assert await mine.wait_connected(10)
                assert await away(theirs.wait_connected, 10)
                assert mine.connected

                @mine.on(igtl.Transform, "P*")
                async def _(m: igtl.Transform, peer: Any) -> None:
                    await seen.put(m)

                @mine.on(igtl.Transform)
                def _(m: igtl.Transform, peer: Any) -> None:
                    raise ValueError("is logged")

                @mine.answers("Segment")
                async def _(command: igtl.Command) -> dict[str, str]:
                    await asyncio.sleep(0)
                    return {"VolumeMl": "12"}

                @mine.provides(igtl.GetImage)
                async def _(request: igtl.GetImage) -> igtl.Image:
                    return igtl.Image(np.zeros((2, 3, 4), np.int16))

                mine.transform("T", shifted(1), status="MISSING")
                await away(mine.text, "Note", "from a thread")
                node = await away(theirs.wait, "LinearTransform", "T")
                assert node.attributes == {"TransformStatus": "MISSING"}
                await away(theirs.wait, "Text", "Note")
                theirs.transform("Probe", shifted(5))
                assert (await asyncio.wait_for(seen.get(), 10)).matrix[0, 3] == 5
                assert mine.latest(igtl.Transform, "Probe").matrix[0, 3] == 5
                reply = await away(theirs.command, "Segment")
                assert reply.parameters["VolumeMl"] == "12"
                request = igtl.GetImage(device_name="CT")
                assert await away(theirs.query, request) is not None
                theirs.handlers["Go"] = lambda command: "<ok/>"
                assert (await mine.command("Go")).text == "<ok/>"
                await away(theirs.restart)
                node = await away(theirs.wait, "LinearTransform", "T")
                assert node.attributes == {"TransformStatus": "MISSING"}
                with pytest.raises(TimeoutError):
                    await mine.command("Unknown", timeout=0.05)
        finally:
            await away(theirs.close)

    asyncio.run(run())


# -- the simulated Slicer is as the real one


@pytest.mark.parametrize(
    "message",
    [
        igtl.GetImage(device_name="X"),
        igtl.PolyData(np.zeros((8, 3)), vertices=[[k] for k in range(8)], device_name="X"),
        igtl.Unknown("X_IMAGE", b"", device_name="X"),
    ],
    ids=lambda m: m.type_name,
)
def test_it_crashes_on_what_the_real_one_crashes_on(message: igtl.Message) -> None:
    with simulate.slicer("server", port=0) as theirs:
        with igtl.connect(port=theirs.port, version=2) as link:
            link.send(message)
            until(lambda: theirs.crashed)
            with pytest.raises((igtl.ConnectionClosed, ConnectionError)):
                link.recv(timeout=10)
                link.recv(timeout=10)


def test_it_ignores_and_misreads_what_the_real_one_does() -> None:
    with simulate.slicer("server", port=0) as theirs:
        with igtl.connect(port=theirs.port, version=2) as link:
            link.send(igtl.Position((0, 0, 0), device_name="P"))
            link.send(igtl.Image(np.array([[[1, -2, 100, -4]]], np.int32), device_name="I"))
            assert theirs.wait("Volume", "I").value.ravel()[:2].tolist() == [
                -8589934591, -17179869084,
            ]  # fmt: skip
            assert theirs.ignored == {"POSITION": 1}
            link.send(igtl.TrackingData([igtl.Tool("T" * 20)], device_name="X"))
            theirs.wait("LinearTransform", "")
            link.send(igtl.Video(b"x", "H264", (2, 2, 1), device_name="V"))
            assert theirs.wait("StreamingVolume", "V").value is None
            for _ in range(60):
                link.send(igtl.Image(np.zeros((1, 10, 10), np.uint8), device_name="R"))
            until(lambda: theirs.held_bytes == 50 * 100 + 16)


def test_a_window_that_waits_for_a_peer() -> None:
    with simulate.slicer("server", port=0) as theirs:
        with socket.create_connection(("127.0.0.1", theirs.port)) as sock:
            assert theirs.wait_connected()
            theirs.volume("CT", np.zeros((60, 512, 512), np.int16))
            while len(sock.recv(1 << 16)) < 200:  # the hello
                pass
            time.sleep(0.3)
            taken = 0
            while taken < 31_000_000:
                taken += len(sock.recv(1 << 20))
            until(lambda: theirs.longest_send > 0.2)


# -- the command line


@pytest.mark.processes
def test_the_command_that_is_slicer() -> None:
    with profile.serve(port=0) as mine:
        program = subprocess.Popen(
            [sys.executable, "-m", "igtl", "simulate", "--slicer", "client",
             "--peer", f"localhost:{mine.port}"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with program:
            assert program.stderr is not None
            mine.transform("Needle", EYE)
            assert mine.wait_connected(30)
            for _ in range(2):  # what came before the first is shown by then
                assert mine.command("Echo", "<x/>").text == "<x/>"
            mine.server.broadcast(igtl.GetImage(device_name="CT"))  # past the check
            told = program.stderr.read()
            assert program.wait(60) == 1
    assert "shows LinearTransform 'Needle'" in told
    assert "would have crashed on a message of type GET_IMAGE" in told


def send(*words: str) -> Any:
    return CliRunner().invoke(send_command, [*words, "--quiet", "--to-slicer"])


def test_send_to_slicer() -> None:
    with simulate.slicer("server", port=0) as theirs:
        place = f"127.0.0.1:{theirs.port}"
        done = send("STRING", "device_name=Note", "string=Grüße", place)
        assert done.exit_code == 0, done.output
        assert theirs.wait("Text", "Note").value == "Grüße"
        done = send("POINT", "device_name=F", place)
        assert done.exit_code == 0, done.output
        assert theirs.wait("MarkupsFiducial", "F").attributes == {"Status": "OK"}
        refused = send("POSITION", "device_name=P", "position=[0,0,0]", place)
        assert refused.exit_code != 0
        assert "3D Slicer ignores this type; send a TRANSFORM" in str(refused.exception)
        assert send("STATUS", place, "--udp").exit_code == 2
        assert not theirs.ignored


def test_messages_adapted_to_slicer() -> None:
    image = igtl.Image(np.full((1, 2, 3), 7, np.int32), ijk_to_world=AFFINE, device_name="I")
    adapted = profile.adapted(image)
    assert isinstance(adapted, igtl.Image)
    assert (adapted.array.dtype, image.array.dtype) == (np.int16, np.int32)
    assert adapted.array.tolist() == image.array.tolist()
    np.testing.assert_allclose(adapted.ijk_to_world, AFFINE, atol=1e-5)
    image.array[0, 0, 0] = 1 << 20
    with pytest.raises(SlicerRefuses, match="float32"):
        profile.adapted(image)
