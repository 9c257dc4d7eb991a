"""Memory that a 52 MB image takes beside its pixels, counted; and what importing costs."""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import igtl
from benchmarks.measure import Found, Row, say
from tests.memory import PIXELS, peak, queueing, receiving, sending


def import_times(repeats: int) -> dict[str, Found]:
    """Seconds beyond `import numpy`, in fresh interpreters."""
    names = ["igtl", *(["pyigtl"] if importlib.util.find_spec("pyigtl") else [])]
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats + 1):
        for name in names:
            clock = "time.perf_counter()"
            code = f"import numpy, time; t = {clock}; import {name}; print({clock} - t)"
            out = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            samples[name].append(float(out.stdout))
    # the first of each has compiled what had no .pyc yet
    return {n: {"best": min(s[1:]), "p50": statistics.median(s[1:])} for n, s in samples.items()}


def rows() -> Iterator[tuple[str, float, dict[str, int]]]:
    """What, the goal (as a multiple of the pixels), and bytes."""
    image = igtl.Image(PIXELS)
    wire = image.pack()
    kept = bytearray(len(wire))
    packing = {"igtl": peak(image.pack)}
    if importlib.util.find_spec("pyigtl"):
        import pyigtl

        packing["pyigtl"] = peak(pyigtl.ImageMessage(PIXELS).pack)
    yield "pack", 1.01, packing
    yield "pack_into memory that is there", 0.01, {"igtl": peak(lambda: image.pack_into(kept))}
    yield "unpack", 0.01, {"igtl": peak(lambda: igtl.unpack(wire))}
    yield "blocking send", 0.01, {"igtl": sending()}
    if Path("/proc/self/status").exists():
        yield "receive, message included", 1.05, {"igtl": receiving()}
    # each client's connection may hold a slice of 256 KiB besides
    yield "queued for 1 client", 1.02, {"igtl": queueing(1)}
    yield "queued for 10 clients", 1.1, {"igtl": queueing(10)}


def run(*, quick: bool = False) -> Iterator[Row]:
    for name, goal, found in rows():
        row = Row("memory", f"52 MB image: {name}", goal=goal, of="absolute", unit="x")
        for contender, taken in found.items():
            share = round(taken / PIXELS.nbytes, 3)
            row.found[contender] = {"best": share, "p50": share}
        yield row
        say(f"  {name}")
    found_times = import_times(3 if quick else 15)
    yield Row("import", "import beyond numpy", found_times, 30e-3, "absolute")
