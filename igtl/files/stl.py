"""Meshes in STL, binary and text: a surface in triangles. Corners at one place become one point."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import FileError
from igtl.files import marks
from igtl.files.meshes import surface
from igtl.files.notes import note
from igtl.messages.geometry import PolyData

_HEAD: Final = 84
_TRIANGLE: Final = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])


def read(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its header."""
    data = path.read_bytes()
    count = int.from_bytes(data[80:_HEAD], "little") if len(data) >= _HEAD else 0
    there = (len(data) - _HEAD) // _TRIANGLE.itemsize
    exact = len(data) == _HEAD + count * _TRIANGLE.itemsize
    if not exact and data.lstrip()[:5].lower() == b"solid" and b"facet" in data:
        corners, head = _text(data, path)
    elif len(data) < _HEAD or count > there:
        raise FileError(path, f"{count} triangles announced, {max(there, 0)} are there")
    else:
        if not exact:
            extra = len(data) - _HEAD - count * _TRIANGLE.itemsize
            note(f"{count} triangles announced, {extra} more bytes are left out")
        found = np.frombuffer(data, _TRIANGLE, count, _HEAD)
        if found["extra"].any():
            note("the two bytes after each triangle (some programs put colours there) are left out")
        corners, head = found["corners"].reshape(-1, 3), data[:80].decode("latin-1")
    if not len(corners):
        raise FileError(path, "holds no surface")
    return _merged(corners), head


def _text(data: bytes, path: Path) -> tuple[Any, str]:
    numbers: list[list[bytes]] = []
    parts = []
    heads = []
    facets = ends = 0
    for line in data.splitlines():
        words = line.split()
        if not words:
            continue
        key = words[0].lower()
        if key == b"vertex":
            numbers.append(words[1:])
            if len(numbers) == 1 << 16:
                parts.append(_numbers(numbers))
                numbers = []
        elif key == b"facet":
            facets += 1
        elif key == b"solid":
            heads.append(line.decode("utf-8", "replace"))
        elif key == b"endsolid":
            ends += 1
    corners = np.concatenate([*parts, _numbers(numbers)])
    if ends != len(heads) or len(corners) != 3 * facets:
        raise FileError(path, f"is cut: {facets} triangles begin, {len(corners) / 3:.4g} are there")
    return corners, "\n".join(heads)


def _numbers(words: list[list[bytes]]) -> Any:
    return np.array(words, np.float32).reshape(len(words), 3)


def _merged(corners: Any) -> PolyData:
    """Points in the order in which they come first."""
    rows = np.ascontiguousarray(corners, "<f4") + np.float32(0)  # -0 is the same place as 0
    _, first, inverse = np.unique(rows.view("V12").ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return PolyData(rows[first[order]], polygons=rank[inverse].reshape(-1, 3))


def write(mesh: PolyData, path: Path, mark: str) -> None:
    """Write binary STL, in triangles; the mark stands in the header."""
    faces, _ = surface(mesh, path)
    marks.left_out(mesh.attributes)
    out = np.zeros(len(faces), _TRIANGLE)
    corners = out["corners"] = np.asarray(mesh.points, np.float32)[faces]
    with np.errstate(all="ignore"):
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        out["normal"] = np.where(length > 0, normals / length, 0)
    head = mark.encode().ljust(80, b"\0") + len(faces).to_bytes(4, "little")
    path.write_bytes(head + out.tobytes())
