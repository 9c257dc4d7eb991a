"""What a message costs, counted: memory, copies, objects. Times are for `python -m benchmarks`, and
instructions for `ci/instructions`."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import igtl
from igtl.codec import batch
from tests import memory
from tests.memory import PIXELS, peak
from tests.test_links import until

SMALL = 256 * 1024  # bytes that do not depend on the size of the image


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
    assert memory.sending() < SMALL


@pytest.mark.parametrize("clients", [1, 10])
def test_a_broadcast_is_packed_once_however_many_wait_for_it(clients: int) -> None:
    """Each client's connection may hold a slice of it besides (256 KiB, in a buffer that grows)."""
    assert PIXELS.nbytes < memory.queueing(clients) < 1.2 * PIXELS.nbytes


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts in /proc")
def test_receiving_takes_the_image_and_no_more() -> None:
    assert 0.98 < memory.receiving() / PIXELS.nbytes < 1.05


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


def test_a_broadcast_calls_little_python() -> None:
    """A loop that sleeps runs all of it from cold caches; `ci/instructions` counts the rest."""
    pose = igtl.Transform(np.eye(4), device_name="Probe")
    calls: list[str] = []
    with igtl.serve(port=0) as server, igtl.connect(port=server.port) as link:
        until(lambda: len(server.clients) == 1)
        server.broadcast(pose)
        assert link.recv(timeout=20) == pose
        until(lambda: all(way.is_open for way in server._server.audience.passages))

        def note(frame: FrameType, event: str, arg: object) -> None:
            if event == "call":
                calls.append(frame.f_code.co_name)

        sys.setprofile(note)
        try:
            server.broadcast(pose)
        finally:
            sys.setprofile(None)
        assert link.recv(timeout=20) == pose
    assert calls == ["broadcast", "check", "pass_on"]


@pytest.mark.processes
def test_an_import_loads_numpy_only() -> None:
    """Neither asyncio nor ssl, OpenSSL's hashes, tables of HTML, or what the commands need; of igtl
    itself messages only. Links come when they are first used."""
    code = "import numpy, sys; a = set(sys.modules); import igtl; print(*set(sys.modules) - a)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = out.stdout.split()
    assert len(modules) <= 40, modules
    loaded = {re.split(r"\.", name)[0] for name in modules}
    assert not loaded & {
        "asyncio",
        "ssl",
        "hashlib",
        "html",
        "click",
        "rich",
        "inspect",
        "dataclasses",
        "logging",
        "socket",
    }
