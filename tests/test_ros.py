"""Bags of ROS 2: written by igtl and read by others, written by others and read by igtl."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import igtl
from igtl import Frame, Recorder, Recording
from igtl.cli import main

pytest.importorskip("mcap")
rosbag2 = pytest.importorskip("rosbags.rosbag2")
typesys = pytest.importorskip("rosbags.typesys")

from igtl.ros.from_ros import from_ros  # noqa: E402
from igtl.ros.names import frames_of, topic_of  # noqa: E402
from igtl.ros.to_ros import to_ros  # noqa: E402

STORE = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
AT = 1_700_000_000_123_456_789
MATRIX = igtl.Pose.of((0.1, -0.2, 0.3, 0.9), (10, -20, 30.5)).matrix
RNG = np.random.default_rng(4)
GREY = RNG.integers(0, 255, (24, 32), np.uint8)
COLOUR = RNG.integers(0, 255, (5, 7, 3), np.uint8)


def make(kind: str, **fields: Any) -> Any:
    return STORE.types[kind](**fields)


def messages() -> list[igtl.Message]:
    """One of each that ROS knows, and some that it does not."""
    place = np.diag([0.5, 0.25, 1.0, 1.0])
    place[:3, 3] = 1, 2, 3
    tools = [igtl.Tool("StylusToTracker", matrix=MATRIX), igtl.Tool("B", matrix=np.eye(4))]
    found = igtl.TrackingData(tools, device_name="Tracker")
    found.metadata["BStatus"] = "OUT_OF_VIEW"
    return [
        igtl.Transform(MATRIX, device_name="ProbeToReference"),
        igtl.Transform(MATRIX, device_name="arm/measured_cp"),
        igtl.Position((1, 2, 3), (0, 0, 0, 1), device_name="arm/setpoint_cp"),
        igtl.QuaternionTransform((4, 5, 6), (0, 0, 0, 1), device_name="Needle"),
        found,
        igtl.QuaternionTrackingData(
            [igtl.QuaternionTool("CToD", position=(7, 8, 9))], device_name="Q"
        ),
        igtl.Image.from_frame(GREY, device_name="Image_Reference", ijk_to_world=place),
        igtl.Image.from_frame(COLOUR, order="RGB", device_name="Camera"),
        igtl.Image.from_volume(np.zeros((3, 4, 5), np.int16), device_name="CT"),
        igtl.Points([igtl.Point("F", position=(1, 2, 3), color=(1, 2, 3, 4))], device_name="Plan"),
        igtl.Sensor([1, 2, 3, 4, 5, 6], "N", device_name="arm/wrench"),
        igtl.Sensor([0.5, 0.25], "rad", device_name="arm/joints"),
        igtl.Sensor([7.5], "mm/s", device_name="speed"),
        igtl.String("grüß", device_name="Note"),
        igtl.Status(4, 7, "NotFound", "no tool", device_name="Tracker"),
        igtl.Status.ok(device_name="Tracker"),
        igtl.NDArray(np.arange(3.0), device_name="N"),
        igtl.PolyData(np.zeros((3, 3)), polygons=[[0, 1, 2]], device_name="Skin"),
    ]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of these, with a message that is damaged, one that is compressed, and two events."""
    path = tmp_path_factory.mktemp("case") / "case.mcap"
    with Recorder(path) as recorder:
        recorder.event("connected", peer=("host", 1), connection=1)
        for n, message in enumerate(messages()):
            message.timestamp = 1_600_000_000 + n
            recorder.write(message, peer=("host", 1), connection=1)
        wire = bytearray(igtl.Transform(np.eye(4), device_name="Broken").pack())
        wire[-1] ^= 1
        recorder.write(Frame.from_bytes(bytes(wire)), peer=("host", 2), connection=2)
        big = igtl.Image.from_frame(np.zeros((99, 99), np.uint8), device_name="Packed")
        wire = bytearray(igtl.Compression(level="fast").wrap(big.pack()))
        assert Frame.from_bytes(bytes(wire)).type_name == "COMPRESSED"
        recorder.write(Frame.from_bytes(bytes(wire)))
        recorder.event("disconnected", peer=("host", 1), connection=1, reason="end")
    return path


