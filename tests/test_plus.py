"""PLUS as a peer: the scenarios of its users, against the simulated PlusServer, blocking and in
asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.peers.plus.core import State
from igtl.simulate import PlusSimulator
from tests.cpp import free_port

Select = igtl.plus.Select
TRANSFORMS = Select(transforms=["ProbeToTracker", "StylusToTracker"])
FRAMES = Select(transforms=["ProbeToTracker"], images=["Image_Reference"], tracked_frames=True)
WAIT = 20.0  # seconds for what is expected within one


def in_asyncio(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine function as a test."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


@pytest.fixture
def server() -> Iterator[PlusSimulator]:
    with igtl.simulate.plus(port=0, size=(64, 48)) as simulator:
        yield simulator


def wait_for(what: Callable[[], Any], timeout: float = WAIT) -> Any:
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)
    return found


# ---- 9: tracking only -------------------------------------------------------------------------


def test_what_plus_sends_before_it_reads_the_selection_is_no_tool() -> None:
    state = State(igtl.Stats(), silence=1.0)
    state.select(TRANSFORMS)
    for name in ("ReferenceToTracker", "ProbeToTracker"):
        state.take(igtl.Transform(np.eye(4), device_name=name), 106)
    assert dict(state.tools) == {"ProbeToTracker": "OK"}


def test_9_tools_and_statuses(server: PlusSimulator) -> None:
    seen: list[tuple[str, str | None, str]] = []
    with igtl.plus.connect(port=server.port, select=TRANSFORMS, silence=0.3) as plus:

        @plus.tools.on_change
        def _(name: str, old: str | None, new: str) -> None:
            seen.append((name, old, new))

        pose = plus.wait(igtl.Transform, "ProbeToTracker", max_age=0.2, timeout=WAIT)
        while "TransformStatus" not in pose.metadata:  # sent before PLUS has read the hello
            pose = plus.wait(igtl.Transform, "ProbeToTracker", max_age=0.2, timeout=WAIT)
        assert pose.metadata["TransformStatus"] == "OK"
        server.set_status("StylusToTracker", "OUT_OF_VIEW")  # by default that is not sent
        wait_for(lambda: ("StylusToTracker", "OK", "SILENT") in seen)
        server.set_status("StylusToTracker", "OK")
        wait_for(lambda: ("StylusToTracker", "SILENT", "OK") in seen)
        both = {"ProbeToTracker": "OK", "StylusToTracker": "OK"}
        wait_for(lambda: dict(plus.tools) == both)
        assert plus.latest(igtl.Status) is None  # keep-alives are hidden


@in_asyncio
async def test_9_tools_and_statuses_in_asyncio(server: PlusSimulator) -> None:
    seen: list[tuple[str, str | None, str]] = []
    select = TRANSFORMS
    async with igtl.plus.aio.connect(port=server.port, select=select, silence=0.3) as plus:

        @plus.tools.on_change
        async def _(name: str, old: str | None, new: str) -> None:
            seen.append((name, old, new))

        pose = await plus.wait(igtl.Transform, "ProbeToTracker", max_age=0.2, timeout=WAIT)
        while "TransformStatus" not in pose.metadata:  # sent before PLUS has read the hello
            await asyncio.sleep(0.005)
            pose = await plus.wait(igtl.Transform, "ProbeToTracker", max_age=0.2, timeout=WAIT)
        assert pose.metadata["TransformStatus"] == "OK"
        server.set_status("StylusToTracker", "OUT_OF_VIEW")
        await until(lambda: ("StylusToTracker", "OK", "SILENT") in seen)
        server.set_status("StylusToTracker", "OK")
        await until(lambda: ("StylusToTracker", "SILENT", "OK") in seen)


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT):
        while not what():
            await asyncio.sleep(0.005)


def test_statuses_of_invalid_tools_where_plus_sends_them() -> None:
    with (
        igtl.simulate.plus(port=0, size=(64, 48), valid_only=False) as server,
        igtl.plus.connect(port=server.port, select=TRANSFORMS) as plus,
    ):
        server.set_status("ProbeToTracker", "OUT_OF_VOLUME")
        wait_for(lambda: plus.tools.get("ProbeToTracker") == "OUT_OF_VOLUME")
        pose = plus.latest(igtl.Transform, "ProbeToTracker")
        assert pose is not None
        np.testing.assert_array_equal(pose.matrix, np.eye(4))  # which says nothing
        graph = igtl.TransformGraph()
        graph.add(igtl.Transform(device_name="ProbeToTracker", matrix=np.eye(4)))
        graph.add(pose)
        assert graph.names == []


# ---- 10: selection ------------------------------------------------------------------------------


def test_10_only_what_is_selected(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, select=TRANSFORMS) as plus:
        plus.wait(igtl.Transform, "StylusToTracker", timeout=WAIT)
        assert plus.latest(igtl.Image) is None or plus.stats.received < 100
        plus.select(Select(strings=["DepthMm"]))
        depth = plus.wait(igtl.String, "DepthMm", timeout=WAIT)
        assert depth.string == "45"
    first, second, third = server.received[:3]
    assert first.header_version == 2
    assert isinstance(first, igtl.Status)  # the hello
    assert isinstance(second, igtl.ClientInfo)
    assert isinstance(third, igtl.ClientInfo)
    assert 'ClientHeaderVersion="2"' in second.xml


@in_asyncio
async def test_10_only_what_is_selected_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port, select=TRANSFORMS) as plus:
        await plus.wait(igtl.Transform, "StylusToTracker", timeout=WAIT)
        await plus.select(Select(strings=["DepthMm"]))
        depth = await plus.wait(igtl.String, "DepthMm", timeout=WAIT)
        assert depth.string == "45"


def test_wrong_selections() -> None:
    for wrong, why in (
        ({}, "nothing is selected"),
        ({"transforms": ["Probe"]}, "XToY"),
        ({"transforms": "ProbeToTracker"}, "list of names"),
        ({"images": ["Image"]}, "Image_Reference"),
        ({"tracked_frames": True}, "needs images"),
        ({"tracking_data": True}, "need transforms"),
    ):
        with pytest.raises(ValueError, match=why):
            Select(**wrong)  # type: ignore[arg-type]


def test_what_a_selection_says_is_read_back() -> None:
    select = Select(
        transforms=["ProbeToTracker"], images=["My_Image_Reference"], strings=['"<&>'],
        tracked_frames=True, tracking_data=True,
    )  # fmt: skip
    client = igtl.plus.Client.read(select.message())
    assert client.types == ("TRACKEDFRAME", "TDATA", "STRING")
    assert client.transforms == ("ProbeToTracker",)
    assert client.images == (("My_Image", "Reference"),)
    assert client.strings == ('"<&>',)
    assert (client.version, client.tracking_data, client.resolution) == (2, True, 0)


# ---- 11, 12, 13: commands ---------------------------------------------------------------------


def test_11_commands(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port) as plus:
        assert plus.version().startswith("Plus-")
        assert plus.device_ids("VirtualCapture") == ["CaptureDevice"]
        assert plus.channel_ids() == ["TrackerStream", "UsStream"]
        with plus.recording("CaptureDevice", "case.mha"):
            with pytest.raises(igtl.CommandFailed, match="already in progress"):
                plus.command("StartRecording", capture_device_id="CaptureDevice")
        with pytest.raises(igtl.CommandFailed, match=r"not been found \(Nope\)"):
            plus.command("StartRecording", capture_device_id="Nope")
        reply = plus.command("GetFrameRate")  # whose XML is not well-formed
        assert float(reply.values["FrameRate"]) == 20


@in_asyncio
async def test_11_commands_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port) as plus:
        assert (await plus.version()).startswith("Plus-")
        assert await plus.device_ids() == sorted(
            ["Tracker", "UsDevice", "CaptureDevice", "VolumeReconstructorDevice"]
        )
        assert await plus.channel_ids() == ["TrackerStream", "UsStream"]
        async with plus.recording("CaptureDevice", "case.mha"):
            pass
        with pytest.raises(igtl.CommandFailed, match=r"not been found \(Nope\)"):
            await plus.command("StartRecording", capture_device_id="Nope")


def test_12_legacy_commands(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port) as plus:
        reply = plus.command("RequestDeviceIds", legacy=True)
        assert "CaptureDevice" in reply.message
        with pytest.raises(igtl.CommandFailed, match="See error message"):
            plus.command("GetTransform", legacy=True, transform_name="NopeToProbe")
        with pytest.raises(igtl.CommandFailed, match="Error attempting"):
            plus.command("Nope", legacy=True)
    assert [m.device_name[:4] for m in server.received if isinstance(m, igtl.String)] == [
        "CMD_"
    ] * 3


@in_asyncio
async def test_12_legacy_commands_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port) as plus:
        reply = await plus.command("RequestDeviceIds", legacy=True)
        assert "CaptureDevice" in reply.message
        with pytest.raises(igtl.CommandFailed, match="Error attempting"):
            await plus.command("Nope", legacy=True)


def test_13_a_calibration(server: PlusSimulator) -> None:
    m = np.array([[0.1, 0, 0, 5], [0, 0.1, 0, 1 / 3], [0, 0, 1, 7], [0, 0, 0, 1]])
    with igtl.plus.connect(port=server.port) as plus:
        assert plus.transform("ImageToProbe").shape == (4, 4)
        said = plus.update_transform("ImageToProbe", m, persistent=True, error=0.5)
        assert said == "UpdateTransform (ImageToProbe) completed successfully"
        np.testing.assert_allclose(plus.transform("ImageToProbe"), m, atol=1e-5)
        plus.save_config("calibrated.xml")
        with pytest.raises(igtl.CommandFailed, match=r"\(NopeToProbe\) Failed"):
            plus.transform("NopeToProbe")
    np.testing.assert_array_equal(server.transforms["ImageToProbe"], m)
    assert server.saved == ["calibrated.xml"]


@in_asyncio
async def test_13_a_calibration_in_asyncio(server: PlusSimulator) -> None:
    m = np.diag([0.1, 0.1, 1, 1])
    async with igtl.plus.aio.connect(port=server.port) as plus:
        await plus.update_transform("ImageToProbe", m, error=0.5)
        np.testing.assert_allclose(await plus.transform("ImageToProbe"), m)
        await plus.save_config("calibrated.xml")
    assert server.saved == ["calibrated.xml"]


def test_a_reply_of_version_1_has_no_matrix(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, hello=False, version=1) as plus:
        with pytest.raises(igtl.CommandFailed, match="header version 2"):
            plus.transform("ImageToProbe")


def test_a_volume(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, select=TRANSFORMS) as plus:
        with plus.reconstruct("recvol_Reference") as volume:
            early = volume.snapshot()
        assert early.device_name == "recvol_Reference"
        assert volume.image is not None
        assert volume.image is not early
        with pytest.raises(igtl.CommandFailed, match="Nope is not found"):
            plus.reconstruct("recvol_Reference", device="Nope").__enter__()


@in_asyncio
async def test_a_volume_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port, select=TRANSFORMS) as plus:
        async with plus.reconstruct("recvol_Reference") as volume:
            assert (await volume.snapshot()).device_name == "recvol_Reference"
        assert volume.image is not None


# ---- 14: ultrasound parameters, both roles ------------------------------------------------------


def test_14_parameters(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port) as plus:
        plus.us["UsDevice"]["DepthMm"] = 50
        assert plus.us["UsDevice"]["DepthMm"] == 50
        with pytest.raises(igtl.CommandFailed, match="Invalid parameter Nope"):
            plus.us["UsDevice"]["Nope"]
        with pytest.raises(igtl.CommandFailed, match="Failed to parse DepthMm"):
            plus.us["UsDevice"]["DepthMm"] = "deep"
    assert server.parameters["DepthMm"] == 50


@in_asyncio
async def test_14_parameters_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port) as plus:
        await plus.us["UsDevice"].set("DepthMm", 50)
        assert await plus.us["UsDevice"].get("DepthMm") == 50


def test_14_as_the_device() -> None:
    """An igtl server that a remote control asks, as it asks PLUS."""
    depth = {"DepthMm": "45"}
    with igtl.serve(port=0, start=False) as server:

        @server.command("GetUsParameter")
        def _(command: igtl.Command, peer: Any) -> str:
            entries = (f'<Parameter Name="{k}" Value="{v}"/>' for k, v in depth.items())
            return f"<CommandReply>{''.join(entries)}</CommandReply>"

        server.start()
        with igtl.plus.connect(port=server.port) as plus:
            assert plus.us["UsDevice"]["DepthMm"] == 45


# ---- 17: TDATA ----------------------------------------------------------------------------------


def test_17_tracking_data(server: PlusSimulator) -> None:
    select = Select(transforms=["ProbeToTracker", "StylusToTracker"], tracking_data=True)
    with igtl.plus.connect(port=server.port, select=select) as plus:
        data = plus.wait(igtl.TrackingData, timeout=WAIT)
        assert data.tools.matrices.shape == (2, 4, 4)
        assert data.device_name == "TDATA_2Elem"
        server.set_status("StylusToTracker", "MISSING")
        assert plus.wait(igtl.TrackingData, "TDATA_1Elem", timeout=WAIT).tools.names == [
            "ProbeToTracker"
        ]


@in_asyncio
async def test_17_tracking_data_in_asyncio(server: PlusSimulator) -> None:
    select = Select(transforms=["ProbeToTracker", "StylusToTracker"], tracking_data=True)
    async with igtl.plus.aio.connect(port=server.port, select=select) as plus:
        data = await plus.wait(igtl.TrackingData, timeout=WAIT)
        assert data.tools.matrices.shape == (2, 4, 4)


def test_long_names_of_tools_are_whole() -> None:
    name = "LongStylusToolNameToTracker"
    data = igtl.TrackingData([igtl.Tool(name[:20], 2, np.eye(4))])
    data.metadata = {f"{name}Status": "OUT_OF_VIEW", f"{name}Index": "0"}
    graph = igtl.TransformGraph()
    graph.set(name, np.eye(4))
    graph.add(data)
    assert graph.names == []


# ---- 22: TRACKEDFRAME ---------------------------------------------------------------------------


def test_22_tracked_frames(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, select=FRAMES) as plus:
        for frame in itertools.islice(plus.frames(timeout=WAIT), 3):
            assert frame.array.shape == (1, 48, 64)
            assert frame.ijk_to_world.shape == (4, 4)
            assert abs(time.time() - frame.timestamp) < WAIT
            assert frame.transforms["ProbeToTracker"].status == "OK"
            assert frame.fields["DepthMm"] == "45"
        assert plus.latest(igtl.Transform, "ProbeToTracker", max_age=WAIT) is not None


@in_asyncio
async def test_22_tracked_frames_in_asyncio(server: PlusSimulator) -> None:
    count = 0
    async with igtl.plus.aio.connect(port=server.port, select=FRAMES) as plus:
        async for frame in plus.frames(timeout=WAIT):
            assert frame.transforms["ProbeToTracker"].matrix.shape == (4, 4)
            if (count := count + 1) == 3:
                break


def test_a_graph_takes_frames() -> None:
    graph = igtl.TransformGraph()
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    graph.add(igtl.TrackedFrame(
        np.zeros((2, 2), np.uint8),
        transforms={"ProbeToTracker": pose, "ImageToProbe": np.diag([0.2, 0.3, 1, 1]),
                    "StylusToTracker": (pose, "MISSING")},
    ))  # fmt: skip
    assert graph.names == ["ProbeToTracker"]
    np.testing.assert_allclose(graph["TrackerToProbe"][:3, 3], (-1, -2, -3))


# ---- 21: PLUS as a client -----------------------------------------------------------------------


@contextlib.contextmanager
def device(port: int, select: str, *, tdata: bool = False) -> Iterator[igtl.Link]:
    """What a device of PLUS does when it has connected."""
    with igtl.connect(port=port) as link:
        link.send(igtl.ClientInfo(select))
        if tdata:
            link.send(igtl.StartTrackingData(50, "Tracker"))
        yield link


TRACKER = """<ClientInfo TDATARequested="FALSE" TDATAResolution="0">
  <MessageTypes><Message Type="TRANSFORM" /></MessageTypes>
  <TransformNames><Transform Name="StylusToTracker" /></TransformNames>
