"""One server, many clients: a TRANSFORM at 60 Hz to all of them, ten of which have stopped reading.

The clients are bare sockets in a process of their own, on the other processor, that note when each
message arrived. Late is measured from when the message was due, so it holds the pacing, packing,
sending to all_connected before, and the way; the clock of both processes is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import igtl
import igtl.aio
from benchmarks.ends import SIZE
from benchmarks.measure import ONE, OTHER, Found, Row, Work, percentiles, pin

STALLED = 10
_NUMBER = 58 + 4 * 9  # where the x of the position stands in a TRANSFORM


def read_all(control: Any, port: int, clients: int, stalled: int, cpu: int) -> None:
    """The clients: a list of (number, time) of all that arrived, when the server is done."""
    pin({cpu})
    quiet = [socket.create_connection(("127.0.0.1", port)) for _ in range(stalled)]
    socks = {}
    poll = select.epoll()
    for _ in range(clients):
        sock = socket.create_connection(("127.0.0.1", port))
        poll.register(sock, select.EPOLLIN)
        socks[sock.fileno()] = sock
    control.send("ready")
    arrived: list[tuple[int, float]] = []
    rest = dict.fromkeys(socks, b"")
    take = struct.Struct(">f").unpack_from
    while socks:
        for fd, _ in poll.poll(1.0):
            data = socks[fd].recv(65536)
            now = time.perf_counter()
            if not data:
                poll.unregister(fd)
                socks.pop(fd).close()
                continue
            data = rest[fd] + data
            whole = len(data) // SIZE * SIZE
            for at in range(0, whole, SIZE):
                arrived.append((int(take(data, at + _NUMBER)[0]), now))
            rest[fd] = data[whole:]
    for sock in quiet:
        sock.close()
    control.send(arrived)


async def broadcast(
    server: igtl.aio.Server, clients: int, stalled: int, ticks: int, hz: float
) -> tuple[float, list[float], list[float]]:
    """Start of the first period, when each tick was due from there, and what sending took."""
    big = igtl.Image(np.zeros((1, 2000, 2000), np.uint8), device_name="Filling")
    for peer in sorted(server.clients, key=lambda peer: peer.id)[:stalled]:
        await peer.send(big)  # more than the system takes: they read nothing
    pose = igtl.Transform(np.eye(4), device_name="Probe")
    took = []
    rate = igtl.Rate(hz)
    due: list[float] = []
    async for tick in rate:
        start = time.perf_counter()
        pose.matrix[0, 3] = len(due)
        due.append(tick * rate.period)
        await server.broadcast(pose)
        took.append(time.perf_counter() - start)
        if len(due) == ticks:
            break
    assert rate._start is not None
    return rate._start, due, took


async def bare(server: igtl.aio.Server, ticks: int, hz: float) -> list[float]:
    """What each tick takes by bare sockets, to the same clients. These messages are numbered -1."""
    pose = igtl.Transform(np.eye(4), device_name="Probe")
    pose.matrix[0, 3] = -1
    took: list[float] = []
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.socket(fileno=os.dup(peer.fileno())))
            for peer in server.clients
        ]
        async for _ in igtl.Rate(hz):
            start = time.perf_counter()
            wire = pose.pack()
            for sock in socks:
                sock.send(wire)
            took.append(time.perf_counter() - start)
            if len(took) == ticks:
                return took
    raise AssertionError("a rate ends by itself")


async def fan_out(clients: int, stalled: int, seconds: float, hz: float = 60) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    settings: dict[str, Any] = {"max_queued": 60, "stall_timeout": 60.0}
    async with igtl.aio.serve(port=0, max_clients=2000, **settings) as server:
        all_connected = asyncio.Event()

        @server.on_connect
        async def came(peer: igtl.aio.Peer) -> None:
            if len(server.clients) == clients + stalled:
                all_connected.set()

        process = context.Process(
            target=read_all, args=(theirs, server.port, clients, stalled, OTHER), daemon=True
        )
        process.start()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, control.recv) == "ready"
        async with asyncio.timeout(30):
            await all_connected.wait()
        start, due, took = await broadcast(server, clients, stalled, int(seconds * hz), hz)
        dropped = sum(peer.stats.dropped["drop_oldest"] for peer in server.clients)
        waiting = max((peer.queued for peer in server.clients), default=0)
        limit = [] if stalled else await bare(server, len(due), hz)
        await server.shutdown(timeout=2)
    arrived = await loop.run_in_executor(None, control.recv)
    process.join(10)
    late = [now - start - due[number] for number, now in arrived if number >= 0]
    return {
        "late": percentiles(late),
        "took": percentiles(took),
        "limit": percentiles(limit) if limit else None,
        "delivered": len(late) / (clients * len(due)),
        "dropped": dropped,
        "waiting": waiting,
    }


def limits(clients: int) -> None:
    """Room for so many sockets, where the system can say so."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * clients + 500), hard))


def rows(clients: int, quick: bool) -> Iterator[Row]:
    limits(1000)
    pin({ONE})
    stalled = STALLED if clients == 1000 else 0
    found = asyncio.run(fan_out(clients, stalled, 3 if quick else 20 if stalled else 5))
    delivered = f"{found['delivered']:.2%} delivered"
    each: dict[str, Found] = {
        name: {key: of[key] / clients for key in ("best", "p50")}
        for name, of in (("igtl", found["took"]), ("limit", found["limit"]))
        if of is not None
    }
    broadcasts, lateness = names(clients)
    goal = 6e-6 if clients >= 100 else None
    yield Row("fan-out", broadcasts, each, goal, "absolute", "bare sockets", note=delivered)
    if stalled:
        note = (
            f"{delivered} to the live ones; the stalled: at most "
            f"{found['waiting']} messages waiting, {found['dropped']} dropped and counted"
        )
        yield Row("fan-out", lateness, {"igtl": found["late"]}, 20e-3, "absolute", note=note)
    else:
        yield Row("fan-out", lateness, {"igtl": found["late"]}, note=delivered)


def names(clients: int) -> tuple[str, str]:
    name = f"server, {clients} clients at 60 Hz"
    late = f"{name}, 10 stalled: late (p99)" if clients == 1000 else f"{name}: late"
    return f"{name}: broadcast, each client", late


def works(openigtlink: Path | None = None) -> Iterator[Work]:
    for clients in (1, 10, 100, 300, 1000):
        yield Work(names(clients), (35, 16) if clients == 1000 else (13, 9), partial(rows, clients))
