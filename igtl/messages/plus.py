"""The types of PLUS that are not in the specification: CLIENTINFO, TRACKEDFRAME, USMESSAGE.

Their layout follows messages of PlusServer 2.9; docs/protocol.md section 8.22 describes it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from igtl.codec.message import HeaderFields, Message, _take_header
from igtl.codec.xml import element, elements
from igtl.errors import BodyError, EncodeError
from igtl.fields import (
    Array,
    array,
    constant,
    data,
    f32,
    matrix,
    mib,
    size_of,
    string,
    u8,
    u16,
    u32,
)
from igtl.messages.imaging import scalar_code
from igtl.messages.tracking import Position, TrackingData, Transform

Floats = npt.NDArray[np.float64]
Placed = npt.ArrayLike | tuple[npt.ArrayLike, str]
"""A 4x4 matrix, or one with its status."""

_DTYPES: Final = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
_TRANSFORM: Final = "Transform"
_STATUS: Final = "TransformStatus"
_GREY, _RGB = 1, 5
"""What PLUS calls its image types BRIGHTNESS and RGB_COLOR."""
_MF: Final = 5
"""The orientation in which PLUS sends: marked side first, far side last."""


class ClientInfo(Message, type_name="CLIENTINFO"):
    """What a client of PLUS asks the server to send, as XML; see `igtl.plus.Select`.

    Args:
        xml: `<ClientInfo …>` with lists of message types and names.
        encoding: IANA MIBenum. Default: 3 (US-ASCII) for ASCII, else 106 (UTF-8).
    """

    standard: ClassVar[bool] = False
    encoding: int | None = mib(default=None, kw_only=True)
    _length: int = size_of("xml", u16)
    xml: str = string("_length", "encoding")


class TrackedTransform(NamedTuple):
    """A transform of the instant of a frame.

    Attributes:
        matrix: 4x4, mm.
        status: "OK", "MISSING", "OUT_OF_VIEW", ….
    """

    matrix: Floats
    status: str

    @property
    def valid(self) -> bool:
        """Whether the status is "OK"."""
        return self.status == "OK"


class TrackedFrame(Message, type_name="TRACKEDFRAME"):
    """An image of PLUS and all transforms of the same instant.

    Args:
        array: (k, j, i) or (k, j, i, components), as of Image; a frame of (height, width) is one
            slice.
        ijk_to_world: 4x4 of the first voxel, mm; default identity.
        transforms: by name ("ProbeToTracker"): a 4x4 matrix, or a tuple of one and its status.
        fields: what else belongs to the frame, by name ("DepthMm").

    Attributes:
        array: the pixels, native byte order; a view of what was received where that is possible.
        transforms: a TrackedTransform for each name.
        fields: all texts of the frame by name, those of the transforms left out.
        xml: the fields as text, as they are sent.
        size: (i, j, k).
        matrix_le: ijk_to_world in rows, mm.
        scalar_type, components, image_type, orientation: as on the wire.
    """

    standard: ClassVar[bool] = False
    __slots__ = ()
    scalar_type: int = u16()
    components: int = u16()
    image_type: int = u16()
    size: Array = array(u16, 3)
    _pixel_bytes: int = size_of("_pixels", u32)
    _xml_bytes: int = size_of("xml", u32)
    orientation: int = u16()
    matrix_le: Array = array(f32, 16, little=True)
    xml: str = string("_xml_bytes", "")
    _pixels: Any = data("_pixel_bytes")

    def __init__(
        self,
        array: npt.ArrayLike,
        *,
        ijk_to_world: npt.ArrayLike | None = None,
        transforms: Mapping[str, Placed] = {},
        fields: Mapping[str, object] = {},
        **header: Unpack[HeaderFields],
    ) -> None:
        _take_header(self, dict(header))
        pixels = np.asarray(array)
        pixels = pixels[np.newaxis] if pixels.ndim == 2 else pixels
        if pixels.ndim not in (3, 4):
            raise EncodeError(
                "TrackedFrame", "array",
                f"shape {pixels.shape}, must be (height, width), (k, j, i) or (k, j, i, colours)",
            )  # fmt: skip
        if pixels.dtype == bool:
            pixels = pixels.view(np.uint8)
        if max(pixels.shape) > 65535:
            raise EncodeError("TrackedFrame", "array", f"shape {pixels.shape} is over 65535")
        self.scalar_type = scalar_code(pixels.dtype)
        self.components = pixels.shape[3] if pixels.ndim == 4 else 1
        self.image_type = _RGB if self.components == 3 else _GREY
        self.orientation = _MF
        self.size = pixels.shape[2::-1]
        little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
        self._pixels = little.reshape(-1).view(np.uint8)
        self.ijk_to_world = np.eye(4) if ijk_to_world is None else ijk_to_world
        self.xml = self._written(pixels, transforms, fields)

    def _written(
        self,
        pixels: npt.NDArray[Any],
        transforms: Mapping[str, Placed],
        fields: Mapping[str, object],
    ) -> str:
        texts = {name: str(value) for name, value in fields.items()}
        for name, placed in transforms.items():
            given, status = placed if isinstance(placed, tuple) else (placed, "OK")
            texts[f"{name}{_STATUS}"] = status
            texts[f"{name}{_TRANSFORM}"] = _numbers(_matrix(given, name))
        attributes = {
            "Timestamp": f"{self.timestamp or 0.0:.6f}",
            "ImageDataValid": "true",
            "NumberOfBits": str(8 * pixels.itemsize),
            "NumberOfScalarComponents": str(self.components),
            "FrameSize": " ".join(str(n) for n in self.size),
        }
        entries = (
            element("FrameField", {"Name": name, "Value": text}) for name, text in texts.items()
        )
        return element("TrackedFrame", attributes, entries)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The pixels, (k, j, i) or (k, j, i, components), in native byte order."""
        wire = np.dtype("<" + _DTYPES[self.scalar_type])
        values = np.frombuffer(self._pixels, wire).reshape(self._shape())
        if sys.byteorder == "big" or not values.flags.aligned:
            values = values.astype(wire.newbyteorder("="))
        return values

    def _shape(self) -> tuple[int, ...]:
        i, j, k = (int(n) for n in self.size)
        return (k, j, i) if self.components == 1 else (k, j, i, self.components)

    @property
    def ijk_to_world(self) -> Floats:
        """4x4, indices (i, j, k) of a pixel to mm; the last column is the first pixel.

        A copy: assign to change it.
        """
        return np.array(self.matrix_le, np.float64).reshape(4, 4)

    @ijk_to_world.setter
    def ijk_to_world(self, value: npt.ArrayLike) -> None:
        self.matrix_le = _matrix(value, "ijk_to_world").reshape(-1)

    def _texts(self) -> dict[str, str]:
        """Return all frame fields.

        Raises:
            BodyError: they are not well-formed XML.
        """
        try:
            found = elements(self.xml)
        except ValueError as error:
            raise BodyError(self.type_name, "xml", str(error)) from None
        return {
            attributes["Name"]: attributes.get("Value", "")
            for tag, attributes in found if tag == "FrameField" and "Name" in attributes
        }  # fmt: skip

    @property
    def transforms(self) -> dict[str, TrackedTransform]:
        """The transforms by name, in the order of the message.

        One whose text is not a matrix is left out.

        Raises:
            BodyError: the fields are not well-formed XML.
        """
        texts = self._texts()
        found = {}
        for key, text in texts.items():
            if key.endswith(_TRANSFORM) and (placed := _read(text)) is not None:
                name = key.removesuffix(_TRANSFORM)
                found[name] = TrackedTransform(placed, texts.get(name + _STATUS, "OK"))
        return found

    @property
    def fields(self) -> dict[str, str]:
        """The texts that are not of transforms by name, in the order of the message.

        Raises:
            BodyError: the fields are not well-formed XML.
        """
        texts = self._texts()
        return {key: text for key, text in texts.items() if not key.endswith((_TRANSFORM, _STATUS))}

    def _wanted(self) -> int:
        """Bytes of pixels of this size, components and scalar type."""
        return math.prod(self._shape()) * int(_DTYPES[self.scalar_type][1])

    def _check(self) -> None:
        """After reading: the pixels are all there, and the type exists."""
        if self.scalar_type not in _DTYPES:
            raise BodyError(self.type_name, "scalar_type", f"{self.scalar_type} does not exist")
        if self.components == 0:
            raise BodyError(self.type_name, "components", "is 0")
        here = memoryview(self._pixels).nbytes
        if here != self._wanted():
            raise BodyError(self.type_name, "pixels", f"are {here} bytes, not {self._wanted()}")

    def _prepare(self) -> None:
        """Before writing: the header agrees with the pixels."""
        if self.scalar_type not in _DTYPES or self.components == 0:
            raise EncodeError("TrackedFrame", "scalar_type", "there are no such pixels")
        here = memoryview(self._pixels).nbytes
        if here != self._wanted():
            raise EncodeError(
                "TrackedFrame", "size", f"{here} bytes of pixels do not make {self._shape()}"
            )

    def _contents(self) -> Iterator[tuple[str, Any]]:
        yield from super()._contents()
        yield "array", self.array

    def _picture(self) -> str:
        from igtl import notebook  # rarely wanted

        return notebook.picture(self.array)

    def summary(self) -> str:
        """Size, scalar type and the status of each transform, as `repr` shows them."""
        size = "×".join(str(n) for n in self.size)
        kind = np.dtype(_DTYPES[self.scalar_type]).name
        colour = f"×{self.components}" if self.components > 1 else ""
        try:
            words = [f"{name} {t.status}" for name, t in self.transforms.items()]
        except BodyError:
            words = ["fields that are not well-formed"]
        return " ".join((f"{size} {kind}{colour}", ", ".join(words))).rstrip()


