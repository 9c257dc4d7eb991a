"""Meshes in OFF: a surface of polygons, with colours and normals of the points."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from igtl.errors import FileError
from igtl.files import marks
from igtl.files.meshes import cells_of, colours, surface
from igtl.files.notes import note
from igtl.messages.geometry import Attribute, AttributeType, PolyData

_HEAD: Final = re.compile(r"(ST)?(C)?(N)?OFF\b\s*(.*)", re.DOTALL)


def read(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its comments."""
    whole = path.read_text("utf-8", "replace").splitlines()
    remarks = [line for line in whole if "#" in line]
    rows = [line for line in (line.partition("#")[0].strip() for line in whole) if line]
    head = _HEAD.fullmatch(rows[0]) if rows else None
    if head is None:
        raise FileError(path, "is not an OFF file of points in three dimensions, or a binary one")
    rows = [head[4], *rows[1:]] if head[4] else rows[1:]
    count, faces = (int(word) for word in (rows[0] if rows else "").split()[:2])
    if min(count, faces) < 0 or count + faces > len(rows) - 1:
        raise FileError(path, f"is cut: {count} points and {faces} faces announced, "
                        f"{len(rows) - 1} lines are there")  # fmt: skip
    table = np.array([row.split() for row in rows[1 : 1 + count]], np.float64)
    table = table.reshape(count, -1)
    attributes = []
    at = 3
    if head[3]:
        attributes.append(Attribute("Normals", table[:, 3:6], AttributeType.NORMALS))
        at = 6
    if head[2]:
        shades = table[:, at : at + 4]
        values = colours(shades.astype(np.uint8) if shades.max(initial=0) > 1 else shades)
        attributes.append(Attribute("Colors", values, AttributeType.RGBA))
        at += shades.shape[1]
    if table.shape[1] > at:
        note("numbers behind the points are left out")
    cells = []
    for row in rows[1 + count : 1 + count + faces]:
        size, *numbers = row.split()
        if int(size) > len(numbers) or int(size) < 0:
            raise FileError(path, f"the face {row!r} is cut")
        if len(numbers) > int(size):
            note("colours of faces are left out")
        cells.append([int(n) for n in numbers[: int(size)]])
    cloud = () if cells else np.arange(count)[:, np.newaxis]
    return (
        PolyData(table[:, :3], vertices=cloud, polygons=cells_of(cells), attributes=attributes),
        "\n".join(remarks),
    )


def write(mesh: PolyData, path: Path, mark: str) -> None:
    """Write OFF; the mark is a comment. Triangle strips become triangles."""
    only = PolyData(mesh.points, triangle_strips=mesh.triangle_strips)
    surface(mesh, path)  # refuses what is no surface
    marks.left_out(mesh.attributes)
    faces = [*mesh.polygons, *surface(only, path)[0]]
    lines = ["OFF", f"# {mark}", f"{len(mesh.points)} {len(faces)} 0"]
    lines += [" ".join(f"{x:.9g}" for x in row) for row in np.asarray(mesh.points).tolist()]
    lines += [f"{len(face)} {' '.join(str(int(n)) for n in face)}" for face in faces]
    path.write_text("\n".join(lines) + "\n", "utf-8")
