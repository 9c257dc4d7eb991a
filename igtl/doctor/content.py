"""What is wrong with the content of a message that can be decoded."""

from __future__ import annotations

from typing import Any, Final
from zlib import crc32

import numpy as np

from igtl.codec.message import Message
from igtl.geometry import is_rigid
from igtl.messages.general import Sensor
from igtl.messages.imaging import Image
from igtl.messages.tracking import Position, QuaternionTrackingData, TrackingData, Transform

_SCALES: Final = 1e-6, 1e6  # lengths of axes that units of length could explain
_FAR: Final = 1e9  # mm
_FLAT: Final = 1e-6  # of the volume that axes of these lengths could have
_RIGHT: Final = 1e-3  # cosine of axes that stand at right angles
_SMALL: Final = 1 << 20  # bytes of an image
_NOT_FINITE: Final = "it holds numbers that are not finite"
_WRONG_ORDER: Final = "its numbers are near 0 or huge, as little-endian ones read as big-endian are"


def impossible(message: Message) -> str:
    """Return why a message of poses holds no pose; "" if it does, or its type has none."""
    match message:
        case Transform():
            return _impossible_matrices(message.matrix[None])
        case TrackingData():
            return _impossible_matrices(message.tools.matrices)
        case Position() if len(message.quaternion) == 4:
            return _impossible_quaternions(message.position[None], message.quaternion[None])
        case QuaternionTrackingData():
            return _impossible_quaternions(message.tools.positions, message.tools.quaternions)
    return ""


def _impossible_matrices(matrices: Any) -> str:
    m = np.asarray(matrices, np.float64)
    if not np.isfinite(m).all():
        return _NOT_FINITE
    axes, places = m[:, :3, :3], m[:, :3, 3]
    lengths = np.linalg.norm(axes, axis=1)
    least, most = _SCALES
    if ((lengths < least) | (lengths > most)).any() or (np.abs(places) > _FAR).any():
        return _WRONG_ORDER
    if (np.abs(np.linalg.det(axes)) < _FLAT * lengths.prod(axis=1)).any():
        return "its axes lie in one plane"
    return ""


def _impossible_quaternions(positions: Any, quaternions: Any) -> str:
    places, q = np.asarray(positions, np.float64), np.asarray(quaternions, np.float64)
    if not (np.isfinite(places).all() and np.isfinite(q).all()):
        return _NOT_FINITE
    lengths = np.linalg.norm(q, axis=1)
    least, most = _SCALES
    if ((lengths < least) | (lengths > most)).any() or (np.abs(places) > _FAR).any():
        return _WRONG_ORDER
    return ""


def distortion(message: Message) -> str:
    """Return what a TRANSFORM does beyond turning and moving.

    "scaled", "mirrored" or "sheared"; "" if it does no more.

    "by rows" if its numbers are a rotation and a translation when they are read row by row.
    """
    if not isinstance(message, Transform) or is_rigid(message.matrix):
        return ""
    m = np.asarray(message.matrix, np.float64)
    if is_rigid(m[:3].ravel(order="F").reshape(3, 4)):
        return "by rows"
    axes = m[:3, :3]
    if np.linalg.det(axes) < 0:
        return "mirrored"
    products = axes.T @ axes
    lengths = np.sqrt(np.diag(products))
    cosines = products / np.outer(lengths, lengths)
    return "sheared" if np.abs(cosines - np.eye(3)).max() > _RIGHT else "scaled"


def measured(message: Message) -> int | None:
    """Return a number that stands for what a message measures, the same for the same content.

    None for types that do not measure, and for large images.
    """
    match message:
        case Transform():
            values = message.matrix
        case TrackingData():
            values = message.tools.matrices
        case Position():
            values = np.concatenate([message.position, message.quaternion])
        case QuaternionTrackingData():
            values = np.hstack([message.tools.positions, message.tools.quaternions])
        case Sensor():
            values = message.values
        case Image() if message.array.nbytes <= _SMALL:
            values = message.array
        case _:
            return None
    return crc32(np.ascontiguousarray(values).tobytes())
