"""The other ends of the link benchmarks, in a process of their own: each port does one thing.

bare, bare aio            send back what comes
igtl, igtl aio            decode each message and send it back
bare sink, igtl sink      take messages, and answer the one that asks for it
bare udp, igtl udp        send datagrams back
pyigtl                    its own server, sending back
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import multiprocessing
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import igtl
import igtl.aio
from benchmarks.measure import pin

POSE = igtl.Transform(np.eye(4), device_name="Probe")
WIRE = POSE.pack()
SIZE = len(WIRE)


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
    """First how many bytes a message has and how many there are, then these, then an answer."""
    head = memoryview(bytearray(16))
    while recv_exactly(sock, head):
        buffer = memoryview(bytearray(int.from_bytes(head[:8], "big")))
        for _ in range(int.from_bytes(head[8:], "big")):
            recv_exactly(sock, buffer)
        sock.sendall(b"!")


def igtl_echo(link: igtl.Link) -> None:
    for m in link:
        link.send(m)


def igtl_sink(link: igtl.Link) -> None:
    for m in link:
        if type(m) is igtl.Status:
            link.send(m)


async def aio_echo(link: igtl.aio.Link) -> None:
    async for m in link:
        await link.send(m)


async def aio_sink(link: igtl.aio.Link) -> None:
    async for m in link:
        if type(m) is igtl.Status:
            await link.send(m)


class BareEcho(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while len(self.data) >= SIZE:
            self.transport.write(self.data[:SIZE])
            self.data = self.data[SIZE:]


class BareSink(asyncio.Protocol):
    """Answers a message that begins with "?"."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        data = self.data + data
        whole = len(data) // SIZE * SIZE
        for at in range(0, whole, SIZE):
            message = data[at : at + SIZE]
            if message[:1] == b"?":
                self.transport.write(b"!")
        self.data = data[whole:]


def pyigtl_echo(ports: dict[str, int]) -> None:
    if importlib.util.find_spec("pyigtl") is None:
        return
    import pyigtl

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    ports["pyigtl"] = port

    def run() -> None:
        while True:
            for m in server.get_latest_messages():
                server.send_message(m)

    threading.Thread(target=run, daemon=True).start()


def main(control: Any, cpu: int) -> None:
    pin({cpu})
    ports: dict[str, int] = {}

    def accept(name: str, work: Callable[[socket.socket], None]) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        ports[name] = listening.getsockname()[1]

        def run() -> None:
            while True:
                sock, _ = listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=work, args=(sock,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()

    def listen(name: str, work: Callable[[igtl.Link], None]) -> None:
        listener = igtl.listen(port=0)
        ports[name] = listener.port

        def run() -> None:
            for link in listener:
                threading.Thread(target=work, args=(link,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()

    accept("bare", bare_echo)
    accept("bare sink", bare_sink)
    listen("igtl", igtl_echo)
    listen("igtl sink", igtl_sink)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    receiver = igtl.udp.Receiver(0)
    ports |= {"bare udp": udp.getsockname()[1], "igtl udp": receiver.port}

    def udp_bare() -> None:
        while True:
            data, address = udp.recvfrom(65507)
            udp.sendto(data, address)

    def udp_igtl() -> None:
        for m, address in receiver:
            receiver._sock.sendto(m.pack(), address)

    for work in (udp_bare, udp_igtl):
        threading.Thread(target=work, daemon=True).start()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        tasks = set()
        for name, kind in (("bare aio", BareEcho), ("bare aio sink", BareSink)):
            bare = await loop.create_server(kind, "127.0.0.1", 0)
            ports[name] = bare.sockets[0].getsockname()[1]
            tasks.add(asyncio.create_task(bare.serve_forever()))

        async def each(listener: igtl.aio.Listener, work: Any) -> None:
            async for link in listener:
                tasks.add(asyncio.create_task(work(link)))

        for name, work in (("igtl aio", aio_echo), ("igtl aio sink", aio_sink)):
            listener = await igtl.aio.listen(port=0)
            ports[name] = listener.port
            tasks.add(asyncio.create_task(each(listener, work)))
        control.send(ports)
        while True:
            if await loop.run_in_executor(None, control.recv) == "pyigtl":
                pyigtl_echo(ports)  # its threads never rest: only while it is asked
                control.send(ports)

    asyncio.run(serve())


class Ends:
    """The process, pinned."""

    def __init__(self, control: Any, ports: dict[str, int]) -> None:
        self._control = control
        self.ports = ports

    def start_pyigtl(self) -> None:
        self._control.send("pyigtl")
        self.ports = self._control.recv()


@contextlib.contextmanager
def running(cpu: int) -> Iterator[Ends]:
    """The other ends, on this processor."""
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, cpu), daemon=True)
    process.start()
    try:
        yield Ends(control, control.recv())
    finally:
        process.kill()
        process.join()