@pytest.fixture(scope="module")
def bag(case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "bag"
    with pytest.warns(igtl.FileWarning) as told:
        igtl.export(case, path)
    (text,) = [str(each.message) for each in told]
    assert "no message for IMAGE 'CT', NDARRAY 'N', POLYDATA 'Skin': only in /openigtlink" in text
    assert "1 damaged messages are only in /openigtlink" in text
    return path


def everything(recording: Recording) -> Any:
    return [
        (r.time_ns, bytes(r.frame.data), r.peer, r.connection) for r in recording
    ], recording.events


def decoded(path: Path) -> dict[str, list[Any]]:
    """By topic, as mcap_ros2 reads a bag."""
    factory = pytest.importorskip("mcap_ros2.decoder").DecoderFactory()
    reader = pytest.importorskip("mcap.reader")
    found: dict[str, list[Any]] = {}
    (file,) = path.glob("*.mcap")
    with file.open("rb") as stream:
        for each in reader.make_reader(stream, decoder_factories=[factory]).iter_decoded_messages():
            found.setdefault(each.channel.topic, []).append(each.decoded_message)
    return found


# ---- there, and back --------------------------------------------------------------------------


def test_a_recording_comes_back_byte_by_byte(case: Path, bag: Path, tmp_path: Path) -> None:
    igtl.export(bag, tmp_path / "again.mcap")
    with Recording(case) as before, Recording(tmp_path / "again.mcap") as after:
        assert len(before) == len(messages()) + 2
        assert everything(after) == everything(before)
        assert list(after.streams) == list(before.streams)


def test_a_bag_as_others_read_it(bag: Path) -> None:
    found = decoded(bag)
    transforms = {
        (t.header.frame_id, t.child_frame_id): t for m in found["/tf"] for t in m.transforms
    }
    assert set(transforms) == {
        ("Reference", "Probe"), ("world", "Needle"), ("Tracker", "Stylus"), ("D", "C"),
        ("Reference", "Image_Reference"), ("world", "Camera"), ("world", "Packed"),
    }  # fmt: skip
    probe = transforms["Reference", "Probe"]
    assert (probe.header.stamp.sec, probe.header.stamp.nanosec) == (1_600_000_000, 0)
    moved, turned = probe.transform.translation, probe.transform.rotation
    np.testing.assert_allclose([moved.x, moved.y, moved.z], [0.01, -0.02, 0.0305], atol=1e-7)
    expected = igtl.Pose(MATRIX).quaternion
    np.testing.assert_allclose([turned.x, turned.y, turned.z, turned.w], expected, atol=1e-6)
    image_at = transforms["Reference", "Image_Reference"].transform.translation
    np.testing.assert_allclose([image_at.x, image_at.y, image_at.z], [1e-3, 2e-3, 3e-3], atol=1e-6)
    (pose,) = found["/arm/measured_cp"]
    assert pose.header.frame_id == "world"
    np.testing.assert_allclose(pose.pose.position.z, 0.0305, atol=1e-7)
    assert found["/arm/setpoint_cp"][0].pose.position.x == pytest.approx(1e-3)
    (image,) = found["/Image_Reference"]
    assert (image.encoding, image.height, image.width, image.step) == ("mono8", 24, 32, 32)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.uint8).reshape(24, 32), GREY)
    (spacing,) = found["/Image_Reference/spacing"]
    assert (spacing.vector.x, spacing.vector.y) == pytest.approx((0.0005, 0.00025))
    (colour,) = found["/Camera"]
    assert (colour.encoding, colour.step) == ("rgb8", 21)
    np.testing.assert_array_equal(np.frombuffer(colour.data, np.uint8).reshape(5, 7, 3), COLOUR)
    (cloud,) = found["/Plan"]
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "rgba"]
    x, y, z = np.frombuffer(bytes(cloud.data)[:12], "<f4")
    np.testing.assert_allclose([x, y, z], [1e-3, 2e-3, 3e-3])
    assert bytes(cloud.data)[12:] == bytes([3, 2, 1, 4])
    wrench = found["/arm/wrench"][0].wrench
    assert (wrench.force.z, wrench.torque.x) == (3, 4)
    assert list(found["/arm/joints"][0].position) == [0.5, 0.25]
    assert list(found["/speed"][0].data) == [7.5]
    assert found["/speed"][0].layout.dim[0].label == "mm/s"
    assert found["/Note"][0].data == "grüß"
    failed, well = (m.status[0] for m in found["/diagnostics"])
    assert (failed.level, failed.name, failed.message) == (2, "Tracker", "no tool")
    assert (well.level, {v.key: v.value for v in well.values}["code"]) == (0, "1")
    raw = found["/openigtlink/TRANSFORM/ProbeToReference"][0]
    assert raw.layout.dim[0].label == "openigtlink"
    assert isinstance(igtl.unpack(bytes(raw.data)), igtl.Transform)
    assert "/CT" not in found


