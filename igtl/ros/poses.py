"""The poses of messages as ROS and Foxglove have them: child and parent frame, m, quaternion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.message import Message
from igtl.messages.imaging import Image
from igtl.messages.plus import tool_states
from igtl.messages.tracking import QuaternionTrackingData
from igtl.ros.names import CHILD, PARENT, WORLD, frames_of, topic_of_message

_RIGID: Final = 1e-3
_IN_FRAME: Final = re.compile(r"[A-Z0-9]\w*_([A-Z]\w*)")  # Image_Reference, as PLUS names images
Frames = tuple[str, str]
"""Child and parent."""


def pose_of(matrix: Any) -> tuple[list[float], list[float]] | None:
    """Return the translation in m and the quaternion (x, y, z, w).

    None of a matrix that ROS has no form for.

    Such a matrix scales, shears, mirrors or is not finite.
    """
    (a, b, c, x), (d, e, f, y), (g, h, i, z) = matrix[:3].tolist()
    rigid = (
        abs(a * a + d * d + g * g - 1) < _RIGID and abs(b * b + e * e + h * h - 1) < _RIGID
        and abs(c * c + f * f + i * i - 1) < _RIGID and abs(a * b + d * e + g * h) < _RIGID
        and abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) - 1) < _RIGID
        and abs(x) + abs(y) + abs(z) < float("inf")
    )  # fmt: skip
    if not rigid:
        return None
    return [x / 1000, y / 1000, z / 1000], _core.quaternion_of_matrix(matrix).tolist()


def placed(message: Message) -> Iterator[tuple[Frames, Any]]:
    """Frames and matrices of the transforms that are valid."""
    if isinstance(message, QuaternionTrackingData):
        for tool in message.tools:
            yield frames_of(tool.name), tool.matrix
        return
    facts = message.metadata
    named = (facts[CHILD], facts[PARENT]) if CHILD in facts and PARENT in facts else None
    for name, matrix, status in tool_states(message):
        if status == "OK":
            yield named or frames_of(name), matrix


class Place(NamedTuple):
    """Where the first pixel of an image lies.

    Attributes:
        frames: of the image, and in which it lies.
        matrix: 4x4, whose axes are those of the pixels, with the length 1; the translation in mm.
        spacing: (3,), mm between pixels.
    """

    frames: Frames
    matrix: npt.NDArray[np.float64]
    spacing: npt.NDArray[np.float64]


def place_of(image: Image) -> Place:
    """Return where an image lies.

    In the frame behind the _ of its name, as in PLUS, or in the world.
    """
    match = _IN_FRAME.fullmatch(image.device_name)
    frame = topic_of_message(image)[1:].replace("/", "_")
    matrix = image.array_to_world
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    with np.errstate(all="ignore"):
        matrix[:3, :3] /= spacing
    return Place((frame, match[1] if match else WORLD), matrix, spacing)
