"""Meshes in OBJ: surfaces, polylines and points, with colours and normals of the points."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import FileError
from igtl.files import marks
from igtl.files.meshes import cells_of, colours, columns_of, surface
from igtl.files.notes import note
from igtl.messages.geometry import Attribute, AttributeType, PolyData

_CELLS: Final = {"p": "vertices", "l": "lines", "f": "polygons"}
_LEFT_OUT: Final = {  # statements of the format that say nothing of a mesh, or that are lost
    **dict.fromkeys(("o", "g", "s", "mg", "end", "call", "csh", "lod"), ""),
    **dict.fromkeys(("usemtl", "mtllib", "usemap", "maplib", "bevel", "c_interp", "d_interp",
                     "shadow_obj", "trace_obj"), "materials"),
    "vt": "texture coordinates",
    **dict.fromkeys(("vp", "cstype", "deg", "bmat", "step", "curv", "curv2", "surf", "parm", "trim",
                     "hole", "scrv", "sp", "con", "ctech", "stech"), "curved surfaces"),
}  # fmt: skip


def read(path: Path) -> tuple[PolyData, str]:
    """Return the mesh in the coordinates of the file, and its comments."""
    text = path.read_text("utf-8", "replace").replace("\\\n", " ").replace("\\\r\n", " ")
    places: list[list[str]] = []
    normals: list[list[str]] = []
    corners: dict[str, list[list[str]]] = {key: [] for key in _CELLS}
    before: dict[str, list[tuple[int, int]]] = {key: [] for key in _CELLS}
    remarks = []
    for number, line in enumerate(text.splitlines(), 1):
        key, *words = line.split() or ("#",)
        if key[0] == "#":
            remarks.append(line)
        elif key == "v":
            places.append(words)
        elif key == "vn":
            normals.append(words)
        elif key in _CELLS or key == "fo":
            kind = "f" if key == "fo" else key
            corners[kind].append(words)
            before[kind].append((len(places), len(normals)))
        elif key not in _LEFT_OUT:
            raise FileError(path, f"line {number}: {key[:20]!r} is not a statement of OBJ")
        elif what := _LEFT_OUT[key]:
            note(f"{what} are left out")
    if not places:
        raise FileError(path, "has no points")
    points, of_points = _points(places)
    direction = np.full((len(points), 3), np.nan)
    ways = np.array(normals, np.float64).reshape(len(normals), 3)
    cells: dict[str, Any] = {}
    for key, rows in corners.items():
        cells[_CELLS[key]] = cells_of([
            _corners(words, there, len(points), direction, ways)
            for words, there in zip(rows, before[key], strict=True)
        ])  # fmt: skip
    if len(ways):
        if np.isnan(direction).any():
            note("normals are left out, since not every point has one")
        else:
            of_points.append(Attribute("Normals", direction, AttributeType.NORMALS))
    if not any(map(len, cells.values())):
        cells["vertices"] = np.arange(len(points))[:, np.newaxis]
    return PolyData(points, attributes=of_points, **cells), "\n".join(remarks)


def _points(places: list[list[str]]) -> tuple[Any, list[Attribute]]:
    """x, y, z, perhaps a weight; or x, y, z and a colour."""
    width = len(places[0])
    if width not in (3, 4, 6, 7):
        raise ValueError(f"a point has {width} numbers")
    table = np.array(places, np.float64)
    if width < 6:
        return table[:, :3], []
    shades = table[:, 3:]
    whole = shades.max() > 1  # some programs write 0 to 255
    values = colours(shades.astype(np.uint8) if whole else shades)
    return table[:, :3], [Attribute("Colors", values, AttributeType.RGBA)]


def _corners(
    words: list[str], there: tuple[int, int], count: int, direction: Any, ways: Any
) -> list[int]:
    """Points of a cell, of words "point", "point/texture" or "point/texture/normal".

    A number below 0 counts back from the last point that stands before the cell.
    """
    cell = []
    for word in words:
        point, *more = word.split("/")
        index = _index(int(point), there[0], count)
        cell.append(index)
        if len(more) == 2 and more[1]:
            way = ways[_index(int(more[1]), there[1], len(ways))]
            known = direction[index]
            if not np.isnan(known[0]) and not np.allclose(known, way, atol=1e-6):
                note("points have several normals, of which the last is kept")
            direction[index] = way
    return cell


def _index(number: int, before: int, count: int) -> int:
    index = number - 1 if number > 0 else before + number
    if number == 0 or not 0 <= index < count:
        raise ValueError(f"a cell uses number {number} of {count}")
    return index


def write(mesh: PolyData, path: Path, mark: str) -> None:
    """Write OBJ; the mark is a comment. Triangle strips become triangles."""
    columns, lost = columns_of(mesh, cells=False)
    marks.left_out([
        *(a for a in mesh.attributes if a.type & 0x10), *lost,
        *(a for a in mesh.attributes if a.name in columns or a.type == AttributeType.TEXTURE),
    ])  # fmt: skip
    table = np.asarray(mesh.points, np.float64)
    shades = [columns[name] / 255 for name in ("red", "green", "blue") if name in columns]
    if shades:
        table = np.column_stack([table, *shades])
    lines = [f"# {mark}"] + [f"v {' '.join(f'{x:.9g}' for x in row)}" for row in table.tolist()]
    form = "{0}"
    if "nx" in columns:
        ways = np.stack([columns[name] for name in ("nx", "ny", "nz")], 1)
        lines += [f"vn {' '.join(f'{x:.9g}' for x in row)}" for row in ways.tolist()]
        form = "{0}//{0}"
    only = PolyData(mesh.points, triangle_strips=mesh.triangle_strips)
    for key, cells, word in (
        ("p", mesh.vertices, "{0}"), ("l", mesh.lines, "{0}"), ("f", mesh.polygons, form),
        ("f", surface(only, path)[0], form),
    ):  # fmt: skip
        lines += [f"{key} {' '.join(word.format(int(n) + 1) for n in cell)}" for cell in cells]
    path.write_text("\n".join(lines) + "\n", "utf-8")
