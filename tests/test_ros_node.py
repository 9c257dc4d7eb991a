"""The node of ROS 2, on a stand-in for rclpy that is as strict about types: ROS is not on PyPI."""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl.cli import main

pytest.importorskip("rosbags")

from tests.rclpy_peer import FakeRos, install


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeRos:
    return install(monkeypatch)


def make(kind: str, **fields: Any) -> Any:
    package, name = kind.split("/")
    return getattr(import_module(f"{package}.msg"), name)(**fields)


def pose_stamped(x: float) -> Any:
    stamp = make("builtin_interfaces/Time", sec=3, nanosec=500_000_000)
    turn = make("geometry_msgs/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = make(
        "geometry_msgs/Pose",
        position=make("geometry_msgs/Point", x=x, y=0.0, z=0.0),
        orientation=turn,
    )
    header = make("std_msgs/Header", stamp=stamp, frame_id="base")
    return make("geometry_msgs/PoseStamped", header=header, pose=pose)


def test_publishing(ros: FakeRos) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4)
    with igtl.ros.Node("tracker") as node:
        assert ros.nodes == ["tracker"]
        for message in (
            igtl.Transform(np.eye(4), device_name="ProbeToTracker", timestamp=7.25),
            igtl.Transform(np.eye(4), device_name="arm/measured_cp"),
            igtl.Image.from_frame(grey, device_name="Image_Reference"),
            igtl.Image.from_frame(depth, device_name="Depth"),
            igtl.Points([igtl.Point("F", position=(1, 2, 3))], device_name="Plan"),
            igtl.Sensor([1, 2, 3, 4, 5, 6], "N", device_name="arm/wrench"),
            igtl.Sensor([1], "rad", device_name="arm/js"),
            igtl.Sensor([1, 2], device_name="levels"),
            igtl.String("hello", device_name="Note"),
            igtl.Status(4, 0, "NotFound", "no", device_name="Tracker"),
            igtl.NDArray([1.0], device_name="N"),
        ):
            node.publish(message)
        damaged = igtl.Compressed(9, 1, "IMAGE", 10, b"", device_name="X")
        assert node.publish(damaged) == 0
        assert (node.bad, node.left_out) == (1, {"NDARRAY": 1})
        assert node.published == len(ros.published)
    assert ros.nodes == []
    assert not ros.ok()
    topics = [topic for topic, _ in ros.published]
    assert topics == [
        "/tf", "/arm/measured_cp", "/tf", "/Image_Reference", "/Image_Reference/spacing", "/tf",
        "/Depth", "/Depth/spacing", "/Plan", "/arm/wrench", "/arm/js", "/levels", "/Note",
        "/diagnostics",
    ]  # fmt: skip
    first = ros.published[0][1].transforms[0]
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == (7, 250_000_000)
    assert ros.published[3][1].data.tobytes() == grey.tobytes()
    assert ros.published[6][1].encoding == "mono16"
    assert ros.published[-1][1].status[0].level == b"\2"


def test_subscribing(ros: FakeRos) -> None:
    found: list[igtl.Message] = []
    with igtl.ros.Node() as node:
        with pytest.raises(ValueError, match="is not read; known are diagnostic_msgs"):
            node.subscribe("/map", "nav_msgs/OccupancyGrid", found.append)
        for kind in ("geometry_msgs/PoseStamped", "geometry_msgs/msg/PoseStamped"):
            node.subscribe("/arm/goal", kind, found.append)
        level = make(
            "diagnostic_msgs/DiagnosticStatus", level=b"\1", name="Arm", message="hot",
            hardware_id="", values=[],
        )  # fmt: skip
        node.subscribe("/diagnostics", "diagnostic_msgs/DiagnosticArray", found.append)
        stamp = make("builtin_interfaces/Time", sec=0, nanosec=0)
        header = make("std_msgs/Header", stamp=stamp, frame_id="")
        ros.publish("/arm/goal", pose_stamped(0.25))
        ros.publish("/arm/goal", pose_stamped(float("nan")))
        ros.publish(
            "/diagnostics", make("diagnostic_msgs/DiagnosticArray", header=header, status=[level])
        )
        while len(found) < 2:
            node.spin(0.05)
        assert node.bad == 1
    goal, status = found
    assert isinstance(goal, igtl.Transform)
    assert (goal.device_name, goal.timestamp, goal.matrix[0, 3]) == ("arm/goal", 3.5, 250)
    assert isinstance(status, igtl.Status)
    assert (status.code, status.error_name, status.message) == (2, "WARN", "hot")


def test_without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(ModuleNotFoundError, match="it comes with ROS 2"):
        igtl.ros.Node()
    result = CliRunner().invoke(main, ["ros"])
    assert result.exit_code == 1
    assert "setup.bash" in result.output


def test_command_between_a_server_and_ros(ros: FakeRos) -> None:
    """What the server sends is published; what ROS publishes reaches the server."""
    arrived = threading.Event()
    got: list[igtl.Message] = []
    with igtl.serve(port=0) as server:

        @server.on(igtl.Transform)
        def _(message: igtl.Transform, peer: igtl.Peer) -> None:
            got.append(message)
            arrived.set()

        @server.on_connect
        def _(peer: igtl.Peer) -> None:
            peer.send(igtl.Transform(np.eye(4), device_name="AToB"))
            peer.send(igtl.NDArray([1.0], device_name="N"))
            peer.send(igtl.String("x", device_name="Note"))

        def others() -> None:
            ros.wait(2)
            ros.publish("/arm/goal", pose_stamped(1.0))
            arrived.wait(20)
            ros.shutdown()  # which ends the command

        thread = threading.Thread(target=others)
        thread.start()
        topic = "/arm/goal=geometry_msgs/PoseStamped"
        result = CliRunner().invoke(main, ["ros", f"localhost:{server.port}", "--subscribe", topic])
        thread.join()
    assert result.exit_code == 0, result.output
    assert "2 published, 1 NDARRAY left out" in result.output
    assert [topic for topic, _ in ros.published] == ["/tf", "/Note"]
    assert got[0].device_name == "arm/goal"
    wrong = CliRunner().invoke(main, ["ros", "--subscribe", "/a"])
    assert wrong.exit_code == 2


def test_command_plays_a_recording(ros: FakeRos, tmp_path: Path) -> None:
    with igtl.Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(5):
            message = igtl.Transform(np.eye(4), device_name="AToB")
            recorder.write(message, received=1000 + n / 100)
    result = CliRunner().invoke(main, ["ros", str(tmp_path / "a.mcap"), "-s", "20"])
    assert result.exit_code == 0, result.output
    assert "5 published" in result.output
    assert len(ros.published) == 5
