"""Connections that only cost a server, in a process of their own: `python -m tests.flood PORT N RATE`.

N connections, RATE a second, of which the newest 500 are kept open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import sys
import time
from collections import deque

import igtl

OPEN = 500


def client_hello() -> bytes:
    """What a TLS client begins with."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), out, server_hostname="localhost"
    )
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def attack(kind: int, sock: socket.socket, hello: bytes) -> None:
    good = igtl.String("x" * 100, device_name="Flood").pack()
    match kind:
        case 0:
            sock.close()
        case 1:
            pass  # says nothing, and stays
        case 2:
            sock.send(os.urandom(300))
        case 3:
            sock.send(hello)
        case 4:
            sock.send(good[:30])  # half a header
        case 5:
            sock.send(good[:100])  # half a body
        case 6:
            sock.send(good)
            sock.shutdown(socket.SHUT_WR)
        case 7:
            sock.send(good)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()  # a reset


def main(port: int, n: int, rate: float) -> None:
    hello = client_hello()
    held: deque[socket.socket] = deque()
    start = time.monotonic()
    for k in range(n):
        time.sleep(max(0.0, start + k / rate - time.monotonic()))
        sock = socket.create_connection(("127.0.0.1", port))
        held.append(sock)
        with contextlib.suppress(OSError):  # the server was faster
            attack(k % 8, sock, hello)
        if len(held) > OPEN:
            held.popleft().close()
    for sock in held:
        sock.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
