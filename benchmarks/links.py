"""What the links cost beyond the system: round trips, one way rates, a large image, UDP.

Bare sockets, and bare asyncio protocols, make the same system calls for a message: one to send it
and one to receive it. For a round trip both ends share one processor, since one across two
processors is another thing (several times slower, and bimodal); what flows one way has both.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import igtl
import igtl.aio
from benchmarks import peers
from benchmarks.ends import POSE, SIZE, WIRE, Ends, recv_exactly, running
from benchmarks.measure import CPUS, ONE, OTHER, Found, Row, Work, percentiles, pin

Samples = dict[str, list[float]]


def singly(n: int, once: Callable[[], object]) -> list[float]:
    """Seconds of each of n repetitions."""
    out = []
    for _ in range(n):
        start = time.perf_counter()
        once()
        out.append(time.perf_counter() - start)
    return out


def best_of(processes: list[dict[str, Found]]) -> dict[str, Found]:
    """Of several pairs of processes: the median of each figure. Memory lies differently in each,
    which alone makes some of them a fifth slower."""
    return {
        name: {key: statistics.median(p[name][key] for p in processes) for key in found}
        for name, found in processes[0].items()
    }


# ---- round trips --------------------------------------------------------------------------------


def bare_socket(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def there_and_back(ends: Ends) -> Iterator[dict[str, Callable[[], None]]]:
    """One round trip of a TRANSFORM, by bare sockets ("limit") and by igtl."""
    buffer = memoryview(bytearray(SIZE))
    with (
        bare_socket(ends.ports["bare"]) as sock,
        igtl.connect("127.0.0.1", ends.ports["igtl"]) as link,
    ):

        def bare() -> None:
            sock.sendall(WIRE)
            recv_exactly(sock, buffer)

        def ours() -> None:
            link.send(POSE)
            link.recv()

        yield {"limit": bare, "igtl": ours}


def round_trips(ends: Ends, rounds: int) -> dict[str, Found]:
    samples: Samples = {"igtl": [], "limit": []}
    with there_and_back(ends) as trips:
        for _ in range(rounds):
            for name, once in trips.items():
                samples[name] += singly(200, once)
    return {name: percentiles(s) for name, s in samples.items()}


class BareClient(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.left = SIZE
        self.waiter: Any = None

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left == 0:
            self.left = SIZE
            self.waiter.set_result(None)


async def aio_round_trips(ends: Ends, rounds: int) -> dict[str, Found]:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(BareClient, "127.0.0.1", ends.ports["bare aio"])
    samples: Samples = {"igtl": [], "limit": []}
    async with igtl.aio.connect("127.0.0.1", ends.ports["igtl aio"]) as link:
        for _ in range(rounds):
            for _ in range(200):
                start = time.perf_counter()
                bare.waiter = loop.create_future()
                bare.transport.write(WIRE)
                await bare.waiter
                samples["limit"].append(time.perf_counter() - start)
            for _ in range(200):
                start = time.perf_counter()
                await link.send(POSE)
                await link.recv()
                samples["igtl"].append(time.perf_counter() - start)
    bare.transport.close()
    return {name: percentiles(s) for name, s in samples.items()}


def in_fresh_processes(rounds: int) -> tuple[dict[str, Found], dict[str, Found]]:
    """Both round trips, blocking and asyncio, between two processes that did nothing before."""
    pin({ONE})
    with running(ONE) as ends:
        return round_trips(ends, rounds), asyncio.run(aio_round_trips(ends, rounds))


def official_round_trips(openigtlink: Path | None) -> Found | None:
    """The official library at both ends, each in a process of its own."""
    program = peers.cpp(openigtlink)
    if program is None:
        return None
    try:
        timed = program("round trip")
        assert timed is not None
        timed(1000)
        return percentiles(timed(1) for _ in range(5000))
    finally:
        program.close()


def pyigtl_round_trips(ends: Ends) -> Found | None:
    if importlib.util.find_spec("pyigtl") is None:
        return None
    import pyigtl

    ends.start_pyigtl()
    client = pyigtl.OpenIGTLinkClient("127.0.0.1", ends.ports["pyigtl"])
    message = pyigtl.TransformMessage(np.eye(4), device_name="Probe")

    def once() -> None:
        client.send_message(message, wait=True)
        client.wait_for_message("Probe", timeout=5)

    try:
        once()
        return percentiles(singly(60, once))
    finally:
        client.stop()


# ---- one way ------------------------------------------------------------------------------------


def order_of(wire: bytes, times: int) -> bytes:
    return len(wire).to_bytes(8, "big") + times.to_bytes(8, "big")


def one_way(ends: Ends, message: igtl.Message, times: int, rounds: int) -> dict[str, Found]:
    """Seconds a message, until the other end says that it has them all; igtl checks the CRC."""
    wire = message.pack()
    samples: Samples = {"igtl": [], "limit": []}
    with (
        bare_socket(ends.ports["bare sink"]) as sock,
        igtl.connect("127.0.0.1", ends.ports["igtl sink"]) as link,
    ):

        def bare() -> None:
            sock.sendall(order_of(wire, times))
            for _ in range(times):
                sock.sendall(wire)
            sock.recv(1)

        def ours() -> None:
            for _ in range(times):
                link.send(message)
            link.send(igtl.Status.ok())
            link.recv()

        for _ in range(rounds):
            samples["limit"] += singly(1, bare)
            samples["igtl"] += singly(1, ours)
    return {name: percentiles(t / times for t in s) for name, s in samples.items()}


class Answered(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.waiter: Any = None
        self.room = asyncio.Event()
        self.room.set()

    def data_received(self, data: bytes) -> None:
        self.waiter.set_result(None)

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()


async def aio_one_way(ends: Ends, times: int, rounds: int) -> dict[str, Found]:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(Answered, "127.0.0.1", ends.ports["bare aio sink"])
    samples: Samples = {"igtl": [], "limit": []}
    async with igtl.aio.connect("127.0.0.1", ends.ports["igtl aio sink"]) as link:
        for _ in range(rounds):
            start = time.perf_counter()
            bare.waiter = loop.create_future()
            for _ in range(times):
                if not bare.room.is_set():
                    await bare.room.wait()
                bare.transport.write(WIRE)
            bare.transport.write(b"?" + WIRE[1:])
            await bare.waiter
            samples["limit"].append((time.perf_counter() - start) / times)
            start = time.perf_counter()
            for _ in range(times):
                await link.send(POSE)
            await link.send(igtl.Status.ok())
            await link.recv()
            samples["igtl"].append((time.perf_counter() - start) / times)
    bare.transport.close()
    return {name: percentiles(s) for name, s in samples.items()}


def beside_computing(ends: Ends, rounds: int) -> dict[str, Found]:
    """A call that sends, now and then, while another thread of this process computes in Python."""
    samples: Samples = {"igtl": [], "limit": []}
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            pass

    with (
        bare_socket(ends.ports["bare sink"]) as sock,
        igtl.connect("127.0.0.1", ends.ports["igtl sink"]) as link,
    ):
        sock.sendall(order_of(WIRE, 1 << 40))
        computing = threading.Thread(target=compute)
        computing.start()
        try:
            for _ in range(rounds):
                time.sleep(0.002)
                samples["limit"] += singly(1, lambda: sock.sendall(WIRE))
                time.sleep(0.002)
                samples["igtl"] += singly(1, lambda: link.send(POSE))
        finally:
            ended.set()
            computing.join()
    # bare sockets wait for the other thread, or do not: the median is either
    return {name: {**percentiles(s), "p50": statistics.fmean(s)} for name, s in samples.items()}


# ---- UDP ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def udp_pair(ends: Ends) -> Iterator[dict[str, Callable[[], object]]]:
    """A round trip of each contender."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", ends.ports["bare udp"]))
    with sock, igtl.udp.Sender("127.0.0.1", ends.ports["igtl udp"]) as sender:
        for each in (sock, sender._sock):
            each.settimeout(2)

        def bare() -> None:
            sock.send(WIRE)
            sock.recv(65507)

        def ours() -> None:
            sender.send(POSE)
            igtl.unpack(sender._sock.recv(65507))

        yield {"limit": bare, "igtl": ours}


