"""Arrays, images and meshes as messages that 3D Slicer shows correctly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from igtl.codec.message import Message
from igtl.messages.general import String
from igtl.messages.geometry import Points, PolyData
from igtl.messages.imaging import Image
from igtl.peers.slicer.rules import UTF8, SlicerRefuses, check

Pixels = npt.NDArray[Any]


def pixels_of(values: npt.ArrayLike) -> Pixels:
    """Pixels of a type that Slicer reads.

    Integers of more than 16 bits become int16 or uint16 where all values fit, bool becomes uint8,
    float16 float32.

    Raises:
        SlicerRefuses: the values do not fit 16 bits.
    """
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind not in "iu" or array.dtype.itemsize <= 2:
        return array
    return _narrowed(array, (np.int16, np.uint16))


def labels_of(values: npt.ArrayLike) -> Pixels:
    """Labels in as few bits as they need: uint8, int16 or uint16.

    Raises:
        SlicerRefuses: they do not fit, or are not whole numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biu":
        raise SlicerRefuses(
            "Image", "array", f"labels are whole numbers, not {array.dtype}",
            "round and convert them to uint8 or int16",
        )  # fmt: skip
    return _narrowed(array, (np.uint8, np.int16, np.uint16))


def _narrowed(array: Pixels, kinds: tuple[Any, ...]) -> Pixels:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind, copy=False)
    raise SlicerRefuses(
        "Image", "array", f"3D Slicer reads no {array.dtype}, and the values {low} to {high} do "
        "not fit 16 bits", "convert them to float32",
    )  # fmt: skip


def adapted(message: Message) -> Message:
    """Return a message as Slicer takes it; the original stays as it is.

    32-bit integers become 16-bit ones, texts UTF-8; empty lists get metadata, so that Slicer clears
    its list.

    Raises:
        SlicerRefuses: Slicer cannot take it.
    """
    match message:
        case Image() if message.array.dtype.kind in "iu":
            pixels = pixels_of(message.array)
            if pixels is not message.array:
                message = copy.deepcopy(message)
                message.array = pixels
        case String() if message.encoding != UTF8:
            text = message.string
            message = copy.copy(message)
            message.encoding = UTF8
            message.string = text.encode() if isinstance(text, str) else text  # type: ignore[assignment]
        case Points() if not len(message.points) and not message.metadata:
            message = copy.copy(message)
            message.metadata = {"Status": "OK"}
    check(message)
    return message


def image_of(
    source: Any, ijk_to_world: npt.ArrayLike | None, spacing: tuple[float, float, float] | None
) -> Image:
    """Return an image from an array, an Image, or an image of SimpleITK or nibabel."""
    if isinstance(source, Image):
        return Image(
            pixels_of(source.array),
            ijk_to_world=source.ijk_to_world if ijk_to_world is None else ijk_to_world,
        )
    if hasattr(source, "GetDirection"):
        from igtl.files.images import from_sitk

        return image_of(from_sitk(source), ijk_to_world, spacing)
    if hasattr(source, "dataobj"):
        from igtl.files.nifti import from_nibabel

        return image_of(from_nibabel(source), ijk_to_world, spacing)
    pixels = pixels_of(source)
    if spacing is not None and ijk_to_world is None:
        return Image(pixels, spacing=spacing)
    return Image(pixels, ijk_to_world=np.eye(4) if ijk_to_world is None else ijk_to_world)


def mesh_of(source: Any) -> PolyData:
    """Return a mesh of a PolyData, of (points, polygons), or of another library.

    These are VTK, PyVista, meshio and trimesh.
    """
    if isinstance(source, PolyData):
        return PolyData(
            source.points, vertices=source.vertices, lines=source.lines,
            polygons=source.polygons, triangle_strips=source.triangle_strips,
            attributes=source.attributes,
        )  # fmt: skip
    if isinstance(source, tuple):
        points, polygons = source
        return PolyData(points, polygons=polygons)
    from igtl.files import meshes

    if hasattr(source, "GetPolys"):
        return meshes.from_vtk(source)
    if hasattr(source, "cells"):
        return meshes.from_meshio(source)
    return meshes.from_trimesh(source)
