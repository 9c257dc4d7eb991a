"""What blocking and asyncio drivers need of a stream socket, over TCP or a Unix socket.

An address is (host, port); "unix:/path" as the host is a Unix socket at that path, whatever the
port.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat
import sys
import time
from typing import Any

from igtl.log import log, named
from igtl.options import UNIX

if sys.platform == "linux":
    import fcntl
    import termios  # now: later there may be no descriptor left to load it with

LINGER = 1.0  # seconds that closing waits for the peer's system to take what was sent
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
_TCP_CLOSE = 7  # of the states that TCP_INFO tells
_INTERNET = (socket.AF_INET, socket.AF_INET6)
DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)  # Windows has none


def tune(sock: socket.socket, keepalive: float | None, *, unsent_low: int | None = None) -> None:
    """Set TCP_NODELAY, and keep-alive probes.

    Args:
        sock: of any family; only TCP sockets are changed.
        keepalive: seconds within which the end of a peer is noticed that closed nothing; None: no
            probes.
        unsent_low: bytes not yet sent from which the system takes no more, where it can do that.
    """
    if sock.family not in _INTERNET:
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
    """Return the error of a broken connection, in the right class.

    The system may have raised another class. A TimeoutError of the system (ETIMEDOUT), for example,
    is not the time-out of one call, which has no number. Errors of TLS stay, since they say what is
    wrong.
    """
    own = isinstance(error, TimeoutError) and error.errno is None
    if own or isinstance(error, ConnectionError) or type(error).__module__ == "ssl":
        return error
    return ConnectionAbortedError(error.errno, error.strerror)


def unix_path(host: str) -> str | None:
    """Return the path of a Unix socket, if a host names one ("unix:/path"); else None.

    Raises:
        OSError: the host names one, and this system has no Unix sockets.
    """
    if not host.startswith(UNIX):
        return None
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, f"{host}: this system has no Unix sockets")
    return host.removeprefix(UNIX)


def address_of(name: Any) -> Any:
    """Return the address of a socket, as the system names it: (host, port), or "unix:/path".

    None where it has none, as the client of a Unix socket.
    """
    if isinstance(name, tuple):
        return name[:2]
    return UNIX + os.fsdecode(name) if name else None


def connected_socket(host: str, port: int, timeout: float | None) -> socket.socket:
    """Return a socket that is connected to an address.

    Raises:
        OSError: the connection cannot be made.
    """
    if (path := unix_path(host)) is None:
        return socket.create_connection((host, port), timeout=timeout)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Bound:
    """A socket that a server listens on, or is about to.

    Args:
        sock: bound to its address; `close` closes it.
        path: that was made for it in the file system, and is removed when it is closed.

    Attributes:
        sock: does not block.
        host, port: where it listens; ("unix:/path", 0) for a Unix socket.
    """

    def __init__(self, sock: socket.socket, path: str | None = None) -> None:
        sock.setblocking(False)
        self.sock = sock
        address = address_of(sock.getsockname())
        self.host, self.port = address if isinstance(address, tuple) else (address or UNIX, 0)
        self._path = path
        self._made = None if path is None else _identity(path)

    @classmethod
    def at(cls, address: Any, family: int = socket.AF_INET, proto: int = 0) -> Bound:
        """Take an address: (host, port, …) as the system wants it, or the path of a Unix socket.

        A path whose server is gone is taken over.

        Raises:
            OSError: the address is not available.
        """
        is_path = isinstance(address, str)
        sock = socket.socket(socket.AF_UNIX if is_path else family, socket.SOCK_STREAM, proto)
        try:
            if is_path:
                _remove_stale(address)
            elif os.name == "posix" and sys.platform != "cygwin":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            return cls(sock, address if is_path else None)
        except OSError as error:
            sock.close()
            text = f"cannot listen on {named(address_of(address))}: {error.strerror or error}"
            raise OSError(error.errno, text) from None
        except BaseException:
            sock.close()
            raise

    def stop(self) -> None:
        """Listen no more, in any process, and wake the thread that accepts."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the address: the path too, unless another server has taken it."""
        if self._path is not None and _identity(self._path) == self._made:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self.sock.close()


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a file, which differ for one that replaces it; None if missing."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _remove_stale(path: str) -> None:
    """Remove a socket on which no server listens any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return  # binding fails, and says that something is there
    except OSError:
        return
    # datagrams, so that a server that is there does not see a client come and go
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:  # another kind of socket: it is in use
            pass


def is_exhausted(error: OSError) -> bool:
    """Return whether accept has failed because the system has no descriptor or no memory left.

    Accepting the next client would fail too, so the server pauses.
    """
    return error.errno in _EXHAUSTED


def concerns_one_client(error: OSError) -> bool:
    """Return whether accept has failed because of the one client that it would have returned."""
    return error.errno is not None and error.errno in _ONE_CLIENT


class Resting:
    """Accepting pauses while the system has no descriptor or no memory left; logged once."""

    def __init__(self) -> None:
        self._told = False

    def begins(self, error: OSError) -> None:
        """Note that accepting has failed."""
        if not self._told:
            self._told = True
            log(logging.WARNING, "accepting rests: %s", error, cause=error)

    def ends(self) -> None:
        """Note that a client was accepted."""
        self._told = False


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's system has not taken yet; 0 where this system does not tell.

    0 also for a Unix socket, whose bytes are at the peer at once.
    """
    if sock.family not in _INTERNET:
        return 0
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            waiting = int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
            # of a connection that the peer has reset, for ever
            return 0 if waiting and _is_reset(sock) else waiting
    elif sys.platform == "darwin":
        with contextlib.suppress(OSError):
            return sock.getsockopt(socket.SOL_SOCKET, 0x1024)  # SO_NWRITE
    return 0


def _is_reset(sock: socket.socket) -> bool:
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == _TCP_CLOSE


def finish(sock: socket.socket) -> None:
    """Tell the peer that nothing more comes, and wait until its system has what was sent.

    It waits for at most LINGER seconds. Closing while unread bytes wait here makes the system reset
    the connection, and the peer then loses what has not reached it: so it reads meanwhile, and
    discards.
    """
    with contextlib.suppress(OSError, ValueError):
        sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER
        is_local = sock.family not in _INTERNET  # reset by its last unread byte, taken or not
        while (left := unsent(sock) > 0) or is_local:
            # never waiting in recv: another thread may receive, and take it first
            if not DONTWAIT or not _discard(sock):
                if not left:
                    return
                time.sleep(0.002)
            if time.monotonic() > deadline:
                return


def _discard(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(256 * 1024, DONTWAIT))
    except BlockingIOError:
        return False


class Quiet(TimeoutError):
    """The time of a Waiter is over; not an error of the system, which has a TimeoutError too."""


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
        """Return when the socket is ready; TimeoutError after `timeout` seconds."""
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
