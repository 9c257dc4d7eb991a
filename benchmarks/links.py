"""What the links cost beyond the system: `python benchmarks/links.py [--json FILE] [--seconds S]`.

Round trips of one TRANSFORM, one way rates, a 52 MB image, and a UDP loop at 120 Hz, each against
bare sockets (or bare asyncio protocols) that make the same system calls. Contenders are
interleaved in one run, both ends pinned to one processor where that can be done, since a round
trip across two is another thing. Best and median of the repeats; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import igtl
import igtl.aio

POSE = igtl.Transform(np.eye(4), device_name="Probe")
WIRE = POSE.pack()
SIZE = len(WIRE)
VOLUME = igtl.Image(np.random.default_rng(1).integers(0, 4000, (100, 512, 512), np.uint16))


# ---- the other end, in a process of its own -----------------------------------------------------


def recv_exactly(sock: socket.socket, buffer: memoryview) -> bool:
    while buffer:
        n = sock.recv_into(buffer)
        if n == 0:
            return False
        buffer = buffer[n:]
    return True


def bare_echo(sock: socket.socket) -> None:
    buffer = memoryview(bytearray(SIZE))
    while recv_exactly(sock, buffer):
        sock.sendall(buffer)


def bare_sink(sock: socket.socket) -> None:
    """One message of the size that comes first, then a byte back; over and over."""
    head = memoryview(bytearray(8))
    while recv_exactly(sock, head):
        buffer = memoryview(bytearray(int.from_bytes(head, "big")))
        recv_exactly(sock, buffer)
        sock.sendall(b"!")


def igtl_echo(link: igtl.Link) -> None:
    for m in link:
        link.send(m)


def igtl_sink(link: igtl.Link) -> None:
    for m in link:
        if isinstance(m, igtl.Image):
            link.send(igtl.Status.ok())


class BareEcho(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= SIZE:
            self.transport.write(self.data[:SIZE])
            self.data = self.data[SIZE:]


def servers(control: Any, cpu: int | None) -> None:
    """All the other ends; only the one in use has anything to do."""
    pin(cpu)

    def accept(work: Callable[[socket.socket], None]) -> int:
        listening = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            while True:
                sock, _ = listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=work, args=(sock,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return int(listening.getsockname()[1])

    def listen(work: Callable[[igtl.Link], None]) -> int:
        listener = igtl.listen(port=0)

        def run() -> None:
            for link in listener:
                threading.Thread(target=work, args=(link,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return listener.port

    ports = {
        "bare": accept(bare_echo), "igtl": listen(igtl_echo), "bare sink": accept(bare_sink),
        "igtl sink": listen(igtl_sink),
    }  # fmt: skip
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    receiver = igtl.udp.Receiver(0)

    def udp_bare() -> None:
        while True:
            data, address = udp.recvfrom(65507)
            udp.sendto(data, address)

    def udp_igtl() -> None:
        for m, address in receiver:
            receiver._sock.sendto(m.pack(), address)

    for work in (udp_bare, udp_igtl):
        threading.Thread(target=work, daemon=True).start()
    ports |= {"bare udp": udp.getsockname()[1], "igtl udp": receiver.port}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bare = await loop.create_server(BareEcho, "127.0.0.1", 0)
        ports["bare aio"] = bare.sockets[0].getsockname()[1]
        listener = await igtl.aio.listen(port=0)
        ports["igtl aio"] = listener.port
        control.send(ports)
        tasks = set()

        async def echo(link: igtl.aio.Link) -> None:
            async for m in link:
                await link.send(m)

        async for link in listener:
            task = asyncio.create_task(echo(link))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    asyncio.run(main())


def pin(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


# ---- this end -----------------------------------------------------------------------------------


def percentiles(samples: list[float]) -> dict[str, float]:
    samples = sorted(samples)
    return {
        "best": samples[0],
        "p50": statistics.median(samples),
        "p99": samples[int(0.99 * (len(samples) - 1))],
    }


def timed(n: int, once: Callable[[], None]) -> list[float]:
    out = []
    for _ in range(n):
        start = time.perf_counter()
        once()
        out.append(time.perf_counter() - start)
    return out


def interleaved(contenders: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, Any]:
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            samples[name] += run()
    return {name: percentiles(s) for name, s in samples.items()}


def round_trips(ports: dict[str, int]) -> dict[str, Any]:
    sock = socket.create_connection(("127.0.0.1", ports["bare"]))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(SIZE))

    def bare() -> None:
        sock.sendall(WIRE)
        recv_exactly(sock, buffer)

    with sock, igtl.connect("127.0.0.1", ports["igtl"]) as link:

        def ours() -> None:
            link.send(POSE)
            link.recv()

        return interleaved(
            {"bare sockets": lambda: timed(200, bare), "igtl": lambda: timed(200, ours)}, 50
        )


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


async def aio_round_trips(ports: dict[str, int]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_connection(BareClient, "127.0.0.1", ports["bare aio"])
    samples: dict[str, list[float]] = {"bare asyncio": [], "igtl.aio": []}
    async with igtl.aio.connect("127.0.0.1", ports["igtl aio"]) as link:
        for _ in range(50):
            for _ in range(200):
                start = time.perf_counter()
                bare.waiter = loop.create_future()
                bare.transport.write(WIRE)
                await bare.waiter
                samples["bare asyncio"].append(time.perf_counter() - start)
            for _ in range(200):
                start = time.perf_counter()
                await link.send(POSE)
                await link.recv()
                samples["igtl.aio"].append(time.perf_counter() - start)
    bare.transport.close()
    return {name: percentiles(s) for name, s in samples.items()}


def volumes(ports: dict[str, int]) -> dict[str, Any]:
    """One way, until the other end says that it has all of it; igtl verifies the CRC."""
    whole = VOLUME.pack()
    sock = socket.create_connection(("127.0.0.1", ports["bare sink"]))

    def bare() -> None:
        sock.sendall(len(whole).to_bytes(8, "big"))
        sock.sendall(whole)
        sock.recv(1)

    with sock, igtl.connect("127.0.0.1", ports["igtl sink"]) as link:

        def ours() -> None:
            link.send(VOLUME)
            link.recv()

        return interleaved(
            {"bare sockets": lambda: timed(1, bare), "igtl": lambda: timed(1, ours)}, 20
        )


def udp_loop(ports: dict[str, int], seconds: float) -> dict[str, Any]:
    """A loop at 120 Hz: how late each datagram leaves, and how soon its echo is back."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", ports["bare udp"]))
    out: dict[str, Any] = {}
    with sock, igtl.udp.Sender("127.0.0.1", ports["igtl udp"]) as sender:
        sender._sock.settimeout(5)

        def bare() -> None:
            sock.send(WIRE)
            sock.recv(65507)

        def ours() -> None:
            sender.send(POSE)
            igtl.unpack(sender._sock.recv(65507))

        rounds = max(1, round(seconds / 4))
        for mode in ("lazy", "precise"):
            late: list[float] = []
            back: dict[str, list[float]] = {"bare": [], "igtl": []}
            for _ in range(rounds):
                for name, once in (("bare", bare), ("igtl", ours)):
                    rate = igtl.Rate(120, mode=mode)  # type: ignore[arg-type]
                    start = 0.0
                    for tick in rate:
                        now = time.perf_counter()
                        start = start or now - tick * rate.period
                        late.append(now - (rate._start or 0) - tick * rate.period)
                        once()
                        back[name].append(time.perf_counter() - now)
                        if tick >= 60 * seconds / rounds / 2:
                            break
            out[mode] = {
                "send-time error": percentiles(late),
                "bare round trip": percentiles(back["bare"]),
                "igtl round trip": percentiles(back["igtl"]),
            }
    return out


