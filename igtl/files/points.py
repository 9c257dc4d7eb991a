"""POINT and the fiducials of 3D Slicer: markups JSON (.mrk.json) and the older .fcsv.

Both say in which coordinates they are, LPS nowadays; POINT is in RAS, as Slicer reads it. As in
Slicer, a point of the group "Unselected" is not selected, and one whose colour has alpha 0 hidden.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import FileError, IgtlError
from igtl.message import Message
from igtl.messages.geometry import Point, Points

_SCHEMA: Final = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
_SIGNS: Final = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1), "0": (1, 1, 1), "1": (-1, -1, 1)}
_COLUMNS: Final = (
    "id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc",
    "associatedNodeID",
)  # fmt: skip
_COLOR: Final = (255, 255, 0)


def _signs(path: Path, system: Any) -> Any:
    signs = _SIGNS.get(str(system).strip().upper())
    if signs is None:
        raise FileError(path, f"the coordinate system {system!r} is not RAS or LPS")
    return signs


def _point(
    name: str, position: Any, signs: Any, *, selected: bool, visible: bool, color: Any = _COLOR
) -> Point:
    return Point(
        name, "Fiducial" if selected else "Unselected", (*color, 255 if visible else 0),
        position=np.multiply(np.asarray(position, np.float64), signs),
    )  # fmt: skip


def _points(message: Message, path: Path) -> Points:
    if not isinstance(message, Points):
        raise FileError(path, f"a {message.type_name} is no list of points")
    return message


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(path, f"is no text: {error}") from None


def load_markups(path: Path) -> Points:
    """Of .mrk.json: the control points of all its lists; those without a position are left out.
    See `igtl.files.load`."""
    try:
        whole = json.loads(_text(path))
        found = []
        for markup in whole["markups"]:
            unit = markup.get("coordinateUnits", "mm")
            if (unit[0] if isinstance(unit, list) else unit) != "mm":
                raise FileError(path, f"is in {unit!r}, not in mm")
            signs = _signs(path, markup.get("coordinateSystem", "LPS"))
            shown = markup.get("display", {}).get("color", np.divide(_COLOR, 255))
            color = np.rint(np.multiply(shown, 255)).astype(int)
            found += [
                _point(
                    p.get("label", ""), p["position"], signs, color=color,
                    selected=p.get("selected", True), visible=p.get("visibility", True),
                )
                for p in markup.get("controlPoints", [])
                if p.get("positionStatus", "defined") == "defined"
            ]  # fmt: skip
        return Points(found)
    except FileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IgtlError) as error:
        raise FileError(path, f"is no markups file: {type(error).__name__}: {error}") from None


def save_markups(message: Message, path: Path) -> None:
    """As .mrk.json, one list of fiducials in the colour of the first; see `igtl.files.save`."""
    points = _points(message, path).points
    color = points[0].color[:3] if len(points) else np.array(_COLOR)
    controls = [
        {
            "id": str(n), "label": p.name, "description": "", "associatedNodeID": "",
            "position": np.multiply(p.position, _SIGNS["LPS"]).astype(float).tolist(),
            "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": p.group != "Unselected", "locked": False,
            "visibility": bool(p.color[3]), "positionStatus": "defined",
        }
        for n, p in enumerate(points, 1)
    ]  # fmt: skip
    markup = {
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm",
        "controlPoints": controls, "display": {"color": (color / 255).round(4).tolist()},
    }  # fmt: skip
    path.write_text(json.dumps({"@schema": _SCHEMA, "markups": [markup]}, indent=1) + "\n", "utf-8")


def load_fcsv(path: Path) -> Points:
    """Of .fcsv; see `igtl.files.load`."""
    system = "LPS"
    columns: tuple[str, ...] = _COLUMNS
    rows = []
    text = _text(path)
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            if line.strip():
                rows.append((number, next(csv.reader([line]))))
        elif key.strip() == "CoordinateSystem":
            system = value.strip()
        elif key.strip() == "columns":
            columns = tuple(name.strip() for name in value.split(","))
    signs = _signs(path, system)
    found = []
    for number, row in rows:
        cells = dict(zip(columns, row, strict=False))
        try:
            found.append(_point(
                cells.get("label", ""), [float(cells[axis]) for axis in "xyz"], signs,
                selected=cells.get("sel", "1") != "0", visible=cells.get("vis", "1") != "0",
            ))  # fmt: skip
        except (KeyError, ValueError, IgtlError) as error:
            raise FileError(path, f"line {number}: {type(error).__name__}: {error}") from None
    if not {"x", "y", "z", "label"} <= set(columns):
        raise FileError(path, f"its columns are {', '.join(columns)}")
    if not rows and not text.startswith("#"):
        raise FileError(path, "is no .fcsv file")
    return Points(found)


def save_fcsv(message: Message, path: Path) -> None:
    """As .fcsv, in LPS; see `igtl.files.save`."""
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    text.write(f"# columns = {','.join(_COLUMNS)}\n")
    rows = csv.writer(text, lineterminator="\n")
    for n, p in enumerate(_points(message, path).points, 1):
        if "\n" in p.name or "\r" in p.name:
            raise FileError(path, f"the name {p.name!r} has two lines")
        x, y, z = (f"{v:.9g}" for v in np.multiply(p.position, _SIGNS["LPS"]).astype(float))
        visible, selected = int(p.color[3] != 0), int(p.group != "Unselected")
        rows.writerow([n, x, y, z, 0, 0, 0, 1, visible, selected, 0, p.name, "", ""])
    path.write_text(text.getvalue(), "utf-8")
