"""Memory that a 52 MB image takes beside its pixels, and that hostile messages take beside their
bytes, counted; and what importing costs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import igtl
from benchmarks.measure import Found, Row, Work
from benchmarks.peers import BUILD
from tests.memory import PIXELS, peak, queueing, receiving, sending

IMPORT = "import beyond numpy"
HOSTILE = "hostile messages of 1 MB: most memory at once, to their bytes"


def import_times(repeats: int) -> dict[str, Found]:
    """Seconds beyond `import numpy`, in fresh interpreters that find their bytecode compiled."""
    names = ["igtl", *(["pyigtl"] if importlib.util.find_spec("pyigtl") else [])]
    samples: dict[str, list[float]] = {name: [] for name in names}
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(BUILD / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(repeats + 1):
        for name in names:
            clock = "time.perf_counter()"
            code = f"import numpy, time; t = {clock}; import {name}; print({clock} - t)"
            out = subprocess.run(
                [sys.executable, "-c", code],
                env=environment, capture_output=True, text=True, check=True,
            )  # fmt: skip
            samples[name].append(float(out.stdout))
    # the first of each has compiled what had no .pyc yet
    return {n: {"best": min(s[1:]), "p50": statistics.median(s[1:])} for n, s in samples.items()}


# ---- a large image ------------------------------------------------------------------------------


def packing() -> dict[str, int]:
    found = {"igtl": peak(igtl.Image(PIXELS).pack)}
    if importlib.util.find_spec("pyigtl"):
        import pyigtl

        found["pyigtl"] = peak(pyigtl.ImageMessage(PIXELS).pack)
    return found


def packing_into() -> dict[str, int]:
    image = igtl.Image(PIXELS)
    kept = bytearray(PIXELS.nbytes + 1000)
    return {"igtl": peak(lambda: image.pack_into(kept))}


def unpacking() -> dict[str, int]:
    wire = igtl.Image(PIXELS).pack()
    return {"igtl": peak(lambda: igtl.unpack(wire))}


IMAGES: dict[str, tuple[float, Callable[[], dict[str, int]]]] = {
    "pack": (1.01, packing),
    "pack_into memory that is there": (0.01, packing_into),
    "unpack": (0.01, unpacking),
    "blocking send": (0.01, lambda: {"igtl": sending()}),
    "receive, message included": (1.05, lambda: {"igtl": receiving()}),
    # each client's connection may hold a slice of 256 KiB besides
    "queued for 1 client": (1.02, lambda: {"igtl": queueing(1)}),
    "queued for 10 clients": (1.1, lambda: {"igtl": queueing(10)}),
}
"""What, the goal (as a multiple of the pixels), and bytes."""


def image_row(what: str, quick: bool) -> Iterator[Row]:
    goal, count = IMAGES[what]
    row = Row("memory", f"52 MB image: {what}", goal=goal, of="absolute", unit="x")
    for contender, taken in count().items():
        share = round(taken / PIXELS.nbytes, 3)
        row.found[contender] = {"best": share, "p50": share}
    yield row


# ---- hostile messages ---------------------------------------------------------------------------


def framed(type_name: str, content: bytes, *, announced: int | None = None) -> bytes:
    """A message with this content, its CRC right. announced: another size in its header."""
    size = len(content) if announced is None else announced
    head = struct.pack(">H12s20sQQQ", 1, type_name.encode(), b"Probe", 0, size, igtl.crc64(content))
    return head + content


def hostile() -> dict[str, bytes]:
    """Messages that announce more than they have, or have as many parts as fit."""
    mega = 1 << 20
    table = struct.pack(">12sQ", b"STATUS", 0) * (mega // 21)
    return {
        "header that announces 1 GB": framed("IMAGE", bytes(mega), announced=1 << 30),
        "body that announces 4 billion numbers": framed(
            "NDARRAY", struct.pack(">BB2H", 10, 2, 65535, 65535) + bytes(mega)
        ),
        "mesh that announces 4 billion points": framed("POLYDATA", b"\xff" * 40 + bytes(mega)),
        "cells without points": framed(
            "POLYDATA", struct.pack(">10I", 0, 0, 0, 0, 0, mega // 4, mega, 0, 0, 0) + bytes(mega)
        ),
        "empty children": framed("BIND", struct.pack(">H", mega // 21 % 65536) + table),
        "names of one byte": framed("CAPABILITY", b"A" * 12 * (mega // 12)),
        "points without names": framed("POINT", bytes(136 * (mega // 136))),
    }


def hostile_row(quick: bool) -> Iterator[Row]:
    worst, which = 0.0, ""
    for name, wire in hostile().items():

        def decode(wire: bytes = wire) -> None:
            protocol = igtl.Protocol()
            with contextlib.suppress(igtl.IgtlError):
                protocol.receive_data(wire)
                for message in protocol.messages():
                    repr(message)

        share = peak(decode) / len(wire)
        if share > worst:
            worst, which = share, name
    found = {"best": round(worst, 2), "p50": round(worst, 2)}
    yield Row("memory", HOSTILE, {"igtl": found}, 6, "absolute", unit="x", note=which)


def import_row(quick: bool) -> Iterator[Row]:
    yield Row("import", IMPORT, import_times(3 if quick else 15), 25e-3, "absolute")


def works(openigtlink: Path | None = None) -> Iterator[Work]:
    for what in IMAGES:
        if what != "receive, message included" or Path("/proc/self/status").exists():
            yield Work((f"52 MB image: {what}",), (2, 2), partial(image_row, what))
    yield Work((HOSTILE,), (2, 2), hostile_row)
    yield Work((IMPORT,), (14, 4), import_row)
