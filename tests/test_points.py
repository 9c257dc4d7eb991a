"""POINT and Slicer's fiducials; COLORT and the colours of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import Point, Points
from igtl.files import colors

SLICER_JSON = """{
 "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#",
 "markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm",
  "controlPoints": [
   {"id": "1", "label": "Nasion", "position": [-10.5, 20.25, 30.0], "selected": true, "visibility": true, "positionStatus": "defined"},
   {"id": "2", "label": "Inion", "position": [1.0, -2.0, 3.0], "selected": false, "visibility": false, "positionStatus": "defined"},
   {"id": "3", "label": "later", "positionStatus": "undefined"}],
  "display": {"color": [1.0, 0.5, 0.0]}}]}"""

SLICER_FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {system}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
vtkMRMLMarkupsFiducialNode_0,-10.5,20.25,30,0,0,0,1,1,1,0,"Nasion, front",,
vtkMRMLMarkupsFiducialNode_1,1,-2,3,0,0,0,1,0,0,0,Inion,,
"""


def loaded(path: Path) -> Points:
    m = igtl.files.load(path)
    assert isinstance(m, Points)
    return m


def some() -> Points:
    return Points([
        Point("Nasion", color=(255, 128, 0, 255), position=(10.5, -20.25, 30)),
        Point("Ohr, links", "Unselected", color=(255, 128, 0, 0), position=(-1, 2, 3)),
    ])  # fmt: skip


def saved(points: igtl.Message, path: Path) -> None:
    if path.suffix == ".fcsv":
        with pytest.warns(igtl.FileWarning, match="no place for colours"):
            igtl.files.save(points, path)
    else:
        igtl.files.save(points, path)


def test_markups_of_slicer(tmp_path: Path) -> None:
    path = tmp_path / "F.mrk.json"
    path.write_text(SLICER_JSON)
    with pytest.warns(igtl.FileWarning, match="points without a position are left out"):
        points = loaded(path)
    assert points.device_name == "F"
    assert points.points.names == ["Nasion", "Inion"]
    np.testing.assert_allclose(points.points.positions, [[10.5, -20.25, 30], [-1, 2, 3]])
    assert points.points[0].color.tolist() == [255, 128, 0, 255]
    assert (points.points[1].group, points.points[1].color[3]) == ("Unselected", 0)


