"""What packing and unpacking cost, called from Python: `python benchmarks/codec.py [--json FILE]`.

Contenders, interleaved in one run: igtl, the official C++ library (its own loop in C++,
benchmarks/cpp), pyigtl where it is installed, and the machine's limit (memcpy of the pixels,
reading them). Best and median of the repeats; ratios are of the medians. CRC included, except
where pyigtl does not check it. The goals are this project's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import igtl

Timed = Callable[[int], float]
"""Seconds that so many repetitions take."""
COLUMNS = ("igtl", "C++", "pyigtl", "limit")
SOURCE = Path(__file__).parent / "cpp" / "codec.cpp"


@dataclass
class Work:
    """One row: who does it, and the ratio to the C++ library (or to the limit) to reach."""

    name: str
    contenders: dict[str, Timed]
    goal: float | None = None
    of: str = "C++"


def looped(statement: str, **names: Any) -> Timed:
    """A statement in timeit's own loop, ten nanoseconds a turn."""
    return timeit.Timer(statement, globals=names).timeit


@contextmanager
def official() -> Iterator[Callable[[str], Timed] | None]:
    """The C++ harness, answering `work -> timed`; None where the library is not installed."""
    if not Path("/usr/include/openigtlink").is_dir() or not shutil.which("g++"):
        print("without the official C++ library (Debian: libopenigtlink-dev g++)")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "codec"
        build = ["g++", "-O2", "-w", "-I/usr/include/openigtlink", str(SOURCE), "-o", str(program)]
        subprocess.run([*build, "-lOpenIGTLink", "-lpthread"], check=True)
        process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def work(name: str) -> Timed:
            def timed(times: int) -> float:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{name} {times}\n")
                process.stdin.flush()
                return int(process.stdout.readline()) / 1e9

            return timed

        try:
            yield work
        finally:
            process.kill()
            process.wait()


def pyigtl_works() -> dict[str, Timed]:
    if importlib.util.find_spec("pyigtl") is None:
        print("without pyigtl (pip install pyigtl)")
        return {}
    import pyigtl

    def both(name: str, message: Any) -> dict[str, Timed]:
        wire = message.pack()
        read = "m = cls(); m.unpack(cls.parse_header(wire[:58]), wire[58:])"
        return {
            f"{name} pack": looped("m.pack()", m=message),
            f"{name} unpack": looped(read, cls=type(message), wire=wire),
        }

    points = [[float(k), 2.0, 3.0] for k in range(10000)]
    names = [f"P{k}" for k in range(10000)]
    return {
        **both("TRANSFORM", pyigtl.TransformMessage(np.eye(4), device_name="Probe")),
        "TRANSFORM build and pack": looped(
            "T(m, device_name='Probe').pack()", T=pyigtl.TransformMessage, m=np.eye(4)
        ),
        **both("IMAGE 640x480 u8", pyigtl.ImageMessage(np.full((1, 480, 640), 7, "u1"))),
        **both("POINT 10000", pyigtl.PointMessage(points, names, groups="Fiducial")),
    }


def image_works(name: str, array: Any, goals: tuple[float | None, float | None]) -> list[Work]:
    """The C++ library packs into memory it keeps: so does igtl in the row that has the goal."""
    m = igtl.Image(array)
    wire = m.pack()
    target, source, kept = np.empty_like(array), array, bytearray(len(wire))
    words = array.reshape(-1).view("u8")
    copied = {"memcpy": looped("copy(to, of)", copy=np.copyto, to=target, of=source)}
    return [
        Work(f"{name} pack", {"igtl": looped("m.pack_into(b)", m=m, b=kept), **copied}, goals[0]),
        Work(f"{name} pack, new bytes", {"igtl": looped("m.pack()", m=m), **copied}),
        Work(f"{name} unpack", {
            "igtl": looped("unpack(wire).array", unpack=igtl.unpack, wire=wire),
            "reading": looped("total(words)", total=np.bitwise_xor.reduce, words=words),
        }, goals[1]),
    ]  # fmt: skip


