"""Recordings as a table: .csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from igtl.codec.elements import Element
from igtl.codec.message import Message
from igtl.files.notes import note
from igtl.files.part import Part, told

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""With which a text begins that a spreadsheet would compute."""


def write(part: Part, path: Path) -> None:
    """Write a line for each message, or for each element of a list."""
    kept = [stream for stream in part.streams if len(stream) and _is_flat(type(stream[0]))]
    if left := [stream for stream in part.streams if len(stream) and stream not in kept]:
        note(f"a table has no place for {told(left)}")
    names: dict[str, None] = {}  # in the order of the columns
    for stream in kept:
        first = stream[0]
        fixed = all(
            field.kind != "elements" and not (field.kind == "array" and _varies(field.count))
            for field in type(first).__fields__
        )
        for message in [first] if fixed else stream.messages(crc="off"):
            for row in _lines(message):
                names.update(dict.fromkeys(row))
    facts = ("time", "timestamp", "type", "device_name")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*facts, *names])
        for time, message in part._replace(streams=kept).messages() if kept else ():
            stamp = message.timestamp
            head = [
                f"{time:.9f}", "" if not stamp else f"{stamp:.9f}", _text(message.type_name),
                _text(message.device_name),
            ]  # fmt: skip
            for row in _lines(message):
                writer.writerow([*head, *(row.get(name, "") for name in names)])


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _varies(count: Any) -> bool:
    return not isinstance(count, int)


def _is_flat(kind: type[Message]) -> bool:
    try:
        kind.__layout__.need_columns()
    except TypeError:
        return False
    return True


def _lines(message: Message) -> Iterator[dict[str, Any]]:
    """Name and value of each cell: a line, or one for each element of a list."""
    cells: dict[str, Any] = {}
    listed: list[tuple[str, Any]] = []
    for field in type(message).__fields__:
        if field.kind == "elements" and not field.hidden:
            listed.append((field.name, getattr(message, field.name)))
        elif not field.hidden:
            _flatten(cells, field.name, getattr(message, field.name))
    lines = 0
    for name, elements in listed:
        for element in elements:
            yield cells | _cells_of(name, element)
            lines += 1
    if not lines:
        yield cells


def _cells_of(name: str, element: Element) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for field in type(element).__fields__:
        if not field.hidden:
            _flatten(cells, f"{name}.{field.name}", getattr(element, field.name))
    return cells


def _flatten(cells: dict[str, Any], name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        cells[name] = _text(value) if isinstance(value, str) else value
        return
    rows = value[:3] if value.shape == (4, 4) else value  # the last row is 0 0 0 1
    digits = ".9g" if value.dtype == np.float32 else ""
    for at, number in zip(np.ndindex(rows.shape), rows.ravel().tolist(), strict=True):
        cells[f"{name}_{''.join(map(str, at)) if value.ndim == 2 else at[0]}"] = format(
            number, digits
        )
