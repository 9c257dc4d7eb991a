"""What must not be sent to 3D Slicer, and what to send instead.

Measured on its network code (OpenIGTLinkIO) and on the connector node of its extension, headless:
what crashes Slicer, what it ignores silently, what it shows wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from igtl.codec.message import Message, NoData
from igtl.codec.metadata import LARGEST
from igtl.errors import EncodeError
from igtl.messages.general import Command, CommandReply, Status, String
from igtl.messages.geometry import Points, PolyData
from igtl.messages.imaging import Image, ScalarType, Video
from igtl.messages.queries import Get, Start, Stop
from igtl.messages.tracking import TrackingData

HANDLED: Final = frozenset(
    ("IMAGE", "VIDEO", "STATUS", "TRANSFORM", "POLYDATA", "STRING", "POINT", "IMGMETA", "LBMETA",
     "TDATA", "COMMAND", "RTS_COMMAND")
)  # fmt: skip
"""Types of messages that Slicer takes."""
_ANSWERS: Final = ("RTS_COMMAND", "RTS_TDATA")
_HARMLESS: Final = "VIDEO"  # the one handled type whose prefixed forms do not crash Slicer
_LARGEST: Final = (1 << 31) - 1  # bytes of a body: its length is read into an int
_TOOL_NAME: Final = 19  # bytes; a name that fills all 20 arrives empty
UTF8: Final = 3  # UTF-8 in VTK's list, whose number the field holds
_OF_CELLS: Final = 0x10  # in the type of an attribute
_INSTEAD: Final = {
    "POSITION": "send a TRANSFORM", "QTRANS": "send a TRANSFORM", "QTDATA": "send TDATA",
    "NDARRAY": "send an IMAGE, or a STRING", "SENSOR": "send a STRING",
    "BIND": "send the messages one by one", "TRAJ": "send POINT, or lines in POLYDATA",
    "COLORT": "choose a colour table in Slicer",
}  # fmt: skip

Refusal = tuple[str, str, str]
"""Field, reason, remedy."""


class SlicerRefuses(EncodeError):
    """3D Slicer crashes on this message, ignores it, or shows it wrongly.

    Attributes:
        type_name: class of the message.
        field: the field at fault.
        reason: what Slicer does with it.
        remedy: what to send instead.
    """

    def __init__(self, type_name: str, field: str, reason: str, remedy: str) -> None:
        super().__init__(type_name, field, f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> Any:
        return type(self), (self.type_name, self.field, self.reason, self.remedy)


def check(message: Message) -> None:
    """Raise if 3D Slicer cannot take a message as it is meant.

    Raises:
        SlicerRefuses: Slicer crashes on the message, ignores it or shows it wrongly; the text has
            the reason and the remedy.
    """
    for field, reason, remedy in _refusals(message):
        raise SlicerRefuses(type(message).__name__, field, reason, remedy)


def _refusals(m: Message) -> Iterator[Refusal]:
    yield from _of_type(m)
    if not m.device_name and not isinstance(m, Command | CommandReply):
        what = "crashes on it where only known nodes are updated" if isinstance(m, Status) else (
            "makes a node without a name of it"
        )  # fmt: skip
        yield "device_name", f"is empty: 3D Slicer {what}", "give the message a device name"
    size = sum(len(key.encode("utf-8", "replace")) + len(m.metadata.raw(key)) for key in m.metadata)
    if size >= LARGEST:
        yield (
            "metadata", f"{size} bytes: 3D Slicer drops the message",
            f"keep keys and values below {LARGEST} bytes",
        )  # fmt: skip
    for kind, rule in _RULES.items():
        if isinstance(m, kind):
            yield from rule(m)
    if isinstance(m, Image | Video | PolyData | Points):
        size = sum(memoryview(part).nbytes for part in m.pack_parts(crc=False))
        if size > _LARGEST:
            yield (
                "size", f"{size} bytes: 3D Slicer crashes on messages of 2 GiB and more",
                "send a part of it, or in fewer bits",
            )  # fmt: skip


def _of_type(m: Message) -> Iterator[Refusal]:
    name = m.type_name
    _, _, rest = name.partition("_")
    if isinstance(m, NoData):
        yield "type_name", "has no content: 3D Slicer shows nothing", 'send STATUS "not found"'
    elif name in HANDLED or name in _ANSWERS:
        return
    elif isinstance(m, Get | Start | Stop):
        reason = "crashes on it" if _ends(rest) else "ignores it"
        yield (
            "type_name", f"{name}: 3D Slicer serves no requests, and {reason}",
            "wait for what it sends, or ask a module of it by COMMAND",
        )  # fmt: skip
    elif _ends(rest):
        yield (
            "type_name", f"{name}: 3D Slicer crashes on a type that ends in _{rest}",
            'answer with STATUS "not found", or choose another name for a type of your own',
        )  # fmt: skip
    else:
        yield (
            "type_name", f"{name}: 3D Slicer ignores this type",
            _INSTEAD.get(name, "send one of " + ", ".join(sorted(HANDLED))),
        )  # fmt: skip


def _ends(rest: str) -> bool:
    return rest in HANDLED and rest != _HARMLESS


def _image(m: Image) -> Iterator[Refusal]:
    if m.scalar_type in (ScalarType.INT32, ScalarType.UINT32):
        yield (
            "array", "32-bit integers arrive wrong in 3D Slicer",
            "convert them to int16, uint16 or float32",
        )  # fmt: skip
    if m.components > 1 and (m.sub_size.tolist() != m.size.tolist() or m.offset.any()):
        yield (
            "sub_size", "3D Slicer puts parts of a colour image into wrong places",
            "send the whole image",
        )  # fmt: skip
    if not (np.linalg.norm(m.matrix[:3, :3], axis=0) > 0).all():
        yield "matrix", "an axis without length has no place in 3D Slicer", "give each voxel a size"


def _video(m: Video) -> Iterator[Refusal]:
    if m.codec != "VP90":
        yield (
            "codec", f"{m.codec} leaves an empty picture in 3D Slicer", "encode VP90, or send IMAGE"
        )  # fmt: skip
    if m.metadata:
        yield (
            "metadata", "3D Slicer takes metadata of VIDEO for picture data", "leave them out"
        )  # fmt: skip


def _mesh(m: PolyData) -> Iterator[Refusal]:
    if len(m.vertices):
        yield (
            "vertices", "3D Slicer crashes on vertex cells",
            "send the points as Points, or leave the vertices out",
        )  # fmt: skip
    if any(attribute.type & _OF_CELLS for attribute in m.attributes):
        yield (
            "attributes", "3D Slicer takes values of cells for values of points",
            "leave them out, or give values of points",
        )  # fmt: skip


def _points(m: Points) -> Iterator[Refusal]:
    if not len(m.points) and not m.metadata:
        yield (
            "points", "3D Slicer ignores an empty list without metadata, so nothing is cleared",
            'add metadata, for example {"Status": "OK"}',
        )  # fmt: skip


def _string(m: String) -> Iterator[Refusal]:
    if m.encoding != UTF8:
        yield (
            "encoding", f"{m.encoding} is an unknown encoding in 3D Slicer",
            "encode the text as UTF-8, with encoding=3",
        )  # fmt: skip
    text: str | bytes = m.string  # bytes are kept as they were given
    if (b"\0" if isinstance(text, bytes) else "\0") in text:  # type: ignore[operator]
        yield "string", "3D Slicer ends the text at its first NUL", "send a text without NUL"


def _tools(m: TrackingData) -> Iterator[Refusal]:
    names = list(m.tools.names)
    for name, times in Counter(names).items():
        if len(name.encode()) > _TOOL_NAME:
            yield (
                "tools", f"the name {name!r} of 20 bytes arrives empty in 3D Slicer",
                f"choose a name of at most {_TOOL_NAME} bytes",
            )  # fmt: skip
        if times > 1:
            yield "tools", f"3D Slicer keeps only the first {name!r}", "give each tool its own name"


def _reply(m: CommandReply) -> Iterator[Refusal]:
    if "Status" not in m.metadata:
        yield (
            "metadata", "3D Slicer takes a reply without Status for a failure",
            'add {"Status": "SUCCESS"}, or "FAIL" and an ErrorMessage',
        )  # fmt: skip


_RULES: Final[dict[type[Message], Any]] = {
    Image: _image, Video: _video, PolyData: _mesh, Points: _points, String: _string,
    TrackingData: _tools, CommandReply: _reply,
}  # fmt: skip