class UsMessage(Message, type_name="USMESSAGE"):
    """An image of PLUS with the parameters of the scanner behind it. PLUS calls it experimental.

    Attributes:
        array: the pixels (k, j, i[, components]).
        parameters: 13 numbers, int32, whose meaning PLUS does not describe.
        size: whole image (i, j, k).
        offset: (i, j, k) of the first voxel of the part that `array` holds.
        sub_size: size of that part (i, j, k).
        matrix: 4x4 on the wire, mm; its last column is the centre of the image.
        components, scalar_type, endian, coordinate: as on the wire.
        content: the pixels as bytes, and the parameters behind them.
    """

    standard: ClassVar[bool] = False
    __slots__ = ()
    _version: int = constant(u16, 1)
    components: int = u8()
    scalar_type: int = u8()
    endian: int = u8()
    coordinate: int = u8()
    size: Array = array(u16, 3)
    matrix: Array = matrix()
    offset: Array = array(u16, 3)
    sub_size: Array = array(u16, 3)
    content: bytes = data()

    def _split(self) -> tuple[int, int]:
        """Bytes of the pixels, and all bytes."""
        width = int(_DTYPES[self.scalar_type][1])
        pixels = math.prod(int(n) for n in self.sub_size) * self.components * width
        return pixels, memoryview(self.content).nbytes

    @property
    def array(self) -> npt.NDArray[Any]:
        """The pixels, (k, j, i[, components]), in native byte order."""
        pixels, _ = self._split()
        i, j, k = (int(n) for n in self.sub_size)
        shape = (k, j, i) if self.components == 1 else (k, j, i, self.components)
        # PLUS writes pixels as its machine has them, which is little endian, and says endian 1
        wire = np.dtype("<" + _DTYPES[self.scalar_type])
        view = memoryview(self.content)[:pixels]
        return np.frombuffer(view, wire).reshape(shape).astype(wire.newbyteorder("="), copy=False)

    @property
    def parameters(self) -> npt.NDArray[np.int32]:
        """The 13 parameters of the scanner, (13,) int32."""
        pixels, _ = self._split()
        view = memoryview(self.content)[pixels : pixels + _PARAMETERS]
        return np.frombuffer(view, ">i4").astype(np.int32)

    def _wrong(self) -> tuple[str, str] | None:
        if self.scalar_type not in _DTYPES:
            return "scalar_type", f"{self.scalar_type} does not exist"
        if self.components == 0:
            return "components", "is 0"
        pixels, here = self._split()
        if here < pixels + _PARAMETERS:
            return "content", f"needs {pixels + _PARAMETERS} bytes, and has {here}"
        return None

    def _check(self) -> None:
        """After reading: the pixels and the parameters are all there."""
        if wrong := self._wrong():
            raise BodyError(self.type_name, *wrong)

    def _prepare(self) -> None:
        """Before writing: the same."""
        if wrong := self._wrong():
            raise EncodeError("UsMessage", *wrong)


