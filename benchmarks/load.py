"""In use: processor time of a server and a client at the rates of an operating room, a robot's loop
of 1 kHz, decoding in several threads. Bare sockets move the same bytes without a library."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import igtl
from benchmarks.ends import running
from benchmarks.links import bare_socket, there_and_back
from benchmarks.measure import CPUS, ONE, OTHER, Found, Row, Work, interleaved, percentiles, pin

TOOLS, TOOLS_HZ, IMAGES_HZ = 8, 120, 30
NAMED = [igtl.Transform(np.eye(4), device_name=f"Tool{k}") for k in range(TOOLS)]
PICTURE = igtl.Image(np.full((1, 480, 640), 7, "u1"), device_name="Ultrasound")
USE = f"{TOOLS} tools at {TOOLS_HZ} Hz and VGA at {IMAGES_HZ} Hz"
SHARES = f"{USE}: the server", f"{USE}: the client"
ROBOT = (
    "robot loop at 1 kHz: answer",
    "robot loop at 1 kHz: from when it is due to the answer (p99)",
)
THREADS = "IMAGE 512x512x100 u16 unpack, 2 threads beside one"


# ---- processor time at a rate -------------------------------------------------------------------


def paced(seconds: float, send: Callable[[Any], object], tools: list[Any], picture: Any) -> float:
    """Send what is due at these rates; share of a processor that it took."""
    rate = igtl.Rate(TOOLS_HZ)
    busy, start = time.process_time(), time.perf_counter()
    for tick in rate:
        for tool in tools:
            send(tool)
        if tick % (TOOLS_HZ // IMAGES_HZ) == 0:
            send(picture)
        if tick >= seconds * TOOLS_HZ:
            break
    return (time.process_time() - busy) / (time.perf_counter() - start)


def clients(control: Any, igtl_port: int, bare_port: int, cpu: int) -> None:
    """The other process: takes all that comes, and tells the share of a processor that it took."""
    pin({cpu})
    with bare_socket(bare_port) as sock:
        buffer = memoryview(bytearray(1 << 20))
        busy, start = time.process_time(), time.perf_counter()
        while sock.recv_into(buffer):
            pass
        control.send((time.process_time() - busy) / (time.perf_counter() - start))
    with igtl.connect("127.0.0.1", igtl_port) as link:
        busy, start = time.process_time(), time.perf_counter()
        for _ in link:
            pass
        control.send((time.process_time() - busy) / (time.perf_counter() - start))


def shares(quick: bool) -> Iterator[Row]:
    seconds = 2 if quick else 10
    pin({ONE})
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    found: list[dict[str, Found]] = [{}, {}]

    def note(name: str, own: float, other: float) -> None:
        for k, share in enumerate((own, other)):
            found[k][name] = {"best": 100 * share, "p50": 100 * share}

    with socket.create_server(("127.0.0.1", 0)) as listening, igtl.serve(port=0) as server:
        came = threading.Event()
        server.on_connect(lambda peer: came.set())
        ports = server.port, listening.getsockname()[1]
        process = context.Process(target=clients, args=(theirs, *ports, OTHER), daemon=True)
        process.start()
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a pose waits for no other
        with sock:
            tools, picture = [m.pack() for m in NAMED], PICTURE.pack()
            own = paced(seconds, sock.sendall, tools, picture)
        note("limit", own, control.recv())
        if not came.wait(10):
            raise TimeoutError("the client did not connect")
        note("igtl", paced(seconds, server.broadcast, list(NAMED), PICTURE), 0)
        server.close()
        found[1]["igtl"] = {"best": (share := 100 * control.recv()), "p50": share}
        process.join(10)
    for name, each in zip(SHARES, found, strict=True):
        yield Row("load", name, each, 4, "absolute", "bare sockets", unit="% of a processor")


# ---- a robot's loop -----------------------------------------------------------------------------


def robot(quick: bool) -> Iterator[Row]:
    """A pose to the controller and its answer, each millisecond; both ends on one processor."""
    seconds = 1 if quick else 5
    pin({ONE})
    back: dict[str, list[float]] = {"limit": [], "igtl": []}
    whole: list[float] = []
    with running(ONE) as ends, there_and_back(ends) as trips:
        for _ in range(4):
            for name, once in trips.items():
                rate = igtl.Rate(1000)
                start = time.perf_counter()
                for tick in rate:
                    now = time.perf_counter()
                    if tick == 0:
                        start = now
                    once()
                    done = time.perf_counter()
                    back[name].append(done - now)
                    if name == "igtl":
                        whole.append(done - start - tick * rate.period)
                    if tick >= 1000 * seconds / 4:
                        break
    found = {name: percentiles(samples) for name, samples in back.items()}
    yield Row("load", ROBOT[0], found, 1.6, "limit", "bare sockets")
    yield Row("load", ROBOT[1], {"igtl": percentiles(whole)}, 0.5e-3, "absolute")


# ---- threads ------------------------------------------------------------------------------------


def threads(quick: bool) -> Iterator[Row]:
    """The CRC of large messages is computed without Python's lock: threads share processors."""
    pin(CPUS)
    wire = igtl.Image(np.full((100, 512, 512), 7, "u2")).pack()

    def in_threads(n: int) -> Callable[[int], float]:
        def timed(times: int) -> float:
            def work() -> None:
                for _ in range(max(1, times // n)):
                    igtl.unpack(wire)

            workers = [threading.Thread(target=work) for _ in range(n)]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return (time.perf_counter() - start) * times / (n * max(1, times // n))

        return timed

    contenders = {"igtl": in_threads(2), "limit": in_threads(1)}
    found = interleaved(contenders, seconds=0.1, repeats=5 if quick else 15)
    yield Row("load", THREADS, found, 1 / 1.7, "limit", "one thread")


def works(openigtlink: Path | None = None) -> Iterator[Work]:
    yield Work(SHARES, (24, 7), shares)
    yield Work(ROBOT, (14, 4), robot)
    yield Work((THREADS,), (4, 2), threads)
