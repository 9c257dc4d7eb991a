"""Messages of ROS 2 as messages of OpenIGTLink, from bags and live."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from igtl import _core
from igtl.codec.message import Message
from igtl.codec.units import Unit
from igtl.geometry.pose import Pose
from igtl.messages.general import NDArray, Sensor, Status, StatusCode, String
from igtl.messages.geometry import Point, Points, PolyData
from igtl.messages.imaging import FrameType, Image, Video
from igtl.messages.tracking import Transform
from igtl.ros.names import (
    CHILD,
    ENCODINGS,
    PARENT,
    WORLD,
    frames_of,
    is_pair,
    name_by_topic,
    name_message,
)

_NS: Final = 10**9
_MAX_POINTS: Final = 1000  # of a POINT; a larger cloud is a POLYDATA
_DECODED: Final = ENCODINGS | {
    "bgr8": ("u1", 3), "bgra8": ("u1", 4), "8UC1": ("u1", 1), "8UC3": ("u1", 3),
    "8UC4": ("u1", 4), "16UC1": ("u2", 1), "bgr16": ("u2", 3),
}  # fmt: skip
_POINT_TYPES: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_LEVELS: Final = ("OK", "WARN", "ERROR", "STALE")


def from_ros(topic: str, kind: str, ros: Any) -> Iterator[Message]:
    """Yield the messages of OpenIGTLink in a message of ROS.

    Args:
        topic: from which it came; it names the messages.
        kind: one of `READ`.
        ros: with the fields of that type as attributes.

    Raises:
        ValueError: its content is not well-formed; the text says what is wrong.
    """
    for message, header in READ[kind](topic, ros):
        stamp = 0 if header is None else header.stamp.sec * _NS + header.stamp.nanosec
        message.timestamp_raw = _core.timestamp_of(stamp) if stamp > 0 else 0
        yield message


def _transforms(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    for each in getattr(ros, "transforms", None) or [ros]:
        child, parent = each.child_frame_id, each.header.frame_id
        message = _moved(each.transform.translation, each.transform.rotation)
        name = f"{child[:1].upper()}{child[1:]}To{parent[:1].upper()}{parent[1:]}"
        if parent == WORLD and not is_pair(child):
            name = child
        known = len(name.encode()) <= 20 and frames_of(name) == (child, parent)
        facts = {} if known else {CHILD: child, PARENT: parent}
        yield name_message(message, name, **facts), each.header


def _moved(position: Any, rotation: Any) -> Transform:
    turn = rotation.x, rotation.y, rotation.z, rotation.w
    place = np.array([position.x, position.y, position.z]) * 1000
    if not np.isfinite([*turn, *place]).all() or not any(turn):
        raise ValueError(f"a pose with the quaternion {turn} at {place / 1000} m")
    return Transform(Pose.of(turn, place).matrix)


def _posed(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    message = name_by_topic(_moved(ros.pose.position, ros.pose.orientation), topic)
    if ros.header.frame_id not in ("", WORLD):
        message.metadata[PARENT] = ros.header.frame_id
    yield message, ros.header


def _picture(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    if ros.encoding not in _DECODED:
        raise ValueError(f"an image with the encoding {ros.encoding!r}")
    kind, parts = _DECODED[ros.encoding]
    dtype = np.dtype((">" if ros.is_bigendian else "<") + kind)
    data = np.asarray(ros.data, np.uint8)
    line = ros.width * parts * dtype.itemsize
    if not (0 < ros.width <= 0xFFFF and 0 < ros.height <= 0xFFFF) or line > ros.step:
        raise ValueError(f"an image of {ros.width} x {ros.height} with {ros.step} bytes a line")
    if data.size < ros.height * ros.step:
        raise ValueError(f"an image with {data.size} of {ros.height * ros.step} bytes")
    lines = data[: ros.height * ros.step].reshape(ros.height, ros.step)[:, :line]
    pixels = np.ascontiguousarray(lines).view(dtype).reshape(1, ros.height, ros.width, parts)
    if ros.encoding.startswith("bgr"):
        pixels = pixels[..., [2, 1, 0, 3][:parts]]
    pixels = np.ascontiguousarray(pixels, dtype.newbyteorder("="))
    image = Image(pixels[..., 0] if parts == 1 else pixels)
    yield name_by_topic(image, topic), ros.header


def _jpeg(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    """VIDEO of the codec MJPG, whose payload is the JPEG as it is."""
    payload = bytes(ros.data)
    width, height, components = _jpeg_size(payload)
    kind = FrameType.KEY << 8 if components == 1 else FrameType.KEY
    video = Video(payload, "MJPG", (width, height, 1), frame_type=kind)
    yield name_by_topic(video, topic), ros.header


def _jpeg_size(payload: bytes) -> tuple[int, int, int]:
    """Width, height and number of components, from the segment SOF."""
    at = 2
    while (
        payload[:2] == b"\xff\xd8" and payload[at : at + 1] == b"\xff" and at + 10 <= len(payload)
    ):
        marker, length = payload[at + 1], int.from_bytes(payload[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(payload[at + n : at + n + 2], "big") for n in (5, 7))
            return width, height, payload[at + 9]
        at += 2 + length
    raise ValueError("a compressed image that is not a JPEG")


def _points(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    fields = {field.name: field for field in ros.fields}
    count = ros.width * ros.height
    data = np.asarray(ros.data, np.uint8)
    if not {"x", "y", "z"} <= fields.keys() or data.size < count * ros.point_step:
        raise ValueError(f"a cloud of {count} points with {data.size} bytes and {[*fields]}")
    order = ">" if ros.is_bigendian else "<"
    dtype = np.dtype({
        "names": ["x", "y", "z"],
        "formats": [order + _POINT_TYPES[fields[axis].datatype] for axis in "xyz"],
        "offsets": [fields[axis].offset for axis in "xyz"], "itemsize": ros.point_step,
    })  # fmt: skip
    points = data[: count * ros.point_step].view(dtype)
    places = np.stack([points[axis] for axis in "xyz"], 1).astype(np.float32) * 1000
    places = places[np.isfinite(places).all(1)]
    if len(places) > _MAX_POINTS:
        yield name_by_topic(PolyData(places), topic), ros.header
    else:
        listed = [Point(str(n), position=place) for n, place in enumerate(places)]
        yield name_by_topic(Points(listed), topic), ros.header


def _wrench(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    force, torque = ros.wrench.force, ros.wrench.torque
    values = [force.x, force.y, force.z, torque.x, torque.y, torque.z]
    yield name_by_topic(Sensor(values, "N"), topic), ros.header


def _joints(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    if len(ros.position) > 255:
        raise ValueError(f"{len(ros.position)} joints, a SENSOR holds 255")
    yield name_by_topic(Sensor(np.asarray(ros.position), "rad"), topic), ros.header


def _numbers(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    values = np.asarray(ros.data, np.float64)
    unit = Unit()
    with contextlib.suppress(ValueError, IndexError):  # the label may be that of an axis
        unit = Unit(ros.layout.dim[0].label)
    message: Message = Sensor(values, unit) if len(values) <= 255 else NDArray(values)
    yield name_by_topic(message, topic), None


def _text(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    yield name_by_topic(String(ros.data), topic), None


def _statuses(topic: str, ros: Any) -> Iterator[tuple[Message, Any]]:
    for each in ros.status:
        level = each.level[0] if isinstance(each.level, bytes) else int(each.level)
        facts = {value.key: value.value for value in each.values}
        code = StatusCode.OK if level == 0 else StatusCode.UNKNOWN_ERROR
        known = facts.get("code", "").isdecimal() and int(facts["code"]) <= 0xFFFF
        subcode = facts.get("subcode", "")
        message = Status(
            int(facts["code"]) if known else code,
            int(subcode) if re.fullmatch(r"-?\d{1,18}", subcode) else 0,
            _core.fit(facts.get("error_name", _LEVELS[level] if level < 4 else ""), 20),
            each.message.replace("\0", " "),
        )
        yield name_message(message, each.name), ros.header


READ: Final[dict[str, Callable[[str, Any], Iterator[tuple[Message, Any]]]]] = {
    "tf2_msgs/msg/TFMessage": _transforms, "geometry_msgs/msg/TransformStamped": _transforms,
    "geometry_msgs/msg/PoseStamped": _posed, "sensor_msgs/msg/Image": _picture,
    "sensor_msgs/msg/CompressedImage": _jpeg,
    "sensor_msgs/msg/PointCloud2": _points, "geometry_msgs/msg/WrenchStamped": _wrench,
    "sensor_msgs/msg/JointState": _joints, "std_msgs/msg/Float64MultiArray": _numbers,
    "std_msgs/msg/String": _text, "diagnostic_msgs/msg/DiagnosticArray": _statuses,
}  # fmt: skip
"""Types of ROS that can be read, each with its reader: messages, and the header with their time."""
