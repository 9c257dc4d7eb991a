"""Memory that a 52 MB image takes at once, counted; for tests and benchmarks."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np

import igtl

PIXELS = np.zeros((100, 512, 512), np.uint16)


def peak(work: Callable[[], object]) -> int:
    """Most bytes at once, of Python objects and arrays; what there was before does not count."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sending() -> int:
    """Of a blocking send; the other end throws away what comes."""
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


def queueing(clients: int) -> int:
    """Of a server's broadcast to clients that read nothing: all of it waits."""
    with igtl.serve(port=0) as server, contextlib.ExitStack() as stack:
        came = threading.Semaphore(0)
        server.on_connect(lambda peer: came.release())
        for _ in range(clients):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        for _ in range(clients):
            assert came.acquire(timeout=10)
        image = igtl.Image(PIXELS)
        return peak(lambda: server.broadcast(image))


def receiving() -> int:
    """What a process grew by at most while it received the image: resident memory (Linux), since a
    large frame is no Python object."""
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
print(memory("VmHWM") - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout)
