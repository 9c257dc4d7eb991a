"""The sockets of Zenoh, where their options hurt.

Zenoh lets `close` wait up to ten seconds for data that was sent and not confirmed (SO_LINGER), in
the very thread that serves its other connections. After a cut that holds up the next connection
for as long as TCP takes to try again, so the option is turned off here. Linux is told besides to
give a connection up that confirms nothing (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from typing import Final

_FOLDERS: Final = ("/proc/self/fd", "/dev/fd")  # of open files, on Linux and on macOS
_OFF: Final = struct.pack("ii", 0, 0)


class Sockets:
    """Finds the sockets of connections by their addresses.

    Args:
        patience: seconds for which a connection may confirm nothing.
    """

    def __init__(self, patience: float) -> None:
        self._patience = int(1000 * patience)
        self._known: dict[str, int] = {}  # descriptor by local address of the connection

    def begun(self, src: str, dst: str) -> None:
        """Note that a connection has begun between these locators ("tcp/HOST:PORT")."""
        for descriptor in self._new():
            with contextlib.suppress(OSError):
                found = _socket(descriptor)
                with found:
                    if not _is_between(found, src, dst):
                        continue
                    self._known[f"{src} {dst}"] = descriptor
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _OFF)
                    if hasattr(socket, "TCP_USER_TIMEOUT"):
                        option = socket.TCP_USER_TIMEOUT
                        found.setsockopt(socket.IPPROTO_TCP, option, self._patience)
                return

    def ended(self, src: str, dst: str) -> None:
        """Note that the connection between these locators has ended."""
        self._known.pop(f"{src} {dst}", None)

    def _new(self) -> list[int]:
        """Return descriptors that may be of new connections; none where they cannot be listed."""
        known = set(self._known.values())
        for folder in _FOLDERS:
            with contextlib.suppress(OSError):
                return sorted({int(name) for name in os.listdir(folder)} - known, reverse=True)
        return []


def _socket(descriptor: int) -> socket.socket:
    """Make another object for the same socket.

    Raises:
        OSError: it is something else, or closed.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):  # to close a copy would unlock a file
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _is_between(found: socket.socket, src: str, dst: str) -> bool:
    """Return whether a socket is the one of a connection."""
    return _ends(src, found.getsockname()) and _ends(dst, found.getpeername())


def _ends(locator: str, address: object) -> bool:
    """Return whether a locator names an address of a TCP socket."""
    if not isinstance(address, tuple):
        return False
    host, port = locator.partition("/")[2].rsplit(":", 1)
    return port == str(address[1]) and host.strip("[]") == str(address[0]).removeprefix("::ffff:")
