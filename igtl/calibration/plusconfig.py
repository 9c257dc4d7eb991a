"""The configuration file of PLUS: its transforms, its phantom and its time offsets.

They are read, and changed in place; all else stays as it is, byte for byte.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from igtl.codec.xml import element, quoted
from igtl.errors import FileError
from igtl.geometry.pose import Floats

_ROOT: Final = "PlusConfiguration"
_PLACE: Final = "CoordinateDefinitions"
_OFFSET: Final = "LocalTimeOffsetSec"


@dataclass(frozen=True, eq=False)
class NamedTransform:
    """A transform as PLUS keeps it.

    Attributes:
        source, target: names of frames, From and To.
        matrix: 4x4, mm.
        error: of the calibration, mm. date: when it was made.
    """

    source: str
    target: str
    matrix: Floats
    error: float | None = None
    date: str | None = None

    @property
    def name(self) -> str:
        """XToY."""
        return f"{self.source}To{self.target}"


@dataclass(frozen=True, eq=False)
class PlusConfig:
    """What calibrations need of a configuration.

    Attributes:
        transforms: of CoordinateDefinitions, 4x4 by name.
        wires: (m, 2, 3), mm, the ends of the wires of all patterns NWire, in their order.
        devices: the ids of the devices.
    """

    transforms: dict[str, Floats] = field(default_factory=dict)
    wires: Floats = field(default_factory=lambda: np.zeros((0, 2, 3)))
    devices: tuple[str, ...] = ()


class _Tag(NamedTuple):
    """An element: the bytes of its start tag, and where its end tag begins (of <x/>: -1)."""

    name: str
    attributes: dict[str, str]
    parents: tuple[str, ...]
    start: int
    end: int
    close: int


def _tags(data: bytes, path: Path) -> list[_Tag]:
    """Return all elements, in the order in which they begin."""
    from xml.parsers import expat

    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileError(path, "is UTF-16: save it as UTF-8")
    parser = expat.ParserCreate()
    found: list[_Tag] = []
    stack: list[int] = []

    def refuse(*_: object) -> None:
        raise FileError(path, "declares a document type")

    def begin(name: str, attributes: dict[str, str]) -> None:
        start = parser.CurrentByteIndex
        parents = tuple(found[n].name for n in stack)
        stack.append(len(found))
        found.append(_Tag(name, attributes, parents, start, _tag_end(data, start), -1))

    def end(name: str) -> None:
        number = stack.pop()
        tag = found[number]
        if not data[tag.start : tag.end].endswith(b"/>"):
            found[number] = tag._replace(close=parser.CurrentByteIndex)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FileError(path, f"is not well-formed XML: {error}") from None
    if found[0].name != _ROOT:
        raise FileError(path, f"is not a configuration of PLUS: its root is {found[0].name!r}")
    return found


def _tag_end(data: bytes, start: int) -> int:
    """Return the byte after the ">" of a start tag."""
    match = re.compile(rb"""<(?:[^"'>]|"[^"]*"|'[^']*')*>""").match(data, start)
    assert match is not None  # the parser has accepted it
    return match.end()


def _numbers(text: str, count: int, what: str, path: Path) -> Floats:
    try:
        found = np.array([float(word) for word in text.split()])
    except ValueError:
        found = np.zeros(0)
    if len(found) != count or not np.isfinite(found).all():
        raise FileError(path, f"{what} has {text!r}, not {count} numbers")
    return found


def read_config(path: str | os.PathLike[str]) -> PlusConfig:
    """Read a configuration of PLUS.

    Args:
        path: of the file.

    Raises:
        FileError: the file is not a configuration, or damaged.
        OSError: it cannot be read.
    """
    path = Path(path)
    transforms, wires, devices = {}, [], []
    for tag in _tags(path.read_bytes(), path):
        given = tag.attributes
        if tag.name == "Transform" and tag.parents[-1:] == (_PLACE,):
            name = f"{given.get('From')}To{given.get('To')}"
            numbers = _numbers(given.get("Matrix", ""), 16, name, path)
            transforms[name] = numbers.reshape(4, 4)
        elif tag.name == "Wire" and "PhantomDefinition" in tag.parents:
            ends = [
                _numbers(given.get(key, ""), 3, f"wire {given.get('Name', '')}", path)
                for key in ("EndPointFront", "EndPointBack")
            ]
            wires.append(ends)
        elif tag.name == "Device" and "Id" in given:
            devices.append(given["Id"])
    return PlusConfig(transforms, np.array(wires).reshape(-1, 2, 3), tuple(devices))


def matrix_text(matrix: npt.ArrayLike) -> str:
    """16 numbers, as PLUS writes them."""
    return "  ".join(" ".join(f"{x:.9g}" for x in row) for row in np.asarray(matrix))


def update_config(
    path: str | os.PathLike[str],
    transforms: Sequence[NamedTransform] = (),
    offsets: Mapping[str, float] = {},
) -> None:
    """Set transforms and time offsets in a configuration of PLUS.

    A file that does not exist is made. The file is replaced in one step.

    Args:
        path: of the file.
        transforms: set in CoordinateDefinitions.
        offsets: LocalTimeOffsetSec of devices by their id, seconds: PLUS adds it to time stamps.

    Raises:
        FileError: the file is not a configuration of PLUS, has no such device, or holds the
            inverse of a transform.
        OSError: it cannot be read or written.
    """
    path = Path(path)
    data = path.read_bytes() if path.exists() else (
        f'<{_ROOT} version="2.9">\n  <{_PLACE}>\n  </{_PLACE}>\n</{_ROOT}>\n'.encode()
    )  # fmt: skip
    for device, offset in offsets.items():
        tags = _tags(data, path)
        found = [t for t in tags if t.name == "Device" and t.attributes.get("Id") == device]
        if not found:
            there = ", ".join(t.attributes.get("Id", "") for t in tags if t.name == "Device")
            raise FileError(path, f"has no device {device!r}; there are {there or 'none'}")
        data = _changed(data, found[0], {_OFFSET: f"{offset:.6f}"})
    for transform in transforms:
        data = _with_transform(data, transform, path)
    _tags(data, path)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(data)
    if path.exists():
        shutil.copymode(path, fresh)
    os.replace(fresh, path)


def _changed(data: bytes, tag: _Tag, values: Mapping[str, str]) -> bytes:
    """Return the bytes with attributes of a start tag set."""
    text = data[tag.start : tag.end]
    for name, value in values.items():
        new = _ascii(f"{name}={quoted(value)}")
        old = re.compile(rb"(?<=\s)" + name.encode() + rb"""\s*=\s*("[^"]*"|'[^']*')""")
        if name in tag.attributes:
            text = old.sub(lambda _, new=new: new, text, count=1)  # type: ignore[misc]
        else:
            end = len(text[: -2 if text.endswith(b"/>") else -1].rstrip())
            text = text[:end] + b" " + new + text[end:]
    return data[: tag.start] + text + data[tag.end :]


def _ascii(text: str) -> bytes:
    """Return a text in ASCII, which every encoding of a file has in the same bytes."""
    return text.encode("ascii", "xmlcharrefreplace")


def _with_transform(data: bytes, transform: NamedTransform, path: Path) -> bytes:
    values = {"Matrix": matrix_text(transform.matrix)}
    if transform.error is not None:
        values["Error"] = f"{transform.error:.6g}"
    if transform.date is not None:
        values["Date"] = transform.date
    tags = _tags(data, path)
    for tag in tags:
        if tag.name == "Transform" and tag.parents[-1:] == (_PLACE,):
            ends = tag.attributes.get("From"), tag.attributes.get("To")
            if ends == (transform.source, transform.target):
                return _changed(data, tag, values)
            if ends == (transform.target, transform.source):
                raise FileError(path, f"holds {ends[0]}To{ends[1]}, the inverse: take it out first")
    new = element("Transform", {"From": transform.source, "To": transform.target, **values})
    line = b"\r\n" if b"\r\n" in data else b"\n"
    places = [tag for tag in tags if tag.name == _PLACE]
    if places and places[0].close >= 0:
        return _inserted(data, places[0].close, line, b"    ", _ascii(new))
    inner = b"    " + _ascii(new) + line
    whole = f"<{_PLACE}>".encode() + line + inner + f"  </{_PLACE}>".encode()
    if places:  # <CoordinateDefinitions/>
        return data[: places[0].start] + whole + data[places[0].end :]
    if tags[0].close < 0:
        raise FileError(path, "is empty")
    return _inserted(data, tags[0].close, line, b"  ", whole)


def _inserted(data: bytes, at: int, line: bytes, indent: bytes, text: bytes) -> bytes:
    """Return the bytes with a line of its own before an end tag."""
    before = data[:at].rstrip(b" \t")
    own = before.endswith(b"\n")
    tail = data[len(before) : at] if own else b""
    return before + (b"" if own else line) + indent + text + line + tail + data[at:]
