"""Many messages of one type at once, as columns.

For recordings, and for rates at which an object for each message is too slow.

    poses = igtl.batch.unpack(data)         # TRANSFORMs, one behind the other
    poses["matrix"]                         # (N, 4, 4)
    poses["matrix"][poses.is_from("Probe")], poses.time_ns[poses.is_from("Probe")]

TRANSFORM, POSITION, QTRANS, TDATA, QTDATA, SENSOR, STATUS and POINT have columns, and so has every
declared type whose fields have fixed sizes (numbers, texts, matrices; at the end a zero-ended text
or a list of elements). Metadata and message ids have none: `igtl.unpack` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from igtl import _batch, _core
from igtl.codec.message import Message
from igtl.errors import EncodeError
from igtl.fields import REQUIRED, Field
from igtl.options import CRCPolicy

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, eq=False)
class Batch:
    """N messages of one type. `batch["matrix"]` is the column of a field, named as in the class.

    Attributes:
        kind: class of the messages.
        time_ns: (N,) int64, nanoseconds since 1970; 0 where not set.
        device_names: the names, in the order of their first message.
        device_ids: (N,) int32, which of them each message has.
        crc_ok: (N,) bool, whether the CRC was right; None: not computed.
        columns: by field: numbers (N,) or (N, n), matrices (N, 4, 4) float32, texts (N,) bytes
            ("S"), zero-ended texts a list of str. The elements of list messages stand one behind
            the other in one `igtl.Elements`, of all messages together: see `offsets`.
        offsets: (N + 1,) int64: message k has the elements offsets[k] to offsets[k + 1]. None
            for types without elements.
    """

    kind: type[Message]
    time_ns: npt.NDArray[np.int64]
    device_names: tuple[str, ...]
    device_ids: npt.NDArray[np.int32]
    crc_ok: npt.NDArray[np.bool_] | None
    offsets: npt.NDArray[np.int64] | None
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.time_ns)

    def __getitem__(self, field: str) -> Any:
        return self.columns[field]

    def is_from(self, device_name: str) -> npt.NDArray[np.bool_]:
        """(N,) bool: which messages are of this device."""
        ids = [k for k, name in enumerate(self.device_names) if name == device_name]
        found: npt.NDArray[np.bool_] = np.isin(self.device_ids, ids)
        return found

    def pack(self, *, crc: bool = True) -> bytes:
        """Return the bytes of the messages; see `pack`."""
        return pack(
            self.kind, self.time_ns, self.device_names, device_ids=self.device_ids,
            offsets=self.offsets, crc=crc, **self.columns,
        )  # fmt: skip

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self.device_names[:6]))
        more = ", …" if len(self.device_names) > 6 else ""
        return f"<{len(self)} {self.kind.type_name} from {names}{more}>"


def unpack(data: Buffer, *, crc: CRCPolicy = "verify") -> Batch:
    """Return the messages in these bytes: whole ones of one type, one behind the other.

    Devices may be mixed, and header versions. Fields whose length each message says itself (the
    values of SENSOR, the quaternion of POSITION) must have the same length in all.

    Args:
        data: bytes, or anything else with a contiguous buffer. Copied.
        crc: "verify": CRCError when one is wrong. "warn": crc_ok tells. "off": not computed.

    Raises:
        ProtocolError: what `igtl.unpack` raises, with a note that says in which message.
        ValueError: no messages; or not of one type, or of one shape.
        TypeError: the type has fields that do not fit columns.
    """
    return Batch(*_batch.unpack_run(data, crc))


def pack(
    kind: type[Message],
    time_ns: npt.ArrayLike,
    device_names: str | Sequence[str] = "",
    *,
    device_ids: npt.ArrayLike | None = None,
    offsets: npt.ArrayLike | None = None,
    crc: bool = True,
    **columns: Any,
) -> bytes:
    """N messages, one behind the other, with header version 1.

    Args:
        kind: class of the messages.
        time_ns: (N,), nanoseconds since 1970; 0: not set.
        device_names: one for all, one for each, or those that `device_ids` counts.
        device_ids: (N,), which of the names each message has.
        offsets: (N + 1,), which elements each list message has, see `Batch`. Default: all the
            same number.
        crc: False writes 0 in its place.
        columns: a column for each field, as in `Batch`; a single value stands for all messages. A
            field left out has its default.

    Raises:
        EncodeError: values that cannot be sent. TypeError: a field that does not exist.
    """
    kind.__layout__.need_columns()
    times: npt.NDArray[np.int64] = np.array(time_ns, np.int64)
    if times.ndim != 1:
        raise EncodeError(kind.__name__, "time_ns", f"shape {times.shape}, must be (N,)")
    n = len(times)
    names = [device_names] if isinstance(device_names, str) else list(device_names)
    if device_ids is None:
        device_ids = np.arange(len(names)) if len(names) > 1 else np.zeros(n)
    wire_names = b"".join(_core.encode_field(x, 20, kind.__name__, "device_name") for x in names)
    ready: dict[str, Any] = {}
    ends = None if offsets is None else np.ascontiguousarray(offsets, np.int64)
    for field in kind.__fields__:
        if field.hidden:
            continue
        value = columns.pop(field.name, field.default)
        if value is REQUIRED:
            raise TypeError(f"{kind.__name__} needs {field.name!r}")
        if field.kind == "elements":
            if not isinstance(value, field.item.__columns__):
                value = field.item.coerce(value)
            ends = np.arange(n + 1) * (len(value) // max(n, 1)) if ends is None else ends
        elif field.kind == "zero_ended":
            texts = [value] * n if isinstance(value, str) else value
            encoded = [_core.encode_text(text, 106) + b"\0" for text in texts]
            if any(raw.index(0) < len(raw) - 1 for raw in encoded):
                raise EncodeError(kind.__name__, field.name, "a NUL would end the text")
            ends = np.cumsum([0, *map(len, encoded)])
            value = b"".join(encoded)
        else:
            value = _column(kind, field, value, n)
        ready[field.name] = value
    if columns:
        raise TypeError(f"{kind.__name__} has no field {next(iter(columns))!r}")
    ids = np.ascontiguousarray(device_ids, np.int32)
    return _batch.pack_run(kind, times, wire_names, ids, ready, ends, crc)


def _column(kind: type[Message], field: Field, value: Any, n: int) -> npt.NDArray[Any]:
    """One value for each of n messages, contiguous, as the wire has them."""
    array: npt.NDArray[Any]
    if field.kind == "text":
        if isinstance(value, np.ndarray) and value.dtype.kind == "S":
            array = value
            if value.dtype.itemsize > field.size:
                raise EncodeError(
                    kind.__name__, field.name, f"{value.dtype}, {field.size} bytes fit"
                )
        else:
            texts = [value] if isinstance(value, (str, bytes)) else value
            array = np.array(
                [_core.encode_field(x, field.size, kind.__name__, field.name) for x in texts]
            ).reshape(-1 if texts is value else ())
        array = array.astype(f"S{field.size}")
    elif field.kind == "matrix":
        array = np.asarray(value, np.float32)
        if array.shape[-2:] != (4, 4):
            raise EncodeError(kind.__name__, field.name, f"shape {array.shape}, must be (N, 4, 4)")
    else:
        array = _core.as_numbers(value, np.dtype(field.scalar), kind.__name__, field.name)
    inner = {"matrix": 2, "array": 2 if field.per else 1}.get(field.kind, 0)
    shape = (n, *array.shape[array.ndim - inner :])
    if array.ndim not in (inner, inner + 1) or array.shape[: array.ndim - inner] not in ((), (n,)):
        raise EncodeError(kind.__name__, field.name, f"shape {array.shape}, must be {shape}")
    return np.ascontiguousarray(np.broadcast_to(array, shape))
