"""Lossless compression: of bytes, and of whole messages inside a COMPRESSED message.

    small = igtl.compress(volume, level="best"); data = igtl.decompress(small)
    link = igtl.connect("store", compression=True)      # see igtl.session.compress

`compress` writes streams that every tool reads: "deflate" (RFC 1950, zlib), "gzip" (RFC 1952),
"zstd" (RFC 8878). Deflate is there always, faster with isal; zstd comes with Python 3.14, or with
`pip install "igtl[compression]"`.

COMPRESSED is a type of our own, for igtl ends only. Its content, numbers big-endian:

    0   u8        version, 1
    1   u8        method, 1 deflate, 2 zstd
    2   u8        n, 1, 2, 4 or 8: byte k of every n bytes stands together, for k = 0 … n-1 ("byte
                  shuffle"; what is left over at the end follows as it is)
    3   u8        0
    4   char[12]  type of the message inside
    16  u64       its size in bytes, header included
    24  …         that message, shuffled, then compressed

Its device name and time stamp are those of the message inside.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal, cast, get_args

import numpy as np

from igtl import _core
from igtl.codec.message import Message
from igtl.errors import BodyError
from igtl.extras import need
from igtl.fields import constant, data, reserved, text, u8, u64
from igtl.options import CRCPolicy

Method = Literal["deflate", "gzip", "zstd"]
Level = Literal["fast", "default", "best"] | int
MAX_SIZE: Final = 1 << 30

_DEFLATE_LEVELS: Final = {"fast": 1, "default": 6, "best": 9}
_ZSTD_LEVELS: Final = {"fast": 1, "default": 3, "best": 12}
_ZSTD_WINDOW: Final = 23  # 8 MiB, as every level up to 19 uses
_ISAL: Final = {1: 1, 2: 2, 3: 2}  # of zlib's levels: what isal does with more ratio and speed
_CODES: Final[dict[str, int]] = {"deflate": 1, "zstd": 2}
_METHODS: Final = {1: "deflate", 2: "zstd"}
_SAMPLE: Final = 64 << 10
_WORTH: Final = 0.95  # of its size: what does not shrink to this is sent as it is


class CompressionStats:
    """What compression has done so far; threads may share one.

    Attributes:
        count: how many times data was compressed.
        bytes_in, bytes_out: before and after.
        seconds: spent on it.
        skipped: messages sent as they were, since they would not shrink.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.seconds = 0.0
        self.skipped = 0
        self._lock = threading.Lock()

    @property
    def ratio(self) -> float:
        """Bytes in for each byte out; 1.0 before there is any."""
        return self.bytes_in / self.bytes_out if self.bytes_out else 1.0

    @property
    def saved(self) -> float:
        """Part of the bytes that compression removed, 0 … 1; negative if they grew."""
        return 1 - self.bytes_out / self.bytes_in if self.bytes_in else 0.0

    @property
    def rate(self) -> float:
        """Bytes in per second."""
        return self.bytes_in / self.seconds if self.seconds else 0.0

    def add(self, bytes_in: int, bytes_out: int, seconds: float) -> None:
        """Count one compression."""
        with self._lock:
            self.count += 1
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out
            self.seconds += seconds

    def skip(self) -> None:
        """Count one message that was sent as it is."""
        with self._lock:
            self.skipped += 1

    def __repr__(self) -> str:
        return (
            f"<{self.count} compressed, {self.bytes_in} to {self.bytes_out} bytes "
            f"({self.ratio:.2f} : 1, {self.saved:.1%} saved), {self.rate / 1e6:.0f} MB/s, "
            f"{self.skipped} not worth it>"
        )


@cache
def _isal() -> Any:
    """isal, or None: zlib does the same, four times slower."""
    try:
        return need("isal.isal_zlib", "compression")
    except ModuleNotFoundError:
        return None


