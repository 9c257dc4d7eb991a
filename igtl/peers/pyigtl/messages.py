"""The message classes of pyigtl: plain objects with its attributes.

They become messages of igtl when they are sent or packed, and are made from these on arrival.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.message import Message
from igtl.errors import ProtocolError
from igtl.files import meshes
from igtl.messages.general import String
from igtl.messages.geometry import Attribute, Points, PolyData
from igtl.messages.imaging import Image
from igtl.messages.tracking import Position, Transform

_HEADER = struct.Struct(">H12s20sQQQ")  # protocol.md 2: its time stamp is 32.32 fixed point


def _text(raw: bytes) -> str:
    """Return a text field of the header, up to its first NUL."""
    return raw.partition(b"\0")[0].decode(errors="replace").rstrip()


class MessageBase:
    """What all messages have.

    Args:
        timestamp: seconds since 1970; default: now.
        device_name: name of the tool, image, …; at most 20 bytes on the wire, the rest is cut.

    Attributes:
        header_version: 1, or 2 to send `message_id` and `metadata`.
        metadata: str to str.
    """

    IGTL_HEADER_SIZE = _HEADER.size
    _kind: ClassVar[type[Message]]

    def __init__(self, timestamp: float | None = None, device_name: str | None = None) -> None:
        self.device_name = device_name or ""
        self.timestamp: float | None = time.time() if timestamp is None else timestamp
        self.header_version = 1
        self.message_id = 0
        self.metadata: dict[str, str] = {}

    @property
    def message_type(self) -> str:
        """Type name on the wire, such as "IMAGE" or "TRANSFORM"."""
        return self._kind.type_name

    @property
    def is_valid(self) -> bool:
        """True for every message: one that cannot be sent raises when it is sent."""
        return True

    # -- from and to igtl

    def to_igtl(self) -> Message:
        """Return the same as a message of igtl.

        Raises:
            ValueError, igtl.EncodeError: the content cannot be sent; the text names the attribute.
        """
        message = self._content()
        message.device_name = self.device_name
        message.timestamp = self.timestamp
        if self.header_version > 1:
            message.message_id = self.message_id
            message.metadata.update(self.metadata)
        return message

    def from_igtl(self, message: Message) -> Self:
        """Take over header and content of a message of igtl."""
        self.device_name = message.device_name
        self.timestamp = message.timestamp
        self.header_version = message.header_version or 1
        self.message_id = message.message_id
        self.metadata = dict(message.metadata)
        self._take(message)
        return self

    def _content(self) -> Message:
        raise TypeError(f"{type(self).__name__} has no content: use one of its subclasses")

    def _take(self, message: Any) -> None:
        raise TypeError(f"{type(self).__name__} has no content: use one of its subclasses")

    # -- bytes

    def pack(self) -> bytes:
        """Return the whole message as it goes over the wire, in header version `header_version`."""
        return self.to_igtl().pack(version=2 if self.header_version > 1 else 1, cut_name=True)

    def unpack(self, header_fields: dict[str, Any], body: bytes) -> None:
        """Take over a header read by `parse_header`, and its body.

        Raises:
            ProtocolError: the body is not that of this type.
        """
        header = _HEADER.pack(
            header_fields["header_version"],
            header_fields["message_type"].encode(),
            header_fields["device_name"].encode(),
            round(header_fields["timestamp"] * 2**32),
            len(body),
            _core.crc64(body),
        )
        self.from_igtl(_core.unpack(header + body))

    @staticmethod
    def parse_header(header: bytes) -> dict[str, Any]:
        """Return the fields of a header, as a dict.

        Raises:
            ProtocolError: the header is not 58 bytes long.
        """
        if len(header) != _HEADER.size:
            raise ProtocolError(f"a header has {_HEADER.size} bytes, not {len(header)}")
        version, kind, name, stamp, size, _ = _HEADER.unpack(header)
        return {
            "header_version": version,
            "message_type": _text(kind),
            "device_name": _text(name),
            "timestamp": stamp / 2**32,
            "body_size": size,
        }

    @staticmethod
    def create_message(message_type: str) -> MessageBase | None:
        """Return an empty message of a type; None for one that pyigtl does not know."""
        kind = TYPES.get(message_type)
        return None if kind is None else kind()

    # -- text

    def __str__(self) -> str:
        lines = [
            f"{self.message_type} message:",
            f"  Device name: {self.device_name}",
            f"  Timestamp: {self.timestamp}",
            f"  Header version: {self.header_version}",
            *("  " + line for line in self.content_asstring().splitlines()),
        ]
        if self.metadata:
            lines += ["  Metadata:", *(f"    {key}: {text}" for key, text in self.metadata.items())]
        return "\n".join(lines)

    def content_asstring(self) -> str:
        """Return the content as text of a few lines."""
        return ""

    def metadata_asstring(self) -> str:
        """Return the metadata as text, a line for each entry."""
        return "\n".join(f"{key}: {text}" for key, text in self.metadata.items())


class ImageMessage(MessageBase):
    """A picture or volume.

    Args:
        image: (k, j, i) or (k, j, i, components); i runs fastest in memory. (j, i) is one slice.
        ijk_to_world_matrix: 4x4, mm, of the first voxel; default: identity.
        world_coordinate_system: "lps" (default) or "ras": what the message says. The numbers are
            sent as they are, and 3D Slicer reads them as RAS whatever it says.
        timestamp, device_name: see MessageBase.
    """

    _kind = Image

    def __init__(
        self,
        image: npt.ArrayLike | None = None,
        ijk_to_world_matrix: npt.ArrayLike | None = None,
        world_coordinate_system: str | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.image = None if image is None else np.asarray(image)
        if self.image is not None and not 1 <= self.image.ndim <= 4:
            raise ValueError(f"an image has 1 to 4 dimensions, not {self.image.ndim}")
        self.world_coordinate_system = world_coordinate_system or "lps"
        self.ijk_to_world_matrix = np.eye(4)
        if ijk_to_world_matrix is not None:
            self.ijk_to_world_matrix = np.asarray(ijk_to_world_matrix, np.float32)

    def content_asstring(self) -> str:
        """Size, matrix and coordinate system, as text."""
        shape = None if self.image is None else self.image.shape
        matrix = str(self.ijk_to_world_matrix).replace("\n", "\n  ")
        return (
            f"Image size: {shape}\nMatrix:\n  {matrix}\n"
            f"World coordinate system: {self.world_coordinate_system}"
        )

    def _content(self) -> Message:
        if self.image is None:
            raise ValueError("ImageMessage.image is None: there is nothing to send")
        voxels = self.image if self.image.ndim > 2 else np.atleast_2d(self.image)[np.newaxis]
        message = Image.from_volume(voxels, ijk_to_world=self.ijk_to_world_matrix)
        message.coordinate = 1 if self.world_coordinate_system.lower() == "ras" else 2
        return message

    def _take(self, message: Image) -> None:
        self.image = message.array
        self.world_coordinate_system = "lps" if message.coordinate == 2 else "ras"
        self.ijk_to_world_matrix = message.array_to_world  # of the part that is in `image`


class TransformMessage(MessageBase):
    """A pose.

    Args:
        matrix: 4x4, mm; default: identity.
        timestamp, device_name: see MessageBase.
    """

    _kind = Transform

    def __init__(
        self,
        matrix: npt.ArrayLike | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.matrix = np.eye(4, dtype=np.float32)
        if matrix is not None:
            self.matrix = np.asarray(matrix, np.float32)
            if self.matrix.shape != (4, 4):
                raise ValueError(f"a transform is a 4x4 matrix, not {self.matrix.shape}")

    def content_asstring(self) -> str:
        """Return the matrix as text."""
        return f"Matrix:\n  {str(self.matrix).replace(chr(10), chr(10) + '  ')}"

    def _content(self) -> Message:
        return Transform(self.matrix)

    def _take(self, message: Transform) -> None:
        self.matrix = message.matrix


class StringMessage(MessageBase):
    """A text.

    Args:
        string: any text: ASCII if that is enough, else UTF-8.
        timestamp, device_name: see MessageBase.
    """

    _kind = String

    def __init__(
        self,
        string: str | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.string = string or ""

    def content_asstring(self) -> str:
        """Return the text behind "String: "."""
        return f"String: {self.string}"

    def _content(self) -> Message:
        return String(self.string)

    def _take(self, message: String) -> None:
        self.string = message.string


def _repeated(values: Any, n: int, name: str) -> list[str]:
    """One text for all points, or one each."""
    if values is None or len(values) == 0:
        return [""] * n
    if isinstance(values, str):
        return [values] * n
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} entries for {n} positions")
    return list(values)


class PointMessage(MessageBase):
    """A list of points.

    Args:
        positions: (3,) or (n, 3), mm.
        names, groups, owners: a str for all, or a list of n.
        rgba_colors: (4,) for all or (n, 4), 0 to 255; default: yellow.
        diameters: mm, a number for all or (n,); default 0.
        timestamp, device_name: see MessageBase.
    """

    _kind: ClassVar[type[Message]] = Points

    def __init__(
        self,
        positions: npt.ArrayLike | None = None,
        names: str | Sequence[str] | None = None,
        rgba_colors: npt.ArrayLike | None = None,
        diameters: npt.ArrayLike | None = None,
        groups: str | Sequence[str] | None = None,
        owners: str | Sequence[str] | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.positions: Any = positions
        self.names: Any = names
        self.rgba_colors: Any = rgba_colors
        self.diameters: Any = diameters
        self.groups: Any = groups
        self.owners: Any = owners

    def content_asstring(self) -> str:
        """Return a line for each point: name, position and colour."""
        return "\n".join(
            f"Point {n}: name: '{point.name}', xyz: {point.position.tolist()}, "
            f"rgba: {point.color.tolist()}"
            for n, point in enumerate(self._points().points, 1)
        )

    def _points(self) -> Points:
        place = np.asarray([] if self.positions is None else self.positions, np.float32)
        if place.ndim == 1 and place.size == 3:
            place = place[np.newaxis]
        if place.ndim != 2 or place.shape[1] != 3:
            raise ValueError(f"positions are (3,) or (n, 3), not {place.shape}")
        n = len(place)
        colors = [255, 255, 0, 255] if self.rgba_colors is None else self.rgba_colors
        diameters = 0.0 if self.diameters is None else self.diameters
        return Points.from_arrays(
            place,
            names=_repeated(self.names, n, "names"),
            groups=_repeated(self.groups, n, "groups"),
            owners=_repeated(self.owners, n, "owners"),
            color=colors,
            diameters=np.broadcast_to(np.asarray(diameters, np.float32), (n,)),
        )

    def _content(self) -> Message:
        return self._points()

    def _take(self, message: Points) -> None:
        points = message.points
        self.positions = [tuple(row) for row in points.positions.tolist()]
        self.names = list(points.names)
        self.rgba_colors = [tuple(row) for row in points.colors.tolist()]
        self.diameters = points.diameters.tolist()
        self.groups = list(points.groups)
        self.owners = list(points.owners)


class PositionMessage(MessageBase):
    """One position with its orientation.

    Args:
        positions: (3,) or (1, 3), mm.
        quaternions: (4,) or (1, 4), x, y, z, w; default: identity.
        timestamp, device_name: see MessageBase.

    pyigtl writes names, colours and several positions into a POSITION, in a form that no other
    implementation reads; POSITION has one pose and nothing else. Send several as
    `PointMessage`, or each under its own device name.
    """

    _kind = Position

    def __init__(
        self,
        positions: npt.ArrayLike | None = None,
        quaternions: npt.ArrayLike | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.positions: Any = positions
        self.quaternions: Any = quaternions

    def content_asstring(self) -> str:
        """Position and quaternion as text."""
        return f"Position: xyz: {self.positions}, quaternion: {self.quaternions}"

    def _content(self) -> Message:
        place = np.asarray([] if self.positions is None else self.positions, np.float32)
        if place.size != 3:
            raise ValueError(
                f"a POSITION has one position of 3 numbers, not an array of shape {place.shape}: "
                "send several as PointMessage, or each under its own device name"
            )
        turn = np.asarray((0, 0, 0, 1) if self.quaternions is None else self.quaternions)
        if turn.size != 4:
            raise ValueError(f"a quaternion is 4 numbers (x, y, z, w), not {turn.shape}")
        return Position(place.reshape(3), turn.reshape(4))

    def _take(self, message: Position) -> None:
        self.positions = [tuple(message.position.tolist())]
        self.quaternions = [tuple(message.orientation.tolist())]


class PolyDataMessage(MessageBase):
    """A mesh, from a vtkPolyData or from arrays.

    Args:
        vtk_poly_data: points, cells and point and cell data are taken from it.
        points: (n, 3), mm.
        vertices, lines, polygons, triangle_strips: cells as VTK keeps them in one row
            (number of points, their indices, number of points, …), or anything that
            `igtl.PolyData` takes.
        attributes: list of `igtl.Attribute`.
        timestamp, device_name: see MessageBase.
    """

    _kind = PolyData
    _CELLS = ("vertices", "lines", "polygons", "triangle_strips")

    def __init__(
        self,
        vtk_poly_data: Any = None,
        points: npt.ArrayLike | None = None,
        vertices: Any = None,
        lines: Any = None,
        polygons: Any = None,
        triangle_strips: Any = None,
        attributes: Sequence[Attribute] | None = None,
        timestamp: float | None = None,
        device_name: str | None = None,
    ) -> None:
        super().__init__(timestamp, device_name)
        self.points: Any = points
        self.vertices = vertices
        self.lines = lines
        self.polygons = polygons
        self.triangle_strips = triangle_strips
        self.attributes = attributes
        if vtk_poly_data is not None:
            self._take(meshes.from_vtk(vtk_poly_data))

    def content_asstring(self) -> str:
        """Return the numbers of points and cells, a line each."""
        mesh = self._mesh()
        return "\n".join(
            [f"Points: {len(mesh.points)}"]
            + [f"{name.replace('_', ' ')}: {len(getattr(mesh, name))}" for name in self._CELLS]
        )

    def content_as_vtk_poly_data(self) -> Any:
        """Return the mesh as a vtkPolyData (needs VTK)."""
        return meshes.to_vtk(self._mesh())

    def _mesh(self) -> PolyData:
        cells = {name: _cells(getattr(self, name)) for name in self._CELLS}
        points = [] if self.points is None else self.points
        return PolyData(points, attributes=list(self.attributes or ()), **cells)

    def _content(self) -> Message:
        return self._mesh()

    def _take(self, message: PolyData) -> None:
        self.points = message.points
        self.attributes = list(message.attributes)
        for name in self._CELLS:
            setattr(self, name, getattr(message, name))


def _cells(given: Any) -> Any:
    """Cells of a row of counts and indices; anything else as it is."""
    if given is None:
        return ()
    if isinstance(given, np.ndarray) and given.ndim == 1:
        row, found, at = given.tolist(), [], 0
        while at < len(row):
            found.append(row[at + 1 : at + 1 + row[at]])
            at += 1 + row[at]
        return found
    return given


TYPES: dict[str, type[MessageBase]] = {
    kind._kind.type_name: kind
    for kind in (
        ImageMessage, TransformMessage, StringMessage, PointMessage, PositionMessage,
        PolyDataMessage,
    )
}  # fmt: skip
