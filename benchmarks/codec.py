"""Packing and unpacking, called from Python. CRC included, except in pyigtl's unpack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import igtl
from benchmarks import peers
from benchmarks.measure import ONE, Row, Timed, interleaved, looped, pin, say
from igtl.codec import batch

SECTION = "codec"
TOOLS = (1, 2, 5, 10, 20, 50, 100, 200)
SIDES = (64, 128, 256, 512, 1024, 2048, 4096)
POSE = np.eye(4, dtype="f4")
RUN = 1000  # messages of a batch

DIFFERENCE = "CRC-64 of 48 bytes, inside the codec (difference of two batches)"

Work = tuple[Row, dict[str, Timed], str]
"""A row, its contenders in this process, and the name of the work in the other programs."""


def each(batches: Timed) -> Timed:
    """Of so many messages, what takes RUN of them at a time."""

    def timed(times: int) -> float:
        whole = max(1, times // RUN)
        return batches(whole) * times / (whole * RUN)

    return timed


def simple() -> Iterator[Work]:
    transform = igtl.Transform(POSE, device_name="Probe")
    wire = transform.pack()
    build = looped("T(p, device_name='Probe').pack()", T=igtl.Transform, p=POSE)
    read = looped("unpack(w).matrix", unpack=igtl.unpack, w=wire)
    yield Row(SECTION, "TRANSFORM pack", goal=0.6), {"igtl": looped("m.pack()", m=transform)}, ""
    yield Row(SECTION, "TRANSFORM build and pack", goal=1.5), {"igtl": build}, ""
    yield Row(SECTION, "TRANSFORM unpack", goal=0.6), {"igtl": read}, ""
    columns = batch.unpack(wire * RUN)
    many = looped("unpack(w)", unpack=batch.unpack, w=wire * RUN)
    back = looped("b.pack()", b=columns)
    yield (
        Row(SECTION, "TRANSFORM unpack, one of a batch of 1000", goal=0.09),
        {"igtl": each(many)}, "TRANSFORM unpack",
    )  # fmt: skip
    yield (
        Row(SECTION, "TRANSFORM pack, one of a batch of 1000"),
        {"igtl": each(back)}, "TRANSFORM pack",
    )  # fmt: skip
    for count in TOOLS:
        m = igtl.TrackingData([igtl.Tool(f"Tool{k}", matrix=POSE) for k in range(count)])
        goal = 0.35 if count == 5 else None
        name = f"TDATA {count}"
        read = looped("unpack(w).tools.matrices", unpack=igtl.unpack, w=m.pack())
        yield Row(SECTION, f"{name} pack", goal=goal), {"igtl": looped("m.pack()", m=m)}, ""
        yield Row(SECTION, f"{name} unpack", goal=goal), {"igtl": read}, ""
    points = igtl.Points(
        igtl.Point.columns(
            names=[f"P{k}" for k in range(10000)],
            groups=["Fiducial"] * 10000,
            positions=np.tile([1, 2, 3], (10000, 1)),
        )
    )
    read = looped("unpack(w).points.positions", unpack=igtl.unpack, w=points.pack())
    packs = {"igtl": looped("m.pack()", m=points)}
    yield Row(SECTION, "POINT 10000 pack", goal=1 / 500, of="pyigtl"), packs, ""
    yield Row(SECTION, "POINT 10000 unpack", goal=1 / 15, of="pyigtl"), {"igtl": read}, ""


def image(
    name: str, array: Any, goals: tuple[float | None, float | None], limits: bool
) -> Iterator[Work]:
    """The C++ library packs into memory it keeps: so does igtl in the row that has its goal."""
    m = igtl.Image(array)
    wire = m.pack()
    target, kept = np.empty_like(array), bytearray(len(wire))
    words = array.reshape(-1).view("u8")
    copy = {"limit": looped("copy(to, of)", copy=np.copyto, to=target, of=array)}
    read = {"limit": looped("total(words)", total=np.bitwise_xor.reduce, words=words)}
    into = {"igtl": looped("m.pack_into(b)", m=m, b=kept)}
    out = {"igtl": looped("unpack(wire).array", unpack=igtl.unpack, wire=wire)}
    yield Row(SECTION, f"{name} pack", goal=goals[0], limit="memcpy"), into | copy, ""
    yield Row(SECTION, f"{name} unpack", goal=goals[1], limit="reading"), out | read, ""
    if limits:
        fresh = {"igtl": looped("m.pack()", m=m)}
        parts = {"igtl": looped("m.pack_parts()", m=m)}
        work = f"{name} pack"
        yield Row(SECTION, f"{name} pack into new bytes", limit="memcpy"), fresh | copy, work
        yield (
            Row(SECTION, f"{name} pack against memcpy", goal=1.2, of="limit", limit="memcpy"),
            into | copy,
            work,
        )
        yield (
            Row(SECTION, f"{name} parts, not joined", goal=1.2, of="limit", limit="reading"),
            parts | read, work,
        )  # fmt: skip
        yield (
            Row(SECTION, f"{name} unpack against reading", goal=1.2, of="limit", limit="reading"),
            out | read, f"{name} unpack",
        )  # fmt: skip


def crc() -> Iterator[Work]:
    data = np.full(52428800, 7, "u1")
    read = looped("total(w)", total=np.bitwise_xor.reduce, w=data.view("u8"))
    whole = looped("crc(d)", crc=igtl.crc64, d=data)
    yield (
        Row(SECTION, "CRC-64 of 52 MB", goal=1 / 0.9, of="limit", limit="reading"),
        {"igtl": whole, "limit": read}, "CRC-64 52428800",
    )  # fmt: skip
    table = looped("crc(d, form='portable')", crc=igtl.crc64, d=data[: 1 << 20])
    yield (
        Row(SECTION, "CRC-64 of 1 MB, form without special instructions", goal=0.2, of="C++"),
        {"igtl": table}, "CRC-64 1048576",
    )  # fmt: skip
    yield (
        Row(SECTION, "CRC-64 of 48 bytes, called from Python"),
        {"igtl": looped("crc(d)", crc=igtl.crc64, d=bytes(48))}, "CRC-64 48",
    )  # fmt: skip
    wire = igtl.Transform(POSE, device_name="Probe").pack() * RUN
    checked = looped("unpack(w)", unpack=batch.unpack, w=wire)
    unchecked = looped("unpack(w, crc='off')", unpack=batch.unpack, w=wire)
    yield (
        Row(SECTION, DIFFERENCE, goal=0.1),
        {
            "checked": each(checked),
            "unchecked": each(unchecked),
        },
        "CRC-64 48",
    )


def works() -> Iterator[Work]:
    yield from simple()
    for side in SIDES:
        yield from image(
            f"IMAGE {side}x{side} u8", np.full((1, side, side), 7, "u1"), (None, None), False
        )
    yield from image("IMAGE 640x480 u8", np.full((1, 480, 640), 7, "u1"), (0.05, 0.035), False)
    yield from image("IMAGE 512x512x100 u16", np.full((100, 512, 512), 7, "u2"), (0.08, 0.02), True)
    yield from crc()


def run(*, only: str = "", repeats: int = 15, openigtlink: Path | None = None) -> Iterator[Row]:
    """All rows, all contenders on one processor."""
    pin({ONE})
    others = {"C++": peers.cpp(openigtlink), "Rust": peers.rust()}
    theirs = peers.pyigtl()
    for row, contenders, work in works():
        if only not in row.name:
            continue
        work = work or row.name
        for peer, program in others.items():
            if program is not None and (timed := program(work)) is not None:
                contenders[peer] = timed
        if work in theirs:
            contenders["pyigtl"] = theirs[work]
        row.found = interleaved(contenders, repeats=repeats)
        if row.name == DIFFERENCE:
            two = row.found.pop("checked"), row.found.pop("unchecked")
            row.found["igtl"] = {key: two[0][key] - two[1][key] for key in two[0]}
        say(f"  {row.name}")
        yield row
    for program in others.values():
        if program is not None:
            program.close()