def row(name: str, result: dict[str, Any], unit: float, suffix: str) -> str:
    names = list(result)
    cells = [
        f"{n}: best {result[n]['best'] * unit:.1f}, p50 {result[n]['p50'] * unit:.1f}, "
        f"p99 {result[n]['p99'] * unit:.1f} {suffix}"
        for n in names
    ]
    ratio = result[names[-1]]["p50"] / result[names[-2]]["p50"]
    return f"{name:<28} {' | '.join(cells)} | ratio {ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--seconds", type=float, default=8, help="of the UDP loop")
    options = parser.parse_args()
    cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    control, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=servers, args=(theirs, cpu), daemon=True
    )
    process.start()
    ports = control.recv()
    pin(cpu)
    results = {
        "machine": f"{platform.platform()}, Python {platform.python_version()}",
        "blocking round trip": round_trips(ports),
        "asyncio round trip": asyncio.run(aio_round_trips(ports)),
        "udp at 120 Hz": udp_loop(ports, options.seconds),
    }
    if cpu is not None:  # the image needs both ends at work
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {cpu} or {cpu})
    results["52 MB one way"] = volumes(ports)
    process.kill()
    print(results["machine"])
    for name in ("blocking round trip", "asyncio round trip"):
        print(row(name, results[name], 1e6, "us"))
    print(row("52 MB one way", results["52 MB one way"], 1e3, "ms"))
    for mode, result in results["udp at 120 Hz"].items():
        print(row(f"udp at 120 Hz, {mode}", result, 1e6, "us"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