</ClientInfo>"""


def test_21_transforms_for_a_tracker() -> None:
    pose = np.eye(4)
    with igtl.plus.serve(port=0) as server, device(server.port, TRACKER) as link:
        asked = server.wait_for_client(WAIT)
        server.tool("StylusToTracker", pose, status="OK")
        server.tool("ProbeToTracker", pose)  # which it has not asked for
        server.tool("StylusToTracker", pose, status="MISSING")
        one, two = link.recv(timeout=WAIT), link.recv(timeout=WAIT)
        assert asked.wants is not None
        assert asked.wants.transforms == ("StylusToTracker",)
    assert (one.device_name, two.device_name) == ("StylusToTracker",) * 2
    assert one.timestamp is not None
    assert one.metadata == {"TransformStatus": "OK", "TransformValid": "1"}
    assert two.metadata["TransformStatus"] == "MISSING"


def test_21_tracking_data_for_a_tracker() -> None:
    select = TRACKER.replace('"TRANSFORM"', '"TDATA"')
    with igtl.plus.serve(port=0) as server, device(server.port, select, tdata=True) as link:
        ready = link.recv(igtl.ReadyTrackingData, timeout=WAIT)
        assert ready.status == 0
        wait_for(lambda: server.clients[0].tracking_data)
        assert server.clients[0].coordinates == "Tracker"
        assert server.clients[0].interval == 0.05
        server.tool("ProbeToTracker", np.eye(4))
        time.sleep(0.06)
        server.tool("StylusToTracker", np.eye(4))
        data = link.recv(igtl.TrackingData, timeout=WAIT)
        while "StylusToTracker" not in data.tools.names:
            data = link.recv(igtl.TrackingData, timeout=WAIT)
        assert data.metadata["StylusToTrackerStatus"] == "OK"


def test_21_frames_for_a_video_device() -> None:
    select = TRACKER.replace("TRANSFORM", "IMAGE").replace(
        "</ClientInfo>",
        '<ImageNames><Image Name="Image" EmbeddedTransformToFrame="Tracker"/></ImageNames></ClientInfo>',
    )
    image = igtl.Image(np.ones((1, 4, 6), np.uint8), spacing=(0.2, 0.3, 1), device_name="Image")
    with igtl.plus.serve(port=0) as server, device(server.port, select) as link:
        server.wait_for_client(WAIT)
        server.frame(image, {"ProbeToTracker": (np.eye(4), "OUT_OF_VIEW")}, fields={"DepthMm": 4})
        frame = link.recv(igtl.TrackedFrame, timeout=WAIT)
    np.testing.assert_array_equal(frame.array, image.array)
    np.testing.assert_allclose(frame.ijk_to_world, image.ijk_to_world)
    assert frame.transforms["ProbeToTracker"].status == "OUT_OF_VIEW"
    assert frame.fields == {"DepthMm": "4"}
    assert frame.timestamp_raw == image.timestamp_raw


@in_asyncio
async def test_21_in_asyncio() -> None:
    async with igtl.plus.aio.serve(port=0) as server:
        async with igtl.aio.connect(port=server.port) as link:
            await link.send(igtl.ClientInfo(TRACKER))
            await until(lambda: server.clients and server.clients[0].wants)
            await server.tool("StylusToTracker", np.eye(4), status="OUT_OF_VIEW")
            pose = await link.recv(igtl.Transform, timeout=WAIT)
            assert pose.metadata["TransformStatus"] == "OUT_OF_VIEW"
            await link.send(igtl.ClientInfo("<ClientInfo"))  # the choice before stays
            await link.send(igtl.StartTrackingData(0, "Tracker"))
            assert (await link.recv(igtl.ReadyTrackingData, timeout=WAIT)).status == 0
            await until(lambda: server.clients[0].tracking_data)
            await server.tool("StylusToTracker", np.eye(4))
            data = await link.recv(igtl.TrackingData, timeout=WAIT)
            assert data.tools.names == ["StylusToTracker"]
            await link.send(igtl.StopTrackingData())
            await until(lambda: not server.clients[0].tracking_data)
            with pytest.raises(igtl.plus.PlusRefuses, match="force=True"):
                await server.send(igtl.Sensor([1.0]))
            await server.frame(np.zeros((2, 3), np.uint8))  # which it has not asked for
        await until(lambda: not server.clients)


@pytest.mark.parametrize(
    "message",
    [igtl.Sensor([1.0]), igtl.NDArray(np.zeros(2)), igtl.Position((1, 2, 3)), igtl.Points([]),
     igtl.Transform(np.eye(4), device_name="Probe"), igtl.Status(),
     igtl.Transform(np.eye(4), device_name="ProbeToTracker", timestamp=0)],
    ids=lambda m: f"{m.type_name} {m.device_name}",
)  # fmt: skip
def test_what_harms_a_device_is_refused(message: igtl.Message) -> None:
    with igtl.plus.serve(port=0) as server, device(server.port, TRACKER) as link:
        server.wait_for_client(WAIT)
        with pytest.raises(igtl.plus.PlusRefuses, match="force=True"):
            server.send(message)
        server.send(message, force=True)
        assert link.recv(timeout=WAIT) == message


def test_names_that_plus_cannot_read_are_refused() -> None:
    with igtl.plus.serve(port=0) as server:
        with pytest.raises(ValueError, match="XToY"):
            server.tool("Stylus", np.eye(4))


# ---- what is refused ------------------------------------------------------------------------------

HARMFUL = [
    igtl.GetPoints(), igtl.Bind([]), igtl.NDArray(np.zeros(3)), igtl.Sensor([1.0]),
    igtl.ColorTable(np.zeros(256, np.uint8)), igtl.QuaternionTransform((0, 0, 0)),
    igtl.Unknown("OWN", b"x"), igtl.GetImage(message_id=3), igtl.GetTrackingData(message_id=3),
    igtl.Command(1, "Version", ""), igtl.Command(1, "Version", "<Command/>"),
    igtl.Command(1, "Version", "<Command"), igtl.ClientInfo("<ClientInfo"),
    igtl.ClientInfo("<ClientInfo/>"), igtl.StartTrackingData(50, "Tracker"),
    igtl.String("<a/>", device_name="CMD_99999999999"), igtl.String("<a", device_name="CMD_5"),
]  # fmt: skip


@pytest.mark.parametrize("message", HARMFUL, ids=lambda m: f"{m.type_name} {m.device_name}")
def test_what_harms_plus_is_refused(server: PlusSimulator, message: igtl.Message) -> None:
    with igtl.plus.connect(port=server.port) as plus:
        with pytest.raises(igtl.plus.PlusRefuses, match="force=True sends it"):
            plus.send(message)
        plus.send(igtl.Status.ok(device_name="marker"))
        wait_for(lambda: any(m.device_name == "marker" for m in list(server.received)))
        assert not any(m.type_name == message.type_name for m in server.received
                       if m.type_name != "STATUS")  # fmt: skip
        if not isinstance(message, igtl.Bind | igtl.String):  # which end it
            plus.send(message, force=True)
            wait_for(lambda: server.received[-1].type_name == message.type_name)


@pytest.mark.parametrize(
    "message",
    [igtl.GetImage(device_name="Image"), igtl.GetImage(metadata={"a": "b"}), igtl.GetStatus(),
     igtl.GetTrackingData(), igtl.Position((1, 2, 3)), igtl.Transform(np.eye(4)),
     igtl.String("a", device_name="b"), igtl.StartTrackingData(0, "Tracker"), igtl.Points([])],
    ids=lambda m: f"{m.type_name} {m.device_name}",
)  # fmt: skip
def test_what_does_no_harm_is_sent(server: PlusSimulator, message: igtl.Message) -> None:
    with igtl.plus.connect(port=server.port) as plus:
        plus.send(message)
        wait_for(lambda: any(m.type_name == message.type_name for m in list(server.received)))
        assert plus.ping() < WAIT
    assert not server.frozen


# ---- 28: the simulator behaves as measured --------------------------------------------------------


def test_28_keep_alives_have_version_1_and_no_stamp() -> None:
    with (
        igtl.simulate.plus(port=0, size=(64, 48), streams=False) as server,
        igtl.connect(port=server.port, hello=True) as link,
    ):
        alive = link.recv(igtl.Status, timeout=WAIT)
        assert (alive.header_version, alive.timestamp, alive.device_name) == (1, None, "")
        answer = link.query(igtl.GetStatus(), timeout=WAIT)
        assert isinstance(answer, igtl.Status)
        server.pause(False)
        assert link.recv(igtl.Transform, timeout=WAIT).header_version == 2


def test_28_version_1_until_a_client_has_sent_2(server: PlusSimulator) -> None:
    with igtl.connect(port=server.port) as link:
        assert link.recv(igtl.Transform, timeout=WAIT).header_version == 1
        link.send_hello()
        link.recv_selected(_Version2(), timeout=WAIT)


class _Version2:
    def matches(self, m: igtl.Message) -> bool:
        return isinstance(m, igtl.Transform) and m.metadata.get("TransformStatus") == "OK"


@pytest.mark.parametrize(
    "xml",
    ["<ClientInfo", '<ClientInfo ClientHeaderVersion="2"/>',
     TRACKER.replace("StylusToTracker", "NopeToTracker")],
    ids=["broken", "empty", "unknown name"],
)  # fmt: skip
def test_28_silence_after_a_wrong_selection(server: PlusSimulator, xml: str) -> None:
    with igtl.connect(port=server.port) as link:
        link.recv(timeout=WAIT)
        link.send(igtl.ClientInfo(xml))
        wait_for(lambda: any(isinstance(m, igtl.ClientInfo) for m in list(server.received)))
        with pytest.raises(TimeoutError):
            while True:
                link.recv(timeout=0.5)  # two keep-alives long
        assert isinstance(link.query(igtl.GetStatus(), timeout=WAIT), igtl.Status)


def test_28_repeated_ids_get_no_answer(server: PlusSimulator) -> None:
    with igtl.connect(port=server.port, hello=True) as link:
        command = igtl.Command(7, "Version", '<Command Name="Version"/>')
        assert link.ask(command, timeout=WAIT).command_id == 7
        with pytest.raises(TimeoutError):
            link.ask(command, timeout=0.3)
        for number in range(100, 110):
            link.ask(igtl.Command(number, "Version", command.text), timeout=WAIT)
        assert link.ask(command, timeout=WAIT).command_id == 7  # forgotten


def test_28_a_reader_that_pauses_gets_a_message_again() -> None:
    with igtl.simulate.plus(port=0, size=(1280, 960), rate=10) as server:
        with igtl.connect(port=server.port, resync=True, on_error="skip") as link:
            wait_for(lambda: server.retransmitted)  # this one does not read
            end = time.monotonic() + WAIT
            while not link.stats.dropped["resync"] and time.monotonic() < end:
                link.recv(timeout=WAIT)
            assert link.stats.dropped["resync"]
            assert link.recv(igtl.Image, timeout=WAIT).array.shape == (1, 960, 1280)


@pytest.mark.parametrize(
    "request_", [igtl.GetPoints(), igtl.GetImage(message_id=1)], ids=lambda m: m.type_name
)
def test_28_what_freezes_plus(server: PlusSimulator, request_: igtl.Message) -> None:
    with (
        igtl.plus.connect(port=server.port) as plus,
        igtl.connect(port=server.port, hello=True) as other,
    ):
        other.recv(timeout=WAIT)
        plus.send(request_, force=True)
        wait_for(lambda: server.frozen)
        with pytest.raises(TimeoutError):
            plus.ping(timeout=0.3)


def test_28_what_ends_plus(server: PlusSimulator) -> None:
    with igtl.connect(port=server.port) as link:
        link.send(igtl.Bind([igtl.String("a")]))
        with pytest.raises(igtl.ConnectionClosed):
            while True:
                link.recv(timeout=WAIT)
    assert server.crashed == "BIND was received"


def test_28_a_refused_query(server: PlusSimulator) -> None:
    with igtl.connect(port=server.port) as link:
        with pytest.raises(igtl.CommandFailed, match="ImageId has to contain"):
            link.query(igtl.GetImage(device_name="x"), timeout=WAIT)
        metas = link.query(igtl.GetImageMeta(), timeout=WAIT)
        assert metas.device_name == "PlusServerImageMetaD"


# ---- slow users, lost connections -------------------------------------------------------------------


def test_a_slow_user_holds_no_other_client_up() -> None:
    """100 ms of work for each image, beside a second client that gets all of them."""
    with (
        igtl.simulate.plus(port=0, rate=30, size=(320, 240)) as server,
        igtl.plus.connect(port=server.port, select=FRAMES) as slow,
        igtl.plus.connect(port=server.port, select=FRAMES) as fast,
    ):
        numbers: list[int] = []
        fast.on(igtl.TrackedFrame)(lambda m: numbers.append(int(m.fields["FrameNumber"])))
        frames, ages = slow.frames(timeout=WAIT), []
        for frame in itertools.islice(frames, 8):
            ages.append(time.time() - frame.timestamp)
            seen = int(frame.fields["FrameNumber"])
            time.sleep(0.1)
            wait_for(lambda seen=seen: server.acquired > seen + 2)  # if the machine is busy
        wait_for(lambda: len(numbers) > 8)
        assert frames.passed_over > 0
        assert slow.stats.dropped["superseded"] == frames.passed_over
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert server.retransmitted == 0
        assert not fast.lost
    # one frame and its own 100 ms old, on a machine that may be busy
    assert sorted(ages)[len(ages) // 2] < 10 * 0.134


def restarted(old: PlusSimulator) -> PlusSimulator:
    end = time.monotonic() + WAIT
    while True:
        try:
            return igtl.simulate.plus(port=old.port, size=(64, 48))
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_killed_in_mid_frame_and_back(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, select=FRAMES) as plus:
        frames = plus.frames(timeout=WAIT)
        before = next(frames)
        server.kill(within=True)
        wait_for(lambda: not plus.connected)
        with restarted(server) as again:
            begun = time.monotonic()
            while next(frames).timestamp <= before.timestamp:
                pass
            assert time.monotonic() - begun < WAIT
            first, second = again.received[:2]
            assert (first.type_name, first.header_version) == ("STATUS", 2)
            assert (second.type_name, plus.version()[:5]) == ("CLIENTINFO", "Plus-")
        assert plus.lost["interrupted"] == 1


@in_asyncio
async def test_killed_in_mid_frame_and_back_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port, select=FRAMES) as plus:
        frames = plus.frames(timeout=WAIT)
        before = await anext(frames)
        await asyncio.to_thread(server.kill, within=True)
        await until(lambda: not plus.connected)
        with await asyncio.to_thread(restarted, server) as again:
            while (await anext(frames)).timestamp <= before.timestamp:
                pass
            assert (await plus.version()).startswith("Plus-")
            assert [m.type_name for m in again.received[:2]] == ["STATUS", "CLIENTINFO"]
            assert plus.lost["interrupted"] == 1


def test_tools_become_silent_when_plus_is_gone(server: PlusSimulator) -> None:
    with igtl.plus.connect(port=server.port, select=TRANSFORMS, silence=0.2) as plus:
        wait_for(lambda: plus.tools.get("ProbeToTracker") == "OK")
        server.kill()
        wait_for(lambda: plus.tools["ProbeToTracker"] == "SILENT")


@in_asyncio
async def test_tools_become_silent_when_plus_is_gone_in_asyncio(server: PlusSimulator) -> None:
    async with igtl.plus.aio.connect(port=server.port, select=TRANSFORMS, silence=0.2) as plus:
        await until(lambda: plus.tools.get("ProbeToTracker") == "OK")
        await asyncio.to_thread(server.kill)
        await until(lambda: plus.tools["ProbeToTracker"] == "SILENT")


def test_there_is_no_server() -> None:
    with pytest.raises(ConnectionRefusedError):
        igtl.plus.connect(port=free_port(), open_timeout=2)


@in_asyncio
async def test_there_is_no_server_in_asyncio() -> None:
    with pytest.raises(ConnectionRefusedError):
        await igtl.plus.aio.connect(port=free_port(), open_timeout=2)


def test_handlers_that_fail_are_logged(
    server: PlusSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    with igtl.plus.connect(port=server.port, select=TRANSFORMS) as plus:

        @plus.tools.on_change
        def _(name: str, old: str | None, new: str) -> None:
            raise ValueError("mine")

        @plus.on(igtl.Transform, "Probe*")
        def _(message: igtl.Transform) -> None:
            called.set()

        assert called.wait(WAIT)
        server.set_status("StylusToTracker", "OUT_OF_VIEW")
        wait_for(lambda: "a handler failed" in caplog.text)


def test_a_closed_link_says_so(server: PlusSimulator) -> None:
    plus = igtl.plus.connect(port=server.port, select=FRAMES)
    frames = plus.frames(timeout=WAIT)
    next(frames)
    plus.close()
    with pytest.raises(igtl.ConnectionClosed):
        for _ in frames:
            pass
    with pytest.raises(igtl.ConnectionClosed):
        plus.version()
