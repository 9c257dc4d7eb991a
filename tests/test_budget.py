"""What a message costs, counted: memory, copies, objects. Times are for `python -m benchmarks`, and
instructions for `ci/instructions`."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import igtl
from igtl import batch
from tests.test_links import until

PIXELS = np.zeros((100, 512, 512), np.uint16)  # 52 MB
SMALL = 256 * 1024  # bytes that do not depend on the size of the image


def peak(work: Callable[[], object]) -> int:
    """Most memory at once, of Python objects and arrays; what there was before does not count."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- a large image: one copy where one is needed, else none -------------------------------------


def test_packing_copies_the_pixels_once() -> None:
    image = igtl.Image(PIXELS)
    assert PIXELS.nbytes < peak(image.pack) < PIXELS.nbytes + SMALL
    kept = bytearray(PIXELS.nbytes + 1000)
    assert peak(lambda: image.pack_into(kept)) < SMALL
    assert peak(image.pack_parts) < SMALL
    assert peak(lambda: igtl.Image(PIXELS)) < SMALL


def test_unpacking_copies_nothing() -> None:
    wire = igtl.Image(PIXELS).pack()
    got: list[Any] = []
    assert peak(lambda: got.append(igtl.unpack(wire))) < SMALL
    assert np.shares_memory(got[0].array, np.frombuffer(wire, np.uint8))


def test_a_blocking_send_copies_nothing() -> None:
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
            assert peak(lambda: link.send(image)) < SMALL
        thread.join()


@pytest.mark.parametrize("clients", [1, 10])
def test_a_broadcast_is_packed_once_however_many_wait_for_it(clients: int) -> None:
    """Each client's connection may hold a slice of it besides (256 KiB, in a buffer that grows)."""
    with igtl.serve(port=0) as server, contextlib.ExitStack() as stack:
        for _ in range(clients):
            sock = socket.create_connection(("127.0.0.1", server.port))
            stack.enter_context(sock)
        until(lambda: len(server.clients) == clients)
        image = igtl.Image(PIXELS)
        assert peak(lambda: server.broadcast(image)) < 1.2 * PIXELS.nbytes


@pytest.mark.processes
def test_receiving_takes_the_image_and_no_more() -> None:
    """Resident memory: a large frame is no Python object. In a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    code = """
import re, numpy as np, igtl
def memory(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
parts = igtl.Image(np.ones((100, 512, 512), np.uint16)).pack_parts()
before = memory("VmRSS")
protocol = igtl.Protocol()
for part in map(memoryview, parts):
    while part:
        buffer = protocol.get_buffer()
        n = min(len(buffer), len(part), 1 << 18)
        buffer[:n] = part[:n]
        protocol.received(n)
        message = protocol.next_message()
        part = part[n:]
assert message.array.max() == 1
print((memory("VmHWM") - before) / message.array.nbytes)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.98 < float(out.stdout) < 1.05


# ---- small messages -----------------------------------------------------------------------------


def blocks(make: Callable[[], object], n: int = 2000) -> float:
    """Memory blocks of Python objects that one result of this holds."""
    make()
    gc.collect()
    gc.disable()
    try:
        kept = [None] * n
        before = sys.getallocatedblocks()
        for k in range(n):
            kept[k] = make()  # type: ignore[call-overload]
        return (sys.getallocatedblocks() - before) / n
    finally:
        gc.enable()


def test_objects_of_a_message() -> None:
    """The message, its list of values and the array (two blocks each: with the collector's head
    in one, and an array's shape, or a list's items, in another); the numbers of its header."""
    transform = igtl.Transform(np.eye(4), device_name="Probe")
    wire = transform.pack()
    assert blocks(lambda: igtl.Transform(np.eye(4, dtype="f4"), device_name="Probe")) <= 7
    assert blocks(lambda: igtl.unpack(wire)) <= 7
    assert blocks(transform.pack) <= 1.1
    protocol = igtl.Protocol()

    def received() -> object:
        protocol.receive_data(wire)
        return protocol.next_message()

    assert blocks(received) <= 10


def test_a_batch_holds_no_object_per_message() -> None:
    wire = igtl.Transform(np.eye(4), device_name="Probe").pack() * 1000
    assert blocks(lambda: batch.unpack(wire), 20) < 40
    columns = 1000 * (64 + 8 + 4 + 1)  # matrix, time, device, verdict
    assert peak(lambda: batch.unpack(wire)) < columns + 20_000


@pytest.mark.processes
def test_an_import_loads_numpy_only() -> None:
    """Neither asyncio nor ssl, OpenSSL's hashes, tables of HTML, or what the commands need."""
    code = "import numpy, sys; a = set(sys.modules); import igtl; print(*set(sys.modules) - a)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {re.split(r"\.", name)[0] for name in out.stdout.split()}
    assert not loaded & {
        "asyncio",
        "ssl",
        "hashlib",
        "html",
        "click",
        "rich",
        "inspect",
        "dataclasses",
    }
