"""Where things are: TRANSFORM, POSITION, QTRANS, TDATA, QTDATA, and the requests for streams."""

from __future__ import annotations

from enum import IntEnum
from typing import Self, Unpack

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.elements import Element, ElementList
from igtl.codec.message import HeaderFields, Message
from igtl.fields import Array, array, elements, f32, forms, matrix, reserved, text, u8

_IDENTITY = (0.0, 0.0, 0.0, 1.0)


def _pose(position: npt.ArrayLike, quaternion: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """4x4 of a position and a quaternion (x, y, z, w)."""
    pose = np.eye(4)
    pose[:3, :3] = _core.matrix_of_quaternion(np.asarray(quaternion, np.float64))
    pose[:3, 3] = position
    return pose


class Transform(Message, type_name="TRANSFORM"):
    """A linear transform (protocol.md 8.1).

    Args:
        matrix: (4, 4), (3, 4) or (3, 3), mm, or an object with `as_matrix()` such as scipy's
            Rotation and RigidTransform. Kept as 4x4 float32; the fourth row must be 0 0 0 1.
    """

    matrix: Array = matrix()

    @classmethod
    def from_quaternion(
        cls,
        position: npt.ArrayLike,
        quaternion: npt.ArrayLike = _IDENTITY,
        **header: Unpack[HeaderFields],
    ) -> Self:
        """From a position (mm) and a quaternion (x, y, z, w) of any length but 0."""
        return cls(_pose(position, quaternion), **header)

    @property
    def position(self) -> npt.NDArray[np.float32]:
        """Translation in mm, (3,): a view, so that edits count."""
        view: npt.NDArray[np.float32] = self.matrix[:3, 3]
        return view

    @property
    def quaternion(self) -> npt.NDArray[np.float64]:
        """The rotation as (x, y, z, w), w >= 0. Meaningful for rigid matrices only."""
        out: npt.NDArray[np.float64] = _core.quaternion_of_matrix(self.matrix)
        return out


class Position(Message, type_name="POSITION"):
    """A position, with or without an orientation (protocol.md 8.2).

    Args:
        position: x, y, z in mm.
        quaternion: x, y, z, w. Empty: position only, 12 bytes on the wire. Three numbers:
            24 bytes, w = sqrt(1 - x² - y² - z²) is left to the receiver. Default: identity.
    """

    position: Array = array(f32, 3)
    quaternion: Array = array(f32, forms(0, 3, 4), default=_IDENTITY)

    @property
    def orientation(self) -> npt.NDArray[np.float64]:
        """The full quaternion (x, y, z, w) of unit length, whichever form was sent."""
        q = np.array(self.quaternion, np.float64)
        if len(q) == 0:
            return np.array(_IDENTITY)
        if len(q) == 3:
            rest = 1 - float(q @ q)
            return np.append(q, np.sqrt(rest)) if rest >= 0 else np.array(_IDENTITY)
        length = float(np.sqrt(q @ q))
        return q / length if length > 0 else np.array(_IDENTITY)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The same pose as a 4x4 matrix, mm."""
        return _pose(self.position, self.orientation)


class QuaternionTransform(Position, type_name="QTRANS"):
    """POSITION under its documented other name. Peers understand POSITION; read both, send that."""


class ToolType(IntEnum):
    """Kind of a tracked tool (protocol.md 8.10)."""

    TRACKER = 1
    INSTRUMENT_6D = 2
    INSTRUMENT_3D = 3
    INSTRUMENT_5D = 4


class Tool(Element):
    """One tool of a tracking frame.

    Args:
        name: at most 20 bytes; 19 to be read by the official library.
        matrix: as in Transform.
        type: see ToolType.
    """

    name: str = text(20)
    type: int = u8(default=ToolType.TRACKER)
    _reserved: int = reserved(u8)
    matrix: Array = matrix(default=None)


class TrackingData(Message, type_name="TDATA"):
    """All visible tools of one tracking frame (protocol.md 8.10).

    Args:
        tools: `tools.matrices` is (n, 4, 4), `tools["Probe"].matrix` one of them.
    """

    tools: ElementList[Tool] = elements(Tool, default=())


class QuaternionTool(Element):
    """One tool of a quaternion tracking frame.

    Args:
        name: at most 20 bytes; 19 to be read by the official library.
        type: see ToolType.
        position: x, y, z in mm.
        quaternion: x, y, z, w.
    """

    name: str = text(20)
    type: int = u8(default=ToolType.TRACKER)
    _reserved: int = reserved(u8)
    position: Array = array(f32, 3, default=(0, 0, 0))
    quaternion: Array = array(f32, 4, default=_IDENTITY)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The same pose as a 4x4 matrix, mm."""
        return _pose(self.position, self.quaternion)


class QuaternionTrackingData(Message, type_name="QTDATA"):
    """All visible tools of one tracking frame, as quaternions (protocol.md 8.11).

    Args:
        tools: `tools.positions` is (n, 3), `tools.quaternions` (n, 4).
    """

    tools: ElementList[QuaternionTool] = elements(QuaternionTool, default=())
