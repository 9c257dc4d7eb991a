"""Messages made or mended by hand, for tests of bad bytes."""

from __future__ import annotations

import struct
import warnings
from typing import Any

import numpy as np

import igtl


def frame(type_name: str, body: bytes, *, version: int = 1, size: int | None = None) -> bytes:
    """A message with these body bytes, a right CRC, and a body size that may lie."""
    head = struct.pack(">H12s20sQ", version, type_name.encode(), b"Dev", 0)
    return head + struct.pack(">QQ", len(body) if size is None else size, igtl.crc64(body)) + body


def mended(wire: bytes) -> bytes:
    """The same bytes with body size and CRC made to fit them."""
    body = wire[58:]
    return wire[:42] + struct.pack(">QQ", len(body), igtl.crc64(body)) + body


def extended(
    content: bytes, head: bytes = b"\0\0", data: bytes = b"", *, ext: int = 12, mh: int | None = None,
    ms: int | None = None,
) -> bytes:  # fmt: skip
    """A version 2 body."""
    mh = len(head) if mh is None else mh
    ms = len(data) if ms is None else ms
    return struct.pack(">HHII", ext, mh, ms, 1) + content + head + data


def reshape(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    """In place, which NumPy 2.5 and later warn of, and do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


def transform(name: str = "Probe", x: float = 1.0) -> igtl.Transform:
    """A TRANSFORM that shows which one it is."""
    m = np.eye(4)
    m[0, 3] = x
    return igtl.Transform(m, device_name=name)


def bind(children: list[tuple[bytes, bytes]], names: bytes) -> bytes:
    """Content of a BIND of (type, content)."""
    heads = b"".join(struct.pack(">12sQ", kind, len(body)) for kind, body in children)
    bodies = b"".join(body + bytes(len(body) % 2) for _, body in children)
    size = struct.pack(">HH", len(children), len(names))
    return size[:2] + heads + size[2:] + names + bodies


def attributes(count: int) -> bytes:
    """Content of a POLYDATA of attributes without names and values."""
    heads = struct.pack(">BBI", 0, 1, 0) * count
    return bytes(36) + struct.pack(">I", count) + heads + bytes(count + count % 2)


def entries(count: int) -> bytes:
    """A version 2 body of STATUS with metadata of three-byte keys without values."""
    head = struct.pack(">H", count) + struct.pack(">HHI", 3, 3, 0) * count
    return extended(bytes(31), head, b"".join(k.to_bytes(3, "big") for k in range(count)))


def wanted(count: int) -> bytes:
    types = b"".join(b"T%011x" % k for k in range(count))
    return struct.pack(">H", count) + types + struct.pack(">H", count) + bytes(count)
