"""Clients of every kind, in a process of their own:

    python -m tests.mixed_clients KIND N SECONDS PLAIN TLS UDP CA

N of them, of blocking links (KIND sync) or of asyncio (aio), for so many seconds. They come, do what they
are there for, leave, and come back: to the server at port PLAIN, or by TLS to the one at port TLS, which
has a certificate of CA. At the end one JSON object: how often each kind has come, how many messages were
sent under which name, and what went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import igtl
import igtl.aio
from tests.links import Aio, Loop
from tests.wire import transform

HOST = "127.0.0.1"
BACKOFF = igtl.Backoff(0.01, 0.1)


@dataclass
class Report:
    """What all of them have done.

    Attributes:
        visits: how often each kind of client has come.
        sent: messages by device name that were sent in order, so the server must have got them all.
        healing: the same of links that the server ended now and then: calls of send, and what
            `stats` says of them.
        failures: tracebacks, and lines that were logged as errors.
    """

    visits: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    healing: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Client:
    """One of them: what it is connected to, and when it has to end."""

    def __init__(
        self, name: str, loop: Loop | None, until: float, ports: list[int], context: ssl.SSLContext | None,
        report: Report,
    ) -> None:  # fmt: skip
        self.name = name
        self.loop = loop
        self.until = until
        self.port, self.udp = ports
        self.context = context
        self.report = report
        self.chance = random.Random(name)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """A link, with the face of a blocking one."""
        if self.loop is None:
            with igtl.connect(HOST, self.port, ssl=self.context) as link:
                yield link
        else:
            opening = igtl.aio.connect(HOST, self.port, ssl=self.context)
            with Aio(self.loop, self.loop(opened(opening))) as link:
                yield link

    def run(self, visit: Callable[[Client], None]) -> None:
        while not self.over:
            try:
                visit(self)
            except Exception:
                self.report.failures.append(f"{self.name}: {traceback.format_exc()}")
            self.report.visits[visit.__name__] += 1
            time.sleep(self.chance.random())


async def opened(opening: Any) -> Any:
    return await opening


# ---- what they come for: functions of a client, one visit each -------------------------------------


def speaker(me: Client) -> None:
    """Sends, and reads nothing of what it gets."""
    with me.connected() as link:
        for _ in range(me.chance.randrange(10, 150)):
            link.send(transform(me.name, me.report.sent[me.name]))
            me.report.sent[me.name] += 1
            time.sleep(0.01)


def listener(me: Client) -> None:
    """Gets every broadcast of the time that it is there."""
    numbers = []
    with me.connected() as link:
        for _ in range(me.chance.randrange(30, 150)):
            message = link.recv(timeout=20)
            if isinstance(message, igtl.TrackingData):
                numbers.append(int(message.tools.matrices[0, 0, 3]))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers


def asker(me: Client) -> None:
    with me.connected() as link:
        for k in range(20):
            name = f"{me.name}/{k}"
            assert link.query(igtl.GetTransform(device_name=name), timeout=20).device_name == name
            assert link.command("Echo", name, timeout=20).text == name
            time.sleep(0.02)


def stream_user(me: Client) -> None:
    with me.connected() as link:
        start = igtl.StartTrackingData(20, device_name="Stream")
        with link.stream(start, timeout=20) as frames:
            for k in range(me.chance.randrange(10, 100)):
                message = frames.recv(timeout=20)
                assert int(message.tools.matrices[0, 0, 3]) == k


def subscriber(me: Client) -> None:
    """Is called for what comes, and asks meanwhile."""
    names: Counter[str] = Counter()
    count = lambda message: names.update([message.device_name])  # noqa: E731
    request = igtl.GetTransform(device_name=me.name)
    with me.connected() as link:
        if me.loop is None:
            with igtl.subscribe(link) as incoming:
                incoming.on(igtl.TrackingData)(count)
                time.sleep(3 * me.chance.random())
                assert incoming.query(request, timeout=20).device_name == me.name
                incoming.wait(igtl.TrackingData, timeout=20)
        else:
            me.loop(subscribed(link.link, count, request, 3 * me.chance.random()))
    assert set(names) <= {"Broadcast"}


async def subscribed(link: Any, count: Any, request: Any, seconds: float) -> None:
    async with igtl.aio.subscribe(link) as incoming:
        incoming.on(igtl.TrackingData)(count)
        await asyncio.sleep(seconds)
        found = await incoming.query(request, timeout=20)
        assert found.device_name == request.device_name


def healing(me: Client) -> None:
    """Stays until the end; the server disconnects it now and then."""
    calls = 0
    if me.loop is not None:
        me.report.healing[me.name] = me.loop.start(again_and_again(me)).result()
        return
    with igtl.connect(HOST, me.port, ssl=me.context, reconnect=BACKOFF) as link:
        with igtl.subscribe(link):
            while not me.over:
                link.send(transform(me.name, calls))
                calls += 1
                time.sleep(0.02)
            assert link.wait_connected(20)  # what is queued has gone out
    me.report.healing[me.name] = {
        "calls": calls, "sent": link.stats.sent, "dropped": link.stats.dropped.total(),
    }  # fmt: skip


async def again_and_again(me: Client) -> dict[str, int]:
    totals = {"calls": 0, "sent": 0, "dropped": 0}
    links = igtl.aio.reconnect(HOST, me.port, ssl=me.context, backoff=BACKOFF)
    async with contextlib.aclosing(links):
        async for link in links:
            async with igtl.aio.subscribe(link) as incoming:
                ended = asyncio.ensure_future(incoming.join())
                with contextlib.suppress(igtl.ConnectionClosed):
                    while not me.over and not ended.done():
                        await link.send(transform(me.name, totals["calls"]))
                        totals["calls"] += 1
                        await asyncio.sleep(0.02)
            await ended
            totals["sent"] += link.stats.sent
            totals["dropped"] += link.stats.dropped.total()
            if me.over:
                break
    return totals


def stranger(me: Client) -> None:
    """Bare sockets: messages in pieces, half ones, garbage, resets, and no TLS where there should be."""
    end = me.chance.choice(["in order", "half", "garbage", "reset"])
    with socket.create_connection((HOST, me.port), 20) as sock, contextlib.suppress(OSError):
        if me.context is not None:
            sock.sendall(os.urandom(200))
            return
        name = me.name.replace("stranger", "reset") if end == "reset" else me.name
        for _ in range(me.chance.randrange(50)):
            wire = transform(name, me.report.sent[name]).pack()
            cut = me.chance.randrange(1, len(wire))
            sock.sendall(wire[:cut])
            time.sleep(0.01)
            sock.sendall(wire[cut:])
            me.report.sent[name] += 1
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if end == "half":
            sock.sendall(transform(name).pack()[: me.chance.randrange(1, 100)])
        if end == "garbage":
            sock.sendall(b"\xff" * 200)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):  # a close with unread bytes would be a reset
            pass


def sender(me: Client) -> None:
    """Datagrams, and once a visit a message of many."""
    api: Any = igtl.udp if me.loop is None else igtl.aio.udp
    result = (lambda outcome: outcome) if me.loop is None else me.loop
    volume = igtl.Image(np.zeros((10, 100, 100), np.uint8), device_name=me.name)
    with contextlib.closing(api.Sender(HOST, me.udp)) as out:
        for k in range(me.chance.randrange(1, 100)):
            result(out.send(volume if k == 0 else transform(me.name, k)))
            me.report.sent[me.name] += 1
            time.sleep(0.03)


VISITS = [speaker, listener, asker, stream_user, subscriber, healing, stranger, sender]


def main(kind: str, n: int, seconds: float, plain: int, tls: int, udp: int, ca: str) -> None:
    report = Report()
    logging.getLogger().addHandler(Errors(report.failures))
    loop = Loop() if kind == "aio" else None
    context = ssl.create_default_context(cafile=ca)
    until = time.monotonic() + seconds
    threads = []
    for k in range(n):
        visit = VISITS[k % len(VISITS)]
        secure = k // len(VISITS) % 2 == 1
        client = Client(
            f"{visit.__name__} {kind}{k}", loop, until, [tls if secure else plain, udp],
            context if secure else None, report,
        )  # fmt: skip
        threads.append(threading.Thread(target=client.run, args=(visit,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if loop is not None:
        if loop.tasks():
            report.failures.append(f"{loop.tasks()} tasks are left")
        loop.close()
    print(json.dumps(vars(report)))


if __name__ == "__main__":
    kind, n, seconds, plain, tls, udp, ca = sys.argv[1:]
    main(kind, int(n), float(seconds), int(plain), int(tls), int(udp), ca)