def udp_round_trips(ends: Ends, rounds: int) -> dict[str, Found]:
    samples: Samples = {"igtl": [], "limit": []}
    with udp_pair(ends) as contenders:
        for _ in range(rounds):
            for name, once in contenders.items():
                samples[name] += singly(200, once)
    return {name: percentiles(s) for name, s in samples.items()}


def udp_loop(ends: Ends, seconds: float) -> dict[str, dict[str, Found]]:
    """A control loop at 120 Hz: how late each datagram leaves, and how soon its echo is back."""
    late: Samples = {"igtl": []}
    back: Samples = {"igtl": [], "limit": []}
    lost = 0
    rounds = max(1, round(seconds / 4))
    with udp_pair(ends) as contenders:
        for _ in range(rounds):
            for name, once in contenders.items():
                rate = igtl.Rate(120)
                for tick in rate:
                    now = time.perf_counter()
                    if name == "igtl":
                        late[name].append(max(0.0, now - (rate._start or 0) - tick * rate.period))
                    try:
                        once()
                        back[name].append(time.perf_counter() - now)
                    except TimeoutError:
                        lost += name == "igtl"
                    if tick >= 120 * seconds / rounds:
                        break
    return {
        "late": {name: percentiles(s) for name, s in late.items()},
        "back": {name: percentiles(s) for name, s in back.items()},
        "lost": {"igtl": {"best": lost, "p50": lost}},
    }


