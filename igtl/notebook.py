"""What Jupyter shows of messages, links, recordings and graphs: tables in HTML, pictures in PNG."""

from __future__ import annotations

import math
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from igtl._stream import Stats

_SIDE = 384  # pixels of a picture, at most, in each direction
_LEFT, _RIGHT = "style='text-align:left'", "style='text-align:right'"


def matrix(values: npt.ArrayLike) -> str:
    """Show a small matrix, row by row."""
    rows = (
        "".join(f"<td {_RIGHT}>{value:.4f}</td>" for value in row)
        for row in np.asarray(values, np.float64).tolist()
    )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def facts(caption: str, rows: Iterable[tuple[str, str]]) -> str:
    """Show a table of names and values. Names are text, values are HTML."""
    lines = (
        f"<tr><th {_LEFT}>{escape(name)}</th><td {_LEFT}>{value}</td></tr>" for name, value in rows
    )
    return f"<table><caption>{escape(caption)}</caption>{''.join(lines)}</table>"


def table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Show a table with a title above each column. Texts stand left, all else right."""
    lines = (
        "".join(
            f"<td {_LEFT if isinstance(cell, str) else _RIGHT}>{escape(_text(cell))}</td>"
            for cell in row
        )
        for row in rows
    )
    head = "".join(f"<th {_LEFT}>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return "–" if cell is None else str(cell)


def streams(caption: str, stats: Stats) -> str:
    """Show the streams of a connection, with their counters."""
    titles = ("type", "device", "received", "sent", "Hz", "lost", "age in s")
    return table(
        caption,
        titles,
        (
            (s.type_name, s.device_name, s.received, s.sent, s.rate, sum(s.lost.values()), s.age)
            for s in stats.streams.values()
        ),
    )


def slice_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """Return the middle slice of (k, j, i[, components]) as it is shown: (rows, columns[, 3 or 4]).

    It is not larger than is needed, the least value black and the largest white. None if the array
    has no pixels.
    """
    if 0 in array.shape:
        return None
    pixels: npt.NDArray[Any] = array[len(array) // 2]
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels[..., 0]
    step = math.ceil(max(pixels.shape[:2]) / _SIDE)
    pixels = pixels[::step, ::step]
    if pixels.dtype == np.uint8:
        return pixels
    with np.errstate(all="ignore"):
        values = pixels.astype(np.float64)
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
        shown = 255 * ((values - low) / ((high - low) or 1.0))
        shown = np.nan_to_num(shown, posinf=255, neginf=0).clip(0, 255)
    return np.asarray(shown, np.uint8)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG of (rows, columns), grey, or (rows, columns, 3 or 4), RGB or RGBA."""
    rows, columns = pixels.shape[:2]
    colour = {1: 0, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    lines = np.pad(pixels.reshape(rows, -1), ((0, 0), (1, 0)))  # each begins with its filter: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    packed = zlib.compress(lines.tobytes())
    parts = chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def picture(array: npt.NDArray[Any]) -> str:
    """Show the middle slice, as an image in the text of the page."""
    pixels = slice_of(array)
    if pixels is None:
        return ""
    text = b64encode(png(pixels)).decode()
    which = f"slice {len(array) // 2} of {len(array)}" if len(array) > 1 else ""
    return f"<img src='data:image/png;base64,{text}' alt='{which}'><br>{which}"
