"""What is wrong with the content of a message that can be decoded."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from igtl.codec.message import Message
from igtl.geometry import is_rigid
from igtl.messages.tracking import Position, QuaternionTrackingData, TrackingData, Transform

_SCALES: Final = 1e-6, 1e6  # lengths of axes that units of length could explain
_FAR: Final = 1e9  # mm
_FLAT: Final = 1e-6  # of the volume that axes of these lengths could have
_NOT_FINITE: Final = "it holds numbers that are not finite"
_WRONG_ORDER: Final = "its numbers are near 0 or huge, as little-endian ones read as big-endian are"


def impossible(message: Message) -> str:
    """Why a message of poses holds none; "" if it does, or has no poses."""
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


def is_distorted(message: Message) -> bool:
    """Whether a TRANSFORM does more than turn and move."""
    return isinstance(message, Transform) and not is_rigid(message.matrix)