@cache
def _zstd() -> Any:
    try:
        return need("compression.zstd", "compression")  # Python 3.14
    except ModuleNotFoundError:
        return need("backports.zstd", "compression")


def has_zstd() -> bool:
    """Return whether zstd can be used here."""
    try:
        _zstd()
    except ModuleNotFoundError:
        return False
    return True


def compress(
    data: Any,
    method: Method = "deflate",
    level: Level = "default",
    *,
    stats: CompressionStats | None = None,
) -> bytes:
    """Compress bytes, or an object whose memory is contiguous: an array, a packed message.

    Args:
        data: what to compress.
        method: "deflate" (default), "gzip" or "zstd".
        level: "fast", "default" or "best", or a number: 0 (stored) … 9 for deflate and gzip;
            a level of zstd. Levels 1 to 3 of deflate are isal's where it is installed.
        stats: counts this compression.

    Raises:
        ModuleNotFoundError: zstd is not installed; the text says which package has it.
        ValueError: there is no such method or level.
    """
    start = time.perf_counter()
    view = _bytes_of(data)
    packed = _compressor(method, level)(view)
    if stats is not None:
        stats.add(len(view), len(packed), time.perf_counter() - start)
    return packed


def _bytes_of(data: Any) -> memoryview:
    """Its memory as bytes; a copy only where that is not in one piece."""
    view = memoryview(data)
    if view.nbytes == 0:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _compressor(method: str, level: Level) -> Callable[[Any], bytes]:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, not {method!r}")
    names = _ZSTD_LEVELS if method == "zstd" else _DEFLATE_LEVELS
    if isinstance(level, str) and level not in names:
        raise ValueError(f"level must be one of {tuple(names)} or a number, not {level!r}")
    number = names[level] if isinstance(level, str) else level
    if method == "zstd":
        zstd = _zstd()
        low, high = zstd.CompressionParameter.compression_level.bounds()
        if not low <= number <= high:
            raise ValueError(f"zstd has levels from {low} to {high}, not {number}")
        return lambda data: cast(bytes, zstd.compress(data, number))
    if not 0 <= number <= 9:
        raise ValueError(f"{method} has levels from 0 to 9, not {number}")
    wbits = 31 if method == "gzip" else 15
    if number in _ISAL and (isal := _isal()) is not None:
        return lambda data: cast(bytes, isal.compress(data, _ISAL[number], wbits))
    return lambda data: zlib.compress(data, number, wbits)


def decompress(data: Any, *, max_size: int = MAX_SIZE) -> bytes:
    """Return the data that `compress` was given; the first bytes tell the method.

    Args:
        data: what `compress` returned.
        max_size: bytes that may come out; default 1 GiB. No more are ever made.

    Raises:
        BodyError: the bytes are damaged, end early, are followed by others, or would become more
            than max_size.
        ModuleNotFoundError: the data needs zstd, which is not installed.
    """
    view = _bytes_of(data)
    start = bytes(view[:4])
    if start == b"\x28\xb5\x2f\xfd":
        return _inflated(view, "zstd", max_size)
    return _inflated(view, "gzip" if start.startswith(b"\x1f\x8b") else "deflate", max_size)


def _inflated(view: memoryview, method: str, max_size: int) -> bytes:
    engine: Any
    wrong: tuple[type[Exception], ...]
    if method == "zstd":
        zstd = _zstd()
        # a frame may ask for a window of any size, and is given it before there is any output
        window = min(31, max(_ZSTD_WINDOW, max_size.bit_length()))
        options = {zstd.DecompressionParameter.window_log_max: window}
        engine = zstd.ZstdDecompressor(options=options)
        wrong = (zstd.ZstdError, EOFError, ValueError)
    else:
        library: Any = _isal() or zlib
        engine, wrong = library.decompressobj(31 if method == "gzip" else 15), (library.error,)
    try:
        # one byte more than is wanted shows that there are more; 0 would mean no limit
        out = cast(bytes, engine.decompress(view, max_size + 1))
    except wrong as error:
        raise _damaged(f"{method}: {error}") from None
    if len(out) > max_size:
        raise _damaged(f"becomes more than {max_size} bytes")
    if not engine.eof:
        raise _damaged(f"the {method} stream ends early")
    if engine.unused_data:
        raise _damaged(f"{len(engine.unused_data)} bytes follow the {method} stream")
    return out