def test_what_ros_itself_reads_of_a_bag(bag: Path) -> None:
    """metadata.yaml and the index of the file, by rosbags, which is strict."""
    with rosbag2.Reader(bag) as reader:
        counts = Counter(c.topic for c, _, _ in reader.messages())
        assert {c.topic: c.msgcount for c in reader.connections} == counts
        assert sum(counts.values()) == reader.message_count > 30
        for connection, _, data in reader.messages():
            STORE.deserialize_cdr(data, connection.msgtype)
            assert connection.digest == STORE.hash_rihs01(connection.msgtype)
    found = json.loads((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert found["storage_identifier"] == "mcap"


@pytest.mark.parametrize("number", range(len(messages())))
def test_the_mapping_goes_both_ways(number: int) -> None:
    """What a message of ROS keeps comes back: all but colours, names of points, and types that
    ROS does not tell apart."""
    message = messages()[number]
    message.timestamp = 1_600_000_000.25
    published = [p for p in to_ros(message, message.time_ns or 0, make)
                 if not p.topic.endswith("/spacing")]  # fmt: skip
    if isinstance(message, igtl.NDArray | igtl.PolyData) or message.device_name == "CT":
        assert not published
        return
    back = [
        each for p in published
        if p.kind != "tf2_msgs/msg/TFMessage" or not isinstance(message, igtl.Image)
        for each in from_ros(p.topic, p.kind, p.message)
    ]  # fmt: skip
    (again,) = back
    if not isinstance(message, igtl.String):
        assert again.time_ns == (None if message.device_name == "speed" else message.time_ns)
    match message:
        case igtl.Transform() | igtl.Position():
            assert again.device_name == message.device_name
            np.testing.assert_allclose(again.matrix, message.matrix, atol=1e-5)
        case igtl.TrackingData():
            assert again.device_name == "StylusToTracker"
        case igtl.QuaternionTrackingData():
            np.testing.assert_allclose(again.matrix[:3, 3], (7, 8, 9), atol=1e-6)
        case igtl.Image():
            np.testing.assert_array_equal(again.array, message.array)
            assert again.device_name == message.device_name
        case igtl.Points():
            np.testing.assert_allclose(again.points[0].position, (1, 2, 3), atol=1e-5)
        case igtl.Sensor():
            assert again.device_name == message.device_name
            assert again.unit == message.unit
            np.testing.assert_array_equal(again.values, message.values)
        case _:
            message.timestamp_raw = again.timestamp_raw  # a text of ROS has none
            assert again == message


def test_names() -> None:
    assert frames_of("ProbeToReference") == ("Probe", "Reference")
    assert frames_of("arm/tool 0") == ("arm_tool_0", "world")
    assert topic_of("arm/measured_cp") == "/arm/measured_cp"
    assert topic_of("0 é//a") == "/_0_/a"
    assert topic_of("") == "/unnamed"


def test_a_matrix_that_ros_cannot_say_is_left_out() -> None:
    for row in ((2, 0, 0, 0), (-1, 0, 0, 0), (1, 0.5, 0, 0), (1, 0, 0, np.nan), (np.inf, 0, 0, 0)):
        message = igtl.Transform(np.eye(4), device_name="AToB")
        message.matrix[0] = row
        assert not list(to_ros(message, AT, make))


def test_two_types_with_one_name_have_two_topics(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(2):
            recorder.write(igtl.String(f"text {n}", device_name="Plan"))
            recorder.write(igtl.Points([igtl.Point(position=(1, 2, 3))], device_name="Plan"))
    igtl.export(tmp_path / "a.mcap", tmp_path / "bag")
    found = decoded(tmp_path / "bag")
    assert [m.data for m in found["/Plan"]] == ["text 0", "text 1"]
    assert [m.width for m in found["/Plan/PointCloud2"]] == [1, 1]


def test_a_peer_that_makes_names_makes_no_topics_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of 20 each, of frames and of what they are in ROS; no frame is lost."""
    monkeypatch.setattr("igtl.ros.names._MAX_TOPICS", 20)
    monkeypatch.setattr("igtl.ros.bags._MAX_RAW", 20)
    with Recorder(tmp_path / "a.mcap") as recorder:
        for n in range(50):
            recorder.write(igtl.String("x", device_name=f"N{n}"))
    with pytest.warns(igtl.FileWarning, match="too many topics: some are left out"):
        igtl.export(tmp_path / "a.mcap", tmp_path / "bag")
    assert len({message.device_name for message in igtl.ros.read(tmp_path / "bag")}) == 50
    found = decoded(tmp_path / "bag")
    assert len(found["/openigtlink/more"]) == 30
    assert len(found) == 20 + 20 + 1


# ---- bags of others ---------------------------------------------------------------------------


def header(frame: str, sec: int = 5) -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=sec, nanosec=250_000_000)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def foreign() -> list[tuple[str, Any]]:
    """Messages as robots write them."""
    vector = make("geometry_msgs/msg/Vector3", x=0.1, y=0.2, z=0.3)
    turn = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=2.0, w=0.0)  # of any length
    transforms = [
        make(
            "geometry_msgs/msg/TransformStamped", header=header(parent), child_frame_id=child,
            transform=make("geometry_msgs/msg/Transform", translation=vector, rotation=turn),
        )
        for child, parent in (
            ("tool0", "base_link"), ("panda_link8_of_the_arm", "world"), ("a", "b")
        )
    ]  # fmt: skip
    lines = np.full((4, 11), 77, np.uint8)  # of 9 bytes that count
    lines[:, :9] = np.arange(36).reshape(4, 9)
    deep = np.arange(6, dtype=">u2")
    points = np.zeros(3, [("x", ">f8"), ("y", ">f8"), ("pad", "V4"), ("z", ">f8")])
    points["x"] = [1e-3, np.nan, 2e-3]
    fields = [
        make("sensor_msgs/msg/PointField", name=n, offset=o, datatype=8, count=1)
        for n, o in (("x", 0), ("y", 8), ("z", 20))
    ]  # fmt: skip
    none = np.zeros(0)
    simplejpeg = pytest.importorskip("simplejpeg")
    jpeg = simplejpeg.encode_jpeg(np.full((20, 36, 3), 99, np.uint8), 90, "RGB")
    return [
        ("/tf", make("tf2_msgs/msg/TFMessage", transforms=transforms)),
        ("/cam/image_raw", make(
            "sensor_msgs/msg/Image", header=header("cam"), height=4, width=3, encoding="bgr8",
            is_bigendian=0, step=11, data=lines.ravel())),
        ("/depth", make(
            "sensor_msgs/msg/Image", header=header("cam"), height=2, width=3, encoding="16UC1",
            is_bigendian=1, step=6, data=deep.view(np.uint8))),
        ("/bad_image", make(
            "sensor_msgs/msg/Image", header=header("cam"), height=200, width=3, encoding="mono8",
            is_bigendian=0, step=3, data=np.zeros(5, np.uint8))),
        ("/scan", make(
            "sensor_msgs/msg/PointCloud2", header=header("cam"), height=1, width=3, fields=fields,
            is_bigendian=True, point_step=28, row_step=84, data=points.view(np.uint8),
            is_dense=False)),
        ("/a/topic/longer/than/twenty", make(
            "sensor_msgs/msg/JointState", header=header(""), name=["j"], position=np.array([1.5]),
            velocity=none, effort=none)),
        ("/cam/compressed", make(
            "sensor_msgs/msg/CompressedImage", header=header("cam"), format="rgb8; jpeg compressed",
            data=np.frombuffer(jpeg, np.uint8))),
        ("/map", make("std_msgs/msg/Bool", data=True)),
    ]  # fmt: skip


@pytest.mark.parametrize("storage", ["SQLITE3", "MCAP"])
def test_a_bag_of_others(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "bag"
    plugin = rosbag2.StoragePlugin[storage]
    with rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        for n, (topic, ros) in enumerate(foreign()):
            kind = ros.__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connection, AT + n, STORE.serialize_cdr(ros, kind))
    with pytest.warns(igtl.FileWarning) as told:
        found = list(igtl.ros.read(path))
    (text,) = [str(each.message) for each in told]
    assert "no message for std_msgs/msg/Bool" in text
    assert "/bad_image has damaged messages, or such as cannot be said: an image with 5" in text
    tool, link, short, image, depth, cloud, joints, video = found
    assert (tool.type_name, tool.device_name) == ("TRANSFORM", "Tool0ToBase_link")
    assert (tool.metadata["child_frame_id"], tool.metadata["frame_id"]) == ("tool0", "base_link")
    assert tool.time_ns == 5_250_000_000
    np.testing.assert_allclose(tool.matrix[:3, 3], (100, 200, 300), atol=1e-4)  # type: ignore[attr-defined]
    np.testing.assert_allclose(tool.matrix[:3, :3], np.diag([-1, -1, 1]), atol=1e-6)  # type: ignore[attr-defined]
    assert len(link.device_name.encode()) <= 20
    assert link.metadata["child_frame_id"] == "panda_link8_of_the_arm"
    assert short.device_name == "AToB"
    for message in (tool, link, short):  # the names are those of the bag again
        (again,) = to_ros(message, 1, make)
        assert again.message.transforms[0].child_frame_id == message.metadata["child_frame_id"]
    expected = np.arange(36, dtype=np.uint8).reshape(1, 4, 3, 3)[..., ::-1]
    np.testing.assert_array_equal(image.array, expected)  # type: ignore[attr-defined]
    assert image.device_name == "cam/image_raw"
    np.testing.assert_array_equal(depth.array, [[[0, 1, 2], [3, 4, 5]]])  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(cloud.points.positions)[:, 0], [1, 2])  # type: ignore[attr-defined]
    assert isinstance(video, igtl.Video)
    assert (video.codec, video.size.tolist(), video.grey) == ("MJPG", [36, 20, 1], False)
    assert np.abs(igtl.VideoDecoder().decode(video).astype(int) - 99).max() < 3  # type: ignore[union-attr]
    assert joints.metadata["topic"] == "/a/topic/longer/than/twenty"
    assert joints.received == pytest.approx((AT + 5) / 1e9)
    with pytest.warns(igtl.FileWarning):
        igtl.export(path, tmp_path / "again.mcap")
    with Recording(tmp_path / "again.mcap") as recording:
        assert [r.time_ns - AT for r in recording] == [0, 0, 0, 1, 2, 4, 5, 6]
        assert [r.frame.unpack().device_name for r in recording] == [m.device_name for m in found]


def test_a_damaged_bag_raises_nothing_else(bag: Path, tmp_path: Path) -> None:
    (name,) = [file.name for file in bag.glob("*.mcap")]
    content = (bag / name).read_bytes()
    rng = random.Random(3)
    copy = tmp_path / "bag"
    shutil.copytree(bag, copy)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (copy / name).write_bytes(damaged[: rng.randint(len(damaged) // 2, len(damaged))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", igtl.FileWarning)
            with contextlib.suppress(igtl.FileError):
                assert all(isinstance(m, igtl.Message) for m in igtl.ros.read(copy))


def test_errors(case: Path, bag: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("kept")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", igtl.FileWarning)
        with pytest.raises(igtl.FileError, match="not a ROS 2 bag: it is not replaced"):
            igtl.export(case, tmp_path / "folder")
        assert [p.name for p in tmp_path.rglob("*")] == ["folder", "mine.txt"]
        with pytest.raises(igtl.FileError, match=r"it has no metadata\.yaml"):
            igtl.export(tmp_path / "folder", tmp_path / "a.mcap")
        shutil.copytree(bag, tmp_path / "bag")
        igtl.export(case, tmp_path / "bag", streams=["Note"])  # replaced
    assert len(list(igtl.ros.read(tmp_path / "bag"))) == 1
    with Recording(case) as recording, pytest.raises(igtl.FileError, match="the recording itself"):
        igtl.export(recording, case)


def test_command(case: Path, tmp_path: Path) -> None:
    def run(*arguments: Any) -> str:
        result = CliRunner().invoke(main, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    bag = tmp_path / "bag"
    told = run("export", case, "--to", f"{bag}/")
    assert "warning: " in told
    assert f"{bag}: " in told
    assert "PLUS" in run("export", "--help")
    run("export", bag, "--to", tmp_path / "again.mcap", "-d", "Note")
    with Recording(tmp_path / "again.mcap") as recording:
        assert list(recording.streams) == [("STRING", "Note")]
    assert "ProbeToReference" in run("info", bag)
