"""Any message, from its field list."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import igtl
from igtl.fields import Field

TYPES = sorted(  # not those that tests declare
    {cls for cls in igtl.message_types().values() if cls.__module__.startswith("igtl.")},
    key=lambda cls: cls.type_name,
)


def short_text(size: int) -> st.SearchStrategy[str]:
    """Text that fits size bytes of UTF-8, without NUL."""
    alphabet = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    return st.text(alphabet, max_size=size).map(lambda t: igtl.fit(t, size))


def any_text() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def numbers(scalar: str, shape: Any) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.dtype(scalar), shape)


matrices = numbers("f4", (3, 4)).map(lambda m: np.vstack([m, [[0, 0, 0, 1]]]).astype("f4"))


def integers(scalar: str) -> st.SearchStrategy[int]:
    info = np.iinfo(scalar)
    return st.integers(int(info.min), int(info.max))


def field_values(field: Field) -> st.SearchStrategy[Any]:
    match field.kind:
        case "int":
            if field.default is None and not field.optional:
                return st.sampled_from([None, 106])  # an encoding that takes every text
            values = integers(field.scalar)
            return st.none() | values if field.optional else values
        case "float":
            return st.floats(width=8 * int(field.scalar[1]))  # type: ignore[arg-type]
        case "text":
            return short_text(field.size)
        case "texts":
            return st.lists(short_text(field.size), max_size=5)
        case "string":
            return any_text()
        case "zero_ended":
            return short_text(60)
        case "matrix":
            return matrices
        case "data":
            return st.binary(max_size=100)
        case "elements":
            return st.lists(elements(field.item), max_size=4)
        case "array":
            if field.per:
                return st.integers(0, 5).flatmap(lambda n: numbers(field.scalar, (n, field.per)))
            if isinstance(field.count, int):
                return numbers(field.scalar, field.count)
            counts = (
                st.sampled_from(field.count)
                if isinstance(field.count, tuple)
                else st.integers(0, 9)
            )
            return counts.flatmap(lambda n: numbers(field.scalar, n))
    raise AssertionError(field.kind)


def elements(cls: type[igtl.Element]) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{f.name: field_values(f) for f in cls.__shown__})


dtypes = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]
small = st.integers(0, 4)


@st.composite
def images(draw: Any) -> igtl.Image:
    shape = [draw(small) for _ in range(3)] + (
        [draw(st.integers(1, 4))] if draw(st.booleans()) else []
    )
    m = igtl.Image(draw(numbers(draw(st.sampled_from(dtypes)), tuple(shape))))
    m.matrix = draw(matrices)
    m.endian = draw(st.sampled_from([1, 2]))
    m.coordinate = draw(st.sampled_from([1, 2]))
    m.offset = draw(numbers("u2", 3)) // 2
    m.size = np.asarray(m.offset) + np.asarray(m.sub_size)
    return m


@st.composite
def videos(draw: Any) -> igtl.Video:
    size = tuple(int(n) for n in draw(numbers("u2", 3)))
    m = igtl.Video(
        draw(st.binary(max_size=50)), draw(short_text(4)), size, frame_type=draw(integers("u2"))
    )
    m.matrix, m.endian = draw(matrices), draw(integers("u1"))
    m.coordinate = draw(integers("u1"))
    return m


@st.composite
def meshes(draw: Any) -> igtl.PolyData:
    n = draw(st.integers(1, 6))
    cells = st.lists(st.lists(st.integers(0, n - 1), max_size=4), max_size=3)
    attributes = []
    for kind in draw(st.lists(st.sampled_from(list(igtl.AttributeType)), max_size=3)):
        width = {0: draw(st.integers(1, 255)), 0x10: draw(st.integers(1, 255)), 3: 9, 0x13: 9,
                 4: 4, 0x14: 4}.get(kind, 3)  # fmt: skip
        values = draw(numbers("f4", (draw(small), width)))
        attributes.append(igtl.Attribute(draw(short_text(255)), values, kind))
    return igtl.PolyData(
        draw(numbers("f4", (n, 3))), *(draw(cells) for _ in range(4)), attributes=attributes
    )


@st.composite
def arrays(draw: Any) -> igtl.NDArray:
    shape = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return igtl.NDArray(draw(numbers(draw(st.sampled_from([*dtypes, "c16"])), tuple(shape))))


@st.composite
def tables(draw: Any) -> igtl.ColorTable:
    # a few numbers repeated: 65,536 drawn ones would only be slow
    kind, per = draw(st.sampled_from([("u1", 1), ("u2", 1), ("u1", 3)]))
    seed = draw(numbers(kind, 48))
    n = draw(st.sampled_from([256, 256, 256, 65536]))
    table = np.resize(seed, n * per)
    return igtl.ColorTable(table.reshape(n, 3) if per == 3 else table)


children = st.deferred(
    lambda: st.lists(
        st.one_of(st.builds(igtl.String, any_text()), plain(igtl.Transform), plain(igtl.Points),
                  plain(igtl.Sensor), meshes(),
                  st.builds(igtl.Unknown, st.just("ODD"), st.binary(max_size=9))),
        min_size=1, max_size=4,
    )
)  # fmt: skip


@st.composite
def binds(draw: Any) -> igtl.Bind:
    listed = draw(children)
    for child in listed:
        child.device_name = draw(short_text(20))
    return igtl.Bind(listed)


def wanted() -> st.SearchStrategy[Any]:
    names = st.from_regex(r"[A-Z_]{1,12}", fullmatch=True)
    return st.lists(st.tuples(names, short_text(20)), max_size=4).filter(
        # one entry without a name is shorter than what peers read as a list
        lambda entries: len(entries) != 1 or entries[0][1] != ""
    )


def sensors() -> st.SearchStrategy[igtl.Sensor]:
    return st.builds(igtl.Sensor, st.integers(0, 9).flatmap(lambda n: numbers("f8", n)),
                     integers("u8"), status=integers("u1"))  # fmt: skip


@st.composite
def tracked_frames(draw: Any) -> igtl.TrackedFrame:
    shape = [draw(small) for _ in range(3)] + (
        [draw(st.integers(2, 4))] if draw(st.booleans()) else []
    )
    m = igtl.TrackedFrame(draw(numbers(draw(st.sampled_from(dtypes)), tuple(shape))))
    m.matrix_le = draw(numbers("f4", 16))
    m.xml = draw(any_text())
    m.image_type, m.orientation = draw(integers("u2")), draw(integers("u2"))
    return m


@st.composite
def us_messages(draw: Any) -> igtl.UsMessage:
    size = [draw(small) for _ in range(3)]
    pixels = size[0] * size[1] * size[2]
    content = draw(st.binary(min_size=pixels + 52, max_size=pixels + 60))
    return igtl.UsMessage(
        1, 3, draw(integers("u1")), draw(integers("u1")), size, draw(matrices),
        draw(numbers("u2", 3)), size, content,
    )  # fmt: skip


SPECIAL: dict[type, Any] = {
    igtl.TrackedFrame: tracked_frames(), igtl.UsMessage: us_messages(),
    igtl.Image: images(), igtl.Video: videos(), igtl.PolyData: meshes(), igtl.NDArray: arrays(),
    igtl.ColorTable: tables(), igtl.Bind: binds(), igtl.Sensor: sensors(),
    igtl.GetBind: st.builds(igtl.GetBind, wanted()),
    igtl.StartBind: st.builds(igtl.StartBind, integers("u8"), wanted()),
}  # fmt: skip


def plain(cls: type[igtl.Message]) -> st.SearchStrategy[Any]:
    if cls in SPECIAL:
        return SPECIAL[cls]  # type: ignore[no-any-return]
    return st.builds(cls, **{f.name: field_values(f) for f in cls.__fields__ if not f.hidden})


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda k: k != "IGTL_DEVICE_NAME"
)
metadata = st.dictionaries(keys, st.tuples(integers("u2"), st.binary(max_size=20)), max_size=3)


@st.composite
def messages(draw: Any, cls: type[igtl.Message]) -> igtl.Message:
    m: igtl.Message = draw(plain(cls))
    m.device_name = draw(short_text(20))
    m.timestamp_raw = draw(integers("u8"))
    if draw(st.booleans()):
        m.message_id = draw(integers("u4"))
        m.metadata = draw(metadata)
    return m