def _damaged(reason: str) -> BodyError:
    return BodyError("COMPRESSED", "payload", reason)


def _shuffled(view: memoryview, itemsize: int) -> Any:
    """Byte k of every item together, for each k: the high bytes of 16-bit pixels are alike."""
    source = np.frombuffer(view, np.uint8)
    count = source.size // itemsize
    out = np.empty(source.size, np.uint8)
    for k in range(itemsize):
        out[k * count : (k + 1) * count] = source[k : count * itemsize : itemsize]
    out[count * itemsize :] = source[count * itemsize :]
    return out


def _unshuffled(data: bytes, itemsize: int) -> Any:
    source = np.frombuffer(data, np.uint8)
    count = source.size // itemsize
    out = np.empty(source.size, np.uint8)
    for k in range(itemsize):
        out[k : count * itemsize : itemsize] = source[k * count : (k + 1) * count]
    out[count * itemsize :] = source[count * itemsize :]
    return out


class Compression:
    """How an end compresses what it sends: `connect(…, compression=Compression("zstd"))`.

    Args:
        method: "auto" (default): zstd where both ends have it, else deflate. "deflate". "zstd":
            for peers that read it, other peers get the message uncompressed.
        level: see `compress`; default "fast", the one for links.
        min_size: messages below so many bytes go as they are; default 4096.

    Attributes:
        stats: what it has done, summed over all links that share the object.
    """

    def __init__(
        self,
        method: Literal["auto", "deflate", "zstd"] = "auto",
        level: Level = "fast",
        min_size: int = 4096,
    ) -> None:
        if method not in ("auto", "deflate", "zstd"):
            raise ValueError(f"method must be 'auto', 'deflate' or 'zstd', not {method!r}")
        self.method = method
        self.level = level
        self.min_size = min_size
        self.stats = CompressionStats()
        # what is wrong or missing shows here, not while sending
        if self.method != "zstd":
            _compressor("deflate", self.level)
        if self.method == "zstd" or (self.method == "auto" and has_zstd()):
            _compressor("zstd", self.level)

    def wrap(self, wire: bytes, *, zstd: bool = False) -> bytes:
        """Return a packed message inside a packed COMPRESSED; or as it is, if that is not smaller.

        Args:
            wire: the packed message.
            zstd: whether the receiver reads zstd.
        """
        if len(wire) < self.min_size or wire.startswith(b"COMPRESSED\0\0", 2):
            return wire
        method = self.method
        if method == "auto":
            method = "zstd" if zstd and has_zstd() else "deflate"
        if method == "zstd" and not zstd:
            return wire
        start = time.perf_counter()
        out = _wrapped(memoryview(wire), method, self.level)
        if out is None:
            self.stats.skip()
            return wire
        self.stats.add(len(wire), len(out), time.perf_counter() - start)
        return out


def _wrapped(wire: memoryview, method: str, level: Level) -> bytes | None:
    work = _compressor(method, level)
    if len(wire) > 8 * _SAMPLE:  # noise, or compressed already: do not try all of it
        middle = len(wire) // 2
        if len(work(wire[middle : middle + _SAMPLE])) > _WORTH * _SAMPLE:
            return None
    itemsize = _item_of(wire)
    payload = work(wire if itemsize == 1 else _shuffled(wire, itemsize))
    if len(payload) > _WORTH * len(wire):
        return None
    outer = Compressed(
        _CODES[method], itemsize, _text(wire[2:14]), len(wire), payload,
        device_name=_text(_core.stream_key(wire)[12:]), timestamp=None,
    )  # fmt: skip
    outer.timestamp_raw = int.from_bytes(wire[34:42], "big")
    return outer.pack(version=2 if wire[1] == 2 else 1, cut_name=True)