@pytest.mark.parametrize(("system", "sign"), [("LPS", -1), ("RAS", 1), ("0", 1), ("1", -1)])
def test_fcsv_of_slicer(tmp_path: Path, system: str, sign: int) -> None:
    path = tmp_path / "F.fcsv"
    path.write_text(SLICER_FCSV.format(system=system))
    points = loaded(path)
    assert points.points.names == ["Nasion, front", "Inion"]
    np.testing.assert_allclose(points.points.positions[0], [sign * -10.5, sign * 20.25, 30])
    assert (points.points[1].group, points.points[1].color[3]) == ("Unselected", 0)


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_there_and_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points{suffix}"
    received = igtl.unpack(some().pack())
    saved(received, path)
    points = loaded(path)
    assert points.points.names == some().points.names
    np.testing.assert_array_equal(points.points.positions, some().points.positions)
    assert [p.group for p in points.points] == ["Fiducial", "Unselected"]
    assert [p.color[3] for p in points.points] == [255, 0]
    if suffix == ".mrk.json":
        (markup,) = json.loads(path.read_text())["markups"]
        assert markup["coordinateSystem"] == "LPS"
        assert markup["controlPoints"][0]["position"] == [-10.5, 20.25, 30.0]
        assert markup["display"]["color"] == [1.0, 0.502, 0.0]


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_damaged_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points{suffix}"
    saved(some(), path)
    whole = path.read_bytes()
    for content in (b"", b"\xff\xfe\x80", b"<html>", b"[]", b'{"markups": 3}',
                    whole[: len(whole) - 30] if suffix == ".mrk.json" else whole[: len(whole) // 2],
                    whole.replace(b"LPS", b"IJK"), whole.replace(b"20.25", b"here")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(igtl.FileError) as caught:
            igtl.files.load(path)
        assert caught.value.path == path
    with pytest.raises(igtl.FileError, match="not a list of points"):
        igtl.files.save(igtl.Status.ok(), path)
    inches = SLICER_JSON.replace('"mm"', '"inch"')
    (tmp_path / "F.mrk.json").write_text(inches)
    with pytest.raises(igtl.FileError, match="not in mm"):
        igtl.files.load(tmp_path / "F.mrk.json")


@pytest.mark.parametrize("head", [
    "# Fiducial List file a.fcsv\n# version = 2\n# numPoints = 2\n# columns = label,x,y,z,sel,vis\n",
    "# Fiducial List file a.fcsv\n",
    "",
])  # fmt: skip
def test_lists_of_slicer_3(tmp_path: Path, head: str) -> None:
    """Without the line of a version they are in RAS, and their columns are others."""
    path = tmp_path / "a.fcsv"
    rows = "F-1,10,20,30,1,1\nF-2,40,50,60,0,1\nF-3,1,2,3,1,0\n"
    path.write_text(head + rows)
    points = loaded(path).points
    assert points.names == ["F-1", "F-2", "F-3"]
    np.testing.assert_array_equal(points.positions, [[10, 20, 30], [40, 50, 60], [1, 2, 3]])
    assert [p.group for p in points] == ["Fiducial", "Unselected", "Fiducial"]
    assert [p.color[3] for p in points] == [255, 255, 0]
    path.write_text(f"{head}# CoordinateSystem = LPS\n{rows}")
    with pytest.warns(igtl.FileWarning, match="is in LPS, as it says, but 3D Slicer reads RAS"):
        assert loaded(path).points[0].position.tolist() == [-10, -20, 30]


def test_curves_and_long_labels(tmp_path: Path) -> None:
    """The kind of a markup is the group of its points, and comes back; labels are cut to fit."""
    path = tmp_path / "a.mrk.json"
    whole = json.loads(SLICER_JSON)
    (markup,) = whole["markups"]
    markup["controlPoints"] = markup["controlPoints"][:2]
    markup["controlPoints"][0]["label"] = "ü" * 40
    whole["markups"] = [markup, markup | {"type": "ClosedCurve"}, markup | {"type": "ROI"}]
    path.write_text(json.dumps(whole))
    with pytest.warns(igtl.FileWarning) as told:
        points = loaded(path)
    assert len(told) == 1
    for text in (
        "is cut to 64 bytes",
        "the ClosedCurve is taken as its points",
        "the ROI is taken",
    ):
        assert text in str(told[0].message)
    assert points.points.names[0] == "ü" * 32
    assert [p.group for p in points.points] == [
        "Fiducial", "Unselected", "ClosedCurve", "Unselected", "ROI", "Unselected"
    ]  # fmt: skip
    with pytest.warns(igtl.FileWarning, match="no place for groups"):  # a ROI is not its points
        igtl.files.save(igtl.unpack(points.pack()), path)
    kinds = [(m["type"], len(m["controlPoints"])) for m in json.loads(path.read_text())["markups"]]
    assert kinds == [("Fiducial", 2), ("ClosedCurve", 2), ("Fiducial", 2)]


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_what_has_no_place(tmp_path: Path, suffix: str) -> None:
    points = Points([Point("A", "Landmark", diameter=3, owner="CT", position=(1, 2, 3))])
    with pytest.warns(igtl.FileWarning, match="no place for groups, diameters, owners$"):
        igtl.files.save(points, tmp_path / f"a{suffix}")


# ---- colours ----------------------------------------------------------------------------------


def test_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    table = igtl.unpack(colors.from_matplotlib("viridis", device_name="CT").pack())
    assert isinstance(table, igtl.ColorTable)
    assert table.device_name == "CT"
    viridis = matplotlib.colormaps["viridis"]
    np.testing.assert_array_equal(table.table, viridis(np.arange(256), bytes=True)[:, :3])
    back = colors.to_matplotlib(table)
    np.testing.assert_array_equal(back(np.arange(256), bytes=True)[:, :3], table.table)
    few = colors.from_matplotlib("tab10").table  # one colour a label
    np.testing.assert_array_equal(
        few[:10], matplotlib.colormaps["tab10"](np.arange(10), bytes=True)[:, :3]
    )


def test_pil() -> None:
    pil = pytest.importorskip("PIL.Image", reason="PIL is not installed")
    picture = pil.new("P", (4, 4))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    table = igtl.unpack(colors.from_pil(picture, device_name="L").pack())
    assert isinstance(table, igtl.ColorTable)
    assert table.table[:2].tolist() == [[10, 20, 30], [40, 50, 60]]
    other = pil.new("P", (1, 1), 1)
    other.putpalette(colors.to_pil(table))
    assert other.convert("RGB").getpixel((0, 0)) == (40, 50, 60)
    grey = igtl.ColorTable(np.arange(256, dtype=np.uint8))
    assert colors.to_pil(grey)[:6] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(igtl.EncodeError, match="no palette"):
        colors.from_pil(pil.new("RGB", (1, 1)))


def test_label_maps() -> None:
    labels: Any = np.zeros((2, 3, 4), np.uint8)
    labels[0], labels[1, 0] = 1, 7
    image = igtl.Image(labels, device_name="Seg")
    rgb = np.zeros((256, 3), np.uint8)
    rgb[7] = 1, 2, 3
    meta = colors.label_meta(image, {1: "Liver", 7: "Vessel"}, igtl.ColorTable(rgb))
    m = igtl.unpack(meta.pack())
    assert isinstance(m, igtl.LabelMeta)
    assert [(x.name, x.label, x.device_name) for x in m.labels] == [
        ("Liver", 1, "Seg"), ("Vessel", 7, "Seg")
    ]  # fmt: skip
    assert m.labels[1].color.tolist() == [1, 2, 3, 255]
    assert m.labels[0].size.tolist() == [4, 3, 2]
    with pytest.raises(igtl.EncodeError, match="label 7 of the image has no name"):
        colors.label_meta(image, {1: "Liver"})
    with pytest.raises(igtl.EncodeError, match="label 300"):
        colors.label_meta(image, {1: "Liver", 7: "Vessel", 300: "x"})
