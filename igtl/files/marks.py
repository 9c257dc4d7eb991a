"""In which coordinates the mesh of a file is: the mark SPACE=RAS or SPACE=LPS.

igtl holds meshes in RAS, as 3D Slicer shows what it receives. Files hold them in LPS unless they
say otherwise, as 3D Slicer has read and written them since version 4.11. Each format has a place
for the mark: the header of STL, a comment of PLY, OBJ and OFF, the title or the field data of VTK.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from igtl.codec.message import Message
from igtl.errors import FileError
from igtl.files.blame import blamed
from igtl.files.notes import note
from igtl.messages.geometry import Attribute, AttributeType, PolyData
from igtl.messages.imaging import Space

UNMARKED: Final[Space] = "LPS"
_SIGNS: Final = np.array([-1, -1, 1], np.float32)  # RAS <-> LPS
_OF_CELLS: Final = 0x10


class MeshFormat(NamedTuple):
    """How the meshes of one format are read and written, in the coordinates of the file."""

    read: Callable[[Path], tuple[PolyData, str]]
    """Gives the mesh, and the text of the file in which a mark may be."""
    write: Callable[[PolyData, Path, str], None]
    """Takes the text of the mark, which the file keeps where `read` finds it."""


def marked(text: str) -> Space | None:
    """Return the coordinates that a text names; None if it names none."""
    if "SPACE=RAS" in text:
        return "RAS"
    return "LPS" if "SPACE=LPS" in text else None


def turned(mesh: PolyData, before: Space, after: Space) -> PolyData:
    """Return the mesh in other coordinates; cells are shared.

    Points, vectors, normals and tensors are turned by half a turn about the third axis.
    """
    if before == after:
        return mesh
    out = copy.copy(mesh)
    out.points = mesh.points * _SIGNS + np.float32(0)  # no -0
    out.attributes = [_turned(attribute) for attribute in mesh.attributes]
    return out


def _turned(attribute: Attribute) -> Attribute:
    kind = attribute.type & ~_OF_CELLS
    if kind in (AttributeType.VECTORS, AttributeType.NORMALS) and attribute.components == 3:
        signs = _SIGNS
    elif kind == AttributeType.TENSORS and attribute.components == 9:
        signs = np.outer(_SIGNS, _SIGNS).ravel()
    else:
        return attribute
    return Attribute(
        attribute.name, attribute.values * signs, attribute.type, padded=attribute.padded
    )


def load(path: Path, of: MeshFormat, space: Space | None) -> PolyData:
    """Read a mesh and turn it to RAS.

    Args:
        path: of the file.
        of: its format.
        space: the coordinates of a file without a mark; default LPS.

    Raises:
        FileError: the file is damaged.
    """
    with blamed(path):
        mesh, text = of.read(path)
    for cells in (mesh.vertices, mesh.lines, mesh.polygons, mesh.triangle_strips):
        if cells.connectivity.max(initial=0) >= max(len(mesh.points), 1):
            raise FileError(path, f"a cell uses point {cells.connectivity.max()}, there are "
                            f"{len(mesh.points)}")  # fmt: skip
    return turned(mesh, marked(text) or space or UNMARKED, "RAS")


def save(message: Message, path: Path, of: MeshFormat, space: Space | None) -> None:
    """Write a mesh, turned and marked.

    Args:
        message: the mesh.
        path: of the file.
        of: its format.
        space: the coordinates that the file gets; default LPS.

    Raises:
        FileError: the message is not a mesh, or the format cannot hold it.
    """
    if not isinstance(message, PolyData):
        raise FileError(path, f"a {message.type_name} is not a mesh")
    space = space or UNMARKED
    with blamed(path):
        of.write(turned(message, "RAS", space), path, f"igtl SPACE={space}")


def left_out(attributes: list[Attribute]) -> None:
    """Note that a format has no place for these attributes."""
    if attributes:
        note(f"this format has no place for {', '.join(repr(a.name) for a in attributes)}")
