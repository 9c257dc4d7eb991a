"""Blocking stream sockets: how a Link moves bytes, and how it waits."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import time
from typing import Any, Protocol

from igtl.limits import seconds
from igtl.protocol import Parts

if sys.platform == "linux":
    import fcntl
    import termios  # now: later there may be no descriptor left to load it with

REST = 1.0  # seconds without accepting, after the system had no descriptor or no memory left
_SLICE = 256 * 1024
_LINGER = 1.0  # seconds that close waits for the peer's system to take what was sent
_MIN_KEEPALIVE, _MAX_KEEPALIVE = 2.0, 65_000.0  # Linux takes at most 32,767 s of silence
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WINDOWS = sys.platform == "win32"
_PARTS = 64  # buffers handed to the system at once; it takes 1,024 or fewer
# what accept says of a client that has left, or of the network on the way to it
_ONE_CLIENT = {
    getattr(errno, name, None)
    for name in (
        "ECONNABORTED", "ECONNRESET", "EPROTO", "EPERM", "EINTR", "ENETDOWN", "ENETUNREACH",
        "EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT", "ENOPROTOOPT",
    )
}  # fmt: skip
_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)  # Windows has none


class Transport(Protocol):
    """Moves bytes for a Link. One thread sends and one receives at a time; any may shut down."""

    def send(self, parts: Parts, patience: float | None = None) -> None:
        """Return when all bytes are taken; what is taken leaves `parts`.

        Args:
            patience: seconds in which the peer must take something; None: the write_timeout.

        Raises:
            TimeoutError: it took nothing for so long. `parts` has the rest.
            ConnectionError: the connection is broken.
        """

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        """Bytes received, 0 at the end.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            ConnectionError: the connection is broken.
        """

    def ended(self) -> bool:
        """Whether the peer has closed or reset the connection, as far as this can be seen
        without waiting and without taking what it has sent."""

    def wait_ended(self) -> bool:
        """Wait until the connection is over, by either side, whether what the peer has sent was
        read or not. False, at once, where the system cannot tell (only Linux can)."""

    def finish(self) -> None:
        """Say to the peer that nothing more comes, and let it take what was sent."""

    def shutdown(self) -> None:
        """End both directions, and any wait in send and recv_into."""

    def close(self) -> None:
        """Give the resources back."""


def checked_keepalive(keepalive: float | None) -> float | None:
    """The seconds of `tune`, or ValueError: at least 2, and at most 65,000 are counted."""
    found = seconds("keepalive", keepalive)
    if found is None:
        return None
    if found < _MIN_KEEPALIVE:
        raise ValueError(f"keepalive must be at least 2 s, or None, not {keepalive!r}")
    return min(found, _MAX_KEEPALIVE)


def tune(sock: socket.socket, keepalive: float | None, *, unsent_low: int | None = None) -> None:
    """TCP_NODELAY, and keep-alive probes that notice a silent death within `keepalive` seconds.

    Args:
        unsent_low: bytes not yet sent from which the system takes no more, where it can do that.
    """
    keepalive = checked_keepalive(keepalive)
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


def broken(error: OSError) -> ConnectionError:
    """A failure of a connection that the system tells of, by whatever class, as the class for it.
    A TimeoutError of the system (ETIMEDOUT), for example, is no time-out of one call."""
    if isinstance(error, ConnectionError):
        return error
    return ConnectionAbortedError(error.errno, error.strerror)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, and does not block."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    sock.setblocking(False)
    return sock


def accept_goes_on(error: OSError) -> bool:
    """Whether a failure of accept concerns one client only, or passes with time."""
    return error.errno is not None and error.errno in _EXHAUSTED | _ONE_CLIENT


def pause_after(error: OSError) -> float:
    """Seconds to wait before the next accept: other clients that wait would meet the same."""
    return REST if error.errno in _EXHAUSTED else 0.0


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's system has not taken yet; 0 where this system does not tell."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    elif sys.platform == "darwin":
        with contextlib.suppress(OSError):
            return sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
    return 0


def _take(parts: Parts, sent: int) -> None:
    """Remove the first bytes from parts."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts.pop(0))
    if sent:
        parts[0] = memoryview(parts[0])[sent:]


class _Quiet(TimeoutError):
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
                raise _Quiet
            return
        # Ctrl-C does not end a select on Windows: look up between slices
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            read, write = ([], [self._sock]) if self._write else ([self._sock], [])
            if any(select.select(read, write, [], max(left, 0))):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise _Quiet


class SocketTransport:
    """A connected stream socket.

    Args:
        write_timeout: seconds in which the peer must take something, while there is something to
            send. None: for ever.
    """

    def __init__(self, sock: socket.socket, *, write_timeout: float | None = None) -> None:
        self._sock = sock
        sock.setblocking(True)
        self._readable = Waiter(sock)
        self._writable = Waiter(sock, write=True)
        self._write_timeout = write_timeout

    def send(self, parts: Parts, patience: float | None = None) -> None:
        if patience is None:
            patience = self._write_timeout
        try:
            if patience is None and not _WINDOWS:
                self._send_waiting(parts)
            elif _DONTWAIT:
                self._send_without_waiting(parts, patience)
            else:
                self._send_slices(parts, patience)
        except _Quiet:
            raise TimeoutError(f"the peer took nothing for {patience:g} s") from None
        except OSError as error:
            raise broken(error) from error
        except ValueError:  # another thread has closed the socket while this one waited for room
            raise ConnectionAbortedError(errno.EBADF, "the socket was closed") from None

    def _send_waiting(self, parts: Parts) -> None:
        if len(parts) == 1:
            self._sock.sendall(parts.pop())
            return
        while parts:
            _take(parts, self._sock.sendmsg(parts[:_PARTS]))

    def _send_without_waiting(self, parts: Parts, patience: float | None) -> None:
        """Wait for room apart from writing: the only way to bound a send."""
        while parts:
            try:
                _take(parts, self._sock.sendmsg(parts[:_PARTS], (), _DONTWAIT))
            except BlockingIOError:
                self._writable(patience)

    def _send_slices(self, parts: Parts, patience: float | None) -> None:
        """On Windows, which has no MSG_DONTWAIT: a socket that is writable takes so much."""
        while parts:
            self._writable(patience)
            _take(parts, self._sock.send(memoryview(parts[0]).cast("B")[:4096]))

    def recv_into(self, buffer: memoryview, timeout: float | None) -> int:
        try:
            if timeout is not None or _WINDOWS:
                self._readable(timeout)
            return self._sock.recv_into(buffer)
        except _Quiet:
            raise
        except OSError as error:
            raise broken(error) from error

    def ended(self) -> bool:
        if not _DONTWAIT:  # Windows: a send will tell
            return False
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | _DONTWAIT)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    def wait_ended(self) -> bool:
        if not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLRDHUP)
            poll.poll()
        except ValueError:  # this side has closed it
            pass
        return True

    def finish(self) -> None:
        # closing while unread bytes lie here makes the system reset the connection, and the
        # peer then loses what has not reached it: so wait for that, and read meanwhile
        with contextlib.suppress(OSError, ValueError):
            self._sock.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + _LINGER
            while unsent(self._sock) and time.monotonic() < deadline:
                # never waiting in recv: another thread may receive, and take it first
                if not _DONTWAIT or not self._discard():
                    time.sleep(0.002)

    def _discard(self) -> bool:
        try:
            return bool(self._sock.recv(_SLICE, _DONTWAIT))
        except BlockingIOError:
            return False

    def shutdown(self) -> None:
        with contextlib.suppress(OSError):  # the peer was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
