"""Pictures and what describes them: IMAGE, IMGMETA, LBMETA, COLORT, VIDEO, VIDEOMETA."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

import numpy as np
import numpy.typing as npt

from igtl import _core
from igtl.codec.elements import Element, ElementList
from igtl.codec.message import HeaderFields, Message, _take_header
from igtl.errors import BodyError, EncodeError
from igtl.fields import (
    Array,
    array,
    coded,
    constant,
    data,
    elements,
    f64,
    i16,
    matrix,
    reserved,
    text,
    u8,
    u16,
    u64,
)  # fmt: skip

Space = Literal["RAS", "LPS"]
_DTYPES: Final = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}
# by dtype, since numpy takes long to spell one; by endian and code, since it does to make one
_CODE_OF: Final = {np.dtype(kind): code for kind, code in _CODES.items()}
_WIRE: Final = {
    (endian, code): np.dtype((">" if endian == 1 else "<") + kind)
    for code, kind in _DTYPES.items()
    for endian in (1, 2)
}
_SIZES: Final = {code: np.dtype(kind).itemsize for code, kind in _DTYPES.items()}
_SPACES: Final[dict[str, int]] = {"RAS": 1, "LPS": 2}
_BIG: Final = sys.byteorder == "big"
_LARGE: Final = 16  # rows and columns from which an array with 3 or 4 values looks like a picture
_UNIT: Final = (1.0, 1.0, 1.0)
_EYE: Final = np.eye(4)
_FLIP: Final = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS, its own inverse
_INSTEAD: Final = {
    "int64": "convert with .astype(np.int16) if the values fit, else np.int32, which 3D Slicer "
    "shows wrong",
    "uint64": "convert with .astype(np.uint16) if the values fit, else np.uint32, which 3D Slicer "
    "shows wrong",
    "float16": "convert with .astype(np.float32)",
    "complex64": "send real and imaginary part as two components, or as an NDArray",
    "complex128": "send real and imaginary part as two components, or as an NDArray",
}


class ScalarType(IntEnum):
    """Number types by their code on the wire (protocol.md 1.1)."""

    INT8 = 2
    UINT8 = 3
    INT16 = 4
    UINT16 = 5
    INT32 = 6
    UINT32 = 7
    FLOAT32 = 10
    FLOAT64 = 11
    COMPLEX = 13


def scalar_code(dtype: np.dtype[Any]) -> int:
    """Code of a dtype in any byte order; EncodeError says what to do where the wire has none."""
    code = _CODE_OF.get(dtype) or _CODES.get(dtype.str[1:])
    if code is None:
        remedy = _INSTEAD.get(dtype.name, "convert it to one of int8 … uint32, float32, float64")
        raise EncodeError("Image", "array", f"OpenIGTLink images have no {dtype.name}: {remedy}")
    return code


def _shift(m: npt.NDArray[np.float64], index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the matrix m with its origin moved to voxel `index`."""
    out = m.copy()
    with np.errstate(all="ignore"):  # a matrix from the wire may hold anything
        out[:3, 3] = m[:3, :3] @ index + m[:3, 3]
    return out


