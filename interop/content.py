"""Seeded random messages that another implementation can be expected to carry, and their
descriptions: the keys of the golden vectors' manifest (tests/vectors/README.md) as JSON.

The content leaves out, for reasons that docs/protocol.md gives: texts that fill their field (readers
of the official library turn them into empty texts), NaNs (JSON has none), and codes that a setter
refuses.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

import igtl
from igtl import _core
from igtl.fields import Field
from tests import golden
from tests.draw import Draw

SCALARS = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")


class Content(Draw):
    """Random content that peers can carry. A row of the matrix has a method where its field list does
    not suffice."""

    letters = "aZ09 _/-éµ日"

    def __init__(self, seed: str, *, exact_time: bool = True) -> None:
        super().__init__(seed)
        self.exact_time = exact_time

    def text(self, size: int) -> str:
        count = self.choice((0, 1, 5, size))
        return igtl.fit("".join(self.choices(self.letters, k=count)), size - 1).rstrip()

    def numbers(self, scalar: str, shape: Any) -> Any:
        count = int(np.prod(shape))
        if scalar[0] in "iu":
            return np.frombuffer(self.randbytes(count * int(scalar[1])), scalar).reshape(shape)
        if scalar == "c16":
            return self.numbers("f8", (*shape, 2)).view("c16").reshape(shape)
        scale = self.choice((1e-3, 1, 300, 1e30))
        values = [self.gauss(0, scale) for _ in range(count)]
        return np.array(values, scalar).reshape(shape)

    def matrix(self) -> Any:
        out = np.eye(4, dtype="f4")
        out[:3] = self.numbers("f4", (3, 4))
        return out

    def pose(self) -> Any:
        """Draw rotation, spacing and position of an image."""
        q, _ = np.linalg.qr(np.array([[self.gauss(0, 1) for _ in range(3)] for _ in range(3)]))
        out = np.eye(4, dtype="f4")
        out[:3, :3] = q * [self.uniform(0.1, 5) for _ in range(3)]
        out[:3, 3] = [self.gauss(0, 200) for _ in range(3)]
        return out

    def transform(self) -> igtl.Message:
        return igtl.Transform(self.matrix())

    def position(self) -> igtl.Message:
        return igtl.Position(self.numbers("f4", (3,)), self.numbers("f4", (4,)))

    def short_position(self) -> igtl.Message:
        n = self.choice((0, 3))
        return igtl.Position(self.numbers("f4", (3,)), self.numbers("f4", (4,))[:n] / 1e31)

    def image(self) -> igtl.Message:
        shape = [self.randrange(1, 7) for _ in range(3)]
        if self.random() < 0.3:
            shape.append(self.randrange(2, 5))
        m = igtl.Image(self.numbers(self.choice(SCALARS), shape))
        m.matrix = self.pose()
        m.endian, m.coordinate = self.choice((1, 2)), self.choice((1, 2))
        return m

    def sub_volume(self) -> igtl.Message:
        m = self.image()
        assert isinstance(m, igtl.Image)
        m.offset = [self.randrange(1, 9) for _ in range(3)]
        m.size = np.asarray(m.offset) + m.sub_size + self.randrange(4)
        return m

    def status(self) -> igtl.Message:
        return igtl.Status(self.randrange(1, 20), self.integer("i8"), self.text(20), self.text(60))

    def image_meta(self) -> igtl.Message:
        m = self.fields(igtl.ImageMeta)
        for info in m.images:
            info.timestamp_raw = self.getrandbits(63)
            info.scalar_type = self.choice((2, 3, 4, 5, 6, 7, 10, 11))
        return m

    def trajectories(self) -> igtl.Message:
        m = self.fields(igtl.Trajectories)
        for t in m.trajectories:
            t.type = self.randrange(1, 4)
        return m

    def tracking(self, cls: Any) -> igtl.Message:
        m = self.fields(cls)
        for tool in m.tools:
            tool.type = self.randrange(1, 5)
        return m

    def sensor(self) -> igtl.Message:
        return igtl.Sensor(self.numbers("f8", (self.choice((1, 6, 255)),)), self.bits(64))

    def array(self) -> igtl.Message:
        shape = [self.randrange(1, 6) for _ in range(self.randrange(1, 5))]
        return igtl.NDArray(self.numbers(self.choice(SCALARS), shape))

    def complex_array(self) -> igtl.Message:
        return igtl.NDArray(self.numbers("c16", [self.randrange(1, 6) for _ in range(3)]))

    def string(self) -> igtl.Message:
        return igtl.String(self.text(200).encode("ascii", "ignore").decode(), encoding=3)

    def utf8_string(self) -> igtl.Message:
        return igtl.String(self.text(200) + "é", encoding=106)

    def command(self, cls: Any) -> igtl.Message:
        text = self.text(200)
        encoding = 3 if text.isascii() else 106
        return cls(self.bits(32), self.text(128), text, encoding=encoding)  # type: ignore[no-any-return]

    def table(self) -> igtl.Message:
        dtype, per = self.choice((("u1", ()), ("u2", ()), ("u1", (3,))))
        entries = 65536 if self.random() < 0.01 else 256
        return igtl.ColorTable(self.numbers(dtype, (entries, *per)))

    def mesh(self, kinds: Any = (0, 1, 2, 3, 0x13)) -> igtl.Message:
        n = self.randrange(1, 9)
        cells = [
            [self.choices(range(n), k=self.randrange(1, 5)) for _ in range(self.randrange(1, 4))]
            for _ in range(4)
        ]
        attributes = []
        for _ in range(self.randrange(3) if kinds else 0):
            kind = self.choice(kinds)
            width = {0: self.randrange(1, 9), 3: 9, 0x13: 9, 4: 4, 0x14: 4, 0x10: 9}.get(kind, 3)
            rows = n if kind < 0x10 else sum(map(len, cells))
            values = self.numbers("f4", (rows, width))
            attributes.append(igtl.Attribute(self.text(20), values, kind))
        return igtl.PolyData(self.numbers("f4", (n, 3)), *cells, attributes=attributes)

    def plain_mesh(self) -> igtl.Message:
        return self.mesh(())

    def padded_mesh(self) -> igtl.Message:
        return self.mesh((4, 0x10, 0x11, 0x12, 0x14))

    def textured_mesh(self) -> igtl.Message:
        return self.mesh((5, 5, 5, 0x15))

    def bind(self) -> igtl.Message:
        kinds = (self.transform, self.status, self.string, self.sensor, self.array,
                 self.trajectories, lambda: self.tracking(igtl.TrackingData))  # fmt: skip
        children = [self.choice(kinds)() for _ in range(self.randrange(1, 5))]
        for child in children:
            child.device_name = self.text(20)
        return igtl.Bind(children)

    def bind_list(self) -> list[tuple[str, str]]:
        return [("IMAGE", "x" + self.text(18)) for _ in range(self.randrange(1, 4))]

    def video(self) -> igtl.Message:
        v = igtl.Video(self.randbytes(self.randrange(90)), "VP90", (self.randrange(1, 999), self.randrange(1, 999), 1), frame_type=self.choice((1, 3)))  # fmt: skip
        v.matrix = self.pose()
        return v

    def video_meta(self) -> igtl.Message:
        m = self.fields(igtl.VideoMeta)
        for info in m.videos:
            info.scalar_type = self.choice((2, 3, 4, 5, 6, 7))
        return m

    def field(self, field: Field) -> Any:
        # no field is missing or empty: an empty body has a meaning of its own (docs/protocol.md, 6)
        if field.optional:
            return self.integer(field.scalar)
        if field.kind == "elements":
            return [self.element(field.item) for _ in range(self.randrange(1, 5))]
        if field.kind == "texts":
            return [self.text(field.size) for _ in range(self.randrange(1, 6))]
        return super().field(field)

    def fields(self, cls: Any) -> Any:
        return cls(**{f.name: self.field(f) for f in cls.__fields__ if not f.hidden})

    def plain(self, cls: Any) -> igtl.Message:
        if issubclass(cls, igtl.Ready):
            return cls(self.randrange(2))  # type: ignore[no-any-return]
        return self.fields(cls)  # type: ignore[no-any-return]

    def message(self, row: str, header_version: int = 1) -> igtl.Message:  # type: ignore[override]
        """Draw a message for one row of the matrix, with a header; in header version 2 with a message
        id and metadata."""
        m = ROWS[row](self) if row in ROWS else self.plain(igtl.message_types()[row])
        name = "".join(self.choices(self.letters, k=self.randrange(21)))
        m.device_name = igtl.fit(name, 20).rstrip()
        m.timestamp_raw = self.bits(64) if self.exact_time else self.getrandbits(32) << 30
        if header_version == 2:
            m.message_id = self.randrange(1, 1 << 32)
            keys = sorted(
                {self.text(20) or "key" for _ in range(self.randrange(4))}, key=str.encode
            )
            m.metadata = {
                key: (self.choice((3, 106)), self.randbytes(self.randrange(9))) for key in keys
            }
        return m


Maker = Callable[[Content], igtl.Message]
ROWS: dict[str, Maker] = {
    "TRANSFORM": Content.transform,
    "POSITION": Content.position,
    "POSITION, 12 and 24 bytes": Content.short_position,
    "IMAGE": Content.image,
    "IMAGE, part of a volume": Content.sub_volume,
    "STATUS": Content.status,
    "IMGMETA": Content.image_meta,
    "TRAJ": Content.trajectories,
    "TDATA": lambda self: self.tracking(igtl.TrackingData),
    "QTDATA": lambda self: self.tracking(igtl.QuaternionTrackingData),
    "SENSOR": Content.sensor,
    "NDARRAY": Content.array,
    "NDARRAY, complex": Content.complex_array,
    "STRING": Content.string,
    "STRING, UTF-8": Content.utf8_string,
    "COMMAND": lambda self: self.command(igtl.Command),
    "RTS_COMMAND": lambda self: self.command(igtl.CommandReply),
    "COLORT": Content.table,
    "POLYDATA": Content.plain_mesh,
    "POLYDATA, attributes": Content.mesh,
    "POLYDATA, padded attributes": Content.padded_mesh,
    "POLYDATA, texture coordinates": Content.textured_mesh,
    "BIND": Content.bind,
    "GET_BIND": lambda self: igtl.GetBind(self.bind_list()),
    "STT_BIND": lambda self: igtl.StartBind(self.getrandbits(40), self.bind_list()),
    "VIDEO": Content.video,
    "VIDEOMETA": Content.video_meta,
    "STT_VIDEO": lambda self: igtl.StartVideo("VP90", self.randrange(999), 0),
}
"""Rows whose content needs more than their field list. Every other type is a row of its own."""


def type_of(row: str) -> str:
    return row.partition(",")[0]


def rows() -> list[str]:
    """List the rows of the matrix: each type of the standard, some in several forms."""
    types_ = igtl.message_types()
    types = [
        t for t, cls in types_.items()
        if cls.__module__.startswith("igtl.") and cls.standard  # and not declared by a test
        and t == cls.type_name and t not in ROWS
    ]  # fmt: skip
    return sorted([*ROWS, *types], key=lambda row: ("_" in type_of(row), row))


def jsonable(value: Any) -> Any:
    match value:
        case np.ndarray():
            return value.tolist()
        case np.generic():
            return value.item()
        case dict():
            return {key: jsonable(v) for key, v in value.items()}
        case list() | tuple():
            return [jsonable(v) for v in value]
    return value


def content_of(m: igtl.Message) -> dict[str, Any]:
    """Return `golden.content_of`, with the pixels of an image as their bytes on the wire."""
    content = golden.content_of(m)
    if isinstance(m, igtl.Image):
        del content["pixels"], content["pixel_sha256"]
        content["pixel_hex"] = pixels(m, m.endian).hex()
    return content


def pixels(m: igtl.Image, endian: int) -> bytes:
    return m.array.astype(m.array.dtype.newbyteorder("<" if endian == 2 else ">")).tobytes()


def metadata_of(m: igtl.Message) -> list[dict[str, Any]]:
    return [
        {"key": key, "encoding": m.metadata.encoding(key), "value_hex": m.metadata.raw(key).hex()}
        for key in m.metadata
    ]


def describe(m: igtl.Message) -> dict[str, Any]:
    """Return the message as JSON-able values from which any implementation can build it."""
    raw = m.timestamp_raw
    out: dict[str, Any] = {
        "type": m.type_name,
        "device_name": m.device_name,
        "timestamp": {"sec": raw >> 32, "frac": raw & 0xFFFFFFFF},
        "content": jsonable(content_of(m)),
    }
    if _core.needs_v2(m):
        out |= {"header_version": 2, "message_id": m.message_id, "metadata": metadata_of(m)}
    for child in out["content"].get("children", ()):
        child.pop("body_hex", None)
    json.dumps(out, allow_nan=False)
    return out


def defined(m: igtl.Message) -> bytes:
    """Pack the message with 0 in its reserved bytes: the official library leaves some uninitialised."""
    for field in type(m).__fields__:
        if field.kind == "elements":
            columns = getattr(m, field.name)
            for column, of in zip(columns.arrays, columns.__item__.__fields__, strict=True):
                if of.hidden:
                    column[:] = 0
    match m:
        case igtl.Bind():
            for child in m.children:
                defined(child)
        case igtl.StartVideo():
            m.reserved = 0
    return m.pack()


def differences(description: dict[str, Any], m: igtl.Message) -> list[str]:
    """List where a peer's description and our message disagree.

    Pixels are compared by value, in either byte order; image matrices within float rounding, since
    peers keep unit vectors, spacing and corner.
    """
    ours = describe(m)
    description = copy.deepcopy(description)
    wrong = [
        f"{key}: {description.get(key)!r} != {ours[key]!r}"
        for key in ours
        if key != "content" and description.get(key) != ours[key]
    ]
    content = description["content"]
    if isinstance(m, igtl.ImageMeta):
        # the library converts to nanoseconds and back inexactly: 64 units are 15 ns
        for theirs, mine in zip(content["elements"], ours["content"]["elements"], strict=False):
            if abs(theirs["timestamp"]["frac"] - mine["timestamp"]["frac"]) <= 64:
                theirs["timestamp"] = mine["timestamp"]
    if isinstance(m, igtl.Image | igtl.Video):
        theirs, mine = np.array(content.pop("matrix")), golden.wire_floats(m.matrix)
        if theirs.shape != mine.shape or not np.allclose(theirs, mine, rtol=1e-5, atol=1e-5):
            wrong.append(f"matrix: {theirs} != {mine}")
    if isinstance(m, igtl.Image):
        order = content.pop("endian", m.endian)
        if bytes.fromhex(content.pop("pixel_hex", "")) != pixels(m, order):
            wrong.append("pixels differ")
    return wrong + golden.differences(content, content_of(m), set())
