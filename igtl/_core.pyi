"""Types of _core.pyx: messages and their bytes."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, Self, TypeGuard, TypeVar, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

from igtl.codec.message import Message
from igtl.fields import Field
from igtl.options import CRCPolicy

_R = TypeVar("_R", bound=Row)

def crc64(data: Buffer, crc: int = 0, *, form: str | None = None) -> int:
    """CRC-64 of OpenIGTLink, continued from `crc`; `form` names one of crc_forms(), for tests."""

def crc_forms() -> tuple[str, ...]:
    """The forms of the CRC that this build and CPU have, the fastest last."""

def crc_form() -> str:
    """The form in use: the fastest, or the one that the environment variable IGTL_CRC names."""

def fit(text: str, size: int) -> str:
    """The longest beginning of text that fits size bytes of UTF-8, no character cut in two."""

def decode_text(raw: bytes, encoding: int) -> str: ...
def encode_text(text: Any, encoding: int) -> bytes: ...
def encode_field(value: Any, size: int, owner: str, name: str) -> bytes: ...
def as_numbers(value: Any, dtype: Any, owner: str, name: str) -> npt.NDArray[Any]: ...
def as_matrix(value: Any, owner: str = ..., name: str = ...) -> npt.NDArray[np.float32]: ...
def timestamp_of(time_ns: int) -> int: ...
def time_ns_of(raw: int) -> int: ...
def stream_key(what: Record | Frame | Buffer | list[Any]) -> bytes:
    """Type (12 bytes) and device name of a message, a Frame, a packed message or the parts of one:
    32 bytes as in the header, or more for a name that the header cuts."""

def needs_v2(r: Record) -> bool: ...
def packed_for(
    r: Record, version: int | None, *, crc: bool = True, cut_name: bool = False
) -> bytes: ...
def content(r: Record, depth: int = 1) -> bytes: ...
def call_directly(cls: type) -> None: ...
def register(type_name: bytes, cls: type) -> None: ...
def registered() -> dict[str, type[Message]]: ...
def set_special(unknown: type, no_data: type, metadata: type) -> None: ...
def unpack(data: Buffer, *, crc: CRCPolicy = "verify") -> Message:
    """The message in these bytes: exactly one, header included.

    Arrays the message can use as they lie (native byte order, aligned) are views of `data`.

    Args:
        data: bytes, or anything else with a contiguous buffer, which is read as bytes. It cannot be
            resized while the message has views of it.
        crc: "verify": CRCError when it is wrong. "warn": the message has crc_ok=False. "off":
            not computed.

    Raises:
        VersionError, CRCError, BodyError, ProtocolError: the bytes are wrong.
        TypeError, BufferError: data is no buffer, or not contiguous.
    """

def unpack_content(type_name: bytes, data: Buffer, depth: int = 2) -> Message: ...
def matrix_of_quaternion(quaternion: npt.ArrayLike) -> npt.NDArray[np.float64]: ...
def quaternion_of_matrix(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]: ...
def voxels_in(
    size: npt.NDArray[np.uint16], offset: npt.NDArray[np.uint16], sub_size: npt.NDArray[np.uint16]
) -> int: ...
def describes(
    array: object,
    size: npt.NDArray[np.uint16],
    offset: npt.NDArray[np.uint16],
    sub_size: npt.NDArray[np.uint16],
    components: int,
    code: int,
) -> TypeGuard[npt.NDArray[Any]]: ...
def pixels_of(
    data: Buffer, dtype: np.dtype[Any], sub_size: npt.NDArray[np.uint16], components: int
) -> npt.NDArray[Any] | None: ...
def numbers_in(
    data: Buffer, at: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]: ...
def bytes_of_numbers(head: bytes, array: npt.NDArray[Any]) -> bytes: ...
def split_cells(
    data: Buffer, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]: ...
def check_attributes(data: Buffer, count: int) -> None: ...
def join_cells(offsets: npt.NDArray[np.int64], connectivity: npt.NDArray[np.uint32]) -> bytes: ...

@final
class Later:
    data: Buffer
    count: int
    depth: int
    def __init__(self, data: Buffer, count: int, depth: int) -> None: ...

@final
class Held:
    """The memory of a buffer as bytes, which cannot be freed or resized while this lives."""

    def __new__(cls, data: Buffer) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Layout:
    def __init__(
        self,
        owner: str,
        type_name: str,
        fields: Iterable[Field],
        *,
        check: Callable[[Any], None] | None = None,
        prepare: Callable[[Any], None] | None = None,
        prefers_v2: bool = False,
        header: bool = True,
    ) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def type_name(self) -> str: ...
    @property
    def fields(self) -> tuple[Field, ...]: ...
    @property
    def wire_type(self) -> bytes: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def columns(self) -> tuple[np.dtype[Any] | None, ...]: ...
    @property
    def items(self) -> tuple[type[Columns] | None, ...]: ...
    @property
    def minimum(self) -> int: ...
    @property
    def index(self) -> dict[str, int]: ...
    @property
    def check(self) -> Callable[[Any], None] | None: ...
    @property
    def prepare(self) -> Callable[[Any], None] | None: ...
    @property
    def prefers_v2(self) -> bool: ...
    @property
    def columnar(self) -> bool: ...
    def need_columns(self) -> None: ...

@disjoint_base
class Columns:
    __layout__: ClassVar[Any]
    def __getitem__(self, key: Any, /) -> Any: ...
    @property
    def arrays(self) -> list[npt.NDArray[Any]]: ...
    @property
    def rows(self) -> int: ...
    def array(self, i: int) -> npt.NDArray[Any]: ...
    def allocate(self, rows: int) -> None: ...
    def texts(self, i: int) -> list[str]: ...
    def put(self, i: int, row: int, value: Any) -> None: ...
    def take(self, elements: list[Any]) -> None: ...
    def __setstate__(self, state: tuple[int, list[npt.NDArray[Any]]]) -> None: ...

@disjoint_base
class Column:
    def __init__(self, i: int, field: Field) -> None: ...
    @property
    def i(self) -> int: ...
    @property
    def field(self) -> Field: ...
    def __get__(self, columns: Any, owner: Any = None, /) -> Any: ...

@disjoint_base
class Row:
    __layout__: ClassVar[Any]

def element_at(cls: type[_R], columns: Columns, row: int) -> _R: ...

@final
class Cell:
    def __init__(self, i: int, field: Field) -> None: ...
    @property
    def field(self) -> Field: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...
    def __set__(self, instance: Any, value: Any, /) -> None: ...

LARGEST_METADATA: int

@disjoint_base
class Entries:
    def _read(self) -> dict[str, tuple[int, bytes]]: ...
    def _set(self, key: str, entry: tuple[int, bytes]) -> None: ...
    def _remove(self, key: str) -> None: ...
    def _take(self, other: Entries) -> None: ...
    def to_wire(self, owner: str) -> tuple[bytes, bytes]:
        """The metadata header and the metadata."""

    def __setstate__(
        self, state: tuple[dict[str, tuple[int, bytes]], tuple[bytes, bytes] | None]
    ) -> None: ...

@disjoint_base
class Record:
    __layout__: ClassVar[Any]
    timestamp_raw: int
    received: float | None
    received_monotonic: float | None
    received_kernel: float | None
    peer: Any
    crc_ok: bool | None
    # message_id, device_name, timestamp: declared in Message, as keyword-only fields
    time_ns: int | None
    _meta: Any
    @property
    def header_version(self) -> int: ...
    def _init_header(self, kwargs: dict[str, Any]) -> None: ...
    def pack(
        self, *, version: Literal[1, 2] | None = None, crc: bool = True, cut_name: bool = False
    ) -> bytes:
        """The whole message, ready to send.

        Args:
            version: header version. Default: the received one, else 2 if the message has
                metadata or an id or is a COMMAND, else 1 (docs/protocol.md section 2.1). Links
                write 1 where there is neither content nor metadata nor id.
            crc: False writes 0 in its place.
            cut_name: cut a device name over 20 bytes at a character, and with header version 2
                send the whole one as metadata IGTL_DEVICE_NAME. Default: EncodeError.

        Raises:
            EncodeError: a field cannot be sent as it is.
        """

    def pack_into(
        self,
        buffer: Buffer,
        *,
        version: Literal[1, 2] | None = None,
        crc: bool = True,
        cut_name: bool = False,
    ) -> int:
        """As `pack`, into memory that is used again: no allocation for a large message.

        Args:
            buffer: writable and contiguous: a bytearray, memoryview or array. Not memory of the
                message itself.

        Returns:
            Bytes written, from its start.

        Raises:
            EncodeError: as `pack`. ValueError: the buffer is too small; nothing was written.
            BufferError, TypeError: it is no such buffer (ValueError of a strided array).
        """

    def pack_parts(
        self, *, version: Literal[1, 2] | None = None, crc: bool = True, cut_name: bool = False
    ) -> list[bytes | memoryview]:
        """As `pack`, in parts to be sent one after the other: pixels and other large data are
        not copied, but stand in the list as they lie in memory."""
    def _field_values(self) -> tuple[Any, ...]: ...
    def _wire_type(self) -> bytes: ...
    def _set_wire_type(self, raw: bytes) -> None: ...
    def _cut_surplus(self, name: str, size: int) -> None: ...
    def _state(self) -> tuple[Any, ...]: ...
    def __setstate__(self, state: tuple[Any, ...]) -> None: ...

@final
class Slot:
    def __init__(self, i: int, field: Field) -> None: ...
    @property
    def field(self) -> Field: ...
    def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...
    def __set__(self, instance: Any, value: Any, /) -> None: ...

@final
class Block:
    def __new__(cls, size: int, pixels_at: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Frame:
    """One message as it came: header fields readable, body untouched.

    Attributes:
        data: all its bytes, header included.
        header_version, type_name, device_name, timestamp_raw, body_size, crc: of the header.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @staticmethod
    def from_bytes(data: Any) -> Frame:
        """The frame of one whole message: bytes, or another contiguous buffer, which cannot be
        resized while the frame lives.

        Raises:
            ValueError: they are not one whole message.
            TypeError, BufferError: data is no buffer, or not contiguous.
        """

    @property
    def data(self) -> Any: ...
    @property
    def header_version(self) -> int: ...
    @property
    def type_name(self) -> str: ...
    @property
    def device_name(self) -> str: ...
    @property
    def timestamp_raw(self) -> int: ...
    @property
    def body_size(self) -> int: ...
    @property
    def crc(self) -> int: ...
    def unpack(self, crc: CRCPolicy = "verify") -> Message: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