def udp_maximum(rounds: int) -> dict[str, Found]:
    """As many datagrams as one thread can send; no receiver is needed."""
    samples: Samples = {"igtl": [], "limit": []}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as quiet:
        quiet.bind(("127.0.0.1", 0))
        address = quiet.getsockname()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            igtl.udp.Sender("127.0.0.1", address[1]) as sender,
        ):
            for _ in range(rounds):
                samples["limit"] += [sum(singly(2000, lambda: sock.sendto(WIRE, address))) / 2000]
                samples["igtl"] += [sum(singly(2000, lambda: sender.send(POSE))) / 2000]
    return {name: percentiles(s) for name, s in samples.items()}


# ---- rates --------------------------------------------------------------------------------------


def paced(hz: float, seconds: float, once: Callable[[], object]) -> float:
    """Processor time of a message, at a rate: whatever is due is sent, then the loop sleeps."""
    busy, start = time.process_time(), time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - start) < seconds:
        while sent < now * hz:
            once()
            sent += 1
        time.sleep(1 / min(hz, 1000))
    return (time.process_time() - busy) / sent


def rates(*, quick: bool = False) -> list[dict[str, float]]:
    """Processor time of a sent TRANSFORM from 10 to 100,000 Hz."""
    pin({ONE})
    out = []
    with (
        running(OTHER) as ends,
        bare_socket(ends.ports["bare sink"]) as sock,
        igtl.connect("127.0.0.1", ends.ports["igtl sink"]) as link,
    ):
        sock.sendall(order_of(WIRE, 1 << 40))
        for hz in (10, 100, 1000, 10_000, 100_000):
            seconds = 0.5 if quick else max(1.0, 20 / hz)
            found = {
                "limit": paced(hz, seconds, lambda: sock.sendall(WIRE)),
                "igtl": paced(hz, seconds, lambda: link.send(POSE)),
            }
            out.append({"hz": hz, **found})
    pin(CPUS)
    return out


# ---- rows ---------------------------------------------------------------------------------------


