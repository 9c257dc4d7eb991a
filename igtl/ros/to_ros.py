"""Messages of OpenIGTLink as messages of ROS 2, for bags and live.

Lengths are mm in OpenIGTLink and m in ROS. Axes are not changed: what is RAS stays RAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from igtl.codec.compression import Compressed
from igtl.codec.message import Message
from igtl.messages.general import Bind, Sensor, Status, String
from igtl.messages.geometry import Points
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame, tool_states
from igtl.messages.tracking import Position, QuaternionTrackingData, TrackingData, Transform
from igtl.ros.names import ENCODINGS, PARENT, WORLD, topic_of_message
from igtl.ros.poses import place_of, placed, pose_of

Make = Callable[..., Any]
"""Makes a message of ROS: `make("std_msgs/msg/String", data="…")`; all fields are given."""
_NS: Final = 10**9
_ENCODED: Final = {kind: name for name, kind in ENCODINGS.items()}
_FLOAT32, _UINT32 = 7, 6  # of sensor_msgs/PointField


class Published(NamedTuple):
    """A message of ROS, its topic and its type ("std_msgs/msg/String")."""

    topic: str
    kind: str
    message: Any


def to_ros(message: Message, time_ns: int, make: Make) -> Iterator[Published]:
    """Yield what a message is in ROS: nothing, if ROS has no message for it.

    Args:
        message: of OpenIGTLink.
        time_ns: for the header, nanoseconds since 1970.
        make: makes messages of ROS.

    Raises:
        ProtocolError: the content of the message is damaged.
    """
    match message:
        case Transform() | Position() if "/" in message.device_name:
            for state in tool_states(message):
                pose = pose_of(state.matrix) if state.status == "OK" else None
                if pose is not None:
                    yield _pose_stamped(message, pose, time_ns, make)
        case Transform() | Position() | TrackingData() | QuaternionTrackingData():
            yield from _tf(placed(message), time_ns, make)
        case TrackedFrame():
            yield from _tf(placed(message), time_ns, make)
            image = Image(message.array, ijk_to_world=message.ijk_to_world)
            image.device_name = message.device_name
            yield from _image(image, time_ns, make)
        case Image():
            yield from _image(message, time_ns, make)
        case Points():
            yield _cloud(message, time_ns, make)
        case Sensor():
            yield _sensor(message, time_ns, make)
        case String():
            yield Published(
                topic_of_message(message), "std_msgs/msg/String",
                make("std_msgs/msg/String", data=message.string),
            )  # fmt: skip
        case Status():
            yield _diagnostics(message, time_ns, make)
        case Bind():
            for child in message.children:
                yield from to_ros(child, child.time_ns or time_ns, make)
        case Compressed():
            yield from to_ros(message.unwrap(), time_ns, make)


def _header(time_ns: int, frame: str, make: Make) -> Any:
    sec, nanosec = divmod(time_ns, _NS)
    stamp = make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def _tf(transforms_of: Any, time_ns: int, make: Make) -> Iterator[Published]:
    transforms = []
    for (child, parent), matrix in transforms_of:
        pose = pose_of(matrix)
        if pose is None:
            continue
        (x, y, z), (qx, qy, qz, qw) = pose
        moved = make(
            "geometry_msgs/msg/Transform",
            translation=make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        transforms.append(
            make(
                "geometry_msgs/msg/TransformStamped", header=_header(time_ns, parent, make),
                child_frame_id=child, transform=moved,
            )
        )  # fmt: skip
    if transforms:
        kind = "tf2_msgs/msg/TFMessage"
        yield Published("/tf", kind, make(kind, transforms=transforms))


def _pose_stamped(message: Message, pose: Any, time_ns: int, make: Make) -> Published:
    (x, y, z), (qx, qy, qz, qw) = pose
    kind = "geometry_msgs/msg/PoseStamped"
    placed = make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", x=x, y=y, z=z),
        orientation=make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
    )
    header = _header(time_ns, message.metadata.get(PARENT, WORLD), make)
    return Published(topic_of_message(message), kind, make(kind, header=header, pose=placed))


def _image(image: Image, time_ns: int, make: Make) -> Iterator[Published]:
    """Yield a picture, where its first pixel lies, and the size of its pixels.

    Nothing of a volume.
    """
    pixels = image.array
    parts = pixels.shape[3] if pixels.ndim == 4 else 1
    encoding = _ENCODED.get((pixels.dtype.str[1:], parts))
    if len(pixels) != 1 or encoding is None or not pixels.size:
        return
    frames, matrix, spacing = place_of(image)
    yield from _tf([(frames, matrix)], time_ns, make)
    topic = topic_of_message(image)
    header = _header(time_ns, frames[0], make)
    _, height, width = pixels.shape[:3]
    data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).view(np.uint8).ravel()
    kind = "sensor_msgs/msg/Image"
    yield Published(
        topic, kind,
        make(
            kind, header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
            step=data.size // height, data=data,
        ),
    )  # fmt: skip
    kind = "geometry_msgs/msg/Vector3Stamped"
    x, y, z = (spacing / 1000).tolist()
    size = make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
    yield Published(f"{topic}/spacing", kind, make(kind, header=header, vector=size))


def _cloud(message: Points, time_ns: int, make: Make) -> Published:
    points = message.points
    data = np.zeros(len(points), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgba", "<u4")])
    if len(points):
        for axis, values in zip("xyz", np.asarray(points.positions).T / 1000, strict=True):
            data[axis] = values
        red, green, blue, alpha = np.asarray(points.colors, np.uint32).T
        data["rgba"] = alpha << 24 | red << 16 | green << 8 | blue
    fields = [
        make(
            "sensor_msgs/msg/PointField", name=name, offset=4 * n, count=1,
            datatype=_UINT32 if name == "rgba" else _FLOAT32,
        )
        for n, name in enumerate(data.dtype.names or ())
    ]  # fmt: skip
    kind = "sensor_msgs/msg/PointCloud2"
    return Published(
        topic_of_message(message), kind,
        make(
            kind, header=_header(time_ns, WORLD, make), height=1, width=len(data), fields=fields,
            is_bigendian=False, point_step=16, row_step=data.nbytes, data=data.view(np.uint8),
            is_dense=bool(np.isfinite(data["x"] + data["y"] + data["z"]).all()),
        ),
    )  # fmt: skip


def _sensor(message: Sensor, time_ns: int, make: Make) -> Published:
    values = np.array(message.values, np.float64)
    unit = str(message.unit)
    topic = topic_of_message(message)
    header = _header(time_ns, message.metadata.get(PARENT, WORLD), make)
    if len(values) == 6 and unit == "N":  # three forces, three torques
        fx, fy, fz, tx, ty, tz = values.tolist()
        wrench = make(
            "geometry_msgs/msg/Wrench",
            force=make("geometry_msgs/msg/Vector3", x=fx, y=fy, z=fz),
            torque=make("geometry_msgs/msg/Vector3", x=tx, y=ty, z=tz),
        )
        kind = "geometry_msgs/msg/WrenchStamped"
        return Published(topic, kind, make(kind, header=header, wrench=wrench))
    if unit == "rad" or topic.endswith("_js"):
        kind = "sensor_msgs/msg/JointState"
        names = [f"joint{n}" for n in range(len(values))]
        none = np.zeros(0)
        state = make(kind, header=header, name=names, position=values, velocity=none, effort=none)
        return Published(topic, kind, state)
    kind = "std_msgs/msg/Float64MultiArray"
    dim = make("std_msgs/msg/MultiArrayDimension", label=unit, size=len(values), stride=1)
    layout = make("std_msgs/msg/MultiArrayLayout", dim=[dim], data_offset=0)
    return Published(topic, kind, make(kind, layout=layout, data=values))


def _diagnostics(message: Status, time_ns: int, make: Make) -> Published:
    facts = {
        "code": str(message.code), "subcode": str(message.subcode),
        "error_name": message.error_name,
    }  # fmt: skip
    values = [make("diagnostic_msgs/msg/KeyValue", key=k, value=v) for k, v in facts.items()]
    status = make(
        "diagnostic_msgs/msg/DiagnosticStatus", level=0 if message.is_ok else 2,
        name=message.device_name, message=message.message, hardware_id="", values=values,
    )  # fmt: skip
    kind = "diagnostic_msgs/msg/DiagnosticArray"
    header = _header(time_ns, "", make)
    return Published("/diagnostics", kind, make(kind, header=header, status=[status]))
