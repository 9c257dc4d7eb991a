"""MetaImage (.mha, .mhd): images, and series of PLUS and of 3D Slicer."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.errors import FileError
from igtl.files import images
from igtl.files.series import (
    PLUS,
    Series,
    Voxels,
    flipped,
    frame_fields,
    joined,
    keys_of,
    plus_keys,
    squared,
    text_of,
    times_of,
)

_TYPES: Final = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES: Final = {kind: name for name, kind in reversed(_TYPES.items())}
_DENSEST: Final = 1032  # most bytes that one byte of compressed pixels decodes to
_LONGEST: Final = 1 << 28  # bytes of a header: 0.1 million images with 30 fields each
Header = dict[str, str]


def read(path: Path) -> Series:
    """Read a file without ITK, whose library crashes on some damaged headers.

    SimpleITK reads only numbers in text and pixels in several files.
    """
    header, start = _header(path)
    place = header["ElementDataFile"]
    if (
        _is_true(header, "BinaryData", "True")
        and "%" not in place
        and place.split()[:1] != ["LIST"]
    ):
        return _series(path, header, start)
    return images.read(path)


def _is_true(header: Header, key: str, default: str = "False") -> bool:
    return header.get(key, default).lower() in ("true", "1")


def _header(path: Path) -> tuple[Header, int]:
    """Return the header, and the offset of the data."""
    found: Header = {}
    with path.open("rb") as file:
        while (at := file.tell()) < _LONGEST and (line := file.readline(1 << 20)):
            key, sign, value = line.decode("utf-8", "replace").partition("=")
            if not sign:
                if line.strip():
                    break
                continue
            found[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                return found, file.tell()
    raise FileError(
        path, f"is not a MetaImage: its header ends after {at} bytes without ElementDataFile"
    )


def _series(path: Path, header: Header, start: int) -> Series:
    sizes = [int(word) for word in header.get("DimSize", "").split()]
    dimension = len(sizes)
    if dimension not in (2, 3, 4) or int(header.get("NDims", dimension)) != dimension:
        raise FileError(path, f"has the sizes {sizes}, two to four can be read")
    told = header.get("Kinds", "").split()
    kinds = told or [header.get(f"NRRD_kinds[{n}]", "domain") for n in range(dimension)]
    # a volume that PLUS has reconstructed has fields of a frame, and says that it is no list
    framed = not told and any(key.startswith("Seq_Frame") for key in header)
    several = dimension == 4 or "list" in kinds or framed
    if "list" in kinds[:-1] or (several and dimension == 2):
        raise FileError(path, f"its axes {' '.join(kinds)} are not those of images one by one")
    channels = int(header.get("ElementNumberOfChannels", 1))
    count = sizes[-1] if several else 1
    space = dimension - several  # axes of an image
    ones = [1] * (3 - space)
    voxels = _pixels(path, header, [count, *ones, *reversed(sizes[:space]), channels], start)
    values = header.get(f"axis {space} index values", "").split()
    try:
        times = [float(value) for value in values] if several and len(values) == count else None
    except ValueError:
        times = None
    matrix = _matrix(header, dimension, space)
    return Series(
        voxels[..., 0] if channels == 1 else voxels, matrix if PLUS in header else flipped(matrix),
        times, frame_fields(header, count),
    )  # fmt: skip


def _matrix(header: Header, dimension: int, axes: int) -> Any:
    """Of the axes in space."""

    def numbers(*keys: str) -> list[float]:
        return [float(word) for key in keys if key in header for word in header[key].split()]

    turn = numbers("TransformMatrix") or numbers("Rotation") or numbers("Orientation")
    offset = numbers("Offset") or numbers("Position") or numbers("Origin")
    spacing = numbers("ElementSpacing") or numbers("ElementSize")
    directions, step, origin = np.eye(3), np.ones(3), np.zeros(3)
    if len(turn) == dimension**2:
        directions[:axes, :axes] = np.reshape(turn, (dimension, dimension))[:axes, :axes].T
    step[: min(axes, len(spacing))] = spacing[:axes]
    origin[: min(axes, len(offset))] = offset[:axes]
    return joined(directions, step, origin)


def _pixels(path: Path, header: Header, sizes: list[int], start: int) -> Voxels:
    kind = _TYPES.get(header.get("ElementType", "").removesuffix("_ARRAY"))
    if kind is None and 0 in sizes:  # PLUS writes MET_OTHER where there are transforms only
        kind = "u1"
    if kind is None:
        raise FileError(path, f"its pixels are {header.get('ElementType')!r}")
    wanted = int(np.prod(sizes, dtype=object)) * int(kind[1])
    place = header["ElementDataFile"]
    source = path if place == "LOCAL" else path.parent / place
    packed = _is_true(header, "CompressedData")
    size = source.stat().st_size
    if min(sizes) < 0 or wanted > size * (_DENSEST if packed else 1):
        raise FileError(path, f"is cut: {wanted} bytes of pixels announced, the file has {size}")
    skip = start if place == "LOCAL" else int(header.get("HeaderSize", 0))
    with source.open("rb") as file:
        file.seek(skip if skip >= 0 else size - wanted)
        data = zlib.decompressobj().decompress(file.read(), wanted) if packed else file.read(wanted)
    if len(data) < wanted:
        raise FileError(path, f"is cut: {wanted} bytes of pixels announced, {len(data)} are there")
    big = _is_true(header, "BinaryDataByteOrderMSB") or _is_true(header, "ElementByteOrderMSB")
    array = np.frombuffer(data, np.dtype((">" if big else "<") + kind)).reshape(sizes)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def write(series: Series, path: Path) -> None:
    """Write one image with SimpleITK; several, or one with fields, as PLUS or 3D Slicer does.

    A file .igs.mha is for PLUS, .seq.mha for 3D Slicer.
    """
    if len(series.frames) == 1 and not series.fields and series.times is None:
        images.write(series, path)
        return
    plus = path.name.lower().endswith((".igs.mha", ".igs.mhd"))
    directions, spacing, origin = squared(
        series.ijk_to_world if plus else flipped(series.ijk_to_world)
    )
    frames = series.frames
    count, *size = frames.shape[:4]
    straight = np.allclose(directions, np.eye(3), atol=1e-6) and not origin.any()
    axes = 2 if plus and size[0] == 1 and straight else 3  # PLUS has pictures as such
    turn = np.eye(axes + 1)
    turn[:axes, :axes] = directions.T[:axes, :axes]
    kinds = ["domain"] * axes + ["list"]
    header: dict[str, Any] = {
        "ObjectType": "Image", "NDims": axes + 1, "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
        "TransformMatrix": " ".join(f"{x:.9g}" for x in turn.ravel()),
        "Offset": " ".join(f"{x:.9g}" for x in (*origin[:axes], 0)),
        "ElementSpacing": " ".join(f"{x:.9g}" for x in (*spacing[:axes], 1)),
        "DimSize": " ".join(str(n) for n in (*reversed(size[-axes:]), count)),
    }  # fmt: skip
    if frames.ndim == 5:
        header["ElementNumberOfChannels"] = frames.shape[4]
    header["ElementType"] = _NAMES[frames.dtype.str[1:]]
    if plus:
        header |= plus_keys(series) | {"Kinds": " ".join(kinds)}
    else:
        header |= {f"NRRD_kinds[{n}]": kind for n, kind in enumerate(kinds)}
    times = times_of(series)
    if times is not None and not plus:
        header |= {f"NRRD_labels[{axes}]": "time", f"NRRD_units[{axes}]": "s",
                   f"axis {axes} index type": "numeric",
                   f"axis {axes} index values": text_of(times)}  # fmt: skip
    header |= keys_of(series.fields)
    data = np.ascontiguousarray(frames, frames.dtype.newbyteorder("<"))
    raw = path.with_suffix(".raw").name if path.suffix.lower() == ".mhd" else "LOCAL"
    header["ElementDataFile"] = raw
    text = "".join(f"{key} = {value}\n" for key, value in header.items())
    with path.open("wb") as file:
        file.write(text.encode())
        if raw == "LOCAL":
            file.write(data.data)
    if raw != "LOCAL":
        path.with_name(raw).write_bytes(data.data)