def _placement(value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """4x4 of a 4x4 or 3x4 matrix, in double."""
    given = np.asarray(value, np.float64)
    if given.shape not in ((4, 4), (3, 4)):
        raise EncodeError("Image", "ijk_to_world", f"shape {given.shape}, must be (4, 4) or (3, 4)")
    m = np.eye(4)
    m[: given.shape[0]] = given
    return m


def _spaced(spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """4x4 of an image with straight axes, centred at the origin."""
    if spacing is _UNIT:
        return _EYE
    try:
        i, j, k = map(float, spacing)
    except (TypeError, ValueError):
        i = j = k = math.nan
    if not (0 < i < math.inf and 0 < j < math.inf and 0 < k < math.inf):
        raise ValueError(
            f"spacing must be three positive numbers, mm along i, j, k, not {spacing!r}"
        )
    m = _EYE.copy()
    m[0, 0], m[1, 1], m[2, 2] = i, j, k
    return m


class _Placed(Message):
    """Geometry that IMAGE and VIDEO share: size, matrix of the centre, part that is sent."""

    __slots__ = ()

    if TYPE_CHECKING:  # each class has them at its own place on the wire
        size: Any
        matrix: Any
        offset: Any
        sub_size: Any
        coordinate: Any

    def _known_matrix(self) -> npt.NDArray[np.float64]:
        """Wire matrix in double; a column of zeros ("unknown") becomes the unit axis."""
        m = np.array(self.matrix, np.float64)
        for axis in range(3):
            if not m[:3, axis].any():
                m[axis, axis] = 1
        return m

    def _centre(self) -> npt.NDArray[np.float64]:
        # a 1-voxel axis adds nothing, and neither does an axis of size 0
        size = np.asarray(self.size, np.float64)
        half: npt.NDArray[np.float64] = np.maximum(size - 1, 0) / 2
        return half

    @property
    def ijk_to_world(self) -> npt.NDArray[np.float64]:
        """The 4x4 matrix from voxel indices (i, j, k) of the whole image to mm in `space`.

        Its last column is the centre of the first voxel. A copy: assign to change it. The wire
        holds the centre of the image instead: see `matrix`.
        """
        return _shift(self._known_matrix(), -self._centre())

    @ijk_to_world.setter
    def ijk_to_world(self, value: npt.ArrayLike) -> None:
        self.matrix = _shift(_placement(value), self._centre())

    @property
    def array_to_world(self) -> npt.NDArray[np.float64]:
        """Like ijk_to_world, for indices into the part that is sent.

        It differs from ijk_to_world when that part is a sub-volume with an offset.
        """
        return _shift(self.ijk_to_world, np.asarray(self.offset, np.float64))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along i, j, k in mm."""
        with np.errstate(all="ignore"):
            i, j, k = np.linalg.norm(self._known_matrix()[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def space(self) -> Space:
        """The coordinate system the numbers of the matrix are in. Any code but 2 reads as RAS."""
        return "LPS" if self.coordinate == 2 else "RAS"

    def to(self, space: Space) -> Self:
        """Return the same picture, its matrix expressed in the other space.

        Pixels are shared, all else is copied.

        3D Slicer and PLUS take the numbers as RAS whatever the message says: send RAS.
        """
        out = type(self).__new__(type(self))
        out.__setstate__(self._state())
        out.metadata = self._meta
        for field in type(self).__fields__:
            if field.kind == "array":
                setattr(out, field.name, getattr(self, field.name))
        m = np.array(self.matrix)
        out.matrix = _FLIP @ m if space != self.space else m
        out.coordinate = _SPACES[space]
        return out

    def _check_part(self) -> tuple[str, str] | None:
        if _core.voxels_in(self.size, self.offset, self.sub_size) >= 0:
            return None
        size = self.size.tolist()
        at_i, at_j, at_k = self.offset.tolist()
        n_i, n_j, n_k = self.sub_size.tolist()
        end = [at_i + n_i, at_j + n_j, at_k + n_k]
        return "sub_size", f"part ends at {end}, the image at {size}"


class Image(_Placed, type_name="IMAGE"):
    """A picture or volume, or a part of one (protocol.md 8.3).

    Args:
        array: (k, j, i) or (k, j, i, components): i runs fastest in memory. Its dtype chooses the
            scalar type; bool becomes uint8. Not copied if contiguous. For camera frames use
            `Image.from_frame`: here an array of the shape of a camera frame is a volume, and
            gives a UserWarning.
        spacing: mm along i, j, k, for an image with straight axes centred at the origin.
            ValueError unless these are three positive numbers.
        ijk_to_world: 4x4 of the first voxel in mm, instead of spacing.
        space: what ijk_to_world is in. It is converted, and sent as RAS.

    Attributes:
        array: the pixels, in native byte order; edits count. Of a received message it is a view
            of the received bytes if possible, and read-only if these are `bytes`.
        size: whole image (i, j, k).
        offset: (i, j, k) of the first voxel of the part that `array` holds.
        sub_size: size of that part (i, j, k).
        matrix: 4x4 on the wire, mm; its last column is the centre of the image.
        coordinate: 1 RAS, 2 LPS.
        endian: byte order of the pixels on the wire, 1 big, 2 little.
        components, scalar_type: as on the wire; `array` sets them.
    """

    __slots__ = ("_array",)
    _version: int = constant(u16, 1)
    components: int = u8()
    scalar_type: int = u8()
    endian: int = u8()
    coordinate: int = u8()
    size: Array = array(u16, 3)
    matrix: Array = matrix()
    offset: Array = array(u16, 3)
    sub_size: Array = array(u16, 3)
    _pixels: Any = data()
    if TYPE_CHECKING:

        @property
        def _array(self) -> npt.NDArray[Any] | None: ...
        @_array.setter
        def _array(self, value: npt.NDArray[Any] | None) -> None: ...

    def __init__(
        self,
        array: npt.ArrayLike,
        *,
        spacing: tuple[float, float, float] = _UNIT,
        ijk_to_world: npt.ArrayLike | None = None,
        space: Space = "RAS",
        **header: Unpack[HeaderFields],
    ) -> None:
        self._place(np.asarray(array), spacing, ijk_to_world, space, header)
        shape = self.array.shape
        if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) >= _LARGE:
            warnings.warn(
                f"an Image of shape {shape} has {shape[0]} slices that are {shape[2]} voxels wide: "
                "for a camera frame use Image.from_frame(frame, order=...), for a volume "
                "Image.from_volume(array)", stacklevel=2,
            )  # fmt: skip

    def _place(
        self,
        array: npt.NDArray[Any],
        spacing: tuple[float, float, float],
        ijk_to_world: npt.ArrayLike | None,
        space: Space,
        header: HeaderFields,
    ) -> None:
        _take_header(self, dict(header))
        self.coordinate = _SPACES["RAS"]
        self.endian = 2
        self.array = array
        if ijk_to_world is None:
            self.matrix = _spaced(spacing)
        else:
            m = _placement(ijk_to_world)
            self.ijk_to_world = _FLIP @ m if space == "LPS" else m

    @classmethod
    def from_volume(
        cls,
        array: npt.ArrayLike,
        *,
        spacing: tuple[float, float, float] = _UNIT,
        ijk_to_world: npt.ArrayLike | None = None,
        space: Space = "RAS",
        **header: Unpack[HeaderFields],
    ) -> Self:
        """From an array (k, j, i[, components]), as SimpleITK and 3D Slicer hand it out."""
        return cls._made(np.asarray(array), spacing, ijk_to_world, space, header)

    @classmethod
    def _made(cls, *args: Any) -> Self:
        out = cls.__new__(cls)
        out._place(*args)
        return out

    @classmethod
    def from_frame(
        cls,
        frame: npt.ArrayLike,
        *,
        order: Literal["RGB", "BGR", "RGBA", "BGRA"] | None = None,
        spacing: tuple[float, float] = (1.0, 1.0),
        ijk_to_world: npt.ArrayLike | None = None,
        space: Space = "RAS",
        **header: Unpack[HeaderFields],
    ) -> Self:
        """From a camera or ultrasound frame: rows first, as OpenCV and PIL have it.

        Args:
            frame: (height, width), or (height, width, 3 or 4) with `order`.
            order: "BGR" or "BGRA" for OpenCV. The wire has RGB and RGBA; BGR is copied.
            spacing: mm along a row and along a column.
            ijk_to_world: 4x4 of the first pixel in mm, instead of spacing.
            space: what ijk_to_world is in; it is converted to RAS.
            header: see Message.

        Raises:
            EncodeError: the shape and `order` do not fit each other, or the wire has no such dtype.
        """
        pixels = np.asarray(frame)
        if pixels.ndim == 2 and order is None:
            volume = pixels[np.newaxis]
        elif order is not None and pixels.ndim == 3 and pixels.shape[2] == len(order):
            volume = pixels[np.newaxis]
            if order[0] == "B":
                volume = volume[..., [2, 1, 0, 3][: len(order)]]
        elif pixels.ndim == 3 and pixels.shape[2] in (3, 4) and order is None:
            raise EncodeError(
                "Image", "array", f"frame {pixels.shape}: say order='RGB', or 'BGR' for OpenCV"
            )
        else:
            raise EncodeError(
                "Image", "array",
                f"frame {pixels.shape} with order {order!r}: must be (height, width), or (height, "
                "width, 3 or 4) with an order of as many letters",
            )  # fmt: skip
        return cls._made(volume, (*spacing, 1.0), ijk_to_world, space, header)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The pixels, (k, j, i) or (k, j, i, components), in native byte order; edits count.

        Raises:
            EncodeError: the received fields do not describe the pixels.
        """
        try:
            values = self._array
        except AttributeError:
            values = None
        if values is None:
            _, components, code, endian, _, _, _, _, sub_size, pixels = self._field_values()
            wire = _WIRE.get((1 if endian == 1 else 2, code))
            if wire is None:
                raise EncodeError("Image", "scalar_type", f"{code} does not exist")
            values = _core.pixels_of(pixels, wire, sub_size, components)
            if values is None:
                raise EncodeError(
                    "Image", "array",
                    f"{memoryview(pixels).nbytes} bytes of pixels do not make {wire} "
                    f"{self._shape()}",
                )  # fmt: skip
            self._array = values
        return values

    @array.setter
    def array(self, value: npt.ArrayLike) -> None:
        pixels = np.asarray(value)
        if pixels.ndim not in (3, 4):
            raise EncodeError(
                "Image", "array",
                f"shape {pixels.shape}, must be (k, j, i) or (k, j, i, components); "
                "Image.from_frame() takes camera frames",
            )  # fmt: skip
        if pixels.ndim == 4 and pixels.shape[3] == 1:
            pixels = pixels[..., 0]
        if pixels.dtype == bool:
            pixels = pixels.view(np.uint8)
        code = scalar_code(pixels.dtype)
        components = pixels.shape[3] if pixels.ndim == 4 else 1
        if max(pixels.shape[:3]) > 65535 or not 1 <= components <= 255:
            raise EncodeError(
                "Image", "array", f"shape {pixels.shape} is over 65535 or 255 components"
            )
        if not (pixels.flags.c_contiguous and pixels.dtype.isnative):
            pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
        self._array = pixels
        self.scalar_type = code
        self.components = components
        self.size = self.sub_size = pixels.shape[2::-1]
        self.offset = (0, 0, 0)

    def _shape(self) -> tuple[int, ...]:
        i, j, k = self.sub_size.tolist()
        return (k, j, i) if self.components == 1 else (k, j, i, self.components)

    def _check(self) -> None:
        """After reading: the pixels are all there, and the type exists."""
        self._array = None
        _, components, code, _, _, size, _, offset, sub_size, pixels = self._field_values()
        itemsize = _SIZES.get(code)
        if itemsize is None:
            raise BodyError("IMAGE", "scalar_type", f"{code} does not exist")
        if components == 0:
            raise BodyError("IMAGE", "components", "is 0")
        voxels = _core.voxels_in(size, offset, sub_size)
        if voxels < 0 and (wrong := self._check_part()):
            raise BodyError("IMAGE", *wrong)
        wanted = voxels * components * itemsize
        here = pixels.nbytes
        if here < wanted:
            raise BodyError("IMAGE", "pixels", f"need {wanted} bytes, {here} are left")
        if here > wanted:
            self._cut_surplus("_pixels", wanted)

    def _prepare(self) -> None:
        """Before writing: the header agrees with the array, whose bytes get the wire's order."""
        try:
            pixels = self._array
        except AttributeError:
            pixels = None
        _, components, code, endian, _, size, _, offset, sub_size, packed = self._field_values()
        if not _core.describes(pixels, size, offset, sub_size, components, code):
            pixels = self._examined()
        if (endian == 1) == _BIG or pixels.itemsize == 1:
            if packed is not pixels:
                self._pixels = pixels
        else:
            self._pixels = pixels.byteswap().reshape(-1).view(np.uint8)

    def _examined(self) -> npt.NDArray[Any]:
        """Return the array, if the header agrees with it; EncodeError says what does not."""
        if wrong := self._check_part():
            raise EncodeError("Image", *wrong)
        pixels = self.array
        if pixels.shape != self._shape() or scalar_code(pixels.dtype) != self.scalar_type:
            raise EncodeError(
                "Image", "array",
                f"{pixels.dtype} {pixels.shape} does not agree with sub_size, components and "
                "scalar_type; assign `array` to set all of them",
            )  # fmt: skip
        if not pixels.flags.c_contiguous:
            raise EncodeError("Image", "array", "must stay contiguous")
        return pixels

    def _state(self) -> Any:
        self._prepare()  # the pixels as an array over the same memory
        return super()._state()

    def _contents(self) -> Iterator[tuple[str, Any]]:
        yield from super()._contents()
        yield "array", self.array

    def _shown(self) -> Iterator[tuple[str, Any]]:
        yield "pixels", self.array
        if (self.size != self.sub_size).any():
            yield "part of", self.size
            yield "at", self.offset
        yield "spacing in mm", np.round(self.spacing, 4)
        yield f"ijk_to_world in mm, {self.space}", self.ijk_to_world

    def _picture(self) -> str:
        from igtl import notebook  # rarely wanted

        return notebook.picture(self.array)

    def _repr_png_(self) -> bytes | None:
        from igtl import notebook

        pixels = notebook.slice_of(self.array)
        return None if pixels is None else notebook.png(pixels)

    def summary(self) -> str:
        """Size, scalar type, components, spacing and space, as `repr` shows them."""
        size = "×".join(str(n) for n in self.size)
        part = (
            "" if (self.size == self.sub_size).all() else f" part {self.sub_size} at {self.offset}"
        )
        code = self.scalar_type
        kind = np.dtype(_DTYPES[code]).name if code in _DTYPES else f"scalar_type={code}"
        colour = f"×{self.components}" if self.components > 1 else ""
        spacing = ", ".join(f"{s:.4g}" for s in self.spacing)
        return f"{size} {kind}{colour}{part} spacing=({spacing}) mm {self.space}"


class ImageInfo(Element):
    """One image that a server can send (protocol.md 8.6).

    Attributes:
        name: title of the image.
        device_name: what to ask for with GetImage and GetColorTable.
        modality: for example "CT", "MRI", "US".
        patient_name: name of the patient.
        patient_id: number of the patient.
        size: (i, j, k).
        timestamp_raw: of the scan, in units of 2**-32 s since 1970, 0 = not set.
        scalar_type: see ScalarType, 0 = not stated.
    """

    name: str = text(64)
    device_name: str = text(20)
    modality: str = text(32, default="")
    patient_name: str = text(64, default="")
    patient_id: str = text(64, default="")
    timestamp_raw: int = u64(default=0)
    size: Array = array(u16, 3, default=(0, 0, 0))
    scalar_type: int = u8(default=0)
    _reserved: int = reserved(u8)


class ImageMeta(Message, type_name="IMGMETA"):
    """The images a server has.

    Args:
        images: one entry for each image.
    """

    images: ElementList[ImageInfo] = elements(ImageInfo, default=())


class LabelInfo(Element):
    """One label map a server can send (protocol.md 8.7).

    Attributes:
        name: title of the label map.
        device_name: what to ask for with GetImage.
        label: the value that marks it in the image; 0 = not used.
        color: r, g, b, a, 0..255; all 0 = none.
        size: of the box around it (i, j, k).
        owner: device name of the image that it belongs to.
    """

    name: str = text(64)
    device_name: str = text(20)
    label: int = u8(default=0)
    _reserved: int = reserved(u8)
    color: Array = array(u8, 4, default=(0, 0, 0, 0))
    size: Array = array(u16, 3, default=(0, 0, 0))
    owner: str = text(20, default="")


class LabelMeta(Message, type_name="LBMETA"):
    """The label maps a server has.

    Args:
        labels: one entry for each label map.
    """

    labels: ElementList[LabelInfo] = elements(LabelInfo, default=())


class _ColorCodec:
    """COLORT: both types and the number of entries follow from the table."""

    minimum = 2
    _maps: Final = {3: ("u1", 1), 5: ("u2", 1), 19: ("u1", 3)}

    def decode(self, view: memoryview, count: int) -> npt.NDArray[Any]:
        entries = {3: 256, 5: 65536}.get(view[0])
        if entries is None:
            raise ValueError(f"index type {view[0]} does not exist")
        if view[1] not in self._maps:
            raise ValueError(f"map type {view[1]} does not exist")
        scalar, per = self._maps[view[1]]
        wire = np.dtype(">" + scalar)
        if len(view) - 2 < entries * per * wire.itemsize:
            raise ValueError(f"{entries} entries announced, {len(view) - 2} bytes are left")
        values = np.frombuffer(view, wire, entries * per, 2).astype(scalar)
        return values if per == 1 else values.reshape(entries, per)

    def size(self, value: npt.NDArray[Any]) -> int:
        return 2 + value.nbytes

    def coerce(self, value: Any) -> npt.NDArray[Any]:
        table = np.array(value, order="C")
        if len(table) not in (256, 65536) or not (
            (table.ndim == 1 and table.dtype in (np.uint8, np.uint16))
            or (table.shape[1:] == (3,) and table.dtype == np.uint8)
        ):
            raise EncodeError(
                "ColorTable", "table",
                f"{table.dtype} {table.shape}, must be uint8 or uint16 (n,), or uint8 (n, 3), "
                "with n = 256 or 65536",
            )  # fmt: skip
        return table

    def encode(self, value: npt.NDArray[Any]) -> bytes:
        table = self.coerce(value)
        kind = 19 if table.ndim == 2 else 3 if table.dtype == np.uint8 else 5
        head = bytes([3 if len(table) == 256 else 5, kind])
        return head + table.astype(table.dtype.newbyteorder(">")).tobytes()


class ColorTable(Message, type_name="COLORT", aliases=("COLORTABLE",)):
    """Colours or values for the numbers of an image of the same name (protocol.md 8.15).

    Args:
        table: entry e is the value for index e: uint8 or uint16 (n,), or RGB uint8 (n, 3);
            n = 256 or 65536.
    """

    table: Array = coded(_ColorCodec())

    @property
    def index_type(self) -> int:
        """Code of the index type on the wire: 3 (256 entries) or 5 (65536)."""
        return 3 if len(self.table) == 256 else 5

    @property
    def map_type(self) -> int:
        """Code of the value type on the wire: 3 uint8, 5 uint16, 19 RGB."""
        return 19 if self.table.ndim == 2 else 3 if self.table.dtype == np.uint8 else 5


class FrameType(IntEnum):
    """What an encoded frame depends on (protocol.md 8.20)."""

    INVALID = 0
    KEY = 1
    INTRA = 2
    INTER = 3
    SKIPPED = 4
    UNKNOWN = 5


class Video(_Placed, type_name="VIDEO"):
    """One encoded frame of a video stream (protocol.md 8.20).

    Args:
        payload: the encoded frame.
        codec: four characters: "I420", "H264", "VP90", "X265", "O265", "AV10".
        size: width, height, depth.
        frame_type: see FrameType; shifted left by 8 bits when the frame is grey only.
        ijk_to_world: 4x4 of the first pixel, RAS mm. Default: 1 mm pixels around the origin.

    Attributes:
        matrix: 4x4 on the wire, mm; its last column is the centre of the frame.
        coordinate: 1 RAS, 2 LPS.
        endian: byte order that the sender names, 1 big, 2 little.
        offset: (i, j, k) of the first pixel of the part that the frame holds.
        sub_size: size of that part (i, j, k).
    """

    _version: int = constant(u16, 1)
    endian: int = u8()
    codec: str = text(4)
    frame_type: int = u16()
    coordinate: int = u8()
    size: Array = array(u16, 3)
    matrix: Array = matrix()
    offset: Array = array(u16, 3)
    sub_size: Array = array(u16, 3)
    payload: bytes = data()

    def __init__(
        self,
        payload: bytes,
        codec: str,
        size: tuple[int, int, int],
        *,
        frame_type: int = FrameType.UNKNOWN,
        ijk_to_world: npt.ArrayLike | None = None,
        **header: Unpack[HeaderFields],
    ) -> None:
        _take_header(self, dict(header))
        self.payload = payload
        self.codec = codec
        self.size = self.sub_size = size
        self.offset = (0, 0, 0)
        self.frame_type = frame_type
        self.coordinate = 1
        self.endian = 2
        self.matrix = np.eye(4)
        if ijk_to_world is not None:
            self.ijk_to_world = ijk_to_world

    @property
    def grey(self) -> bool:
        """Whether the frame has no colour."""
        return self.frame_type > 0xFF

    @property
    def kind(self) -> int:
        """The frame type without the grey flag, see FrameType."""
        return self.frame_type >> 8 or self.frame_type

    def _check(self) -> None:
        if wrong := self._check_part():
            raise BodyError("VIDEO", *wrong)

    def _prepare(self) -> None:
        if wrong := self._check_part():
            raise EncodeError("Video", *wrong)


class VideoInfo(Element):
    """One video stream a server has (protocol.md 8.21).

    Attributes:
        name: title of the stream.
        device_name: what to ask for with StartVideo (64 bytes here; a header takes 20).
        patient_name: name of the patient.
        patient_id: number of the patient.
        zoom_level: of the camera.
        focal_length: mm.
        size: width, height, depth.
        matrix: 4x4 as in Image, mm, last column the centre.
        scalar_type: see ScalarType, 0 = not stated.
    """

    name: str = text(64)
    device_name: str = text(64)
    patient_name: str = text(64, default="")
    patient_id: str = text(64, default="")
    zoom_level: int = i16(default=0)
    focal_length: float = f64(default=0.0)
    size: Array = array(u16, 3, default=(0, 0, 0))
    matrix: Array = matrix(default=None)
    scalar_type: int = u8(default=0)
    _reserved: int = reserved(u8)


class VideoMeta(Message, type_name="VIDEOMETA"):
    """The video streams a server has.

    Args:
        videos: one entry for each stream.
    """

    videos: ElementList[VideoInfo] = elements(VideoInfo, default=())
