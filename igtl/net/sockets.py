"""What blocking and asyncio drivers ask of a stream socket."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import time
from typing import Any

if sys.platform == "linux":
    import fcntl
    import termios  # now: later there may be no descriptor left to load it with

REST = 1.0  # seconds without accepting, after the system had no descriptor or no memory left
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WINDOWS = sys.platform == "win32"
# what accept says of a client that has left, or of the network on the way to it
_ONE_CLIENT = {
    getattr(errno, name, None)
    for name in (
        "ECONNABORTED", "ECONNRESET", "EPROTO", "EPERM", "EINTR", "ENETDOWN", "ENETUNREACH",
        "EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT", "ENOPROTOOPT",
    )
}  # fmt: skip
DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)  # Windows has none


def tune(sock: socket.socket, keepalive: float | None, *, unsent_low: int | None = None) -> None:
    """TCP_NODELAY, and keep-alive probes that notice a silent death within `keepalive` seconds.

    Args:
        unsent_low: bytes not yet sent from which the system takes no more, where it can do that.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if unsent_low is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_low)
    if keepalive is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probe = max(1, round(keepalive / 8))
    options = {
        "TCP_KEEPIDLE": max(1, round(keepalive) - 4 * probe),
        "TCP_KEEPALIVE": max(1, round(keepalive) - 4 * probe),  # its name on macOS
        "TCP_KEEPINTVL": probe,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": round(1000 * keepalive),  # unanswered data, on Linux
    }
    for name, value in options.items():
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def broken(error: OSError) -> OSError:
    """A failure of a connection that the system tells of, by whatever class, as the class for it.
    A TimeoutError of the system (ETIMEDOUT), for example, is no time-out of one call. Errors of TLS
    stay, since they say what is wrong."""
    if isinstance(error, ConnectionError) or type(error).__module__ == "ssl":
        return error
    return ConnectionAbortedError(error.errno, error.strerror)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, and does not block."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    sock.setblocking(False)
    return sock


def rest_of() -> float:
    """Seconds without accepting, after the system had no descriptor or no memory left."""
    return REST


def is_exhausted(error: OSError) -> bool:
    """Whether accept has failed because the system has no descriptor or no memory left. Another
    client that waits would meet the same, so accepting rests."""
    return error.errno in _EXHAUSTED


def concerns_one_client(error: OSError) -> bool:
    """Whether accept has failed because of the one client that was to be taken in."""
    return error.errno is not None and error.errno in _ONE_CLIENT


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's system has not taken yet; 0 where this system does not tell."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    elif sys.platform == "darwin":
        with contextlib.suppress(OSError):
            return sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
    return 0


class Quiet(TimeoutError):
    """A Waiter's time is up: no error of the system, which has a TimeoutError too."""


class Waiter:
    """Waits until one socket can be read, or written."""

    def __init__(self, sock: socket.socket, *, write: bool = False) -> None:
        self._sock = sock
        self._write = write
        self._poll: Any = None
        if not _WINDOWS:
            self._poll = select.poll()
            self._poll.register(sock, select.POLLOUT if write else select.POLLIN)

    def __call__(self, timeout: float | None) -> None:
        """Return when it can; TimeoutError after `timeout` seconds."""
        if self._poll is not None:
            if not self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
                raise Quiet
            return
        # Ctrl-C does not end a select on Windows: look up between slices
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            read, write = ([], [self._sock]) if self._write else ([self._sock], [])
            if any(select.select(read, write, [], max(left, 0))):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise Quiet