_PARAMETERS: Final = 13 * 4


class ToolState(NamedTuple):
    """What a message says of one transform.

    Attributes:
        name: XToY, uncut where the message has the whole name.
        matrix: 4x4, mm; meaningless where the status is not "OK" (often the identity).
        status: "OK" where the message says nothing.
    """

    name: str
    matrix: npt.NDArray[Any]
    status: str


def tool_states(message: Message) -> Iterator[ToolState]:
    """Yield the transforms that a message holds, with their status where PLUS sends one.

    PLUS writes the status of TRANSFORM, POSITION and QTRANS into the metadata (TransformStatus),
    that of TDATA into NameStatus and NameIndex, that of TRACKEDFRAME into its fields.

    Raises:
        BodyError: the fields of a TRACKEDFRAME are not well-formed.
    """
    match message:
        case Transform() | Position():
            status = message.metadata.get(_STATUS, "OK")
            yield ToolState(message.device_name, np.asarray(message.matrix), status)
        case TrackingData():
            metadata = message.metadata
            whole = {  # a name is cut to 20 bytes, but not in the keys of the metadata
                text: key.removesuffix("Index")
                for key, text in metadata.items() if key.endswith("Index")
            }  # fmt: skip
            for k, tool in enumerate(message.tools):
                name = whole.get(str(k), tool.name)
                name = name if name.startswith(tool.name) else tool.name
                yield ToolState(name, tool.matrix, metadata.get(f"{name}Status", "OK"))
        case TrackedFrame():
            for name, (placed, status) in message.transforms.items():
                yield ToolState(name, placed, status)


def _matrix(value: npt.ArrayLike, name: str) -> Floats:
    """4x4 of a 4x4 or 3x4 matrix."""
    given = np.asarray(value, np.float64)
    if given.shape not in ((4, 4), (3, 4)):
        raise EncodeError("TrackedFrame", name, f"shape {given.shape}, must be (4, 4) or (3, 4)")
    out = np.eye(4)
    out[: given.shape[0]] = given
    return out


def _numbers(m: Floats) -> str:
    return " ".join(f"{x:.9g}" for x in m.ravel())


def _read(text: str) -> Floats | None:
    """Return the matrix in a text of 16 numbers; None if it is none."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return None
    return np.reshape(numbers, (4, 4)) if len(numbers) == 16 else None