def stream_of(wire: bytes) -> bytes:
    """Type and device name of a packed message; if it is a COMPRESSED, of the one inside."""
    key = _core.stream_key(wire)
    if not key.startswith(b"COMPRESSED\0\0") or len(wire) < 94:
        return key
    content = 58 if wire[1] == 1 else 58 + int.from_bytes(wire[58:60], "big")
    return wire[content + 4 : content + 16] + key[12:]


def _text(field: bytes | memoryview) -> str:
    return bytes(field).partition(b"\0")[0].decode("utf-8", "replace")


def _item_of(wire: memoryview) -> int:
    """Bytes of a number of a message's data, where it pays to sort them: images and arrays."""
    content = 58
    if wire[1] == 2:
        content += int.from_bytes(wire[58:60], "big")
    at = {"IMAGE": 3, "NDARRAY": 0}.get(_text(wire[2:14]))
    if at is None or len(wire) <= content + at:
        return 1
    return _ITEMS.get(wire[content + at], 1)


# scalar types of two bytes; whether it pays for longer numbers was not measured
_ITEMS: Final = {4: 2, 5: 2}


class Compressed(Message, type_name="COMPRESSED"):
    """Another message, compressed.

    Only igtl reads and writes it, where both ends have agreed on it; a link opens it before the
    caller sees it (see `igtl.session.compress`).

    Args:
        method: 1 deflate, 2 zstd.
        itemsize: of the byte shuffle; 1: none.
        inner_type: type of the message inside.
        size: its size in bytes, header included.
        payload: the compressed bytes.
    """

    standard = False

    _version: int = constant(u8, 1)
    method: int = u8()
    itemsize: int = u8()
    _reserved: int = reserved(u8)
    inner_type: str = text(12)
    size: int = u64()
    payload: bytes = data()

    def unwrap(self, *, max_size: int = MAX_SIZE, crc: CRCPolicy = "verify") -> Message:
        """Return the message inside.

        Args:
            max_size: see `wire`.
            crc: see `igtl.unpack`.

        Raises:
            CRCError: the CRC of the message inside is wrong.
            BodyError, ModuleNotFoundError: see `wire`.
        """
        return _core.unpack(self.wire(max_size=max_size), crc=crc)

    def wire(self, *, max_size: int = MAX_SIZE) -> Any:
        """Return the bytes of the message inside.

        Args:
            max_size: bytes it may have; default 1 GiB. No more are ever made.

        Raises:
            BodyError: it is larger, or damaged, or not what the fields say.
            ModuleNotFoundError: it needs zstd, which is not installed.
        """
        if self.method not in _METHODS:
            raise BodyError("COMPRESSED", "method", f"{self.method} does not exist")
        if self.itemsize not in (1, 2, 4, 8):
            raise BodyError("COMPRESSED", "itemsize", f"{self.itemsize}, must be 1, 2, 4 or 8")
        if self.size > max_size:
            raise BodyError("COMPRESSED", "size", f"{self.size} bytes, the limit is {max_size}")
        out = _inflated(memoryview(self.payload), _METHODS[self.method], self.size)
        if len(out) != self.size:
            raise BodyError("COMPRESSED", "size", f"{len(out)} bytes, {self.size} were announced")
        wire = out if self.itemsize == 1 else _unshuffled(out, self.itemsize)
        head = bytes(wire[:58])
        if len(head) < 58 or int.from_bytes(head[42:50], "big") != self.size - 58:
            raise _damaged("is not one whole message")
        kind = _text(memoryview(head)[2:14])
        if kind != self.inner_type or kind == self.type_name:
            raise BodyError("COMPRESSED", "inner_type", f"{self.inner_type!r} holds {kind!r}")
        return wire
