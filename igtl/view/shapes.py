"""Volumes, meshes, points and trajectories for the page.

Facts go as JSON; the page fetches arrays by the hash of their bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.messages.geometry import (
    AttributeType,
    Cells,
    Points,
    PolyData,
    Trajectories,
    TrajectoryType,
)
from igtl.messages.imaging import Image
from igtl.view.wire import limits

MAX_VOXELS: Final = 1 << 26
"""Of a volume as it is sent; of a larger one only each second, third … voxel is."""
_MAX_TRIANGLES: Final = 4_000_000
_MAX_MARKS: Final = 2000  # points or trajectories of a message
_EXACT_HALF: Final = 32768.0  # float16 holds values up to 65504


class Blobs:
    """Arrays by the hash of their bytes, for any thread; the oldest are dropped beyond a limit.

    Args:
        max_bytes: of all; one that is larger is still kept until the next.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def put(self, array: npt.NDArray[Any]) -> str:
        """Keep an array; returns its name."""
        data = np.ascontiguousarray(array).tobytes()
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        with self._lock:
            if name not in self._kept:
                self._kept[name] = data
                self._bytes += len(data)
            self._kept.move_to_end(name)
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return name

    def get(self, name: str) -> bytes | None:
        """Return the bytes of an array, or None if it was dropped."""
        with self._lock:
            return self._kept.get(name)


def is_volume(image: Image) -> bool:
    """Return whether an image is shown as a volume: it has more than one slice."""
    return bool(image.size[2] > 1)


def shape(message: Message, blobs: Blobs) -> dict[str, Any]:
    """Return the facts that the page needs to show a message.

    Raises:
        ValueError: it cannot be shown; the text says why.
    """
    with np.errstate(all="ignore"):  # a message from the wire may hold anything
        match message:
            case Image():
                return _volume(message, blobs)
            case PolyData():
                return _mesh(message, blobs)
            case Points():
                return _points(message)
            case Trajectories():
                return _trajectories(message)
    raise ValueError(f"{message.type_name} has no shape")


def _volume(image: Image, blobs: Blobs) -> dict[str, Any]:
    voxels = image.array
    if voxels.ndim == 4:  # colours: as grey
        voxels = voxels[..., :3].mean(axis=-1)
    step = 1
    while voxels.size > MAX_VOXELS * step**3 or max(voxels.shape) > 2048 * step:
        step += 1
    voxels = voxels[::step, ::step, ::step]
    if not voxels.size:
        raise ValueError("an empty volume")
    low, high = limits(voxels)
    span, scale, offset = [low, high], 1.0, 0.0
    if voxels.dtype == np.uint8:
        sent, kind, scale = voxels, "u8", 255.0
    else:
        kind = "f16"
        if max(abs(low), abs(high)) > _EXACT_HALF:
            offset, scale = (low + high) / 2, (high - low) / 2
            voxels = (voxels.astype(np.float32) - np.float32(offset)) / np.float32(scale)
            low, high = -1.0, 1.0
        sent = np.clip(np.nan_to_num(voxels, nan=low), low, high).astype("<f2")
    matrix = image.array_to_world
    matrix[:3, :3] *= step
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise ValueError("a volume without a place: its matrix is not invertible")
    return {
        "kind": "volume", "blob": blobs.put(sent), "type": kind, "scale": scale, "offset": offset,
        "size": list(voxels.shape[::-1]), "range": span, "ijk": matrix.ravel().tolist(),
    }  # fmt: skip


def _mesh(mesh: PolyData, blobs: Blobs) -> dict[str, Any]:
    points = np.nan_to_num(np.asarray(mesh.points, "<f4"))
    triangles = np.concatenate([_fans(mesh.polygons), _strips(mesh.triangle_strips)])
    segments = _segments(mesh.lines)
    if max(len(triangles), len(segments)) > _MAX_TRIANGLES:
        raise ValueError(f"{len(triangles)} triangles, at most {_MAX_TRIANGLES} are shown")
    for cells in (triangles, segments):
        if len(cells) and int(cells.max()) >= len(points):
            raise ValueError(f"a cell uses point {cells.max()}, there are {len(points)}")
    out: dict[str, Any] = {"kind": "mesh", "points": blobs.put(points), "count": len(points)}
    if len(triangles):
        out["triangles"] = blobs.put(triangles)
    if len(segments):
        out["segments"] = blobs.put(segments)
    for attribute in mesh.attributes:
        if attribute.type == AttributeType.RGBA and len(attribute.values) == len(points):
            colors = np.clip(np.nan_to_num(attribute.values[:, :3]) * 255, 0, 255)
            out["colors"] = blobs.put(colors.astype(np.uint8))
            break
    return out


def _fans(cells: Cells) -> npt.NDArray[np.uint32]:
    """(n, 3): each polygon as a fan of triangles around its first point."""
    sizes = np.diff(cells.offsets)
    count = np.maximum(sizes - 2, 0)
    first = np.repeat(cells.offsets[:-1], count)
    # 1, 2, … within each polygon
    step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count) + 1
    flat = cells.connectivity
    return np.stack([flat[first], flat[first + step], flat[first + step + 1]], 1).astype("<u4")


def _strips(cells: Cells) -> npt.NDArray[np.uint32]:
    """(n, 3): triangles of strips; every second one is turned round."""
    sizes = np.diff(cells.offsets)
    count = np.maximum(sizes - 2, 0)
    step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    at = np.repeat(cells.offsets[:-1], count) + step
    odd = step % 2
    flat = cells.connectivity
    return np.stack([flat[at], flat[at + 1 + odd], flat[at + 2 - odd]], 1).astype("<u4")


def _segments(cells: Cells) -> npt.NDArray[np.uint32]:
    """(n, 2): the pieces of polylines."""
    sizes = np.diff(cells.offsets)
    count = np.maximum(sizes - 1, 0)
    step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    at = np.repeat(cells.offsets[:-1], count) + step
    flat = cells.connectivity
    return np.stack([flat[at], flat[at + 1]], 1).astype("<u4")


def _points(message: Points) -> dict[str, Any]:
    shown = list(message.points)[:_MAX_MARKS]
    return {
        "kind": "points", "names": [p.name for p in shown],
        "at": [_finite(p.position) for p in shown],
        "colors": [[int(c) for c in p.color[:3]] for p in shown],
        "diameters": [float(np.nan_to_num(p.diameter)) for p in shown],
    }  # fmt: skip


def _trajectories(message: Trajectories) -> dict[str, Any]:
    shown = list(message.trajectories)[:_MAX_MARKS]
    both = TrajectoryType.ENTRY_AND_TARGET
    return {
        "kind": "trajectories", "names": [t.name for t in shown],
        "entries": [
            _finite(t.target if t.type == TrajectoryType.TARGET_ONLY else t.entry) for t in shown
        ],
        "targets": [
            _finite(t.entry if t.type == TrajectoryType.ENTRY_ONLY else t.target) for t in shown
        ],
        "whole": [t.type == both for t in shown],
        "colors": [[int(c) for c in t.color[:3]] for t in shown],
    }  # fmt: skip


def _finite(position: npt.NDArray[Any]) -> list[float]:
    return [float(x) for x in np.nan_to_num(position, posinf=0, neginf=0)]
