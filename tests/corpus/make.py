"""Makes `corpus.jsonl`, the hostile inputs that the repository publishes: `python -m tests.corpus.make`.

What is said of each input by hand comes first; then, for each type, what is made of a good message
by rule, where the oracle (`tests/reference.py`) says what becomes of it.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import igtl
from tests import reference
from tests.conftest import VECTORS, manifest
from tests.wire import attributes, bind, entries, extended, frame, mended, wanted

FILE = Path(__file__).parent / "corpus.jsonl"
ACCEPTED = "accepted"


class Entry(NamedTuple):
    """One input, and what becomes of it.

    Attributes:
        name: unique.
        clause: section of docs/protocol.md that decides.
        reason: what is strange about it.
        expected: "accepted", or the class of the error.
        wire: the bytes.
        field: of a BodyError: what is at fault; "" where an implementation may choose.
        stream: what a reader of a stream says, where that is something else.
    """

    name: str
    clause: str
    reason: str
    expected: str
    wire: bytes
    field: str = ""
    stream: str = ""


def bad(name: str, clause: str, reason: str, wire: bytes, field: str = "") -> Entry:
    return Entry(name, clause, reason, "BodyError", wire, field)


def good(name: str, clause: str, reason: str, wire: bytes) -> Entry:
    return Entry(name, clause, reason, ACCEPTED, wire)


# ---- by hand --------------------------------------------------------------------------------------


def headers() -> Iterator[Entry]:
    """Section 2, 4 and 6: the 58 bytes."""
    wire = igtl.Status.ok("up", device_name="D", timestamp=0).pack(version=1)
    for length in (0, 1, 57):
        yield Entry(
            f"header/cut at {length}",
            "2",
            "less than a header",
            "ProtocolError",
            wire[:length],
            stream="incomplete",
        )
    yield Entry(
        "header/body cut",
        "2",
        "a byte of the body is missing",
        "ProtocolError",
        wire[:-1],
        stream="incomplete",
    )
    for bits in (31, 32, 40, 63):
        for size in ((1 << bits) - 1, 1 << bits):
            sized = wire[:42] + struct.pack(">Q", size) + wire[50:]
            yield Entry(
                f"header/body of {size}",
                "14",
                "a body size near a power of two",
                "ProtocolError",
                sized,
                stream="MessageTooLarge",
            )
    for size in ((1 << 64) - 1, (1 << 64) - 58, (1 << 64) - 59):
        sized = wire[:42] + struct.pack(">Q", size) + wire[50:]
        yield Entry(
            f"header/body of {size}",
            "14",
            "with the header's 58 bytes it passes 2**64",
            "ProtocolError",
            sized,
            stream="MessageTooLarge",
        )
    for version in (3, 4, 255, 256, 65535):
        yield Entry(
            f"header/version {version}",
            "2.1",
            "there are header versions 1 and 2",
            "VersionError",
            struct.pack(">H", version) + wire[2:],
        )
    yield good("header/version 0", "6", "0 is read like 1", b"\0\0" + wire[2:])
    for name, crc in (("0", 0), ("of another body", 1), ("of xz", 0x995DC9BBDF1939FA)):
        yield Entry(
            f"header/CRC {name}",
            "4",
            "the CRC is not that of the body",
            "CRCError",
            wire[:50] + struct.pack(">Q", crc) + wire[58:],
        )
    yield Entry(
        "header/CRC of an empty body",
        "4",
        "it must be 0",
        "CRCError",
        frame("STATUS", b"")[:50] + b"\xff" * 8,
    )
    for name, raw in (
        ("no bytes", b""),
        ("twelve bytes", b"X" * 12),
        ("no text", b"\xff\xfe"),
        ("lower case", b"status"),
        ("a prefix of a type", b"STAT"),
        ("escape sequences", b"\x1b[31m\x07"),
        ("a line break", b"A\nB"),
    ):
        yield good(
            f"header/type of {name}",
            "2.2",
            "a type that nobody has declared",
            wire[:2] + raw.ljust(12, b"\0") + wire[14:],
        )
    yield good(
        "header/type with bytes behind its NUL",
        "1",
        "the name ends at its first NUL",
        wire[:2] + b"STATUS\0junk\0" + wire[14:],
    )
    for name, raw in (
        ("twenty bytes", b"x" * 20),
        ("no text", b"\xff" * 20),
        ("half a character", b"x" * 19 + b"\xc3"),
        ("bytes behind its NUL", b"A\0junk".ljust(20, b"\0")),
        ("escape sequences", b"\x1b[2J\x07".ljust(20, b"\0")),
    ):
        yield good(
            f"header/device of {name}",
            "1",
            "texts in fixed fields are bytes; those before the first NUL count",
            wire[:14] + raw + wire[34:],
        )
    for stamp in ((1 << 64) - 1, 1, 0xFFFFFFD7):
        yield good(
            f"header/time stamp {stamp:#x}",
            "3",
            "any number is a time stamp",
            wire[:34] + struct.pack(">Q", stamp) + wire[42:],
        )


def version2() -> Iterator[Entry]:
    """Section 5: extended header and metadata."""
    text = bytes(31)

    def of(body: bytes) -> bytes:
        return frame("STATUS", body, version=2)

    extended_header = "extended header"
    for length in range(12):
        yield bad(
            f"extended/{length} bytes",
            "5.1",
            "no room for it",
            of(extended(b"")[:length]),
            extended_header,
        )
    for size in (0, 2, 11):
        yield bad(
            f"extended/of {size}",
            "5.1",
            "it has 12 bytes at least",
            of(extended(text, ext=size)),
            extended_header,
        )
    yield bad(
        "extended/beyond the body",
        "5.1",
        "it is longer than the body",
        of(extended(text, ext=60000)),
        extended_header,
    )
    yield good(
        "extended/longer",
        "5.1",
        "what is longer is skipped",
        of(extended(b"surplus!" + text, ext=20)),
    )
    yield good(
        "extended/takes the content",
        "5.1",
        "nothing is left: there is no data",
        of(extended(text, ext=43)),
    )
    for size in (0, 1):
        yield bad(
            f"metadata/header of {size}",
            "5.1",
            "the count alone has 2 bytes",
            of(extended(text, mh=size)),
            extended_header,
        )
    for ms in (0xFFFFFFFF, 0x7FFFFFFF, 32):
        yield bad(
            f"metadata/of {ms}",
            "5",
            "more than the body",
            of(extended(text, ms=ms)),
            extended_header,
        )
    for mh in (65535, 34):
        yield bad(
            f"metadata/header of {mh}",
            "5",
            "more than the body",
            of(extended(text, mh=mh)),
            extended_header,
        )
    for n in (1, 8191, 8192, 65535):
        yield bad(
            f"metadata/{n} entries announced",
            "5.2",
            "they do not fit the metadata header",
            of(extended(text, struct.pack(">H", n))),
            "metadata",
        )
    for key, value, data in (
        (3, 99, b"abc"),
        (1, 1, b"abcdef"),
        (65535, 0, b""),
        (0, 0xFFFFFFFF, b"ab"),
        (2, 0xFFFFFFFF, b"a"),
    ):
        head = struct.pack(">HHHI", 1, key, 3, value)
        yield bad(
            f"metadata/key {key} value {value} of {len(data)}",
            "5.3",
            "the sizes do not add up to that of the metadata",
            of(extended(text, head, data)),
            "metadata",
        )
    wrapped = (
        struct.pack(">H", 2) + struct.pack(">HHI", 1, 3, 0xFFFFFFFF) + struct.pack(">HHI", 1, 3, 1)
    )
    yield bad(
        "metadata/sum passes 2**32",
        "5.3",
        "the sizes add up to it modulo 2**32 only",
        of(extended(text, wrapped, b"kk")),
        "metadata",
    )
    for name, head, data in (
        ("no value", struct.pack(">HHHI", 1, 1, 3, 0), b"k"),
        ("no key", struct.pack(">HHHI", 1, 0, 3, 1), b"v"),
        ("twice the same key", struct.pack(">HHHIHHI", 2, 1, 3, 1, 1, 3, 1), b"k1k2"),
        ("keys in another order", struct.pack(">HHHIHHI", 2, 1, 3, 1, 1, 3, 1), b"b1a2"),
        ("a key that is no text", struct.pack(">HHHI", 1, 2, 3, 1), b"\xff\xfev"),
        ("a value that is no text", struct.pack(">HHHI", 1, 1, 106, 2), b"k\xff\xfe"),
        ("an encoding that nobody knows", struct.pack(">HHHI", 1, 1, 65535, 1), b"kv"),
        ("a NUL in key and value", struct.pack(">HHHI", 1, 2, 3, 2), b"k\0v\0"),
        ("a longer header", struct.pack(">HHHI", 1, 1, 3, 1) + b"surplus", b"kv"),
        ("another name", struct.pack(">HHHI", 1, 16, 3, 5), b"IGTL_DEVICE_NAMEOther"),
        ("a longer name", struct.pack(">HHHI", 1, 16, 3, 9), b"IGTL_DEVICE_NAMEDeveloper"),
        ("a name of nothing", struct.pack(">HHHI", 1, 16, 3, 0), b"IGTL_DEVICE_NAME"),
    ):
        yield good(
            f"metadata/{name}", "5.3", "strange, and readable", of(extended(text, head, data))
        )
    yield good("metadata/500 entries", "5.3", "many small parts", of(entries(500)))
    yield good(
        "metadata/without content",
        "6",
        "there is no data, but metadata",
        of(extended(b"", struct.pack(">HHHI", 1, 1, 3, 1), b"kv")),
    )


def images() -> Iterator[Entry]:
    """Section 8.3."""

    def image(
        size: Any = (1, 1, 1),
        offset: Any = (0, 0, 0),
        part: Any = (1, 1, 1),
        head: bytes = b"\0\1\1\3\2\1",
        pixels: bytes = b"x",
    ) -> bytes:
        return frame(
            "IMAGE",
            head
            + struct.pack(">3H", *size)
            + bytes(48)
            + struct.pack(">6H", *offset, *part)
            + pixels,
        )

    for version in (0, 2, 256):
        yield bad(
            f"IMAGE/version {version}",
            "8.3",
            "the version is 1",
            image(head=struct.pack(">H", version) + b"\1\3\2\1"),
            "version",
        )
    yield bad(
        "IMAGE/no components",
        "8.3",
        "there is one at least",
        image(head=b"\0\1\0\3\2\1"),
        "components",
    )
    for code in (0, 1, 8, 9, 12, 13, 14, 19, 77, 255):
        yield bad(
            f"IMAGE/scalar type {code}",
            "1.1",
            "the type does not exist here",
            image(head=bytes((0, 1, 1, code, 2, 1))),
            "scalar_type",
        )
    for endian, coordinate in ((0, 0), (3, 3), (255, 255)):
        yield good(
            f"IMAGE/endian {endian}, coordinate {coordinate}",
            "8.3",
            "a code that does not exist reads as the usual one",
            image(head=bytes((0, 1, 1, 3, endian, coordinate))),
        )
    yield bad(
        "IMAGE/65535 cubed",
        "8.3",
        "17 exabytes are announced, one byte is there",
        image((65535,) * 3, part=(65535,) * 3, head=b"\0\1\xff\x0b\2\1"),
        "pixels",
    )
    yield bad(
        "IMAGE/size that wraps",
        "8.3",
        "the product is 0 modulo 2**32",
        image((32768, 32768, 4), part=(32768, 32768, 4), pixels=b""),
        "pixels",
    )
    yield bad(
        "IMAGE/a byte short",
        "8.3",
        "pixels are missing",
        image((2, 1, 1), part=(2, 1, 1)),
        "pixels",
    )
    yield good("IMAGE/a byte more", "6", "surplus is ignored", image(pixels=b"xy"))
    for axis in range(3):
        at = [0, 0, 0]
        at[axis] = 1
        yield bad(
            f"IMAGE/part outside along {axis}",
            "8.3",
            "the part ends outside of the image",
            image(offset=at),
            "sub_size",
        )
        at[axis] = 65535
        yield bad(
            f"IMAGE/part that wraps along {axis}",
            "8.3",
            "offset and size pass 2**16",
            image(offset=at),
            "sub_size",
        )
    for part in ((0, 0, 0), (0, 3000, 1000), (3000, 1000, 0), (3000, 0, 1000)):
        yield good(
            f"IMAGE/part of {part}",
            "8.3",
            "no pixels, in many rows",
            image([max(1, n) for n in part], part=part, pixels=b""),
        )
    yield good(
        "IMAGE/size 0", "8.3", "no image at all", image((0, 0, 0), part=(0, 0, 0), pixels=b"")
    )


def videos() -> Iterator[Entry]:
    """Section 8.20."""
    for version in (0, 2):
        yield bad(
            f"VIDEO/version {version}",
            "8.20",
            "the version is 1",
            frame("VIDEO", struct.pack(">H", version) + bytes(74)),
            "version",
        )
    yield bad(
        "VIDEO/part outside",
        "8.20",
        "the part ends outside of the image",
        frame("VIDEO", b"\0\1" + bytes(74 - 6) + b"\0\1" * 3),
        "sub_size",
    )
    yield good(
        "VIDEO/codec that is no text",
        "8.20",
        "unknown codecs are kept",
        frame("VIDEO", b"\0\1\2\xff\xff\xff\xff" + bytes(69) + b"bits"),
    )
    yield good(
        "VIDEO/no bit stream", "8.20", "a frame of nothing", frame("VIDEO", b"\0\1" + bytes(74))
    )


def arrays() -> Iterator[Entry]:
    """Section 8.13."""

    def array(code: int, shape: Any, values: bytes = b"") -> bytes:
        return frame("NDARRAY", struct.pack(f">BB{len(shape)}H", code, len(shape), *shape) + values)

    yield bad(
        "NDARRAY/1 byte", "8.13", "no room for the type and the dimensions",
        frame("NDARRAY", b"\3"), "array",
    )  # fmt: skip
    yield bad(
        "NDARRAY/200 dimensions of 65535", "8.13", "the product passes everything",
        array(3, (65535,) * 200), "array",
    )  # fmt: skip
    for code in (0, 1, 8, 9, 12, 14, 19, 255):
        yield bad(
            f"NDARRAY/scalar type {code}",
            "1.1",
            "the type does not exist",
            array(code, (1,), bytes(16)),
            "array",
        )
    yield bad(
        "NDARRAY/dimensions cut",
        "8.13",
        "four are announced, one is there",
        frame("NDARRAY", b"\3\4\0\1"),
        "array",
    )
    yield bad(
        "NDARRAY/65535 to the fourth",
        "8.13",
        "the product passes 2**63",
        array(13, (65535,) * 4, bytes(16)),
        "array",
    )
    yield bad(
        "NDARRAY/a product that is 0 modulo 2**64",
        "8.13",
        "16384 to the fifth, and 64",
        array(3, (16384,) * 4 + (256,), b""),
        "array",
    )
    for code, width in ((2, 1), (4, 2), (6, 4), (10, 4), (11, 8), (13, 16)):
        yield bad(
            f"NDARRAY/type {code}, a byte short",
            "8.13",
            "numbers are missing",
            array(code, (2, 2), bytes(4 * width - 1)),
            "array",
        )
        yield good(
            f"NDARRAY/type {code}, a byte more",
            "6",
            "surplus is ignored",
            array(code, (2, 2), bytes(4 * width + 1)),
        )
        yield good(
            f"NDARRAY/type {code}, not finite",
            "8.13",
            "every pattern of bits is a number",
            array(
                code, (2,), b"\x7f\xf0" + b"\xff" * (2 * width - 2) if width > 1 else b"\xff\x80"
            ),
        )
        yield good(
            f"NDARRAY/type {code}, no dimensions",
            "8.13",
            "d = 0 is not defined: one number",
            array(code, (), bytes(width)),
        )
        for shape in ((0,), (0, 65535), (65535, 65535, 0), (65535, 0, 65535)):
            yield good(
                f"NDARRAY/type {code}, shape {shape}",
                "8.13",
                "no numbers, in many rows",
                array(code, shape),
            )
    yield good("NDARRAY/64 dimensions", "8.13", "one number", array(3, (1,) * 64, b"x"))


def meshes() -> Iterator[Entry]:
    """Section 8.16."""

    def mesh(counts: Any, rest: bytes = b"") -> bytes:
        return frame("POLYDATA", struct.pack(">10I", *counts) + rest)

    names = ("points", "vertices", "lines", "polygons", "triangle_strips")
    for k, n in itertools.product((0, 1, 3, 5, 7, 9), (1, 0x7FFFFFFF, 0xFFFFFFFF, 0x15555556)):
        counts = [0] * 10
        counts[k] = n
        field = "attributes" if k == 9 else names[(k + 1) // 2]
        yield bad(f"POLYDATA/{n} {field}", "8.16", "more than are there", mesh(counts), field)
    for k, size in itertools.product((2, 4, 6, 8), (1, 4, 0xFFFFFFFC, 0xFFFFFFFF)):
        counts = [0] * 10
        counts[k] = size
        yield bad(
            f"POLYDATA/{names[k // 2]} of {size} bytes",
            "8.16",
            "a section without cells has no bytes",
            mesh(counts, bytes(4)),
            names[k // 2],
        )
    for name, count, cells in (
        ("overruns its section", 1, (7, 0)),
        ("of 2**32-1 points", 1, (0xFFFFFFFF, 0)),
        ("of 2**30 points", 1, (1 << 30, 0)),
        ("fewer than announced", 2, (1, 0)),
        ("more than announced", 1, (0, 0)),
        ("one number too many", 1, (1, 0, 0)),
    ):
        raw = struct.pack(f">{len(cells)}I", *cells)
        yield bad(
            f"POLYDATA/cells: {name}",
            "8.16",
            "the cells do not fill their section",
            mesh((0, 0, 0, 0, 0, count, len(raw), 0, 0, 0), raw),
            "polygons",
        )
    yield good(
        "POLYDATA/cells without points",
        "8.16",
        "cells of no points",
        mesh((0, 3, 12, 0, 0, 0, 0, 0, 0, 0), bytes(12)),
    )
    yield good(
        "POLYDATA/an index that names no point",
        "8.16",
        "the format allows it; who draws it must look",
        mesh((0, 0, 0, 0, 0, 1, 8, 0, 0, 0), struct.pack(">2I", 1, 77)),
    )
    yield good(
        "POLYDATA/points that are not finite",
        "8.16",
        "every pattern of bits is a number",
        mesh((1, *[0] * 9), b"\x7f\xc0\0\0\xff\x80\0\0\x7f\x80\0\1"),
    )

    def attribute(heads: bytes, rest: bytes, count: int = 1) -> bytes:
        return mesh((*[0] * 9, count), heads + rest)

    one = struct.pack(">BBI", 0, 1, 1)
    for name, wire in (
        ("no components", attribute(struct.pack(">BBI", 0, 0, 1), b"a\0" + bytes(4))),
        ("2**32-1 tuples", attribute(struct.pack(">BBI", 0, 255, 0xFFFFFFFF), b"a\0")),
        ("2**30 tuples of 4 bytes", attribute(struct.pack(">BBI", 0, 1, 1 << 30), b"a\0")),
        ("a float short", attribute(one, b"a\0" + bytes(3))),
        ("no end of the name", attribute(one, b"a" * 20)),
        ("no end of the name within 256 bytes", attribute(one, b"a" * 256 + b"\0" + bytes(5))),
        ("no names", attribute(one, b"")),
        ("no padding of the names", attribute(struct.pack(">BBI", 0, 1, 0), b"\0")),
        ("the second has no name", attribute(one * 2, b"a\0" + b"b" * 8, 2)),
        ("the second is a float short", attribute(one * 2, b"a\0b\0" + bytes(7), 2)),
        ("heads cut", attribute(one[:5], b"")),
    ):
        yield bad(
            f"POLYDATA/attributes: {name}",
            "8.16",
            "the attributes contradict their heads",
            wire,
            "attributes",
        )
    yield good(
        "POLYDATA/attributes: name of 255 bytes",
        "8.16",
        "the longest name",
        attribute(one, b"a" * 255 + b"\0" + bytes(4)),
    )
    yield good(
        "POLYDATA/attributes: name that is no text",
        "1",
        "shown with replacement, sent as it came",
        attribute(one, b"\xff" * 251 + b"\0" + bytes(4)),
    )
    yield good(
        "POLYDATA/attributes: surplus", "6", "surplus is ignored", attribute(one, b"a\0" + bytes(9))
    )
    for kind in (0x06, 0x0F, 0x16, 0xFF):
        yield good(
            f"POLYDATA/attributes: type {kind:#x}",
            "8.16",
            "a type that does not exist",
            attribute(struct.pack(">BBI", kind, 1, 1), b"a\0" + bytes(4)),
        )
    for kind in (0x04, 0x05, 0x11, 0x12, 0x14, 0x15):
        for width in (3, 4, 9):
            yield good(
                f"POLYDATA/attributes: type {kind:#x} of {width}",
                "8.16",
                "as the page says, or as the library writes it",
                attribute(struct.pack(">BBI", kind, width, 1), b"a\0" + bytes(4 * width)),
            )
    yield good(
        "POLYDATA/300 attributes without names and values",
        "8.16",
        "many small parts",
        frame("POLYDATA", attributes(300)),
    )
    yield good(
        "POLYDATA/500 cells without points",
        "8.16",
        "many small parts",
        mesh((0, 500, 2000, *[0] * 7), bytes(2000)),
    )


def binds() -> Iterator[Entry]:
    """Section 8.17 and the lists of section 9."""
    text = b"\0\3\0\2hi"
    for length in (1, 2, 3):
        yield bad(
            f"BIND/{length} bytes",
            "8.17",
            "no room for the counts",
            frame("BIND", bytes(length)),
            "children",
        )
    for four in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\1\0\0"):
        yield good(
            f"BIND/{four.hex()}",
            "8.17",
            "four bytes are no children, whatever they are",
            frame("BIND", four),
        )
    head = b"STRING".ljust(12, b"\0")
    for name, wire in (
        ("65535 children", b"\xff\xff" + head + b"\xff" * 8),
        ("a child of 2**64-1 bytes", b"\0\1" + head + b"\xff" * 8 + b"\0\2A\0"),
        ("a child of 2**63 bytes", b"\0\1" + head + b"\x80" + bytes(7) + b"\0\2A\0"),
        ("no name table", b"\0\1" + head + bytes(8)),
        ("half the size of the name table", b"\0\1" + head + bytes(8) + b"\0"),
        ("a name table beyond the content", b"\0\1" + head + bytes(8) + b"\xff\xffA\0"),
        ("a child that is cut", bind([(b"STRING", text)], b"A\0")[:-1]),
        ("the second child is cut", bind([(b"STRING", text)] * 2, b"A\0B\0")[:-1]),
        (
            "sizes that add up modulo 2**64",
            b"\0\2"
            + head
            + struct.pack(">Q", (1 << 64) - 6)
            + head
            + struct.pack(">Q", 12)
            + b"\0\4A\0B\0"
            + text,
        ),
    ):
        yield bad(f"BIND/{name}", "8.17", "more than is there", frame("BIND", wire), "children")
    for kind, body in (
        (b"TRANSFORM", bytes(47)),
        (b"STRING", b"\0\3\0\5hi"),
        (b"NDARRAY", b"\3\1\0\2x"),
        (b"POSITION", bytes(13)),
        (b"IMAGE", bytes(72)),
        (b"POLYDATA", b"\xff" * 4 + bytes(36)),
        (b"BIND", b"\0\1"),
        (b"STRING\0junk", b"\0\3\0\5hi"),
    ):
        yield bad(
            f"BIND/a bad child of {kind.decode()!r}",
            "8.17",
            "each child must be right",
            frame("BIND", bind([(b"STATUS", bytes(31)), (kind, body)], b"A\0B\0")),
            "children",
        )
    for name, wire in (
        ("an unknown child", bind([(b"ODD", b"x")], b"A\0")),
        ("an empty child", bind([(b"TRANSFORM", b"")], b"A\0")),
        ("no padding at the end", bind([(b"ODD", b"x")], b"A\0")[:-1]),
        ("surplus", bind([(b"STRING", text)], b"A\0") + b"rest"),
        ("fewer names than children", bind([(b"STRING", text)] * 2, b"A\0")),
        ("no names", bind([(b"STRING", text)], b"")),
        ("more names than children", bind([(b"STRING", text)], b"A\0B\0C\0\0")),
        ("an odd name table", bind([(b"STRING", text)], b"AB\0")),
        ("a name of 30 bytes", bind([(b"STRING", text)], b"A" * 30 + b"\0\0")),
        ("a name that is no text", bind([(b"STRING", text)], b"\xff\0")),
        ("a type with bytes behind its NUL", bind([(b"STRING\0\0junk", text)], b"A\0")),
        ("a child with surplus", bind([(b"TRANSFORM", bytes(50))], b"A\0")),
        ("a child with a NaN", bind([(b"TRANSFORM", b"\x7f\xc0" * 24)], b"A\0")),
        ("300 empty children", bind([(b"STRING", b"")] * 300, bytes(300))),
        ("300 children without names", bind([(b"ODD", b"")] * 300, b"")),
        (
            "20 of 20 empty children",
            bind([(b"BIND", bind([(b"TDATA", b"")] * 20, bytes(20)))] * 20, bytes(20)),
        ),
        ("40 of 40 attributes", bind([(b"POLYDATA", attributes(40))] * 40, bytes(40))),
    ):
        yield good(f"BIND/{name}", "8.17", "strange, and readable", frame("BIND", wire))
    nested = bind([(b"STRING", text)], b"A\0")
    broken = bind([(b"STRING", text[:-1])], b"A\0")
    for depth in range(2, 9):
        nested, broken = bind([(b"BIND", nested)], b"B\0"), bind([(b"BIND", broken)], b"B\0")
        yield good(f"BIND/{depth} deep", "8.17", "nesting is not excluded", frame("BIND", nested))
        yield bad(
            f"BIND/{depth} deep, bad inside", "8.17", "each child must be right",
            frame("BIND", broken), "children",
        )  # fmt: skip
    for depth in (9, 10, 30, 1000):
        while nested.count(b"BIND") < depth - 1:
            nested = bind([(b"BIND", nested)], b"B\0")
        yield bad(
            f"BIND/{depth} deep", "8.17", "eight is deep enough, and each takes of the stack",
            frame("BIND", nested), "children",
        )  # fmt: skip
    for kind, start in (("GET_BIND", b""), ("STT_BIND", bytes(8))):
        for name, wire in (
            ("65535 entries", b"\xff\xff" + bytes(20)),
            ("no name table", b"\0\1" + head + b"\0\5abc"),
            ("names beyond the content", b"\0\1" + head + b"\xff\xffA\0"),
        ):
            yield bad(
                f"{kind}/{name}", "9", "more than is there", frame(kind, start + wire), "wanted"
            )
        for name, wire in (
            ("four undefined bytes", b"\xff" * 4),
            ("sixteen bytes", b"\xff" * 16),
            ("500 entries", wanted(500)),
            ("a padded name table", b"\0\1" + head + b"\0\4AB\0\0"),
            ("fewer names than types", b"\0\2" + head * 2 + b"\0\2A\0"),
            ("a type with bytes behind its NUL", b"\0\1IMAGE\0junk\0\0\0\2A\0"),
            ("types that are no text", b"\0\1" + b"\xff" * 12 + b"\0\2\xff\0"),
        ):
            yield good(f"{kind}/{name}", "9", "strange, and readable", frame(kind, start + wire))


def others() -> Iterator[Entry]:
    """The rest of section 8."""
    for size in (1, 11, 13, 23, 25, 27):
        yield bad(
            f"POSITION/{size} bytes",
            "8.2",
            "there are 12, 24 and 28",
            frame("POSITION", bytes(size)),
        )
    yield good(
        "POSITION/a quaternion of length 0", "8.2", "no rotation", frame("POSITION", bytes(28))
    )
    yield good(
        "POSITION/a root that is imaginary",
        "8.2",
        "reads as the identity",
        frame("POSITION", bytes(12) + struct.pack(">3f", 1, 1, 1)),
    )
    for index, kind in ((0, 3), (4, 3), (6, 3), (3, 0), (3, 4), (3, 7), (5, 255)):
        yield bad(
            f"COLORT/types {index} and {kind}",
            "8.15",
            "one of them does not exist",
            frame("COLORT", bytes((index, kind)) + bytes(1000)),
            "table",
        )
    for index, kind, size in (
        (3, 3, 256),
        (3, 5, 512),
        (3, 19, 768),
        (5, 3, 65536),
        (5, 5, 131072),
        (5, 19, 196608),
    ):
        yield bad(
            f"COLORT/types {index} and {kind}, a byte short",
            "8.15",
            "entries are missing",
            frame("COLORT", bytes((index, kind)) + bytes(size - 1)),
            "table",
        )
        yield good(
            f"COLORT/types {index} and {kind}, a byte more",
            "6",
            "surplus is ignored",
            frame("COLORT", bytes((index, kind)) + bytes(size + 1)),
        )
    yield bad("COLORT/one byte", "8.15", "no room for the types", frame("COLORT", b"\3"), "table")
    yield bad(
        "SENSOR/255 values",
        "8.12",
        "two are there",
        frame("SENSOR", b"\xff\0" + bytes(24)),
        "values",
    )
    yield good(
        "SENSOR/a unit of nothing known",
        "8.12",
        "the number is kept",
        frame("SENSOR", b"\1\0" + b"\xff" * 8 + b"\x7f\xf8" + bytes(6)),
    )
    yield bad(
        "STRING/longer than its content",
        "8.14",
        "65535 bytes are announced",
        frame("STRING", b"\0\3\xff\xffhi"),
        "string",
    )
    for code, raw in (
        (3, b"\xff"),
        (106, b"\xff"),
        (1013, b"\xd8\0"),
        (1014, b"a"),
        (1015, b"\xff\xfe\0"),
        (1017, b"\xff" * 4),
        (39, b"\x1b$B"),
        (65535, b"x"),
        (0, b"\0\0"),
    ):
        yield good(
            f"STRING/encoding {code} of {raw.hex()}",
            "1.1",
            "the text does not fit its label",
            frame("STRING", struct.pack(">HH", code, len(raw)) + raw),
        )
    yield bad(
        "COMMAND/of 4 GiB",
        "8.18",
        "the text is not there",
        frame("COMMAND", bytes(132) + b"\0\3\xff\xff\xff\xff<x/>"),
        "text",
    )
    yield bad(
        "RTS_COMMAND/of 4 GiB",
        "8.18",
        "the text is not there",
        frame("RTS_COMMAND", bytes(132) + b"\0\3\xff\xff\xff\xff<x/>"),
        "text",
    )
    yield good(
        "COMMAND/name without NUL",
        "1",
        "a field that is full",
        frame("COMMAND", bytes(4) + b"n" * 128 + bytes(6)),
    )
    yield bad(
        "QUERY/of 65535 bytes",
        "8.19",
        "the text is not there",
        frame("QUERY", bytes(36) + b"\xff\xffx"),
        "device_uid",
    )
    yield good("STATUS/no NUL", "8.4", "accept a missing one", frame("STATUS", bytes(30) + b"up"))
    yield good("STATUS/no text at all", "8.4", "accept a missing NUL", frame("STATUS", bytes(30)))
    yield good(
        "STATUS/bytes behind the NUL",
        "8.4",
        "the text ends at its first NUL",
        frame("STATUS", bytes(30) + b"up\0down\0"),
    )
    yield good(
        "STATUS/code 65535", "8.4", "codes above 19 are kept", frame("STATUS", b"\xff" * 30 + b"\0")
    )
    yield good(
        "CAPABILITY/not a multiple of 12",
        "6",
        "the remainder is ignored",
        frame("CAPABILITY", b"IMAGE".ljust(12, b"\0") + b"rest"),
    )
    yield good(
        "CAPABILITY/a name with bytes behind its NUL",
        "1",
        "the name ends at its first NUL",
        frame("CAPABILITY", b"IMAGE\0junk\0\0"),
    )
    yield good(
        "CAPABILITY/names that are no text",
        "1",
        "shown with replacement",
        frame("CAPABILITY", b"\xff" * 24),
    )
    yield good(
        "CAPABILITY/300 names",
        "8.5",
        "many small parts",
        frame("CAPABILITY", b"".join(b"T%011x" % k for k in range(300))),
    )
    for kind, size in (
        ("IMGMETA", 260),
        ("LBMETA", 116),
        ("POINT", 136),
        ("TRAJ", 150),
        ("TDATA", 70),
        ("QTDATA", 50),
        ("VIDEOMETA", 322),
    ):
        for count, rest in ((0, 1), (0, size - 1), (1, 1), (2, size - 1)):
            yield good(
                f"{kind}/{count} and {rest} bytes",
                "6",
                "the remainder is ignored",
                frame(kind, bytes(count * size + rest)),
            )
        yield good(
            f"{kind}/all bits set",
            "1",
            "full fields, and numbers that are not finite",
            frame(kind, b"\xff" * size),
        )


# ---- by rule --------------------------------------------------------------------------------------


def vectors() -> dict[str, bytes]:
    """The smallest golden message with content of each type, one of those that share their fields."""
    found: dict[Any, tuple[str, bytes]] = {}
    for v in sorted(manifest(), key=lambda v: v["size"]):
        cls = igtl.message_types().get(v["type"])
        if cls is None or v["header_version"] != 1 or not v["body_size"]:
            continue
        fields = tuple(map(id, cls.__fields__)) or cls
        found.setdefault(fields, (v["type"], (VECTORS / v["file"]).read_bytes()))
    return dict(sorted(found.values()))


def numbers_at(kind: str, raw: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of the counts and sizes that have a fixed place in the content."""
    at = 0
    for field in igtl.message_types()[kind].__fields__:
        width = int(field.scalar[1]) if field.scalar else field.size
        if field.kind in ("count", "size"):
            yield field.name.strip("_"), at, width
        if field.kind in ("int", "float", "text", "count", "size"):
            at += width
        elif field.kind == "matrix":
            at += 48
        elif field.kind == "array" and isinstance(field.count, int):
            at += width * field.count
        else:
            return


