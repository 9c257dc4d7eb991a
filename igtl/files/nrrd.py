"""IMAGE and the data and headers of pynrrd; NRRD files, also series of 3D Slicer and of PLUS.

Which axes of a file are in space follows from their directions and kinds. An axis of the kind
"list" or "time" counts images; any other axis counts components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from igtl.errors import EncodeError
from igtl.extras import need
from igtl.files.notes import note
from igtl.files.series import (
    PLUS,
    Matrix,
    Series,
    Voxels,
    flipped,
    frame_fields,
    keys_of,
    plus_keys,
    text_of,
    times_of,
)
from igtl.messages.imaging import Image

__all__ = ["from_nrrd", "to_nrrd"]

_SPACES: Final = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
}  # fmt: skip
_FRAMES: Final = ("list", "time")
_SPATIAL: Final = ("domain", "space")
_MM: Final = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "microns": 1e-3}
Header = dict[str, Any]


class _Axes(NamedTuple):
    """What the axes of a file are."""

    space: list[int]
    frames: list[int]
    components: list[int]
    columns: Matrix  # 3x3 of the axes in space


def to_nrrd(image: Image) -> tuple[Voxels, Header]:
    """Return data and header as pynrrd has them: axes (i, j, k), components first; LPS."""
    data, header = _made(Series.of(image))
    return data[..., 0], _without_last(header)


def from_nrrd(data: Voxels, header: Header, *, device_name: str = "") -> Image:
    """From what pynrrd reads, axes in the order of the file (its default).

    Raises:
        EncodeError: the data are a series, have other than two or three axes in space, or an
            unknown space.
    """
    series = _taken(data, header)
    if len(series.frames) != 1:
        raise EncodeError("Image", "array", f"{data.shape} is a series of {len(series.frames)}: "
                          "take one of its images")  # fmt: skip
    return Image.from_volume(
        series.frames[0], ijk_to_world=series.ijk_to_world, device_name=device_name
    )


def _taken(data: Voxels, header: Header) -> Series:
    name = str(header.get("space", "left-posterior-superior")).lower()
    timed = name.endswith(("-time", "rast", "lpst", "last"))
    name = name.removesuffix("-time")
    name = name[:3] if timed and len(name) == 4 else name
    if name not in _SPACES:
        raise EncodeError("Image", "matrix", f"the space {name!r} of NRRD is not known here")
    axes = _axes(data.ndim, header)
    if len(axes.space) not in (2, 3) or len(axes.frames) > 1 or len(axes.components) > 1:
        raise EncodeError(
            "Image", "array", f"{data.shape} with axes {header.get('kinds')}: two or three in "
            "space, one of images and one of components can be read",
        )  # fmt: skip
    count = data.shape[axes.frames[0]] if axes.frames else 1
    frames = np.transpose(data, [*axes.frames, *reversed(axes.space), *axes.components])
    if not axes.frames:
        frames = frames[np.newaxis]
    if len(axes.space) == 2:
        frames = frames[:, np.newaxis]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes.columns, _origin(data.shape, header, axes)
    fields = frame_fields(header, count)
    if PLUS not in header:  # whose images are in a frame of their own
        matrix[:3] *= np.array(_SPACES[name])[:, np.newaxis]
    matrix[:3] *= _unit(header)
    times = _times(header, axes.frames[0], count) if axes.frames else None
    return Series(frames, matrix, times, fields)


def _axes(dimension: int, header: Header) -> _Axes:
    kinds = [str(kind).lower() for kind in header.get("kinds") or [None] * dimension]
    rows = header.get("space directions")
    out = _Axes([], [], [], np.eye(3))
    for axis in range(dimension):
        row = None
        if rows is not None and rows[axis] is not None:
            row = np.asarray(rows[axis], np.float64).ravel()
            row = row if np.isfinite(row).all() and row.any() else None
        if row is not None and row.size == 4 and not row[:3].any():
            out.frames.append(axis)
        elif row is not None:
            if len(out.space) < 3:
                out.columns[:, len(out.space)] = [*row[:3], 0][:3]
            out.space.append(axis)
        elif kinds[axis] in _FRAMES:
            out.frames.append(axis)
        elif rows is not None or kinds[axis] not in (*_SPATIAL, "none", "???"):
            out.components.append(axis)
        else:
            n = len(out.space)
            out.space.append(axis)
            if n < 3 and (step := _step(header, axis)):
                out.columns[n, n] = step
    if len(out.space) == 2 and rows is not None:
        normal = np.cross(out.columns[:, 0], out.columns[:, 1])
        if length := np.linalg.norm(normal):
            out.columns[:, 2] = normal / length
    return out


def _step(header: Header, axis: int) -> float | None:
    """Return the spacing of an axis without a direction; None if the file does not say."""
    spacings, mins, maxs = (header.get(key) for key in ("spacings", "axis mins", "axis maxs"))
    step = float("nan")
    if spacings is not None:
        step = float(spacings[axis])
    elif mins is not None and maxs is not None:
        between = int(header["sizes"][axis]) - _nodes(header, axis)
        step = (float(maxs[axis]) - float(mins[axis])) / max(between, 1)
    return step if np.isfinite(step) and step else None


def _nodes(header: Header, axis: int) -> bool:
    """Return whether the samples of an axis lie at the ends of its range, not between."""
    given = str(header.get("centers") or header.get("centerings") or "").split()
    return axis < len(given) and given[axis].lower() == "node"


def _origin(shape: Any, header: Header, axes: _Axes) -> Any:
    origin = np.zeros(3)
    given = header.get("space origin")
    mins = header.get("axis mins")
    if given is not None:
        given = np.asarray(given, np.float64).ravel()[:3]
        if np.isfinite(given).all():
            origin[: len(given)] = given
    elif mins is not None and header.get("space directions") is None:
        for n, axis in enumerate(axes.space[:3]):
            step = _step(header, axis)
            if step and np.isfinite(mins[axis]):
                origin[n] = float(mins[axis]) + (0 if _nodes(header, axis) else step / 2)
    return origin


def _unit(header: Header) -> float:
    """Millimetres of one unit of the file."""
    units = {str(unit).strip().lower() for unit in header.get("space units") or []}
    known = [_MM[unit] for unit in units if unit in _MM]
    return known[0] if len(known) == 1 else 1.0


def _times(header: Header, axis: int, count: int) -> list[float] | None:
    """As 3D Slicer writes them: "axis 3 index values", in the unit of the axis."""
    given = str(header.get(f"axis {axis} index values", "")).split()
    try:
        values = [float(value) for value in given]
    except ValueError:
        return None
    units = header.get("units") or []
    unit = {"ms": 1e-3, "us": 1e-6}.get(str(units[axis]) if axis < len(units) else "", 1.0)
    return [unit * value for value in values] if len(values) == count else None


def _made(series: Series, *, plus: bool = False) -> tuple[Voxels, Header]:
    matrix = series.ijk_to_world if plus else flipped(series.ijk_to_world)
    frames = series.frames
    data = frames.transpose(3, 2, 1, 0) if frames.ndim == 4 else frames.transpose(4, 3, 2, 1, 0)
    none = [np.nan] * 3
    directions = [*(row.tolist() for row in matrix[:3, :3].T), none]
    kinds = ["domain"] * 3 + ["list"]
    if frames.ndim == 5:
        directions.insert(0, none)
        kinds.insert(0, {3: "RGB-color", 4: "RGBA-color"}.get(series.components, "vector")
                     if frames.dtype == np.uint8 else "vector")  # fmt: skip
    header: Header = {
        "space": "right-anterior-superior" if plus else "left-posterior-superior",
        "space directions": np.array(directions),
        "space origin": matrix[:3, 3],
        "kinds": kinds,
    }
    axis = data.ndim - 1
    times = times_of(series)
    if times is not None:
        header["labels"] = [""] * axis + ["time"]
        header["units"] = [""] * axis + ["s"]
        header[f"axis {axis} index type"] = "numeric"
        header[f"axis {axis} index values"] = text_of(times)
    if plus:
        header |= plus_keys(series)
    return data, header | keys_of(series.fields)


def _without_last(header: Header) -> Header:
    return header | {
        "space directions": header["space directions"][:-1], "kinds": header["kinds"][:-1]
    }  # fmt: skip


def read(path: Path) -> Series:
    """Read a file with pynrrd."""
    data, header = need("nrrd", "imaging").read(str(path))
    series = _taken(data, header)
    if "space" not in header and series.frames.shape[1] > 1:
        note(
            "it names no space and is taken for LPS, as by ITK; 3D Slicer centres it at the origin"
        )
    return series


def write(series: Series, path: Path) -> None:
    """Write a file with pynrrd.

    One image is written as 3D Slicer and ITK have it, several as a list of images, as 3D Slicer
    (.seq.nrrd) and PLUS (.igs.nrrd) have them.
    """
    plus = path.name.lower().endswith((".igs.nrrd", ".igs.nhdr"))
    data, header = _made(series, plus=plus)
    for key, value in list(header.items()):
        if not f"{key}{value}".isascii():
            note(f"{key.split('_', 2)[-1]!r} is left out: the headers of this format are ASCII")
            del header[key]
    nrrd = need("nrrd", "imaging")
    if len(series.frames) > 1:
        _write_each(nrrd, series.frames, path, data[..., :1], header)
        return
    if not series.fields and series.times is None:
        data, header = data[..., 0], _without_last(header)
    nrrd.write(str(path), data, header)


def _write_each(nrrd: Any, frames: Voxels, path: Path, first: Voxels, header: Header) -> None:
    """Write a file with the first image by pynrrd, correct its number of images, append the others.

    pynrrd copies all that it writes.
    """
    nrrd.write(str(path), first, header | {"encoding": "raw"})
    head, _, _ = path.read_bytes().partition(b"\n\n")
    lines = head.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(b"sizes: "))
    lines[at] = b"%s %d" % (lines[at].rpartition(b" ")[0], len(frames))
    detached = path.suffix.lower() == ".nhdr"
    with path.open("wb") as file:
        file.write(b"\n".join(lines) + b"\n\n")
        if not detached:
            _write_frames(frames, file)
    if detached:
        with path.with_suffix(".raw").open("wb") as file:
            _write_frames(frames, file)


def _write_frames(frames: Voxels, file: BinaryIO) -> None:
    for frame in frames:
        file.write(np.ascontiguousarray(frame).data)