def works() -> list[Work]:
    pose = np.eye(4, dtype="f4")
    transform = igtl.Transform(pose, device_name="Probe")
    out = [
        Work("TRANSFORM pack", {"igtl": looped("m.pack()", m=transform)}, 0.6),
        Work("TRANSFORM build and pack",
             {"igtl": looped("T(p, device_name='Probe').pack()", T=igtl.Transform, p=pose)}, 1.5),
        Work("TRANSFORM unpack",
             {"igtl": looped("unpack(w).matrix", unpack=igtl.unpack, w=transform.pack())}, 0.6),
    ]  # fmt: skip
    for count in (1, 5, 20, 50, 200):
        m = igtl.TrackingData([igtl.Tool(f"Tool{k}", matrix=pose) for k in range(count)])
        goal = 0.35 if count == 5 else None
        out += [
            Work(f"TDATA {count} pack", {"igtl": looped("m.pack()", m=m)}, goal),
            Work(f"TDATA {count} unpack", {
                "igtl": looped("unpack(w).tools.matrices", unpack=igtl.unpack, w=m.pack())}, goal),
        ]  # fmt: skip
    for side in (64, 256, 1024, 4096):
        array = np.full((1, side, side), 7, "u1")
        out += image_works(f"IMAGE {side}x{side} u8", array, (None, None))
    out += image_works("IMAGE 640x480 u8", np.full((1, 480, 640), 7, "u1"), (0.05, 0.035))
    out += image_works("IMAGE 512x512x100 u16", np.full((100, 512, 512), 7, "u2"), (0.08, 0.02))
    columns = igtl.Point.columns(
        names=[f"P{k}" for k in range(10000)],
        groups=["Fiducial"] * 10000,
        positions=np.tile([1, 2, 3], (10000, 1)),
    )
    points = igtl.Points(columns)
    out += [
        Work("POINT 10000 pack", {"igtl": looped("m.pack()", m=points)}, 1 / 500, "pyigtl"),
        Work("POINT 10000 unpack", {
            "igtl": looped("unpack(w).points.positions", unpack=igtl.unpack, w=points.pack()),
        }, 1 / 15, "pyigtl"),
    ]  # fmt: skip
    for size in (48, 52428800):
        data = np.full(size, 7, "u1")
        read = looped("total(w)", total=np.bitwise_xor.reduce, w=data.view("u8"))
        limit = {"reading": read} if size > 1000 else {}
        crc = looped("crc(d)", crc=igtl.crc64, d=data)
        out.append(Work(f"CRC-64 {size}", {"igtl": crc, **limit}))
    return out


def repetitions(timed: Timed, seconds: float) -> int:
    """How often, to take about so long."""
    times = 1
    timed(1)  # warm
    while (took := timed(times)) < seconds / 20:
        times *= 4
    return max(1, round(times * seconds / took))


def measured(work: Work, seconds: float, repeats: int) -> dict[str, dict[str, float]]:
    """Best and median of one turn, in seconds; the contenders take turns."""
    counts = {name: repetitions(timed, seconds) for name, timed in work.contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in work.contenders}
    for _ in range(repeats):
        for name, timed in work.contenders.items():
            samples[name].append(timed(counts[name]) / counts[name])
    return {
        name: {"best": min(values), "p50": statistics.median(values)}
        for name, values in samples.items()
    }


def shown(seconds: float) -> str:
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def line(work: Work, found: dict[str, dict[str, float]]) -> str:
    """A row of the table: medians, the ratio to the C++ library, the goal."""
    p50 = {("limit" if n in ("memcpy", "reading") else n): f["p50"] for n, f in found.items()}
    cells = [shown(p50[name]) if name in p50 else "" for name in COLUMNS]
    ratio = {name: p50["igtl"] / seconds for name, seconds in p50.items()}
    cells.append(f"{ratio['C++']:.3g}" if "C++" in ratio else "")
    goal = ""
    if work.goal is not None and work.of in ratio:
        verdict = "met" if ratio[work.of] <= work.goal else "not met"
        goal = f"{work.goal:.3g} x {work.of}: {ratio[work.of]:.3g}, {verdict}"
    return f"{work.name:36} " + " ".join(f"{cell:>9}" for cell in cells) + f"  {goal}"


def machine() -> str:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(": ")[2] if lines else model
    form = igtl._core.crc_forms()[-1]
    return f"{model}, {os.cpu_count()} processors, CPython {platform.python_version()}, CRC {form}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # all contenders on one processor, the harness too
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results: dict[str, Any] = {"machine": machine(), "time": time.strftime("%Y-%m-%d"), "rows": {}}
    print(results["machine"])
    print(f"{'':36} " + " ".join(f"{name:>9}" for name in (*COLUMNS, "to C++")) + "  goal")
    with official() as cpp:
        theirs = pyigtl_works()
        for work in works():
            if options.only not in work.name:
                continue
            if cpp is not None:
                work.contenders["C++"] = cpp(work.name.removesuffix(", new bytes"))
            if work.name in theirs:
                work.contenders["pyigtl"] = theirs[work.name]
            found = measured(work, 0.01, options.repeats)
            results["rows"][work.name] = found | {"goal": work.goal, "of": work.of}
            print(line(work, found))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
