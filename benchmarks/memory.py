"""Memory that a 52 MB image takes beside its pixels, counted; and what importing costs."""

from __future__ import annotations

import gc
import importlib.util
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import igtl
from benchmarks.measure import Found, Row, say

PIXELS = np.zeros((100, 512, 512), np.uint16)


def peak(work: Callable[[], object]) -> float:
    """Largest memory at once that this took, as a multiple of the pixels."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return round(tracemalloc.get_traced_memory()[1] / PIXELS.nbytes, 3)
    finally:
        tracemalloc.stop()


def counted(value: float) -> Found:
    return {"best": value, "p50": value}


def sending() -> float:
    """A blocking send; the other end throws away what comes."""
    buffer = bytearray(1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drain() -> None:
            sock, _ = listening.accept()
            with sock:
                while sock.recv_into(buffer):
                    pass

        thread = threading.Thread(target=drain)
        with igtl.connect("127.0.0.1", listening.getsockname()[1]) as link:
            thread.start()
            image = igtl.Image(PIXELS)
            found = peak(lambda: link.send(image))
        thread.join()
        return found


def queueing(clients: int) -> float:
    """A server's broadcast to clients that read nothing: all of it waits."""
    with igtl.serve(port=0) as server:
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(clients)]
        while len(server.clients) < clients:
            time.sleep(0.01)
        image = igtl.Image(PIXELS)
        found = peak(lambda: server.broadcast(image))
        for sock in socks:
            sock.close()
        server.shutdown(timeout=1)
        return found


def receiving() -> float:
    """What the process grew by at most while a message was received: resident memory, since a large
    frame is no Python object."""
    code = """
import re, numpy as np, igtl
def memory(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
wire = igtl.Image(np.ones((100, 512, 512), np.uint16)).pack_parts()
before = memory("VmRSS")
decoder = igtl.Protocol()
for part in wire:
    part = memoryview(part)
    while part:
        buffer = decoder.get_buffer()
        n = min(len(buffer), len(part), 1 << 18)
        buffer[:n] = part[:n]
        decoder.received(n)
        message = decoder.next_message()
        part = part[n:]
assert message.array.max() == 1
print((memory("VmHWM") - before) / message.array.nbytes)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(float(out.stdout), 3)


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


def rows() -> Iterator[tuple[str, float, dict[str, Any]]]:
    image = igtl.Image(PIXELS)
    wire = image.pack()
    kept = bytearray(len(wire))
    others = {}
    if importlib.util.find_spec("pyigtl"):
        import pyigtl

        theirs = pyigtl.ImageMessage(PIXELS)
        others["pyigtl"] = peak(theirs.pack)
    yield "pack", 1.01, {"igtl": peak(image.pack), **others}
    yield "pack_into memory that is there", 0.01, {"igtl": peak(lambda: image.pack_into(kept))}
    yield "unpack", 0.01, {"igtl": peak(lambda: igtl.unpack(wire))}
    yield "blocking send", 0.01, {"igtl": sending()}
    if Path("/proc/self/status").exists():
        yield "receive, message included", 1.05, {"igtl": receiving()}
    yield "queued for 1 client", 1.01, {"igtl": queueing(1)}
    yield "queued for 10 clients", 1.01, {"igtl": queueing(10)}


def run(*, quick: bool = False) -> Iterator[Row]:
    for name, goal, found in rows():
        yield Row(
            "memory", f"52 MB image: {name}", {k: counted(v) for k, v in found.items()}, goal,
            "absolute", unit="x",
        )  # fmt: skip
        say(f"  {name}")
    found_times = import_times(3 if quick else 15)
    yield Row("import", "import beyond numpy", found_times, 30e-3, "absolute")
