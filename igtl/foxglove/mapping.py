"""Messages of OpenIGTLink in the schemas of Foxglove, for files and live.

| OpenIGTLink | Foxglove | topic |
|---|---|---|
| TRANSFORM, POSITION, QTRANS, TDATA, QTDATA | FrameTransforms | /tf |
| IMAGE of one slice, VIDEO, TRACKEDFRAME | RawImage, live CompressedImage | /device, /tf |
| POINT, TRAJ, POLYDATA | SceneUpdate: spheres and labels, lines, triangles | /device |
| SENSOR | JSON, for plots: `/device.values[0]` | /device |
| STATUS, STRING | Log | /log |
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from igtl.codec.compression import Compressed
from igtl.codec.message import Message
from igtl.extras import need
from igtl.files.meshes import triangles
from igtl.files.part import Decoding
from igtl.messages.general import Bind, Sensor, Status, String
from igtl.messages.geometry import Points, PolyData, Trajectories, TrajectoryType
from igtl.messages.imaging import Image
from igtl.messages.plus import TrackedFrame
from igtl.messages.tracking import Position, QuaternionTrackingData, TrackingData, Transform
from igtl.ros.names import WORLD, Topics, topic_of
from igtl.ros.poses import place_of, placed, pose_of

_NS: Final = 10**9
_ENCODED: Final = {
    ("u1", 1): "mono8", ("u2", 1): "mono16", ("u1", 3): "rgb8", ("u1", 4): "rgba8",
    ("f4", 1): "32FC1",
}  # fmt: skip
_COLOUR: Final = (0.85, 0.65, 0.55, 0.8)  # of meshes
_DIAMETER: Final = 5.0  # mm, of points that name none
_MAX_MARKS: Final = 2000  # points or trajectories of a message
_MAX_CELLS: Final = 1_000_000  # triangles of a mesh
_QUALITY: Final = 85  # of JPEG
_SENSOR: Final = {
    "type": "object",
    "properties": {
        "values": {"type": "array", "items": {"type": "number"}}, "unit": {"type": "string"},
    },
}  # fmt: skip


class Mapping:
    """Logs messages to the channels of one context of foxglove-sdk; by one thread at a time.

    Args:
        context: of foxglove-sdk.
        compress: pictures of 8 bits are sent as JPEG.
    """

    def __init__(self, context: Any, *, compress: bool) -> None:
        self._sdk = need("foxglove", "foxglove")
        self._channels_of = need("foxglove.channels", "foxglove")
        self._m = need("foxglove.messages", "foxglove")
        self._jpeg = need("simplejpeg", "foxglove") if compress else None
        self._context = context
        self._topics = Topics()
        self._channels: dict[tuple[str, str], Any] = {}
        self._decoded = Decoding()

    def take(self, message: Message, time_ns: int) -> int:
        """Log what a message is in Foxglove; returns how many messages that are.

        Args:
            message: of OpenIGTLink.
            time_ns: when it arrived, nanoseconds since 1970; its stamp too if it has none.

        Raises:
            ProtocolError: its content is damaged.
        """
        decoded = self._decoded(message)
        if decoded is None:
            return 0
        at = decoded.time_ns or time_ns
        stamp = self._m.Timestamp(sec=at // _NS, nsec=at % _NS)
        match decoded:
            case Transform() | Position() | TrackingData() | QuaternionTrackingData():
                return self._transforms(placed(decoded), stamp, time_ns)
            case TrackedFrame():
                image = Image(decoded.array, ijk_to_world=decoded.ijk_to_world)
                image.device_name = decoded.device_name
                moved = self._transforms(placed(decoded), stamp, time_ns)
                return moved + self._image(image, stamp, time_ns)
            case Image():
                return self._image(decoded, stamp, time_ns)
            case Points():
                return self._points(decoded, stamp, time_ns)
            case Trajectories():
                return self._trajectories(decoded, stamp, time_ns)
            case PolyData():
                return self._mesh(decoded, stamp, time_ns)
            case Sensor():
                return self._sensor(decoded, time_ns)
            case Status():
                level = self._m.LogLevel.Info if decoded.is_ok else self._m.LogLevel.Error
                return self.log(decoded.summary(), decoded.device_name, level, stamp, time_ns)
            case String():
                level = self._m.LogLevel.Info
                return self.log(decoded.string, decoded.device_name, level, stamp, time_ns)
            case Bind():
                return sum(self.take(child, time_ns) for child in decoded.children)
            case Compressed():
                return self.take(decoded.unwrap(), time_ns)
        return 0

    def note(self, text: str, source: str, time_ns: int) -> None:
        """Add a line of this program to the log."""
        stamp = self._m.Timestamp(sec=time_ns // _NS, nsec=time_ns % _NS)
        self.log(text, source, self._m.LogLevel.Warning, stamp, time_ns)

    def log(self, text: str, name: str, level: Any, stamp: Any, time_ns: int) -> int:
        """Add a line to the log; returns 1."""
        line = self._m.Log(timestamp=stamp, level=level, message=text, name=name)
        return self._put("Log", "/log", line, time_ns)

    def _put(self, kind: str, topic: str, message: Any, time_ns: int) -> int:
        key = kind, topic
        if key not in self._channels:
            named = self._topics.of(topic, kind)
            if named is None:
                return 0
            if kind == "Sensor":
                made = self._sdk.Channel(named, schema=_SENSOR, context=self._context)
            else:
                made = getattr(self._channels_of, f"{kind}Channel")(named, context=self._context)
            self._channels[key] = made
        self._channels[key].log(message, log_time=time_ns)
        return 1

    def _transforms(self, found: Any, stamp: Any, time_ns: int) -> int:
        m = self._m
        transforms = []
        for (child, parent), matrix in found:
            pose = pose_of(matrix)
            if pose is None:
                continue
            (x, y, z), (qx, qy, qz, qw) = pose
            transforms.append(
                m.FrameTransform(
                    timestamp=stamp, parent_frame_id=parent, child_frame_id=child,
                    translation=m.Vector3(x=x, y=y, z=z),
                    rotation=m.Quaternion(x=qx, y=qy, z=qz, w=qw),
                )
            )  # fmt: skip
        if not transforms:
            return 0
        return self._put(
            "FrameTransforms", "/tf", m.FrameTransforms(transforms=transforms), time_ns
        )

    def _image(self, image: Image, stamp: Any, time_ns: int) -> int:
        pixels = image.array
        parts = pixels.shape[3] if pixels.ndim == 4 else 1
        encoding = _ENCODED.get((pixels.dtype.str[1:], parts))
        if len(pixels) != 1 or encoding is None or not pixels.size:
            return 0
        frames, matrix, _ = place_of(image)
        count = self._transforms([(frames, matrix)], stamp, time_ns)
        topic = topic_of(image.device_name)
        _, height, width = pixels.shape[:3]
        if self._jpeg is not None and encoding in ("mono8", "rgb8"):
            picture = np.ascontiguousarray(pixels[0].reshape(height, width, parts))
            data = self._jpeg.encode_jpeg(picture, _QUALITY, "GRAY" if parts == 1 else "RGB")
            packed = self._m.CompressedImage(
                timestamp=stamp, frame_id=frames[0], data=data, format="jpeg"
            )
            return count + self._put("CompressedImage", topic, packed, time_ns)
        data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
        raw = self._m.RawImage(
            timestamp=stamp, frame_id=frames[0], width=width, height=height, encoding=encoding,
            step=len(data) // height, data=data,
        )  # fmt: skip
        return count + self._put("RawImage", topic, raw, time_ns)

    # -- shapes

    def _scene(self, message: Message, stamp: Any, time_ns: int, **primitives: Any) -> int:
        m = self._m
        entity = m.SceneEntity(
            timestamp=stamp, frame_id=WORLD, id=message.device_name or message.type_name,
            **primitives,
        )  # fmt: skip
        update = m.SceneUpdate(entities=[entity])
        return self._put("SceneUpdate", topic_of(message.device_name), update, time_ns)

    def _at(self, place: Any) -> Any:
        x, y, z = (float(v) / 1000 for v in np.nan_to_num(np.asarray(place, np.float64)))
        return self._m.Pose(
            position=self._m.Vector3(x=x, y=y, z=z), orientation=self._m.Quaternion(w=1.0)
        )

    def _point(self, place: Any) -> Any:
        x, y, z = (float(v) / 1000 for v in np.nan_to_num(np.asarray(place, np.float64)))
        return self._m.Point3(x=x, y=y, z=z)

    def _colour(self, rgba: Any) -> Any:
        r, g, b, a = (float(v) / 255 for v in rgba)
        return self._m.Color(r=r, g=g, b=b, a=a)

    def _points(self, message: Points, stamp: Any, time_ns: int) -> int:
        m = self._m
        spheres, texts = [], []
        for point in list(message.points)[:_MAX_MARKS]:
            size = (float(point.diameter) or _DIAMETER) / 1000
            pose, colour = self._at(point.position), self._colour(point.color)
            sizes = m.Vector3(x=size, y=size, z=size)
            spheres.append(m.SpherePrimitive(pose=pose, size=sizes, color=colour))
            texts.append(
                m.TextPrimitive(
                    pose=pose, billboard=True, font_size=14.0, scale_invariant=True, color=colour,
                    text=point.name,
                )
            )  # fmt: skip
        return self._scene(message, stamp, time_ns, spheres=spheres, texts=texts)

    def _trajectories(self, message: Trajectories, stamp: Any, time_ns: int) -> int:
        m = self._m
        lines, spheres = [], []
        for each in list(message.trajectories)[:_MAX_MARKS]:
            colour = self._colour(each.color)
            if each.type == TrajectoryType.ENTRY_AND_TARGET:
                ends = [self._point(each.entry), self._point(each.target)]
                lines.append(
                    m.LinePrimitive(
                        type=m.LinePrimitiveLineType.LineStrip, pose=self._at((0, 0, 0)),
                        thickness=2.0, scale_invariant=True, points=ends, color=colour,
                    )
                )  # fmt: skip
                continue
            only = each.entry if each.type == TrajectoryType.ENTRY_ONLY else each.target
            size = _DIAMETER / 1000
            sizes = m.Vector3(x=size, y=size, z=size)
            spheres.append(m.SpherePrimitive(pose=self._at(only), size=sizes, color=colour))
        return self._scene(message, stamp, time_ns, lines=lines, spheres=spheres)

    def _mesh(self, mesh: PolyData, stamp: Any, time_ns: int) -> int:
        m = self._m
        corners, _ = triangles(mesh)
        if len(corners) > _MAX_CELLS or (len(corners) and corners.max() >= len(mesh.points)):
            return 0
        r, g, b, a = _COLOUR
        surface = m.TriangleListPrimitive(
            pose=self._at((0, 0, 0)), points=[self._point(point) for point in mesh.points],
            color=m.Color(r=r, g=g, b=b, a=a), indices=corners.ravel().tolist(),
        )  # fmt: skip
        lines = [
            m.LinePrimitive(
                type=m.LinePrimitiveLineType.LineStrip, pose=self._at((0, 0, 0)), thickness=2.0,
                scale_invariant=True, points=[self._point(mesh.points[n]) for n in line],
                color=m.Color(r=r, g=g, b=b, a=a),
            )
            for line in mesh.lines if len(line) and max(line) < len(mesh.points)
        ]  # fmt: skip
        return self._scene(mesh, stamp, time_ns, triangles=[surface], lines=lines)

    def _sensor(self, message: Sensor, time_ns: int) -> int:
        # JSON has no NaN
        values = [v if np.isfinite(v) else None for v in message.values.tolist()]
        told = {"values": values, "unit": str(message.unit)}
        return self._put("Sensor", topic_of(message.device_name), told, time_ns)
