"""Packing and unpacking, called from Python. CRC included, except in pyigtl's unpack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import igtl
from benchmarks import peers
from benchmarks.measure import ONE, Found, Row, Timed, Work, interleaved, looped, pin
from igtl.codec import batch

SECTION = "codec"
TOOLS = (1, 2, 5, 10, 20, 50, 100, 200)
SIDES = (64, 128, 256, 512, 1024, 2048, 4096)
POSE = np.eye(4, dtype="f4")
RUN = 1000  # messages of a batch
TRIANGLES = 50_000
NOTES = {"Mode": "fast", "Patient": "7"}

DIFFERENCE = "CRC-64 of 48 bytes, inside the codec (difference of two batches)"

Contenders = Callable[[], dict[str, Timed]]
"""Makes the data and what this process does with them, when their turn has come."""


def each(batches: Timed) -> Timed:
    """Of so many messages, what takes RUN of them at a time."""

    def timed(times: int) -> float:
        whole = max(1, times // RUN)
        return batches(whole) * times / (whole * RUN)

    return timed


@cache
def others(openigtlink: Path | None) -> dict[str, peers.Program]:
    """The other implementations that are here, built and started."""
    found = {"C++": peers.cpp(openigtlink), "Rust": peers.rust()}
    return {name: program for name, program in found.items() if program is not None}


@cache
def of_pyigtl() -> dict[str, Timed]:
    return peers.pyigtl()


def measured(
    row: Row, contenders: Contenders, peer: str, openigtlink: Path | None, quick: bool
) -> Iterator[Row]:
    """One row, all contenders on one processor.

    Args:
        peer: name of the work in the other programs; "" for the row's own.
    """
    pin({ONE})
    taking_part = contenders()
    for name, program in others(openigtlink).items():
        if (timed := program(peer or row.name)) is not None:
            taking_part[name] = timed
    if (peer or row.name) in of_pyigtl():
        taking_part["pyigtl"] = of_pyigtl()[peer or row.name]
    row.found = interleaved(taking_part, repeats=5 if quick else 15)
    if row.name == DIFFERENCE:
        row.found["igtl"] = difference(row.found.pop("checked"), row.found.pop("unchecked"))
    yield row


def difference(a: Found, b: Found) -> Found:
    return {key: a[key] - b[key] for key in a}


# ---- what is measured ---------------------------------------------------------------------------

Line = tuple[Row, Contenders, str]
"""A row, what takes part, and the name of the work in the other programs if it is another."""


def line(
    name: str,
    statement: str,
    names: Callable[[], dict[str, Any]],
    *,
    goal: float | None = None,
    of: str = "C++",
    peer: str = "",
) -> Line:
    """A row whose contender in this process is a statement, over names that are made late."""
    row = Row(SECTION, name, goal=goal, of=of)
    return row, lambda: {"igtl": looped(statement, **names())}, peer


def transform(**header: Any) -> igtl.Transform:
    return igtl.Transform(POSE, device_name="Probe", **header)


def transforms() -> Iterator[Line]:
    def own() -> dict[str, Any]:
        m = transform()
        return {"T": igtl.Transform, "p": POSE, "m": m, "w": m.pack(), "unpack": igtl.unpack}

    def run() -> dict[str, Any]:
        wire = transform().pack() * RUN
        return {"unpack": batch.unpack, "w": wire, "b": batch.unpack(wire)}

    build = "T(p, device_name='Probe').pack()"
    yield line("TRANSFORM pack", "m.pack()", own, goal=0.5)
    yield line("TRANSFORM build and pack", build, own, goal=1.0, peer="TRANSFORM stamped")
    name = "TRANSFORM build and pack, the others without a time stamp"
    yield line(name, build, own, peer="TRANSFORM build and pack")
    yield line("TRANSFORM unpack", "unpack(w).matrix", own, goal=0.45)
    row = Row(SECTION, "TRANSFORM unpack, one of a batch of 1000", goal=0.09)
    yield row, lambda: {"igtl": each(looped("unpack(w)", **run()))}, "TRANSFORM unpack"
    row = Row(SECTION, "TRANSFORM pack, one of a batch of 1000")
    yield row, lambda: {"igtl": each(looped("b.pack()", **run()))}, "TRANSFORM pack"

    def noted(statement: str) -> dict[str, Timed]:
        m, plain = transform(metadata=NOTES), transform()
        return {
            "igtl": looped(statement, m=m, w=m.pack(), unpack=igtl.unpack),
            "limit": looped(statement, m=plain, w=plain.pack(), unpack=igtl.unpack),
        }

    for work, statement in (("pack", "m.pack()"), ("unpack", "unpack(w).matrix")):
        name = f"TRANSFORM with two metadata {work}"
        row = Row(SECTION, name, goal=2.5, of="limit", limit="without metadata")
        yield row, partial(noted, statement), ""


def lists() -> Iterator[Line]:
    def tools(count: int) -> dict[str, Any]:
        names = [f"Tool{k}" for k in range(count)]
        m = igtl.TrackingData([igtl.Tool(name, matrix=POSE) for name in names])
        makers = {"Tools": igtl.TrackingData, "Tool": igtl.Tool, "names": names, "p": POSE}
        return makers | {"m": m, "w": m.pack(), "unpack": igtl.unpack}

    for count in TOOLS:
        own, goals = partial(tools, count), (0.2, 0.25) if count == 5 else (None, None)
        yield line(f"TDATA {count} pack", "m.pack()", own, goal=goals[0])
        yield line(f"TDATA {count} unpack", "unpack(w).tools.matrices", own, goal=goals[1])
    build = "Tools([Tool(n, matrix=p) for n in names]).pack()"
    yield line("TDATA 5 build and pack", build, partial(tools, 5), goal=2)

    def points(count: int) -> dict[str, Any]:
        arrays: dict[str, Any] = {
            "names": [f"P{k}" for k in range(count)],
            "groups": ["Fiducial"] * count,
            "positions": np.tile([1, 2, 3], (count, 1)),
        }
        m = igtl.Points.from_arrays(**arrays)
        made = {"P": igtl.Points.from_arrays, "a": arrays, "points": m.points}
        return made | {"m": m, "w": m.pack(), "unpack": igtl.unpack}

    read = "unpack(w).points.positions"
    for count, of, goals in ((1000, "C++", (0.06, 0.06)), (10000, "pyigtl", (1 / 500, 1 / 15))):
        own = partial(points, count)
        yield line(f"POINT {count} pack", "m.pack()", own, goal=goals[0], of=of)
        yield line(f"POINT {count} unpack", read, own, goal=goals[1], of=of)
        name = f"POINT {count} build from arrays and pack"
        goal = 5e-3 if count == 10000 else None
        yield line(
            name, "P(**a).pack()", own, goal=goal, of="absolute",
            peer=f"POINT {count} build and pack",
        )  # fmt: skip
    yield line("POINT 1000, one element", "points[7]", partial(points, 1000), goal=150e-9,
               of="absolute")  # fmt: skip


def mesh() -> Iterator[Line]:
    def own() -> dict[str, Any]:
        corners = np.arange(3 * TRIANGLES).reshape(-1, 3) % TRIANGLES
        m = igtl.PolyData(np.zeros((TRIANGLES, 3), "f4"), polygons=corners)
        return {"m": m, "w": m.pack(), "unpack": igtl.unpack}

    name = f"POLYDATA {TRIANGLES} triangles"
    yield line(f"{name} pack", "m.pack()", own, goal=0.07)
    yield line(f"{name} unpack", "unpack(w).polygons", own, goal=0.07)


def texts() -> Iterator[Line]:
    def own() -> dict[str, Any]:
        m = igtl.String("a few words", device_name="Probe")
        return {"S": igtl.String, "m": m, "w": m.pack(), "unpack": igtl.unpack}

    yield line("STRING pack", "m.pack()", own, goal=1.0)
    yield line("STRING unpack", "unpack(w).string", own, goal=0.8)
    yield line("STRING build and pack", "S('a few words', device_name='Probe').pack()", own)


# ---- images -------------------------------------------------------------------------------------


def image(
    name: str, array: Callable[[], Any], goals: tuple[float | None, ...], limits: bool = False
) -> Iterator[Line]:
    """The C++ library packs into memory it keeps: so does igtl in the row that has its goal."""

    def own(igtl_does: str, limit_does: str) -> dict[str, Timed]:
        pixels = array()
        m = igtl.Image(pixels)
        wire = m.pack()
        names = {
            "m": m, "wire": wire, "kept": bytearray(len(wire)), "unpack": igtl.unpack,
            "pixels": pixels, "target": np.empty_like(pixels), "copy": np.copyto,
            "words": pixels.reshape(-1).view("u8"), "total": np.bitwise_xor.reduce,
        }  # fmt: skip
        return {"igtl": looped(igtl_does, **names), "limit": looped(limit_does, **names)}

    into, copy = "m.pack_into(kept)", "copy(target, pixels)"
    out, read = "unpack(wire).array", "total(words)"
    row = Row(SECTION, f"{name} pack", goal=goals[0], limit="memcpy")
    yield row, partial(own, into, copy), ""
    row = Row(SECTION, f"{name} unpack", goal=goals[1], limit="reading")
    yield row, partial(own, out, read), ""
    if not limits:
        return
    work = f"{name} pack"
    row = Row(SECTION, f"{name} pack into new bytes", limit="memcpy")
    yield row, partial(own, "m.pack()", copy), work
    row = Row(SECTION, f"{name} pack against memcpy", goal=1.1, of="limit", limit="memcpy")
    yield row, partial(own, into, copy), work
    row = Row(SECTION, f"{name} parts, not joined", goal=1.2, of="limit", limit="reading")
    yield row, partial(own, "m.pack_parts()", read), work
    row = Row(SECTION, f"{name} unpack against reading", goal=1.1, of="limit", limit="reading")
    yield row, partial(own, out, read), f"{name} unpack"


def square(side: int) -> Any:
    return np.full((1, side, side), 7, "u1")


def small_images() -> Iterator[Line]:
    """What an image costs beside its pixels."""

    def own() -> dict[str, Any]:
        m = igtl.Image(square(64))
        return {"I": igtl.Image, "a": m.array, "m": m, "w": m.pack(), "unpack": igtl.unpack}

    name = "IMAGE 64x64 u8"
    yield line(f"{name} build", "I(a)", own, goal=4e-6, of="absolute")
    yield line(f"{name} build and pack", "I(a).pack()", own, goal=1.0)
    work = f"{name} pack"
    yield line(f"{work} into new bytes", "m.pack()", own, goal=3e-6, of="absolute", peer=work)
    work = f"{name} unpack"
    name = f"{work} to an array"
    yield line(name, "unpack(w).array", own, goal=3e-6, of="absolute", peer=work)


def images() -> Iterator[Line]:
    for side in SIDES:
        yield from image(f"IMAGE {side}x{side} u8", partial(square, side), (None, None))
    yield from small_images()
    vga, volume = partial(np.full, (1, 480, 640), 7, "u1"), partial(np.full, (100, 512, 512), 7)
    yield from image("IMAGE 640x480 u8", vga, (0.035, 0.03))
    yield from image("IMAGE 512x512x100 u16", partial(volume, "u2"), (0.08, 0.02), limits=True)


def crc() -> Iterator[Line]:
    def whole() -> dict[str, Timed]:
        data = np.full(52428800, 7, "u1")
        read = looped("total(w)", total=np.bitwise_xor.reduce, w=data.view("u8"))
        return {"igtl": looped("crc(d)", crc=igtl.crc64, d=data), "limit": read}

    row = Row(SECTION, "CRC-64 of 52 MB", goal=1 / 0.9, of="limit", limit="reading")
    yield row, whole, "CRC-64 52428800"

    def of(size: int) -> dict[str, Any]:
        return {"crc": igtl.crc64, "d": np.full(size, 7, "u1")}

    name = "CRC-64 of 1 MB, form without special instructions"
    statement, data = "crc(d, form='portable')", partial(of, 1 << 20)
    yield line(name, statement, data, goal=0.2, peer="CRC-64 1048576")
    name = "CRC-64 of 48 bytes, called from Python"
    yield line(name, "crc(d)", partial(of, 48), peer="CRC-64 48")

    def within() -> dict[str, Timed]:
        names: dict[str, Any] = {"unpack": batch.unpack, "w": transform().pack() * RUN}
        return {
            "checked": each(looped("unpack(w)", **names)),
            "unchecked": each(looped("unpack(w, crc='off')", **names)),
        }

    yield Row(SECTION, DIFFERENCE, goal=0.1), within, "CRC-64 48"


def lines() -> Iterator[Line]:
    yield from transforms()
    yield from lists()
    yield from mesh()
    yield from texts()
    yield from images()
    yield from crc()


def seconds(name: str) -> tuple[float, float]:
    """About how long a row takes, with all contenders, and with --quick."""
    if "x100" in name or "52 MB" in name or "4096" in name:
        return 8, 4
    return (6, 5) if "10000" in name else (1.2, 0.6)


def works(openigtlink: Path | None = None) -> Iterator[Work]:
    for row, contenders, peer in lines():
        run = partial(measured, row, contenders, peer, openigtlink)
        yield Work((row.name,), seconds(row.name), run)