def round_trip_rows(openigtlink: Path | None, quick: bool) -> Iterator[Row]:
    rounds, pairs = (5, 3) if quick else (20, 7)
    pin({ONE})
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        measured = list(pool.map(in_fresh_processes, [rounds // 2] * pairs))
    blocking, aio = [m[0] for m in measured], [m[1] for m in measured]
    found = best_of(blocking)
    row = Row("links", ROUND_TRIPS[0], found, 1.3, "limit", "bare sockets")
    if (official := official_round_trips(openigtlink)) is not None:
        row.found["C++"] = official
    with running(ONE) as ends:
        if (theirs := pyigtl_round_trips(ends)) is not None:
            row.found["pyigtl"] = theirs
    yield row
    yield Row("links", ROUND_TRIPS[1], best_of(aio), 1.2, "limit", "bare asyncio")


def one_way_row(
    name: str,
    goal: float,
    limit: str,
    measure: Callable[[Ends, int], dict[str, Found]],
    quick: bool,
) -> Iterator[Row]:
    """What flows one way has both processors."""
    pin({ONE})
    with running(OTHER) as ends:
        found = measure(ends, 5 if quick else 20)
    yield Row("links", name, found, 1 / goal, "limit", limit, rate=True)


def volumes(ends: Ends, rounds: int) -> dict[str, Found]:
    volume = np.random.default_rng(1).integers(0, 4000, (100, 512, 512), np.uint16)
    return one_way(ends, igtl.Image(volume), 1, rounds)


def computing_row(quick: bool) -> Iterator[Row]:
    pin(CPUS)
    with running(OTHER) as ends:
        found = beside_computing(ends, 50 if quick else 300)
    yield Row("links", COMPUTING, found, limit="bare sockets")


def udp_back_to_back(quick: bool) -> Iterator[Row]:
    pin({ONE})
    with running(ONE) as ends:
        found = udp_round_trips(ends, 5 if quick else 20)
    yield Row("links", UDP, found, 1.3, "limit", "bare sockets")


def udp_at_120_hz(quick: bool) -> Iterator[Row]:
    pin({ONE})
    with running(ONE) as ends:
        looped = udp_loop(ends, 4 if quick else 60)
    lost, late, back = UDP_LOOP
    yield Row("links", lost, looped["lost"], 0, "absolute", unit="messages")
    yield Row("links", late, looped["late"], 0.2e-3, "absolute")
    yield Row("links", back, looped["back"], 1.3, "limit", "bare sockets")


def udp_rate(quick: bool) -> Iterator[Row]:
    pin({ONE})
    found = udp_maximum(5 if quick else 20)
    yield Row("links", UDP_RATE, found, 1 / 0.7, "limit", "bare sendto", rate=True)


ROUND_TRIPS = "TRANSFORM round trip, blocking", "TRANSFORM round trip, asyncio"
COMPUTING = "TRANSFORM sent beside a thread that computes in Python (mean)"
UDP = "UDP TRANSFORM round trip, back to back"
UDP_LOOP = (
    "UDP TRANSFORM at 120 Hz, lost",
    "UDP TRANSFORM at 120 Hz, sent too late (p99)",
    "UDP TRANSFORM at 120 Hz, round trip",
)
UDP_RATE = "UDP TRANSFORM, as many as one thread sends"
ONE_WAY: tuple[tuple[str, float, str, Callable[[Ends, int], dict[str, Found]]], ...] = (
    (
        "TRANSFORM one way, blocking", 0.6, "bare sockets",
        lambda ends, rounds: one_way(ends, POSE, 2000, rounds),
    ),
    (
        "TRANSFORM one way, asyncio", 0.6, "bare asyncio",
        lambda ends, rounds: asyncio.run(aio_one_way(ends, 2000, rounds)),
    ),
    ("IMAGE 512x512x100 u16 one way, CRC checked", 0.9, "bare sockets", volumes),
)  # fmt: skip


def works(openigtlink: Path | None = None) -> Iterator[Work]:
    yield Work(ROUND_TRIPS, (32, 14), partial(round_trip_rows, openigtlink))
    for name, goal, limit, measure in ONE_WAY:
        yield Work((name,), (6, 3), partial(one_way_row, name, goal, limit, measure))
    yield Work((COMPUTING,), (6, 2), computing_row)
    yield Work((UDP,), (3, 2), udp_back_to_back)
    yield Work(UDP_LOOP, (125, 10), udp_at_120_hz)
    yield Work((UDP_RATE,), (2, 1), udp_rate)
