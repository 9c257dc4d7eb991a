"""POINT and the markups of 3D Slicer: JSON (.mrk.json) and the older .fcsv.

Most say in which coordinates they are, LPS nowadays; POINT is in RAS, as Slicer reads it. As in
Slicer, a point of the group "Unselected" is not selected, and one whose colour has alpha 0 hidden.
The points of a line or a curve have its kind as their group.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl import _core
from igtl.codec.message import Message
from igtl.errors import FileError, IgtlError
from igtl.files.notes import note
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
_OLD_COLUMNS: Final = ("label", "x", "y", "z", "sel", "vis")  # of 3D Slicer 3
_COLOR: Final = (255, 255, 0)
_FIDUCIAL: Final = "Fiducial"
_UNSELECTED: Final = "Unselected"
_KINDS: Final = ("Line", "Angle", "Curve", "ClosedCurve")  # that consist of points alone


def _signs(path: Path, system: Any) -> Any:
    signs = _SIGNS.get(str(system).strip().upper())
    if signs is None:
        raise FileError(path, f"the coordinate system {system!r} is not RAS or LPS")
    return signs


def _point(
    name: str, position: Any, signs: Any, *, selected: bool, visible: bool, color: Any = _COLOR,
    kind: str = _FIDUCIAL,
) -> Point:  # fmt: skip
    label = _core.fit(name, 64)
    if label != name:
        note(f"the label {name[:80]!r} is cut to 64 bytes")
    return Point(
        label, kind if selected else _UNSELECTED, (*color, 255 if visible else 0),
        position=np.multiply(np.asarray(position, np.float64), signs),
    )  # fmt: skip


def _points(message: Message, path: Path) -> Any:
    if not isinstance(message, Points):
        raise FileError(path, f"a {message.type_name} is not a list of points")
    return message.points


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(path, f"is not text: {error}") from None


def load_markups(path: Path) -> Points:
    """Read .mrk.json: the control points of all its lists."""
    whole = json.loads(_text(path))
    found = []
    for markup in whole["markups"]:
        unit = markup.get("coordinateUnits", "mm")
        if (unit[0] if isinstance(unit, list) else unit) != "mm":
            raise FileError(path, f"is in {unit!r}, not in mm")
        signs = _signs(path, markup.get("coordinateSystem", "LPS"))
        kind = str(markup.get("type", _FIDUCIAL))
        if kind != _FIDUCIAL:
            note(f"the {kind} is taken as its points, of the group {kind!r}")
        shown = (markup.get("display") or {}).get("color") or np.divide(_COLOR, 255)
        color = np.rint(np.multiply(shown, 255)).astype(int)
        for p in markup.get("controlPoints") or []:
            if p.get("positionStatus", "defined") != "defined":
                note("points without a position are left out")
                continue
            if p.get("description"):
                note("descriptions are left out")
            found.append(_point(
                p.get("label", ""), p["position"], signs, color=color, kind=kind[:32],
                selected=p.get("selected", True), visible=p.get("visibility", True),
            ))  # fmt: skip
    return Points(found)


def save_markups(message: Message, path: Path) -> None:
    """Write .mrk.json.

    Fiducials go into one list, in the colour of the first, and each run of points of a line or
    curve becomes such a line or curve.
    """
    markups: list[tuple[str, list[Point]]] = []
    for p in _points(message, path):
        kind = p.group if p.group in _KINDS else _FIDUCIAL
        if p.group == _UNSELECTED and markups:
            kind = markups[-1][0]
        if not markups or markups[-1][0] != kind:
            markups.append((kind, []))
        markups[-1][1].append(p)
    _left_out(
        _points(message, path), (_FIDUCIAL, _UNSELECTED, *_KINDS),
        colors=any(_differ(members) for _, members in markups),
    )  # fmt: skip
    out = [_markup(kind, members) for kind, members in markups or [(_FIDUCIAL, [])]]
    path.write_text(json.dumps({"@schema": _SCHEMA, "markups": out}, indent=1) + "\n", "utf-8")


def _markup(kind: str, points: list[Point]) -> dict[str, Any]:
    color = points[0].color[:3] if points else np.array(_COLOR)
    controls = [
        {
            "id": str(n), "label": p.name, "description": "", "associatedNodeID": "",
            "position": np.multiply(p.position, _SIGNS["LPS"]).astype(float).tolist(),
            "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": p.group != _UNSELECTED, "locked": False,
            "visibility": bool(p.color[3]), "positionStatus": "defined",
        }
        for n, p in enumerate(points, 1)
    ]  # fmt: skip
    return {
        "type": kind, "coordinateSystem": "LPS", "coordinateUnits": "mm",
        "controlPoints": controls, "display": {"color": (color / 255).round(4).tolist()},
    }  # fmt: skip


def _left_out(points: Any, groups: tuple[str, ...], *, colors: bool) -> None:
    """Note what a format has no place for."""
    lost = []
    if any(p.group not in groups for p in points):
        lost.append("groups")
    if any(p.diameter for p in points):
        lost.append("diameters")
    if any(p.owner for p in points):
        lost.append("owners")
    if colors:
        lost.append("colours")
    if lost:
        note(f"this format has no place for {', '.join(lost)}")


def _differ(points: list[Point]) -> bool:
    """Return whether points have several colours."""
    return any((p.color[:3] != points[0].color[:3]).any() for p in points)


def load_fcsv(path: Path) -> Points:
    """Read .fcsv. Without a version it is a list of 3D Slicer 3: in RAS, with other columns."""
    system = columns = None
    versioned = False
    rows = []
    text = _text(path)
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            if line.strip():
                rows.append((number, next(csv.reader([line]))))
        elif key.strip() == "Markups fiducial file version":
            versioned = True
        elif key.strip() == "CoordinateSystem":
            system = value.strip()
        elif key.strip() == "columns":
            columns = tuple(name.strip() for name in value.split(","))
    if not versioned and system is not None:
        note(f"is in {system}, as it says, but 3D Slicer reads RAS, since it has no version")
    signs = _signs(path, system or ("LPS" if versioned else "RAS"))
    columns = columns or (_COLUMNS if versioned else _OLD_COLUMNS)
    if not {"x", "y", "z", "label"} <= set(columns):
        raise FileError(path, f"its columns are {', '.join(columns)}")
    if not rows and not text.startswith("#"):
        raise FileError(path, "is no .fcsv file")
    found = []
    for number, row in rows:
        cells = dict(zip(columns, row, strict=False))
        if cells.get("desc"):
            note("descriptions are left out")
        try:
            found.append(_point(
                cells.get("label", ""), [float(cells[axis]) for axis in "xyz"], signs,
                selected=cells.get("sel", "1") != "0", visible=cells.get("vis", "1") != "0",
            ))  # fmt: skip
        except (KeyError, ValueError, IgtlError) as error:
            raise FileError(path, f"line {number}: {type(error).__name__}: {error}") from None
    return Points(found)


def save_fcsv(message: Message, path: Path) -> None:
    """Write .fcsv, in LPS."""
    points = list(_points(message, path))
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    text.write(f"# columns = {','.join(_COLUMNS)}\n")
    rows = csv.writer(text, lineterminator="\n")
    for n, p in enumerate(points, 1):
        if "\n" in p.name or "\r" in p.name:
            raise FileError(path, f"the name {p.name!r} has two lines")
        x, y, z = (f"{v:.9g}" for v in np.multiply(p.position, _SIGNS["LPS"]).astype(float))
        visible, selected = int(p.color[3] != 0), int(p.group != _UNSELECTED)
        rows.writerow([n, x, y, z, 0, 0, 0, 1, visible, selected, 0, p.name, "", ""])
    usual = Point("", color=(*_COLOR, 255), position=(0, 0, 0))
    _left_out(points, (_FIDUCIAL, _UNSELECTED), colors=_differ([usual, *points]))
    path.write_text(text.getvalue(), "utf-8")