def by_rule() -> Iterator[Entry]:
    for kind, wire in vectors().items():
        content = wire[58:]
        changed: dict[str, tuple[str, bytes]] = {}
        for length in sorted({1, len(content) // 3, len(content) // 2, len(content) - 1}):
            if length < len(content):
                changed[f"cut at {length}"] = ("the content is cut", content[:length])
        changed["surplus"] = ("a byte behind the content", content + b"\xaa")
        changed["twice"] = ("the content twice", content * 2)
        changed["all bits set"] = ("no field holds what it should", b"\xff" * len(content))
        changed["all bits clear"] = ("zeros", bytes(len(content)))
        for name, at, width in numbers_at(kind, content):
            for value in (0, 1, (1 << 8 * width - 1) - 1, (1 << 8 * width) - 1):
                number = value.to_bytes(width, "big")
                changed[f"{name} {value}"] = (
                    "a number that contradicts the rest",
                    content[:at] + number + content[at + width :],
                )
        for name, (reason, inner) in changed.items():
            made = mended(wire[:58] + inner)
            yield Entry(f"{kind}/rule: {name}", "6", reason, reference.verdict(made), made)
        both = extended(content, struct.pack(">HHHI", 1, 1, 3, 1), b"kv")
        two = mended(b"\0\2" + wire[2:58] + both)
        for name, body in (
            (
                "extended header longer than the content",
                extended(content, ext=12 + len(content) + 3),
            ),
            ("metadata taken from the content", extended(content, mh=2, ms=len(content) + 1)),
        ):
            made = mended(b"\0\2" + wire[2:58] + body)
            yield Entry(
                f"{kind}/rule: {name}",
                "5",
                "the sizes of version 2 contradict the body",
                reference.verdict(made),
                made,
            )
        yield Entry(
            f"{kind}/rule: version 2",
            "5",
            "the same in header version 2",
            reference.verdict(two),
            two,
        )
        yield Entry(
            f"{kind}/rule: version 3",
            "2.1",
            "there is no header version 3",
            "VersionError",
            b"\0\3" + wire[2:],
        )


def all_entries() -> list[Entry]:
    parts = (headers, version2, images, videos, arrays, meshes, binds, others, by_rule)
    return [entry for part in parts for entry in part()]


# ---- the file --------------------------------------------------------------------------------------

_RUN = re.compile(rb"(.)\1{31,}", re.DOTALL)


def packed(wire: bytes) -> list[Any]:
    """Hex texts, and [hex, times] for a byte that comes often in a row."""
    parts: list[Any] = []
    at = 0
    for run in _RUN.finditer(wire):
        parts += [wire[at : run.start()].hex()] if run.start() > at else []
        parts.append([run.group(1).hex(), len(run.group())])
        at = run.end()
    return parts + ([wire[at:].hex()] if at < len(wire) else [])


def unpacked(parts: list[Any]) -> bytes:
    return b"".join(
        bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p[0]) * p[1] for p in parts
    )


def text() -> str:
    lines = []
    for entry in all_entries():
        line = {key: value for key, value in entry._asdict().items() if key != "wire" and value}
        lines.append(json.dumps({**line, "bytes": packed(entry.wire)}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def read() -> list[Entry]:
    """The entries of the file."""
    found = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        found.append(Entry(wire=unpacked(values.pop("bytes")), **values))
    return found


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE}: {len(read())} inputs, {FILE.stat().st_size} bytes")
